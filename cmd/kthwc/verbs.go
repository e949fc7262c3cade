package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

func newValidate(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "validate",
		Short: "Check cluster.yaml and everything that would be rendered from it",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := s.build()
			if err != nil {
				return err
			}
			fmt.Fprintf(s.err, "%s is valid: %d nodes, Kubernetes %s, %s profile\n", s.name(), len(b.cluster.Nodes), b.cluster.Kubernetes.V, b.cluster.Profile.V)
			return nil
		},
	}
}

func newRender(s *session) *cobra.Command {
	var dir, format string
	var force, check bool
	cmd := &cobra.Command{
		Use:   "render",
		Short: "Write every file of the cluster to a directory",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := s.build()
			if err != nil {
				return err
			}
			if check {
				return s.check(dir, b, format)
			}
			if err := tree.Write(dir, b.tree, tree.WriteOptions{Force: force}); err != nil {
				return refused(err)
			}
			s.summary(dir, b.tree)
			s.summarise(b)
			return nil
		},
	}
	cmd.Flags().StringVarP(&dir, "output", "o", "rendered", "the directory to write")
	cmd.Flags().BoolVar(&force, "force", false, "replace hand edits, and directories that kthwc did not write")
	cmd.Flags().BoolVar(&check, "check", false, "write nothing; say what would change and why, and exit 2 if anything would")
	addChoice(cmd, cmd.Flags(), &format, "format", "how --check prints differences", "text", "json")
	complete(cmd, "output", directories)
	return cmd
}

func refused(err error) error {
	var r *tree.RefusedError
	if errors.As(err, &r) {
		return &exitError{exitFailure, r.Error(), r.Help}
	}
	return err
}

// summary says what was written, and what still holds placeholders.
func (s *session) summary(dir string, t *tree.Tree) {
	w := tabwriter.NewWriter(s.err, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tROLES\tFILES\tUNITS\tPROGRAMS")
	files, waiting := 0, 0
	for _, f := range t.All() {
		if f.Kind == tree.Regular {
			files++
			if len(f.Body.Refs()) > 0 {
				waiting++
			}
		}
	}
	for _, n := range t.Nodes {
		count := 0
		for _, f := range n.Files {
			if f.Kind == tree.Regular {
				count++
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\n", n.Name, strings.Join(n.Roles, ","), count, len(n.Units), len(n.Binaries))
	}
	w.Flush()
	fmt.Fprintf(s.err, "\n%s: %d files for %d nodes; %d of them wait for certificates or keys\n", dir, files+1, len(t.Nodes), waiting)
}

func newShow(s *session) *cobra.Command {
	return &cobra.Command{
		Use:     "show NODE:PATH",
		Short:   "Print one rendered file",
		Example: "  kthwc show controller-0:/etc/systemd/system/etcd.service\n  kthwc show manifests/20-coredns.yaml",
		Args:    cobra.ExactArgs(1),

		ValidArgsFunction: s.completePlaces,
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := s.build()
			if err != nil {
				return err
			}
			f, _, err := find(b.tree, args[0])
			if err != nil {
				return err
			}
			_, err = s.out.Write(f.Body.Bytes())
			return err
		},
	}
}

// find takes NODE:PATH, nodes/NODE/PATH, or the path of a file of no node, and
// an optional :LINE after it.
func find(t *tree.Tree, name string) (f *tree.File, line int, err error) {
	if before, number, ok := cutLast(name, ":"); ok {
		if n, err := strconv.Atoi(number); err == nil {
			name, line = before, n
		}
	}
	name = strings.TrimPrefix(name, "./")
	if node, path, ok := strings.Cut(name, ":/"); ok {
		name = tree.OnDisk(node, "/"+path)
	}
	for path, f := range t.All() {
		if path == name && f.Body != nil {
			if line > len(f.Body.Lines) {
				return nil, 0, &exitError{exitUsage, fmt.Sprintf("%s has %d lines", name, len(f.Body.Lines)), ""}
			}
			return f, line, nil
		}
	}
	return nil, 0, &exitError{exitUsage, fmt.Sprintf("%q is not rendered", name), "name a file as controller-0:/etc/systemd/system/etcd.service or as it lies below the rendered directory"}
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

func newExplain(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "explain PATH[:LINE] | CODE",
		Short:   "Say why a rendered line is there, or what an error code means",
		Example: "  kthwc explain nodes/controller-0/etc/systemd/system/kube-apiserver.service:14\n  kthwc explain E0103",
		Args:    cobra.ExactArgs(1),

		ValidArgsFunction: s.completeReasons,
		RunE: func(_ *cobra.Command, args []string) error {
			if code, ok := diag.Lookup(strings.ToUpper(args[0])); ok {
				fmt.Fprintf(s.out, "%s (%s): %s\n\n%s\n", code.Code, code.Slug, code.Title, code.Story)
				return nil
			}
			b, err := s.build()
			if err != nil {
				return err
			}
			f, line, err := find(b.tree, args[0])
			if err != nil {
				return err
			}
			for i, l := range f.Body.Lines {
				if line == 0 || line == i+1 {
					s.explain(b, f.Path, i+1, l)
				}
			}
			return nil
		},
	}
	cmd.AddCommand(newExplainMaterial(s)...)
	return cmd
}

func (s *session) explain(b *built, path string, number int, l tree.Line) {
	fmt.Fprintf(s.out, "%4d  %s\n", number, l)
	if why := render.FlagReason(path, l); why != "" {
		fmt.Fprintf(s.out, "        %s\n", why)
	}
	for _, source := range l.From.Sources() {
		fmt.Fprintf(s.out, "        %s\n", b.because(source))
	}
}

// because is one source in words.
func (b *built) because(source string) string {
	if text, ok := render.Because(source, b.cluster.Release); ok {
		return text
	}
	return fmt.Sprintf("%s %s", b.doc.Pos(source), source)
}

func newConfig(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Look at the resolved configuration"}
	var withOrigin bool
	view := &cobra.Command{
		Use:   "view",
		Short: "Print what was derived: addresses, ranges, names, etcd's IDs",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := s.build()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
			for _, f := range b.cluster.View() {
				fmt.Fprintf(w, "%s\t%s", f.Name, f.Value.V)
				if withOrigin {
					fmt.Fprintf(w, "\t%s", f.Value.From)
				}
				fmt.Fprintln(w)
			}
			return w.Flush()
		},
	}
	view.Flags().BoolVar(&withOrigin, "origin", false, "say which fields each value comes from")
	cmd.AddCommand(view)
	return cmd
}

func newSchema(s *session) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Print the schema of cluster.yaml",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			text := map[string]func() []byte{"cue": schema.CUE, "json-schema": schema.JSONSchema, "markdown": schema.Markdown}[format]
			_, err := s.out.Write(text())
			return err
		},
	}
	addChoice(cmd, cmd.Flags(), &format, "format", "the language of the schema; json-schema is for editors (draft 7)", "markdown", "json-schema", "cue")
	return cmd
}

func newVersions(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "versions",
		Short: "Print what goes with every supported Kubernetes minor",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "KUBERNETES\t%s\n", strings.Join(schema.Supported(), "\t"))
			var names []string
			for name := range schema.AllVersions().Tables {
				names = append(names, name)
			}
			slices.Sort(names)
			for _, name := range names {
				fmt.Fprint(w, name)
				for _, minor := range schema.Supported() {
					r, err := schema.ReleaseOf(minor)
					if err != nil {
						return err
					}
					fmt.Fprintf(w, "\t%s", r.Setting(name).V)
				}
				fmt.Fprintln(w)
			}
			return w.Flush()
		},
	}
}

func newVersion(s *session) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of kthwc",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			version := "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				version = info.Main.Version
			}
			if format == "json" {
				return json.NewEncoder(s.out).Encode(map[string]any{"version": version, "kubernetes": schema.Supported()})
			}
			fmt.Fprintf(s.out, "kthwc %s\n", version)
			return nil
		},
	}
	addChoice(cmd, cmd.Flags(), &format, "format", "how it is printed", "text", "json")
	return cmd
}

func newInit(s *session) *cobra.Command {
	var provider string
	var controllers, workers int
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a commented cluster.yaml to start from",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			text, err := schema.Template(provider, controllers, workers)
			if err != nil {
				return &exitError{exitUsage, err.Error(), ""}
			}
			if s.file == "-" {
				_, err := s.out.Write(text)
				return err
			}
			f, err := os.OpenFile(s.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if errors.Is(err, os.ErrExist) {
				return &exitError{exitFailure, s.file + " exists and is not overwritten", "name another file with -f, or - for standard output"}
			}
			if err != nil {
				return err
			}
			_, err = f.Write(text)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
			fmt.Fprintf(s.err, "wrote %s; look at it, then: kthwc render -f %s\n", s.file, s.file)
			return nil
		},
	}
	addChoice(cmd, cmd.Flags(), &provider, "provider", "where the machines are", "static", "gcp")
	cmd.Flags().IntVar(&controllers, "controllers", 3, "how many controllers: 1, 3 or 5")
	cmd.Flags().IntVar(&workers, "workers", 3, "how many workers")
	return cmd
}
