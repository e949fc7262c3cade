// Package render turns the compiled model into the tree: one file of this
// package for each family of artefacts.
//
// It promises that the same model gives the same tree, that every line has an
// origin, and that secrets appear as names only. It refuses to read anything
// but its arguments.
package render

import (
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

// Input is what is rendered beside the model.
type Input struct {
	Source   []byte   // cluster.yaml, verbatim
	Overlays []string // jsonnet files to lay over after those of spec.overlays: names in Project
	Project  fs.FS    // the directory of cluster.yaml, from which overlays come; must not lead outside. May be nil
}

// Render makes the tree. The list holds what is wrong with the finished tree;
// the tree is nil if any of it is an error.
func Render(c *compile.Cluster, in Input) (*tree.Tree, diag.List) {
	r := &renderer{c: c, t: &tree.Tree{Cluster: c.Name.V, Nodes: make([]*tree.Node, len(c.Nodes))}, pools: &sync.Map{}}
	r.input(in.Source)
	r.index()
	r.all(clusterFiles, len(c.Nodes))
	r.overlays(in)
	if len(r.faults) == 0 {
		r.check()
	}
	if r.faults.HasErrors() {
		return nil, r.faults
	}
	return r.t, r.faults
}

// clusterFiles are the families of files that belong to no node.
var clusterFiles = []func(*renderer){
	(*renderer).certificates, (*renderer).cloud, (*renderer).manifests, (*renderer).client, (*renderer).connections,
}

// all renders the families and the nodes, on every processor: each has a
// renderer of its own, and what they made is put together in their order.
func (r *renderer) all(families []func(*renderer), nodes int) {
	parts := make([]*renderer, len(families)+nodes)
	each(len(parts), func(i int) {
		part := *r
		part.t, part.faults = &tree.Tree{}, nil
		parts[i] = &part
		if i < len(families) {
			families[i](&part)
			return
		}
		r.t.Nodes[i-len(families)] = part.node(r.c.Nodes[i-len(families)])
	})
	for _, part := range parts {
		for _, f := range part.t.Files {
			r.put(f)
		}
		r.collect(part.faults)
	}
}

// collect adds the faults of one node; a field's fault is not said again for
// every node.
func (r *renderer) collect(faults diag.List) {
	for _, f := range faults {
		known := func(other diag.Diagnostic) bool { return f.Path != "" && other.Code == f.Code && other.Path == f.Path }
		if !slices.ContainsFunc(r.faults, known) {
			r.faults = append(r.faults, f)
		}
	}
}

// each calls f for 0 to n-1, on every processor. f must write only to what
// belongs to its number.
func each(n int, f func(i int)) {
	var next atomic.Int64
	var running sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		running.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	running.Wait()
}

// renderer is the state of one Render.
type renderer struct {
	c           *compile.Cluster
	t           *tree.Tree
	faults      diag.List
	pools       *sync.Map           // files that are alike on every node of a pool
	material    map[string][]placed // by node
	kubeconfigs map[string][]*compile.Kubeconfig
}

func (r *renderer) hardened() bool { return r.c.Profile.V == schema.Hardened }

func (r *renderer) fault(code, summary string) {
	about, _ := diag.Lookup(code)
	r.faults = append(r.faults, diag.Diagnostic{Code: code, Severity: about.Severity, Summary: summary})
}

func (r *renderer) put(f *tree.File) {
	if err := r.t.Put(f); err != nil {
		r.fault("E0201", err.Error())
	}
}

// yaml is the text of documents.
func (r *renderer) yaml(documents ...*emit.Map) *tree.Body { return r.body(emit.YAML(documents...)) }

// body is what was written; what no format can carry came by a patch.
func (r *renderer) body(written *tree.Body, err error) *tree.Body {
	if err != nil {
		r.fault("E0232", err.Error())
	}
	return written
}

// fixed is the origin of a constant, with its reason in the table of texts.
func fixed(id string) origin.Origin { return origin.Fixed(id) }

// input is the file that everything was rendered from.
func (r *renderer) input(source []byte) {
	body := &tree.Body{}
	for _, line := range strings.Split(strings.TrimSuffix(string(source), "\n"), "\n") {
		body.Add(fixed("input"), line)
	}
	r.put(&tree.File{Path: "input/cluster.yaml", Kind: tree.Regular, Mode: 0o644, Owner: "root", Group: "root", Body: body, From: fixed("input")})
}

// builder collects the files of one node.
type builder struct {
	*renderer
	n   *compile.Node
	as  origin.Origin // the role that what is rendered now is for; zero if for all
	out *tree.Node
}

// node renders one machine: what every machine has, then what its roles need.
func (r *renderer) node(n *compile.Node) *tree.Node {
	b := &builder{renderer: r, n: n, out: &tree.Node{Name: n.Name.V, From: n.From, Swap: "off", SwapFrom: fixed("swap")}}
	b.host()
	if n.Controller {
		b.controller()
	}
	if n.Worker {
		b.worker()
	}
	b.secrets()
	b.readers()
	b.extras()
	return b.out
}

// file puts a logical file with its mode and owner.
func (b *builder) file(logical string, body *tree.Body, readers ...string) {
	b.add(b.newFile(logical, body, readers...))
}

func (b *builder) newFile(logical string, body *tree.Body, readers ...string) *tree.File {
	owner := b.c.Owner(logical)
	return &tree.File{
		Path: b.c.Path(logical, b.n), Kind: tree.Regular, Mode: b.c.Mode(logical), Owner: owner, Group: owner,
		Body: body, Readers: readers, From: b.why(),
	}
}

// alike puts a file that says the same on every node of a pool: it is made once.
func (b *builder) alike(logical string, body func() *tree.Body, readers ...string) {
	if b.n.Pool == "" {
		b.file(logical, body(), readers...)
		return
	}
	key := b.n.Pool + " " + logical
	f, known := b.pools.Load(key)
	if !known {
		f, _ = b.pools.LoadOrStore(key, b.newFile(logical, body(), readers...))
	}
	b.add(f.(*tree.File))
}

// why is the role that a file is for, or the node itself.
func (b *builder) why() origin.Origin {
	if b.as.IsZero() {
		return b.n.From
	}
	return b.as
}

func (b *builder) add(f *tree.File) {
	err := b.out.Put(f)
	if err == nil {
		return
	}
	b.fault("E0201", err.Error())
	for _, source := range f.From.Sources() {
		if strings.HasPrefix(source, "spec.files[") || strings.HasPrefix(source, "spec.units[") {
			d := &b.faults[len(b.faults)-1]
			d.Path, d.Help = source, "choose another path or name; kthwc writes this one itself, and its content follows from other fields"
			return
		}
	}
}

// dir puts a directory; the same directory may be wanted by both roles.
func (b *builder) dir(logical ...string) {
	for _, l := range logical {
		if path := b.c.Path(l, b.n); path != "" {
			b.directory(path, b.c.Mode(l), b.c.Owner(l))
		}
	}
}

func (b *builder) directory(path string, mode uint32, owner string) {
	if b.out.File(path) == nil {
		b.add(&tree.File{Path: path, Kind: tree.Dir, Mode: mode, Owner: owner, Group: owner, From: origin.Join(fixed("directory"), b.as)})
	}
}

// yaml is a configuration document of a kind whose apiVersion the version
// table knows.
func (b *builder) document(kind string) *emit.Map {
	m := emit.NewMap(fixed("config-kind"))
	m.Str("apiVersion", b.n.Setting("api/"+kind))
	return m.Fixed("kind", kind, fixed("config-kind"))
}

// patch merges the user's configPatches for the target.
func (b *builder) patch(target string, m *emit.Map) {
	for _, p := range b.c.Patches {
		if p.Target != target {
			continue
		}
		if err := emit.Merge(m, p.Value, p.Path, origin.Field); err != nil {
			b.fault("E0232", err.Error())
		}
	}
}

func (b *builder) binary(names ...string) {
	for _, name := range names {
		version := b.n.Version
		if companion, ok := companions[name]; ok {
			version = b.n.Setting(companion)
		}
		path := b.c.Path("bin/"+name, b.n)
		if name == "cni-plugins" {
			path = b.c.Path("dir/cni-bin", b.n)
		}
		b.out.Binaries = append(b.out.Binaries, tree.Binary{
			Name: name, Version: version.V, Arch: b.n.Arch.V, Path: path, From: origin.Join(version.From, b.n.Arch.From, b.as),
		})
	}
}

// companions are the programs that have versions of their own.
var companions = map[string]string{
	"etcd": "etcd", "etcdctl": "etcd", "crictl": "crictl", "runc": "runc", "cni-plugins": "cni-plugins",
	"containerd": "containerd", "containerd-shim-runc-v2": "containerd", "ctr": "containerd",
}

func (b *builder) packages(names ...string) {
	for _, name := range names {
		b.out.Packages = append(b.out.Packages, tree.Package{Name: name, Reason: Reason("package-" + name), From: origin.Join(fixed("package-"+name), b.as)})
	}
}

func (b *builder) unit(name, gate string) {
	b.out.Units = append(b.out.Units, tree.Unit{Name: name, Enabled: true, Started: true, Gate: gate, Probes: b.probes(gate), From: b.as})
}
