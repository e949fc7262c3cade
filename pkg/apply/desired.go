package apply

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/artifact"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

// programs is where programs and images lie on a host, each below a name that
// has its digest: what runs is never overwritten.
const programs = "/opt/kthwc"

// Blob is one file of kthwc.lock on a host: a program, or the archive of an image.
type Blob struct {
	Name   string `json:"name"` // "kubelet 1.37.2 amd64"
	Path   string `json:"path"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	Image  string `json:"image,omitempty"` // as containers name it; "" for programs
}

// mode is that of the file on the host: programs are run.
func (b Blob) mode() uint32 {
	if b.Image != "" {
		return 0o644
	}
	return 0o755
}

// desired is everything that a host shall have: what is rendered for it, its
// programs as links to blobs, and the images that its runtime shall know.
type desired struct {
	*tree.Node
	links    []*tree.File
	programs []Blob
	images   []Blob
}

// desiredOf joins a node and the lock. What the lock does not have is an error:
// nothing is installed whose bytes are not pinned.
func desiredOf(t *tree.Tree, n *tree.Node, lock *artifact.Lock) (*desired, error) {
	d := &desired{Node: n}
	runners := runnersOf(n)
	for _, b := range n.Binaries {
		e, found := lock.Find(artifact.Need{Name: b.Name, Version: b.Version, Arch: b.Arch})
		if !found {
			return nil, fmt.Errorf("kthwc.lock has no %s %s for %s: kthwc artifacts lock", b.Name, b.Version, b.Arch)
		}
		d.program(b, e, runners)
	}
	needs, err := artifact.Wanted(&tree.Tree{Nodes: []*tree.Node{n}, Files: t.Files})
	if err != nil {
		return nil, err
	}
	for _, need := range needs {
		if e, found := lock.Find(need); found && need.IsImage() {
			d.images = append(d.images, imageBlob(e))
		}
	}
	return d, nil
}

// program adds the files of an artefact, and the links that lead to them.
func (d *desired) program(b tree.Binary, e artifact.Entry, runners map[string][]string) {
	into := d.File(b.Path)
	for _, m := range e.Installed() {
		at := b.Path
		if into != nil && into.Kind == tree.Dir {
			at = path.Join(b.Path, path.Base(m.Path))
		}
		blob := Blob{Name: e.Need.String(), Path: path.Join(programs, b.Name, b.Version+"-"+m.SHA256[:12], path.Base(m.Path)), Digest: m.SHA256, Size: m.Size}
		d.programs = append(d.programs, blob)
		d.links = append(d.links, &tree.File{Path: at, Kind: tree.Symlink, Mode: 0o777, Owner: "root", Group: "root", Target: blob.Path, Readers: runners[at], From: b.From})
	}
}

func imageBlob(e artifact.Entry) Blob {
	m := e.Installed()[0]
	name := strings.NewReplacer("/", "_", ":", "_").Replace(e.Ref())
	return Blob{Name: e.Need.String(), Path: path.Join(programs, "images", name+"-"+m.SHA256[:12]+".tar"), Digest: m.SHA256, Size: m.Size, Image: e.Ref()}
}

// runnersOf finds which units start which program, by their own files.
func runnersOf(n *tree.Node) map[string][]string {
	out := map[string][]string{}
	for _, f := range n.Files {
		name, ok := strings.CutPrefix(f.Path, unitDir)
		if !ok || f.Body == nil {
			continue
		}
		for _, l := range f.Body.Lines {
			if command, ok := strings.CutPrefix(l.String(), "ExecStart="); ok {
				program, _, _ := strings.Cut(command, " ")
				out[program] = append(out[program], name)
			}
		}
	}
	return out
}

const unitDir = "/etc/systemd/system/"

// files are the rendered files and the links, in the order of paths.
func (d *desired) files() []*tree.File {
	out := slices.Concat(d.Node.Files, d.links)
	slices.SortFunc(out, func(a, b *tree.File) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

func (d *desired) find(p string) *tree.File {
	if f := d.File(p); f != nil {
		return f
	}
	at := slices.IndexFunc(d.links, func(f *tree.File) bool { return f.Path == p })
	if at < 0 {
		return nil
	}
	return d.links[at]
}

// query is what must be known of the host.
func (d *desired) query() Query {
	q := Query{}
	for _, f := range d.files() {
		q.Paths = append(q.Paths, f.Path)
		if f.Block {
			q.Contents = append(q.Contents, f.Path)
		}
	}
	if dir := d.etcdData(); dir != "" {
		q.Paths = append(q.Paths, path.Join(dir, "member"))
	}
	for _, u := range d.Units {
		q.Units = append(q.Units, u.Name)
	}
	for _, p := range d.Packages {
		q.Packages = append(q.Packages, p.Name)
	}
	for _, u := range d.Users {
		q.Users = append(q.Users, u.Name)
	}
	q.Modules = d.modules()
	for _, w := range d.settings() {
		q.Settings = append(q.Settings, w.proc())
	}
	for _, b := range slices.Concat(d.programs, d.images) {
		q.Blobs = append(q.Blobs, b.Path)
	}
	return q
}

// etcdData is where etcd keeps its data on the host, by its unit; "" without etcd.
func (d *desired) etcdData() string {
	f := d.File(unitDir + etcdUnit)
	if f == nil || f.Body == nil {
		return ""
	}
	for _, l := range f.Body.Lines {
		if _, value, ok := strings.Cut(l.String(), "--data-dir="); ok {
			dir, _, _ := strings.Cut(value, " ")
			return dir
		}
	}
	return ""
}

// causes are the fields of cluster.yaml and the rest that a file comes from: its
// presence, its metadata, and its lines.
func causes(f *tree.File) []string {
	return origin.Join(f.From, f.Metadata).Sources()
}
