// Package tree holds the rendered files of a cluster in memory.
//
// A [Tree] is what kthwc renders: for every node each file, directory, link
// and removed path with mode, owner, lines, the origin of every line, and the
// units that read it; and the files that belong to no node. It promises one
// order (node as given, then path), that nodes may share a [File] or a [Body]
// when theirs are the same, and that a path is given once. It refuses secret
// bytes: text and [secret.Ref] are all that a line can be made of.
package tree

import (
	"cmp"
	"fmt"
	"iter"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
)

// Part is a piece of a line: Text, or the name of material that is joined later.
type Part = secret.Piece

// Line is one line of a file, without its line feed: a text, and for the few
// lines with late-bound material the parts after it.
type Line struct {
	Text  string
	Parts []Part
	From  origin.Origin
}

// String is the line with placeholders for secrets.
func (l Line) String() string {
	if len(l.Parts) == 0 {
		return l.Text
	}
	var b strings.Builder
	b.WriteString(l.Text)
	for _, p := range l.Parts {
		b.WriteString(p.String())
	}
	return b.String()
}

// Body is the content of a file. A body is not changed once it is in a tree.
type Body struct{ Lines []Line }

// Add appends a line made of one text. The text must not contain a line feed.
func (b *Body) Add(from origin.Origin, text string) {
	b.Lines = append(b.Lines, Line{Text: text, From: from})
}

// AddParts appends a line made of parts.
func (b *Body) AddParts(from origin.Origin, parts ...Part) {
	b.Lines = append(b.Lines, Line{Parts: parts, From: from})
}

// Bytes is the content with placeholders for secrets, as it stands in a
// rendered directory: every line ends with a line feed.
func (b *Body) Bytes() []byte {
	n := 0
	for _, l := range b.Lines {
		n += len(l.Text) + 64*len(l.Parts) + 1
	}
	out := make([]byte, 0, n)
	for _, l := range b.Lines {
		out = append(out, l.Text...)
		for _, p := range l.Parts {
			out = append(out, p.String()...)
		}
		out = append(out, '\n')
	}
	return out
}

// Materialise is the content as it is on the host, with the material that the
// source gives. It must not be printed.
func (b *Body) Materialise(source secret.Source) ([]byte, error) {
	return secret.Materialise(func(yield func([]secret.Piece) bool) {
		for _, l := range b.Lines {
			if !yield(append([]Part{{Text: l.Text}}, l.Parts...)) {
				return
			}
		}
	}, source)
}

// Refs lists the distinct material that the body names, sorted by name.
func (b *Body) Refs() []secret.Ref {
	var refs []secret.Ref
	for _, l := range b.Lines {
		for _, p := range l.Parts {
			if !p.Ref.IsZero() {
				refs = append(refs, p.Ref)
			}
		}
	}
	slices.SortFunc(refs, func(a, b secret.Ref) int { return cmp.Compare(a.String(), b.String()) })
	return slices.Compact(refs)
}

// Kind is what a path is on the host.
type Kind string

// The kinds of entry.
const (
	Regular Kind = "file"
	Dir     Kind = "dir"
	Symlink Kind = "symlink"
	Absent  Kind = "absent" // must not exist on the host
)

// File is one path. Path is absolute for a node's file ("/etc/hosts") and
// relative for a file of the cluster ("manifests/coredns.yaml").
type File struct {
	Path         string
	Kind         Kind
	Mode         uint32 // permission bits, such as 0o644
	Owner, Group string
	Target       string        // of a symlink
	Body         *Body         // of a regular file
	Readers      []string      // units that read it and must learn of a change, sorted
	Block        bool          // the body is a marked block inside a file that others write too (/etc/hosts)
	From         origin.Origin // why the path is there
	Metadata     origin.Origin // of mode, owner and group, where they have sources of their own
}

// Units are the units that a change of the file concerns: its readers, and of a
// unit's own file the unit.
func (f *File) Units() []string {
	if name, ok := strings.CutPrefix(f.Path, "/etc/systemd/system/"); ok && !strings.Contains(name, "/") {
		return []string{name}
	}
	return f.Readers
}

// Unit is a systemd unit of a node.
type Unit struct {
	Name    string // "etcd.service"
	Enabled bool
	Started bool
	Gate    string  // class of the check that must pass after a restart: "etcd", "apiserver", "kubelet", ...
	Probes  []Probe // how that check asks the unit; none: systemd's word is all there is
	From    origin.Origin
}

// Probe is a question that the unit's own host can ask it over HTTP.
type Probe struct {
	URL    string     // with an address of the host itself, mostly loopback
	Host   string     // the HTTP host, where it is not the URL's
	Want   []string   // what a good answer (status 200) contains: of its body, or lines "Header: value"
	CA     secret.Ref // the server is verified with it, by the URL's host; zero: it is not verified
	Cert   secret.Ref // what is shown to it, and its key
	Key    secret.Ref
	Serves secret.Ref // the certificate that it must serve; zero: whichever
	First  bool       // asked after a first start only: later it may differ and be right
}

// Package is an operating system package of a node.
type Package struct {
	Name   string
	Reason string // text ID: what needs it
	From   origin.Origin
}

// Binary is a program of a node: installed at Path from the artefact Name at Version.
type Binary struct {
	Name    string // "kube-apiserver"
	Version string // "1.37.2", without a v
	Arch    string // "amd64" or "arm64"
	Path    string // "/usr/local/bin/kube-apiserver"
	From    origin.Origin
}

// User is a system user of a node.
type User struct {
	Name string
	Home string
	From origin.Origin
}

// Connection is how the operator reaches a node.
type Connection struct {
	Address string // IP, name, or a ${cloud:…} placeholder
	Port    int
	User    string
	HostKey string // pinned public key in authorized_keys form; may be empty
	Bastion string // user@host:port; may be empty
	From    origin.Origin
}

// Node is everything of one host.
type Node struct {
	Name       string
	Roles      []string
	Files      []*File // sorted by path
	Users      []User
	Packages   []Package
	Binaries   []Binary
	Units      []Unit
	Swap       string // "off": no swap device may be active, also after a reboot; "any"
	SwapFrom   origin.Origin
	Connection Connection
	From       origin.Origin
}

// Tree is a rendered cluster.
type Tree struct {
	Cluster string
	Nodes   []*Node
	Files   []*File // of no node: manifests/, client/, cloud/, pki/, input/; sorted by path
}

// Put adds a file to the node. A path that is not absolute and clean, or that
// is given twice, is an error.
func (n *Node) Put(f *File) error {
	if !path.IsAbs(f.Path) || f.Path == "/" {
		return fmt.Errorf("%s: %q is not an absolute path", n.Name, f.Path)
	}
	return put(&n.Files, f, n.Name)
}

// Put adds a file that belongs to no node. A path that leads out of the tree,
// or that is given twice, is an error.
func (t *Tree) Put(f *File) error {
	if !filepath.IsLocal(f.Path) || f.Path == "." {
		return fmt.Errorf("%s: %q is not a path below the tree", t.Cluster, f.Path)
	}
	return put(&t.Files, f, t.Cluster)
}

func put(files *[]*File, f *File, owner string) error {
	if path.Clean(f.Path) != f.Path || strings.ContainsAny(f.Path, "\x00\n") {
		return fmt.Errorf("%s: %q is not a clean path", owner, f.Path)
	}
	if i := f.Body.broken(); i >= 0 {
		return fmt.Errorf("%s: %s: line %d has a line feed or a NUL inside", owner, f.Path, i+1)
	}
	at, found := slices.BinarySearchFunc(*files, f.Path, func(f *File, p string) int { return cmp.Compare(f.Path, p) })
	if found {
		return fmt.Errorf("%s: %s is rendered twice", owner, f.Path)
	}
	*files = slices.Insert(*files, at, f)
	return nil
}

// broken is the first line that is not one line, or -1.
func (b *Body) broken() int {
	if b == nil {
		return -1
	}
	return slices.IndexFunc(b.Lines, func(l Line) bool {
		return strings.ContainsAny(l.Text, "\x00\n") || slices.ContainsFunc(l.Parts, func(p Part) bool { return strings.ContainsAny(p.Text, "\x00\n") })
	})
}

// Node finds a node by name; nil if there is none.
func (t *Tree) Node(name string) *Node {
	for _, n := range t.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// File finds a node's file by absolute path; nil if there is none.
func (n *Node) File(path string) *File { return find(n.Files, path) }

// Replace puts a file in the place of the one with its path.
func (n *Node) Replace(f *File) error {
	at, found := slices.BinarySearchFunc(n.Files, f.Path, func(f *File, p string) int { return cmp.Compare(f.Path, p) })
	if !found {
		return fmt.Errorf("%s: there is no %s to replace", n.Name, f.Path)
	}
	n.Files[at] = f
	return nil
}

// File finds a file that belongs to no node; nil if there is none.
func (t *Tree) File(path string) *File { return find(t.Files, path) }

func find(files []*File, path string) *File {
	at, found := slices.BinarySearchFunc(files, path, func(f *File, p string) int { return cmp.Compare(f.Path, p) })
	if !found {
		return nil
	}
	return files[at]
}

// OnDisk is where the node's file lies below a rendered directory.
func OnDisk(node, path string) string { return "nodes/" + node + path }

// All yields every entry with its place below a rendered directory: the
// cluster's files first, then each node's.
func (t *Tree) All() iter.Seq2[string, *File] {
	return func(yield func(string, *File) bool) {
		for _, f := range t.Files {
			if !yield(f.Path, f) {
				return
			}
		}
		for _, n := range t.Nodes {
			for _, f := range n.Files {
				if !yield(OnDisk(n.Name, f.Path), f) {
					return
				}
			}
		}
	}
}
