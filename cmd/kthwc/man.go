package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

func newMan(s *session) *cobra.Command {
	var dir, format string
	cmd := &cobra.Command{
		Use:   "man",
		Short: "Write the manual: a page for each command",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write := map[string]func(*cobra.Command) (map[string][]byte, error){"man": manPages, "markdown": markdownPage}[format]
			pages, err := write(cmd.Root())
			if err != nil {
				return err
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			for name, text := range pages {
				if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
					return err
				}
			}
			fmt.Fprintf(s.err, "wrote %d pages to %s\n", len(pages), dir)
			return nil
		},
	}
	cmd.Flags().StringVarP(&dir, "output", "o", "man", "the directory to write")
	complete(cmd, "output", directories)
	addChoice(cmd, cmd.Flags(), &format, "format", "what the pages are", "man", "markdown")
	return cmd
}

// documented lists the commands that have pages: the root, and every command
// that help shows.
func documented(cmd *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{cmd}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "help" {
			out = append(out, documented(c)...)
		}
	}
	return out
}

// manPages is a page of roff for each command, the same on any day.
func manPages(root *cobra.Command) (map[string][]byte, error) {
	var never time.Time
	noDate := `"` + never.Format("Jan 2006") + `"`
	out := map[string][]byte{}
	for _, c := range documented(root) {
		c.DisableAutoGenTag = true
		name := strings.ReplaceAll(c.CommandPath(), " ", "-")
		var b bytes.Buffer
		if err := doc.GenMan(c, &doc.GenManHeader{Title: strings.ToUpper(name), Section: "1", Date: &never, Manual: "kthwc"}, &b); err != nil {
			return nil, err
		}
		out[name+".1"] = bytes.Replace(b.Bytes(), []byte(noDate), []byte(`""`), 1)
	}
	return out, nil
}

// markdownPage is docs/commands.md: every command on one page.
func markdownPage(root *cobra.Command) (map[string][]byte, error) {
	var b bytes.Buffer
	b.WriteString("<!-- Written by `kthwc man --format markdown`. -->\n\n# Commands\n\n")
	b.WriteString("Data goes to standard output, everything else to standard error. `kthwc completion` makes your shell complete\nnodes, paths, codes and values; `kthwc man` writes these pages for man.\n\n")
	verbs := slices.DeleteFunc(documented(root), func(c *cobra.Command) bool { return !isVerb(c) })
	for _, c := range verbs {
		fmt.Fprintf(&b, "- [%s](#%s): %s\n", code(c.CommandPath()), strings.ReplaceAll(c.CommandPath(), " ", "-"), c.Short)
	}
	for _, c := range verbs {
		describe(&b, c)
	}
	b.WriteString("\n## Flags of every command\n\n")
	flagTable(&b, root.PersistentFlags())
	return map[string][]byte{"commands.md": b.Bytes()}, nil
}

// isVerb says whether a command does something itself. The shells of completion
// are one verb.
func isVerb(c *cobra.Command) bool {
	return c.Name() == "completion" || !c.HasSubCommands() && c.Parent().Name() != "completion"
}

func code(text string) string { return "`" + text + "`" }

func describe(b *bytes.Buffer, c *cobra.Command) {
	fmt.Fprintf(b, "\n## %s\n\n%s.\n\n```\n%s\n```\n", c.CommandPath(), c.Short, c.UseLine())
	if c.HasExample() {
		fmt.Fprintf(b, "\nFor example:\n\n```\n%s\n```\n", c.Example)
	}
	c.InitDefaultHelpFlag() // the same page, whichever command ran first
	if flags := c.LocalNonPersistentFlags(); isMore(flags) {
		b.WriteString("\n")
		flagTable(b, flags)
	}
}

// isMore says whether there is any flag but --help.
func isMore(flags *pflag.FlagSet) bool {
	count := 0
	flags.VisitAll(func(*pflag.Flag) { count++ })
	return count > 1
}

func flagTable(b *bytes.Buffer, flags *pflag.FlagSet) {
	b.WriteString("| flag | default | what it is |\n|---|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		name := code("--" + f.Name)
		if f.Shorthand != "" {
			name = code("-"+f.Shorthand) + ", " + name
		}
		if f.Hidden || f.Name == "help" {
			return
		}
		def := ""
		if f.DefValue != "" && f.DefValue != "false" {
			def = code(f.DefValue)
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", name, def, f.Usage)
	})
}
