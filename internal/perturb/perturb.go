// Package perturb proves that origins tell the truth, by changing the input.
//
// For every leaf of a cluster.yaml it makes the changes that its tables name,
// renders again, and compares line by line: a line that moved must name the
// leaf, and a line that names the leaf must move under one of the changes. It
// promises to look at the whole output (files, their presence, and what the
// manifest says of a node beside files), and refuses to know how any of it is
// rendered. It is a test helper. A leaf that its table does not know fails the test.
package perturb

import (
	"fmt"
	"slices"
	"strings"

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
	lines := []line{{head, origin.Join(f.From, f.Metadata)}}
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
// the old one and only in the new one. Lines are the same if they say the same
// in the same place, and a place is a chain of keys and names, not a number. Of
// several equal lines those with equal origins are matched first, so that which
// of them is gone is told by where it came from.
func moved(old, now []line) (gone, came []int) {
	gone, came = unpaired(old, now, all(old), all(now), byName, false)
	// An entry that was renamed keeps its lines: they are the same ones by number.
	return unpaired(old, now, gone, came, byNumber, true)
}

func all(lines []line) []int {
	out := make([]int, len(lines))
	for i := range out {
		out[i] = i
	}
	return out
}

// unpaired drops the lines that say the same in the same place. strictly asks
// for equal origins too.
func unpaired(old, now []line, a, b []int, label labelling, strictly bool) (gone, came []int) {
	was, is := byPlace(old, a, label), byPlace(now, b, label)
	for place, lines := range was {
		left, _ := unmatched(old, now, lines, is[place], strictly)
		gone = append(gone, left...)
	}
	for place, lines := range is {
		_, left := unmatched(old, now, was[place], lines, strictly)
		came = append(came, left...)
	}
	return gone, came
}

// byPlace finds the lines that say the same in the same place.
func byPlace(lines []line, of []int, label labelling) map[string][]int {
	out := map[string][]int{}
	at := places(lines, label)
	for _, i := range of {
		key := at[i] + "\x00" + lines[i].text
		out[key] = append(out[key], i)
	}
	return out
}

func unmatched(old, now []line, a, b []int, strictly bool) (restA, restB []int) {
	restB = slices.Clone(b)
	for _, i := range a {
		at := slices.IndexFunc(restB, func(j int) bool { return now[j].from == old[i].from })
		if at < 0 {
			restA = append(restA, i)
			continue
		}
		restB = slices.Delete(restB, at, at+1)
	}
	pairs := min(len(restA), len(restB))
	if strictly {
		pairs = 0
	}
	return restA[pairs:], restB[pairs:]
}

// labelling says what an entry of a list is known by.
type labelling func(lines []line, start, indent, number int) string

func byName(lines []line, start, indent, _ int) string { return nameOf(lines, start, indent) }

// byNumber counts from the end too: when the list has another length, nothing
// in it is the same by number.
func byNumber(lines []line, start, indent, number int) string {
	after := 0
	for _, l := range lines[start+1:] {
		text := strings.TrimLeft(l.text, " ")
		at := len(l.text) - len(text)
		if at < indent-2 || at == indent-2 && !strings.HasPrefix(text, "- ") {
			break
		}
		if at == indent-2 {
			after++
		}
	}
	return fmt.Sprintf("%d/%d", number, number+after)
}

// places is, for every line of a YAML file, the chain of keys and entries that
// it is in. Other files have one place.
func places(lines []line, label labelling) []string {
	out := make([]string, len(lines))
	if len(lines) < 2 || !strings.Contains(lines[1].text, ": ") && !strings.HasSuffix(lines[1].text, ":") {
		return out
	}
	var within []level
	number := 0
	for i, l := range lines {
		text := strings.TrimLeft(l.text, " ")
		indent := len(l.text) - len(text)
		item := strings.HasPrefix(text, "- ")
		for len(within) > 0 {
			top := within[len(within)-1]
			if top.indent < indent || item && top.indent == indent && !top.item {
				break
			}
			number = top.number
			within = within[:len(within)-1]
		}
		if item {
			number++
			within = append(within, level{indent, true, label(lines, i, indent+2, number), number})
			indent, text = indent+2, text[2:]
		}
		for _, w := range within {
			out[i] += w.label + "/"
		}
		if key, _, ok := strings.Cut(text, ":"); ok {
			within, number = append(within, level{indent, false, key, 0}), 0
		}
	}
	return out
}

type level struct {
	indent int
	item   bool
	label  string
	number int
}

// nameOf is the kind and name of the list entry that begins at a line.
func nameOf(lines []line, start, indent int) string {
	var out string
	for i := start; i < len(lines); i++ {
		text := lines[i].text
		if i == start {
			text = strings.Repeat(" ", indent) + text[indent:]
		}
		rest := strings.TrimLeft(text, " ")
		switch at := len(text) - len(rest); {
		case at < indent:
			return out
		case at == indent && (strings.HasPrefix(rest, "name: ") || strings.HasPrefix(rest, "kind: ")):
			out += rest + " "
		}
	}
	return out
}
