package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/pkg/certmap"
	"github.com/kthwc/kthwc/pkg/pki"
)

// newPKIMap shows who uses which certificate.
func newPKIMap(s *session) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "map [NAME...]",
		Short:             "Show which certificate is used where: who shows it, who judges it, which files and flags have it",
		Example:           "  kthwc pki map\n  kthwc pki map etcd apiserver-serving\n  kthwc pki map --format svg > certificates.svg",
		ValidArgsFunction: s.completeUses(pki.Certificate, pki.Authority, pki.KeyPair, pki.Key),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := s.compiled()
			if err != nil {
				return err
			}
			uses, err := chosen(pki.Uses(b.cluster), args)
			if err != nil {
				return err
			}
			return s.printMap(uses, format)
		},
	}
	addChoice(cmd, cmd.Flags(), &format, "format", "how to show it", "text", "json", "mermaid", "svg")
	return cmd
}

func (s *session) printMap(uses []pki.Use, format string) error {
	if format == "json" {
		return s.document("CertificateMap", map[string]any{"uses": append([]pki.Use{}, uses...)})
	}
	draw := map[string]func([]certmap.Item) string{"text": certmap.Text, "mermaid": certmap.Mermaid, "svg": certmap.SVG}[format]
	_, err := io.WriteString(s.out, draw(certmap.Items(uses)))
	return err
}

// called says whether a use goes by the name: its own, its role's, or its
// authority's.
func called(u *pki.Use, name string) bool {
	return u.Name == name || u.Role == name || u.Authority == name
}

// chosen are the uses that go by one of the names; all without names.
func chosen(uses []pki.Use, names []string) ([]pki.Use, error) {
	for _, name := range names {
		if !slices.ContainsFunc(uses, func(u pki.Use) bool { return called(&u, name) }) {
			return nil, &exitError{exitUsage, fmt.Sprintf("no certificate, authority or key is called %q", name), "`kthwc pki map` lists them"}
		}
	}
	if len(names) == 0 {
		return uses, nil
	}
	return slices.DeleteFunc(uses, func(u pki.Use) bool {
		return !slices.ContainsFunc(names, func(name string) bool { return called(&u, name) })
	}), nil
}

// completeUses offers the names of material of some kinds.
func (s *session) completeUses(kinds ...string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		quiet := *s
		quiet.err = io.Discard
		b, err := quiet.compiled()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []cobra.Completion
		for _, u := range pki.Uses(b.cluster) {
			if slices.Contains(kinds, u.Kind) {
				names = append(names, cobra.CompletionWithDesc(u.Name, u.Why))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
