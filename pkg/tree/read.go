package tree

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
)

// Rendered is a directory that [Write] made, as it is now.
type Rendered struct {
	Tree     *Tree
	Manifest *Manifest
	Edited   []string // places whose files were changed, added or removed by hand, sorted
}

// ReadDir reads a rendered directory. Files that the manifest does not know
// are in the tree too, without origins; files that it knows and that are gone
// are not. Nodes share bodies that are the same. An error says which file of
// the directory cannot be read.
func ReadDir(dir string) (*Rendered, error) {
	m, err := ReadManifest(dir)
	if err != nil {
		return nil, err
	}
	d := &dirReader{dir: dir, r: &Rendered{Tree: &Tree{Cluster: m.Cluster}, Manifest: m}, seen: map[string]bool{ManifestName: true}, bodies: map[[2]string]*Body{}}
	if err := d.entries(m.Files, func(p string) string { return p }, &d.r.Tree.Files); err != nil {
		return nil, err
	}
	for i := range m.Nodes {
		n, err := m.Nodes[i].node()
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", ManifestName, m.Nodes[i].Name, err)
		}
		d.r.Tree.Nodes = append(d.r.Tree.Nodes, n)
		if err := d.entries(m.Nodes[i].Entries, func(p string) string { return OnDisk(n.Name, p) }, &n.Files); err != nil {
			return nil, err
		}
	}
	if err := d.strays(); err != nil {
		return nil, err
	}
	slices.Sort(d.r.Edited)
	return d.r, nil
}

// dirReader is the state of one ReadDir.
type dirReader struct {
	dir    string
	r      *Rendered
	seen   map[string]bool
	bodies map[[2]string]*Body // by digest and source
}

func (d *dirReader) entries(entries []Entry, place func(string) string, into *[]*File) error {
	for _, e := range entries {
		f, err := e.file()
		if err != nil {
			return err
		}
		if e.Kind == Regular {
			at := place(e.Path)
			if !filepath.IsLocal(at) {
				return fmt.Errorf("%s names %q, which is outside the directory", ManifestName, e.Path)
			}
			d.seen[at] = true
			content, err := os.ReadFile(filepath.Join(d.dir, filepath.FromSlash(at)))
			if err != nil {
				d.r.Edited = append(d.r.Edited, at)
				continue
			}
			f.Body = d.body(e, at, content)
		}
		if err := put(into, f, ManifestName); err != nil {
			return err
		}
	}
	return nil
}

// body reads a file's lines with the origins that the manifest has for them; a
// file that was edited has none.
func (d *dirReader) body(e Entry, at string, content []byte) *Body {
	digest := Digest(content)
	if digest != e.Digest {
		d.r.Edited = append(d.r.Edited, at)
		return bodyOf(content, nil)
	}
	key := [2]string{digest, e.Source}
	if d.bodies[key] == nil {
		d.bodies[key] = bodyOf(content, d.r.Manifest.Sources[e.Source])
	}
	return d.bodies[key]
}

// strays are files of the directory that the manifest does not know.
func (d *dirReader) strays() error {
	return filepath.WalkDir(d.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		rel, err := filepath.Rel(d.dir, path)
		rel = filepath.ToSlash(rel)
		if err != nil || d.seen[rel] {
			return err
		}
		d.r.Edited = append(d.r.Edited, rel)
		content, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // a link or a device: named as edited, and not shown
		}
		node, below, _ := strings.Cut(strings.TrimPrefix(rel, "nodes/"), "/")
		if n := d.r.Tree.Node(node); n != nil && strings.HasPrefix(rel, "nodes/") {
			return put(&n.Files, &File{Path: "/" + below, Kind: Regular, Body: bodyOf(content, nil)}, node)
		}
		return put(&d.r.Tree.Files, &File{Path: rel, Kind: Regular, Body: bodyOf(content, nil)}, d.dir)
	})
}

// bodyOf cuts content into lines. A placeholder that cannot be read is text:
// kthwc writes none, so the file was edited, and is named as that.
func bodyOf(content []byte, sources []string) *Body {
	b := &Body{}
	if len(content) == 0 {
		return b
	}
	for _, text := range strings.Split(strings.TrimSuffix(string(content), "\n"), "\n") {
		b.Lines = append(b.Lines, lineOf(text))
	}
	for _, s := range sources {
		where, names, _ := strings.Cut(s, " ")
		from, to, ok := strings.Cut(where, "-")
		if !ok {
			to = from
		}
		first, _ := strconv.Atoi(from)
		last, _ := strconv.Atoi(to)
		o := origin.Parse(splitSources(names)...)
		for i := max(first, 1); i <= min(last, len(b.Lines)); i++ {
			b.Lines[i-1].From = o
		}
	}
	return b
}

func lineOf(text string) Line {
	texts, refs, err := secret.Split(text)
	if err != nil || len(refs) == 0 {
		return Line{Text: text}
	}
	l := Line{Text: texts[0]}
	for i, r := range refs {
		l.Parts = append(l.Parts, Part{Ref: r})
		if texts[i+1] != "" {
			l.Parts = append(l.Parts, Part{Text: texts[i+1]})
		}
	}
	return l
}

// splitSources cuts a list at ", ", but not within the quotes of a key.
func splitSources(names string) []string {
	var out []string
	for start := 0; ; {
		at := strings.Index(names[start:], ", ")
		if at < 0 {
			return append(out, names)
		}
		if at += start; strings.Count(names[:at], `"`)%2 == 1 {
			start = at + 2
			continue
		}
		out, names, start = append(out, names[:at]), names[at+2:], 0
	}
}

func (e *Entry) file() (*File, error) {
	mode := uint64(0)
	if e.Mode != "" {
		var err error
		if mode, err = strconv.ParseUint(e.Mode, 8, 12); err != nil {
			return nil, fmt.Errorf("%s: %s has the mode %q", ManifestName, e.Path, e.Mode)
		}
	}
	return &File{Path: e.Path, Kind: e.Kind, Mode: uint32(mode), Owner: e.Owner, Group: e.Group, Target: e.Target,
		Readers: e.Readers, Block: e.Block, From: origin.Parse(e.From...)}, nil
}

// node is everything of the host but its files.
func (m *ManifestNode) node() (*Node, error) {
	c := m.Connection
	n := &Node{Name: m.Name, Roles: m.Roles, Swap: m.Swap, SwapFrom: origin.Parse(m.SwapFrom...), From: origin.Parse(m.From...),
		Connection: Connection{c.Address, c.Port, c.User, c.HostKey, c.Bastion, origin.Parse(c.From...)}}
	for _, u := range m.Users {
		n.Users = append(n.Users, User{u.Name, u.Path, origin.Parse(u.From...)})
	}
	for _, p := range m.Packages {
		n.Packages = append(n.Packages, Package{p.Name, p.Reason, origin.Parse(p.From...)})
	}
	for _, b := range m.Binaries {
		n.Binaries = append(n.Binaries, Binary{b.Name, b.Version, b.Arch, b.Path, origin.Parse(b.From...)})
	}
	for _, u := range m.Units {
		unit := Unit{Name: u.Name, Enabled: u.Enabled, Started: u.Started, Gate: u.Gate, From: origin.Parse(u.From...)}
		for _, m := range u.Probes {
			p, err := m.probe()
			if err != nil {
				return nil, err
			}
			unit.Probes = append(unit.Probes, p)
		}
		n.Units = append(n.Units, unit)
	}
	return n, nil
}
