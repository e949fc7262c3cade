package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/internal/names"
	"github.com/kthwc/kthwc/pkg/diff"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

func newDiff(s *session) *cobra.Command {
	var format string
	var exitCode, expand, live bool
	var f *hostFlags
	cmd := &cobra.Command{
		Use:     "diff DIR1 DIR2 | diff --live",
		Short:   "Compare two rendered directories, or the hosts with what they shall be: what changes on which nodes, and why",
		Example: "  kthwc diff rendered.before rendered\n  kthwc diff --live --on worker-1",
		Args: func(cmd *cobra.Command, args []string) error {
			if live {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.ExactArgs(2)(cmd, args)
		},

		ValidArgsFunction: directories,
		RunE: func(cmd *cobra.Command, args []string) error {
			if live {
				return s.onHosts(cmd.Context(), f, func(h *hosts) error {
					count, err := h.diffLive(cmd.Context(), format, expand)
					if err == nil && exitCode && count > 0 {
						err = &exitError{code: exitPending}
					}
					return err
				})
			}
			var sides [2]diff.Side
			for i, dir := range args {
				var err error
				if sides[i], err = s.rendered(dir, filepath.Join(dir, "input/cluster.yaml")); err != nil {
					return err
				}
			}
			changes := diff.Trees(sides[0], sides[1])
			material, err := s.pendingIn(args[1])
			if err != nil {
				return err
			}
			if err := s.changes(changes, material, releaseOf(sides[1].Doc), format, expand); err != nil {
				return err
			}
			if exitCode && len(changes) > 0 {
				return &exitError{code: exitPending}
			}
			return nil
		},
	}
	f = s.addHostFlags(cmd)
	cmd.Flags().BoolVar(&live, "live", false, "compare what is on the hosts with what they shall be")
	addChoice(cmd, cmd.Flags(), &format, "format", "how differences are printed", "text", "json")
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit 2 if anything differs")
	cmd.Flags().BoolVar(&expand, "expand", false, "show the whole text of files that come or go")
	return cmd
}

// rendered reads one directory; source is the name of its cluster.yaml in positions.
func (s *session) rendered(dir, source string) (diff.Side, error) {
	r, err := s.readRendered(dir)
	if err != nil {
		return diff.Side{}, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "input/cluster.yaml"))
	if err != nil {
		return diff.Side{}, &exitError{exitFailure, fmt.Sprintf("%s cannot be read: %v", dir, err), "render it anew"}
	}
	return diff.Side{Tree: r.Tree, Doc: schema.Peek(source, text), Edited: r.Edited}, nil
}

func (s *session) readRendered(dir string) (*tree.Rendered, error) {
	r, err := tree.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &exitError{exitFailure, dir + " is not a rendered directory: it has no " + tree.ManifestName, "write it first: kthwc render -o " + dir}
	case err != nil:
		return nil, &exitError{exitFailure, fmt.Sprintf("%s cannot be read: %v", dir, err), "render it anew"}
	}
	return r, nil
}

// releaseOf is the release that a document asks for, or the newest.
func releaseOf(d *schema.Document) *schema.Release {
	supported := schema.Supported()
	release, err := schema.ReleaseOf(d.Text("spec.kubernetes.version"))
	if err != nil {
		release, _ = schema.ReleaseOf(supported[len(supported)-1])
	}
	return release
}

// check compares the directory with what would be rendered.
func (s *session) check(dir string, b *built, format string) error {
	was, err := s.rendered(dir, filepath.Join(dir, "input/cluster.yaml"))
	if err != nil {
		return err
	}
	changes := diff.Trees(was, diff.Side{Tree: b.tree, Doc: b.doc})
	if err := s.changes(changes, s.pending(b), b.cluster.Release, format, false); err != nil || len(changes) == 0 {
		return err
	}
	return &exitError{exitPending, fmt.Sprintf("%s is not what %s renders now", dir, s.name()), s.renderTo(dir)}
}

// renderTo is the command that writes the directory, as this run was called.
func (s *session) renderTo(dir string) string {
	words := []string{"kthwc", "render", "-o", dir}
	if s.file != defaultFile(s.getenv) {
		words = append(words, "-f", s.file)
	}
	for _, o := range s.overlays {
		words = append(words, "--overlay", o)
	}
	return strings.Join(words, " ")
}

func (s *session) changes(changes []diff.Change, material materialChanges, release *schema.Release, format string, expand bool) error {
	if format == "json" {
		out := map[string]any{"changes": append([]diff.Change{}, changes...)}
		if material.known {
			out["certificates"] = pendingJSON(material.groups)
		}
		return s.document("Diff", out)
	}
	p := diffPrinter{s: s, release: release, expand: expand}
	for i := range changes {
		p.change(&changes[i])
	}
	printPending(&p.b, material.groups)
	p.summary(changes)
	_, err := s.out.Write([]byte(p.b.String()))
	return err
}

// diffPrinter writes changes for people.
type diffPrinter struct {
	s       *session
	release *schema.Release // of the new side
	b       strings.Builder
	expand  bool
}

var marks = map[diff.Op]string{diff.Added: "+", diff.Removed: "-", diff.Changed: "~"}

var colorOf = map[string]string{"+": "32", "-": "31", "~": "33"}

func (p *diffPrinter) paint(mark, text string) string {
	if code := colorOf[mark]; code != "" && p.s.coloredOut() {
		return "\x1b[" + code + "m" + text + "\x1b[0m"
	}
	return text
}

func (p *diffPrinter) change(c *diff.Change) {
	name := c.Name
	if c.What != "file" && c.What != c.Name {
		name = c.What + " " + c.Name
	}
	if c.What == "node" {
		name = "node"
	}
	head := marks[c.Op] + " " + name
	if len(c.Nodes) > 0 {
		head += "  on " + names.Ranges(c.Nodes)
	}
	p.line(0, p.paint(marks[c.Op], head))
	if c.Edited {
		p.line(4, "was changed by hand since it was rendered")
	}
	for _, a := range c.Attributes {
		p.attribute(c.Op, a)
	}
	if len(c.Hunks) > 0 && c.What == "file" && c.Op != diff.Changed && !p.expand {
		p.line(4, fmt.Sprintf("%d lines", len(c.Hunks[0].Lines)))
	} else {
		p.hunks(c)
	}
	p.causes(4, c.Because)
	if c.What == "manifest" {
		p.line(4, "the files are the same; what their lines are computed from is not")
	}
	if len(c.Readers) > 0 {
		p.line(4, "read by "+strings.Join(c.Readers, ", "))
	}
	p.b.WriteByte('\n')
}

func (p *diffPrinter) attribute(op diff.Op, a diff.Attribute) {
	switch op {
	case diff.Changed:
		p.line(4, fmt.Sprintf("%s: %s → %s", a.Name, orNone(a.Old), orNone(a.New)))
	case diff.Added:
		p.line(4, a.Name+": "+a.New)
	case diff.Removed:
		p.line(4, a.Name+": "+a.Old)
	}
}

// hunks prints the lines that changed. Runs with the same causes share them.
func (p *diffPrinter) hunks(c *diff.Change) {
	for i, h := range c.Hunks {
		p.line(4, fmt.Sprintf("line %d", max(h.New, 1)))
		for _, l := range h.Lines {
			p.line(4, p.paint(l.Op, l.Op+" "+l.Text))
		}
		if i+1 == len(c.Hunks) || !sameCauses(h.Because, c.Hunks[i+1].Because) {
			p.causes(4, h.Because)
		}
	}
}

func sameCauses(a, b []diff.Cause) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// maxCauses is how many causes of one change are printed.
const maxCauses = 5

func (p *diffPrinter) causes(indent int, causes []diff.Cause) {
	for i, c := range causes {
		if i == maxCauses {
			p.line(indent, fmt.Sprintf("and because of %d more; --format json lists them", len(causes)-i))
			return
		}
		p.line(indent, "because "+p.cause(c))
	}
}

func (p *diffPrinter) cause(c diff.Cause) string {
	text, known := render.Because(c.Source, p.release)
	switch {
	case known:
		return text
	case c.Where == "":
		return c.Source
	case c.Old == "":
		return fmt.Sprintf("%s %s: %s (was not given)", c.Where, c.Source, c.New)
	case c.New == "":
		return fmt.Sprintf("%s %s: %s (is no longer given)", c.Where, c.Source, c.Old)
	}
	return fmt.Sprintf("%s %s: %s → %s", c.Where, c.Source, c.Old, c.New)
}

func (p *diffPrinter) line(indent int, text string) {
	fmt.Fprintf(&p.b, "%s%s\n", strings.Repeat(" ", indent), text)
}

func (p *diffPrinter) summary(changes []diff.Change) {
	count, nodes := map[diff.Op]int{}, map[string]bool{}
	for _, c := range changes {
		count[c.Op]++
		for _, n := range c.Nodes {
			nodes[n] = true
		}
	}
	if len(changes) == 0 {
		fmt.Fprintln(p.s.err, "no differences")
		return
	}
	fmt.Fprintf(p.s.err, "%d to change, %d to add, %d to remove, on %d nodes; the same change on several nodes counts once\n",
		count[diff.Changed], count[diff.Added], count[diff.Removed], len(nodes))
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}
