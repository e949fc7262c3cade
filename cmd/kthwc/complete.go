package main

import (
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/tree"
)

// What the shell offers. A file with mistakes offers nothing: the shell is no
// place for diagnostics.

// directories are offered for arguments and flags that name one.
func directories(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// clusterFiles are offered for --file.
func clusterFiles(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return []cobra.Completion{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
}

// overlayFiles are offered for --overlay.
func overlayFiles(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return []cobra.Completion{"jsonnet"}, cobra.ShellCompDirectiveFilterFileExt
}

// completePlaces offers rendered files, one step of a path at a time.
func (s *session) completePlaces(_ *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	quiet := *s
	quiet.err = io.Discard
	b, err := quiet.build()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return steps(places(b.tree, strings.HasPrefix(typed, "nodes/")), typed)
}

// completeReasons offers what has a reason: codes, and rendered files.
func (s *session) completeReasons(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out []cobra.Completion
	for _, c := range diag.Codes {
		if len(args) == 0 && strings.HasPrefix(c.Code, strings.ToUpper(typed)) {
			out = append(out, cobra.CompletionWithDesc(c.Code, c.Title))
		}
	}
	if typed != "" && len(out) > 0 {
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	files, directive := s.completePlaces(cmd, args, typed)
	return append(out, files...), directive
}

// places names every rendered file that has text, as NODE:/PATH or as it lies
// below a rendered directory.
func places(t *tree.Tree, onDisk bool) []string {
	var out []string
	for name, f := range t.All() {
		if rest, ofNode := strings.CutPrefix(name, "nodes/"); ofNode && !onDisk {
			node, path, _ := strings.Cut(rest, "/")
			name = node + ":/" + path
		}
		if f.Body != nil {
			out = append(out, name)
		}
	}
	return out
}

// steps cuts the names that begin with what was typed after their next slash,
// and goes on while there is one way only.
func steps(names []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var next []string
	for _, name := range names {
		rest, ok := strings.CutPrefix(name, typed)
		if !ok {
			continue
		}
		if at := strings.IndexByte(rest, '/'); at >= 0 {
			rest = rest[:at+1]
		}
		next = append(next, typed+rest)
	}
	slices.Sort(next)
	next = slices.Compact(next)
	if len(next) == 1 && strings.HasSuffix(next[0], "/") {
		return steps(names, next[0])
	}
	directive := cobra.ShellCompDirectiveNoFileComp
	if slices.ContainsFunc(next, func(n string) bool { return strings.HasSuffix(n, "/") }) {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	return next, directive
}
