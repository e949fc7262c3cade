// Package diff compares two rendered trees for a reviewer.
//
// It promises that every difference is named once: file contents line by line,
// modes, owners, links, units, users, packages, programs, connections; that
// changes which are the same on several nodes are one [Change]; and that each
// has its causes, found by comparing the two cluster.yaml files at the fields
// that the changed lines were computed from. It refuses to judge whether a
// change is wanted, and never sees secret bytes: trees have none.
package diff

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

// Side is one of the two trees.
type Side struct {
	Tree   *tree.Tree
	Doc    *schema.Document // the cluster.yaml that it was rendered from
	Edited []string         // files that were changed by hand since
}

// Op says what happened to a thing.
type Op string

// The operations.
const (
	Added   Op = "added"
	Removed Op = "removed"
	Changed Op = "changed"
)

// Attribute is a fact about a thing beside its content.
type Attribute struct {
	Name string `json:"name"`
	Old  string `json:"old"`
	New  string `json:"new"`
}

// Line is one line of a hunk.
type Line struct {
	Op   string `json:"op"` // "-", "+" or " "
	Text string `json:"text"`
}

// Hunk is a run of changed lines.
type Hunk struct {
	Old     int     `json:"old"` // the first line's number, from one; 0 of an empty side
	New     int     `json:"new"`
	Lines   []Line  `json:"lines"`
	Because []Cause `json:"because"`
}

// Change is one thing that differs in the same way on all of Nodes.
type Change struct {
	Nodes      []string    `json:"nodes,omitempty"` // none: it belongs to no node
	What       string      `json:"what"`            // file, node, unit, user, package, program, connection, swap, roles or manifest
	Name       string      `json:"name"`            // path or name, as it is on the first of the nodes
	Op         Op          `json:"op"`
	Edited     bool        `json:"edited,omitempty"` // the old side was changed by hand
	Attributes []Attribute `json:"attributes,omitempty"`
	Hunks      []Hunk      `json:"hunks,omitempty"`
	Readers    []string    `json:"readers,omitempty"` // units that must learn of it
	Because    []Cause     `json:"because,omitempty"` // of the whole; hunks have their own
}

// Trees lists what differs: cluster.yaml, then what belongs to no node, then by
// the first node that has it.
func Trees(from, to Side) []Change {
	c := &comparison{from: from, to: to, edited: map[string]bool{}, groups: map[string]int{}, hunks: map[[2]*tree.Body][]Hunk{}}
	for _, e := range from.Edited {
		c.edited[e] = true
	}
	c.files("", from.Tree.Files, to.Tree.Files)
	slices.SortStableFunc(c.changes, func(a, b Change) int { return cmp.Compare(rank(a), rank(b)) })
	for _, n := range to.Tree.Nodes {
		c.node(from.Tree.Node(n.Name), n)
	}
	for _, n := range from.Tree.Nodes {
		if to.Tree.Node(n.Name) == nil {
			c.node(n, nil)
		}
	}
	if len(c.changes) == 0 {
		c.manifest()
	}
	return c.changes
}

// comparison is the state of one Trees.
type comparison struct {
	from, to Side
	edited   map[string]bool
	changes  []Change
	groups   map[string]int // what a change says, without its node's name -> its place in changes
	hunks    map[[2]*tree.Body][]Hunk
}

// add puts a change, or the node's name to one that says the same.
func (c *comparison) add(node string, change Change) {
	if node == "" {
		c.changes = append(c.changes, change)
		return
	}
	text, _ := json.Marshal(change) // strings and numbers only: it cannot fail
	key := anonymous(string(text), node)
	if at, ok := c.groups[key]; ok {
		c.changes[at].Nodes = append(c.changes[at].Nodes, node)
		return
	}
	change.Nodes = []string{node}
	c.groups[key] = len(c.changes)
	c.changes = append(c.changes, change)
}

// anonymous replaces a node's name where it stands as a word of its own.
func anonymous(text, name string) string {
	var b strings.Builder
	for {
		at := strings.Index(text, name)
		if at < 0 {
			return b.String() + text
		}
		end := at + len(name)
		b.WriteString(text[:at])
		if at > 0 && isName(text[at-1]) || end < len(text) && isName(text[end]) {
			b.WriteString(name)
		} else {
			b.WriteString("\x00")
		}
		text = text[end:]
	}
}

func isName(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b == '-'
}

// node compares one machine; either side may be missing.
func (c *comparison) node(from, to *tree.Node) {
	switch {
	case from == nil:
		c.changes = append(c.changes, c.whole(to, Added))
	case to == nil:
		c.changes = append(c.changes, c.whole(from, Removed))
	default:
		c.facts(to.Name, factsOf(from), factsOf(to))
		c.files(to.Name, from.Files, to.Files)
	}
}

// whole is a machine that only one side has.
func (c *comparison) whole(n *tree.Node, op Op) Change {
	files := 0
	for _, f := range n.Files {
		if f.Kind == tree.Regular {
			files++
		}
	}
	count := Attribute{Name: "files", New: fmt.Sprint(files)}
	change := Change{Nodes: []string{n.Name}, What: "node", Name: n.Name, Op: op, Attributes: []Attribute{count}}
	if op == Removed {
		change.Attributes[0] = Attribute{Name: "files", Old: count.New}
		change.Because = c.because(n.From, origin.Origin{})
	} else {
		change.Because = c.because(origin.Origin{}, n.From)
	}
	return change
}

// fact is what a node has beside files, in words, with where it comes from.
type fact struct {
	what, name, text string
	from             origin.Origin
}

func factsOf(n *tree.Node) []fact {
	s := n.Connection
	out := []fact{
		{"roles", "roles", strings.Join(n.Roles, ", "), n.From},
		{"swap", "swap", n.Swap, n.SwapFrom},
		{"connection", "ssh", strings.TrimSpace(fmt.Sprintf("%s@%s:%d %s %s", s.User, s.Address, s.Port, s.Bastion, s.HostKey)), s.From},
	}
	for _, u := range n.Users {
		out = append(out, fact{"user", u.Name, "home " + u.Home, u.From})
	}
	for _, p := range n.Packages {
		out = append(out, fact{"package", p.Name, p.Reason, p.From})
	}
	for _, b := range n.Binaries {
		out = append(out, fact{"program", b.Name, fmt.Sprintf("%s %s %s", b.Version, b.Arch, b.Path), b.From})
	}
	for _, u := range n.Units {
		out = append(out, fact{"unit", u.Name, fmt.Sprintf("enabled %t, started %t, gate %s", u.Enabled, u.Started, cmp.Or(u.Gate, "none")), u.From})
	}
	return out
}

func (c *comparison) facts(node string, from, to []fact) {
	key := func(f fact) string { return f.what + " " + f.name }
	pairs(from, to, key, func(was, is *fact) {
		change := Change{Op: Changed}
		var old, now fact
		if was != nil {
			old, change.What, change.Name = *was, was.what, was.name
		} else {
			change.Op = Added
		}
		if is != nil {
			now, change.What, change.Name = *is, is.what, is.name
		} else {
			change.Op = Removed
		}
		if old.text != now.text {
			change.Attributes = []Attribute{{change.What, old.text, now.text}}
			change.Because = c.because(old.from, now.from)
			c.add(node, change)
		}
	})
}

// pairs calls f for every key of the two lists, in the order of to, with what
// each list has for it; then for the keys that only from has.
func pairs[T any](from, to []T, key func(T) string, f func(was, is *T)) {
	known := make(map[string]*T, len(from))
	for i := range from {
		known[key(from[i])] = &from[i]
	}
	for i := range to {
		k := key(to[i])
		f(known[k], &to[i])
		delete(known, k)
	}
	for i := range from {
		if known[key(from[i])] != nil {
			f(&from[i], nil)
		}
	}
}

func (c *comparison) files(node string, from, to []*tree.File) {
	pairs(from, to, func(f *tree.File) string { return f.Path }, func(was, is **tree.File) {
		switch {
		case was == nil:
			c.file(node, &tree.File{Path: (*is).Path, Body: &tree.Body{}}, *is, Added)
		case is == nil:
			c.file(node, *was, &tree.File{Path: (*was).Path, Body: &tree.Body{}}, Removed)
		case *was != *is:
			c.file(node, *was, *is, Changed)
		}
	})
}

func (c *comparison) file(node string, was, is *tree.File, op Op) {
	place := is.Path
	if node != "" {
		place = tree.OnDisk(node, is.Path)
	}
	change := Change{What: "file", Name: is.Path, Op: op, Edited: c.edited[place], Readers: is.Readers}
	if op == Removed {
		change.Readers = was.Readers
	}
	change.Attributes = attributes(was, is, change.Edited)
	if op != Changed || len(change.Attributes) > 0 {
		change.Because = c.because(was.From, is.From)
	}
	if place != sourcePath || op == Changed {
		change.Hunks = c.content(was.Body, is.Body)
	}
	if op == Changed && len(change.Attributes) == 0 && len(change.Hunks) == 0 {
		return
	}
	if place == sourcePath { // it is the cause, and has none
		change.Because = nil
		for i := range change.Hunks {
			change.Hunks[i].Because = nil
		}
	}
	c.add(node, change)
}

// sourcePath is the copy of cluster.yaml in a rendered directory.
const sourcePath = "input/cluster.yaml"

func rank(c Change) int {
	if c.Name == sourcePath {
		return 0
	}
	return 1
}

// attributes compares what a file is beside its content. A file that only the
// disk knows has nothing to compare.
func attributes(was, is *tree.File, edited bool) []Attribute {
	var out []Attribute
	for _, a := range []Attribute{
		{"kind", string(was.Kind), string(is.Kind)}, {"mode", mode(was), mode(is)},
		{"owner", was.Owner, is.Owner}, {"group", was.Group, is.Group}, {"target", was.Target, is.Target},
	} {
		if a.Old != a.New && (!edited || a.Old != "" && a.New != "") {
			out = append(out, a)
		}
	}
	return out
}

func mode(f *tree.File) string {
	if f.Mode == 0 {
		return ""
	}
	return fmt.Sprintf("%04o", f.Mode)
}

// content compares two bodies; those that nodes share are compared once.
func (c *comparison) content(was, is *tree.Body) []Hunk {
	key := [2]*tree.Body{was, is}
	known, ok := c.hunks[key]
	if !ok {
		known = c.compare(was, is)
		c.hunks[key] = known
	}
	return slices.Clone(known)
}

// manifest finds what only the manifests show: the reasons of lines.
func (c *comparison) manifest() {
	was, _ := c.from.Tree.Manifest().JSON() // strings and numbers only: it cannot fail
	is, _ := c.to.Tree.Manifest().JSON()
	if !bytes.Equal(was, is) {
		c.changes = append(c.changes, Change{What: "manifest", Name: tree.ManifestName, Op: Changed})
	}
}
