// Package perturb proves that origins tell the truth, by changing the input.
//
// For every leaf of a cluster.yaml it makes the changes that its tables name,
// renders again, and compares line by line: a line that moved must name the
// leaf, and a line that names the leaf must move under one of the changes. It
// promises to look at the whole output (files, their presence, and what the
// manifest says of a node beside files), and refuses to know how any of it is
// rendered. It is a test helper. Leaves that its table does not name yet (names,
// roles, the provider's and the operators' fields) are not judged.
package perturb

import (
	"fmt"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

// line is one line of one file, or one fact of a node.
type line struct {
	text string
	from origin.Origin
}

// snapshot is everything that a tree says, as files of lines.
type snapshot map[string][]line

// snapshotOf flattens a tree. Files below input/ are the source itself and are
// left out.
func snapshotOf(t *tree.Tree) snapshot {
	s := snapshot{}
	for path, f := range t.All() {
		if strings.HasPrefix(path, "input/") {
			continue
		}
		s[path] = fileLines(f)
	}
	for _, n := range t.Nodes {
		for _, f := range n.Files {
			p := tree.OnDisk(n.Name, f.Path)
			s[p] = inherit(s[p], n.From)
		}
		s["#"+n.Name] = inherit(nodeFacts(n), n.From)
	}
	return s
}

func inherit(lines []line, from origin.Origin) []line {
	for i := range lines {
		lines[i].from = origin.Join(lines[i].from, from)
	}
	return lines
}

// fileLines is the file's own facts and then its content; a line inherits the
// origin of the file's presence.
func fileLines(f *tree.File) []line {
	head := fmt.Sprintf("%s %o %s:%s %s %v", f.Kind, f.Mode, f.Owner, f.Group, f.Target, f.Readers)
	lines := []line{{head, f.From}}
	if f.Body == nil {
		return lines
	}
	for _, l := range f.Body.Lines {
		lines = append(lines, line{normal(l.String()), l.From})
	}
	return inherit(lines, f.From)
}

// normal drops what a line ends with only because of its neighbours: the comma
// of a JSON list and the backslash of a continued unit line.
func normal(text string) string {
	return strings.TrimSuffix(strings.TrimSuffix(text, ` \`), ",")
}

// nodeFacts is what the manifest says of a node beside its files.
func nodeFacts(n *tree.Node) []line {
	lines := []line{{"swap " + n.Swap, n.SwapFrom}}
	for _, u := range n.Users {
		lines = append(lines, line{fmt.Sprintf("user %s %s", u.Name, u.Home), u.From})
	}
	for _, p := range n.Packages {
		lines = append(lines, line{"package " + p.Name, p.From})
	}
	for _, b := range n.Binaries {
		lines = append(lines, line{fmt.Sprintf("binary %s %s %s %s", b.Name, b.Version, b.Arch, b.Path), b.From})
	}
	for _, u := range n.Units {
		lines = append(lines, line{fmt.Sprintf("unit %s %v %v %s", u.Name, u.Enabled, u.Started, u.Gate), u.From})
	}
	c := n.Connection
	connection := fmt.Sprintf("connection %s@%s:%d %s %s", c.User, c.Address, c.Port, c.HostKey, c.Bastion)
	return append(lines, line{connection, c.From})
}

// moved compares two versions of a file: the lines (by index) that are only in
// the old one and only in the new one.
func moved(old, now []line) (gone, came []int) {
	patch := string(diff.Diff("old", joined(old), "new", joined(now)))
	i, j := 0, 0
	for _, l := range strings.SplitAfter(patch, "\n") {
		switch {
		case strings.HasPrefix(l, "diff ") || strings.HasPrefix(l, "--- ") || strings.HasPrefix(l, "+++ "):
		case strings.HasPrefix(l, "@@ "):
			var oldLen, nowLen int
			fmt.Sscanf(l, "@@ -%d,%d +%d,%d @@", &i, &oldLen, &j, &nowLen)
			i, j = max(i-1, 0), max(j-1, 0)
		case strings.HasPrefix(l, "-"):
			gone, i = append(gone, i), i+1
		case strings.HasPrefix(l, "+"):
			came, j = append(came, j), j+1
		case strings.HasPrefix(l, " "):
			i, j = i+1, j+1
		}
	}
	return gone, came
}

func joined(lines []line) []byte {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(strings.ReplaceAll(l.text, "\n", "␊"))
		b.WriteByte('\n')
	}
	return []byte(b.String())
}
