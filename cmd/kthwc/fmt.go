package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/internal/durable"
	"github.com/kthwc/kthwc/schema"
)

func newFmt(s *session) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:     "fmt",
		Short:   "Lay out cluster.yaml, keeping comments and blank lines",
		Example: "  kthwc fmt\n  kthwc fmt --check\n  kthwc fmt -f - <cluster.yaml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			source, err := s.read()
			if err != nil {
				return err
			}
			text, faults := schema.Format(s.name(), source)
			if err := s.diagnose(faults, source); err != nil {
				return err
			}
			switch formatted := bytes.Equal(source, text); {
			case check:
				return s.checkFormat(source, text)
			case s.file == "-":
				_, err := s.out.Write(text)
				return err
			case formatted:
				return nil
			}
			if err := replaceFile(s.file, text); err != nil {
				return err
			}
			fmt.Fprintf(s.err, "formatted %s\n", s.file)
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "write nothing; print what would change, and exit 2 if anything would")
	return cmd
}

// checkFormat prints what fmt would change.
func (s *session) checkFormat(source, text []byte) error {
	if bytes.Equal(source, text) {
		return nil
	}
	if _, err := s.out.Write(diff.Diff(s.name(), source, s.name()+" (formatted)", text)); err != nil {
		return err
	}
	return &exitError{exitPending, s.name() + " is not formatted", "kthwc fmt -f " + s.file}
}

// replaceFile gives the file that a path leads to other content in one step.
// The mode stays.
func replaceFile(path string, content []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return durable.Replace(path, content, info.Mode())
}
