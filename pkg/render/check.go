package render

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

// check proves what can only be seen on the finished tree: what users patched
// and added is in it. Nodes are looked at on every processor, in runs.
func (r *renderer) check() {
	for _, f := range r.t.Files {
		if !strings.HasPrefix(f.Path, "input/") {
			r.checkFile(f.Path, f, nil)
		}
	}
	runs := make([]*renderer, min(len(r.t.Nodes), 2*runtime.GOMAXPROCS(0)))
	found := make([]*findings, len(runs))
	each(len(runs), func(i int) {
		run := *r
		run.faults = nil
		runs[i], found[i] = &run, &findings{at: map[string]int{}}
		run.checkNodes(i*len(r.t.Nodes)/len(runs), (i+1)*len(r.t.Nodes)/len(runs), found[i])
	})
	all := &findings{at: map[string]int{}}
	for i, run := range runs {
		r.faults = append(r.faults, run.faults...)
		all.merge(found[i])
	}
	all.report(r)
}

func (r *renderer) checkNodes(from, to int, found *findings) {
	seen, named := map[*tree.File]bool{}, map[*tree.Body][]string{}
	for i := from; i < to; i++ {
		n := r.t.Nodes[i]
		for _, f := range n.Files {
			r.checkFile(tree.OnDisk(n.Name, f.Path), f, seen)
		}
		c := &nodeCheck{c: r.c, n: r.c.Nodes[i], out: n, named: named, findings: found}
		for _, proof := range nodeProofs {
			proof(c)
		}
	}
}

// checkFile looks at a file once, whatever the number of nodes that share it.
func (r *renderer) checkFile(path string, f *tree.File, seen map[*tree.File]bool) {
	if f.Kind != tree.Regular || seen[f] {
		return
	}
	if seen != nil {
		seen[f] = true
	}
	r.checkSecrets(path, f)
	if !userFile(f) {
		r.checkHoles(path, f)
	}
}

// findings collects what is wrong with nodes; the same fault of many nodes is one.
type findings struct {
	list []finding
	at   map[string]int
}

type finding struct {
	code, summary, path string
	nodes               []string
}

func (f *findings) add(code, node, summary string, from origin.Origin) {
	key := code + summary
	at, seen := f.at[key]
	if !seen {
		at = len(f.list)
		f.at[key] = at
		f.list = append(f.list, finding{code: code, summary: summary, path: usersField(from)})
	}
	f.list[at].nodes = append(f.list[at].nodes, node)
}

func (f *findings) merge(other *findings) {
	for _, one := range other.list {
		at, seen := f.at[one.code+one.summary]
		if !seen {
			f.at[one.code+one.summary] = len(f.list)
			f.list = append(f.list, one)
			continue
		}
		f.list[at].nodes = append(f.list[at].nodes, one.nodes...)
	}
}

func (f *findings) report(r *renderer) {
	for _, one := range f.list {
		where := one.nodes[0]
		if more := len(one.nodes) - 1; more > 0 {
			where = fmt.Sprintf("%s and %d more", where, more)
		}
		r.fault(one.code, where+": "+one.summary)
		r.faults[len(r.faults)-1].Path = one.path
	}
}

// usersField is the field of cluster.yaml that a line was customised by; "" if none.
func usersField(o origin.Origin) string {
	for _, s := range o.Sources() {
		if strings.HasPrefix(s, "spec.extraArgs") || strings.HasPrefix(s, "spec.configPatches") {
			return s
		}
	}
	return ""
}

// userFile says whether the content is the user's own, which may say anything.
func userFile(f *tree.File) bool {
	for _, s := range f.From.Sources() {
		if strings.HasPrefix(s, "spec.files[") || strings.HasPrefix(s, "spec.units[") || strings.HasPrefix(s, origin.PrefixOverlay) {
			return true
		}
	}
	return false
}

// checkSecrets is invariant 21: secrets are readable by their owner only.
func (r *renderer) checkSecrets(path string, f *tree.File) {
	for _, ref := range f.Body.Refs() {
		if ref.Sensitive() && f.Mode&0o077 != 0 {
			r.fault("E0221", fmt.Sprintf("%s has mode %04o and holds %s", path, f.Mode, ref.Name()))
		}
	}
}

// marks are what failed templates leave behind.
var marks = []string{"http://:", "https://:", "http:///", "https:///", "\r", "<no value>", "%!"}

func hole(text string) bool {
	for _, m := range marks {
		if strings.Contains(text, m) {
			return true
		}
	}
	return strings.HasSuffix(text, "=") || strings.HasSuffix(text, "https://") || strings.HasSuffix(text, "http://")
}

// checkHoles is invariant 20: no marks of failed templates.
func (r *renderer) checkHoles(path string, f *tree.File) {
	isYAML := strings.HasSuffix(path, ".yaml")
	for i, l := range f.Body.Lines {
		text := l.String()
		if hole(text) || isYAML && strings.Contains(text, "\t") {
			r.fault("E0220", fmt.Sprintf("%s:%d: %q has a hole", path, i+1, text))
		}
	}
}

// nodeCheck looks at one finished node.
type nodeCheck struct {
	*findings
	c     *compile.Cluster
	n     *compile.Node
	out   *tree.Node
	named map[*tree.Body][]string // paths that a body names
}

func (c *nodeCheck) fault(code string, from origin.Origin, format string, args ...any) {
	c.add(code, c.out.Name, fmt.Sprintf(format, args...), from)
}

// nodeProofs are the invariants of one node's files.
var nodeProofs = []func(*nodeCheck){
	(*nodeCheck).runtime, (*nodeCheck).cgroups, (*nodeCheck).kernel, (*nodeCheck).paths, (*nodeCheck).programs,
}

// setting is the value that a file gives a key: the rest of the one line that
// begins with the key once its indentation is gone. "" if there is none.
func (c *nodeCheck) setting(logical, key string) compile.Text {
	f := c.out.File(c.c.Path(logical, c.n))
	if f == nil || f.Body == nil {
		return compile.Text{}
	}
	for _, l := range f.Body.Lines {
		if v, ok := strings.CutPrefix(strings.TrimSpace(l.String()), key); ok {
			return origin.Of(strings.Trim(strings.TrimSpace(v), `"`), l.From)
		}
	}
	return compile.Text{}
}

// runtime is invariant 15: containerd's configuration is in the version that
// this containerd reads; it ignores other versions' plugin tables in silence.
func (c *nodeCheck) runtime() {
	if !c.n.Worker {
		return
	}
	want, got := c.n.Setting("containerd-config-version").V, c.setting("containerd-config", "version = ")
	if cmp.Or(got.V, "1") != want {
		c.fault("E0215", got.From, "containerd's configuration says version %s, and containerd %s wants %s", cmp.Or(got.V, "1"), c.n.Setting("containerd").V, want)
	}
}

// cgroups is invariant 16: kubelet and runtime have the same cgroup driver.
func (c *nodeCheck) cgroups() {
	if !c.n.Worker {
		return
	}
	driver := map[bool]string{true: "systemd", false: "cgroupfs"}
	kubelet, runtime := c.setting("kubelet-config", "cgroupDriver: "), c.setting("containerd-config", "SystemdCgroup = ")
	mine, theirs := driver[kubelet.V == "systemd"], driver[runtime.V == "true"]
	if mine != theirs {
		c.fault("E0216", origin.Join(kubelet.From, runtime.From), "the kubelet's cgroup driver is %s, and the runtime's is %s", mine, theirs)
	}
}

// kernel is invariant 17: what the bridge and kube-proxy's mode need of the
// kernel is loaded and set.
func (c *nodeCheck) kernel() {
	if !c.n.Worker {
		return
	}
	for _, m := range modulesFor(c.c) {
		if !c.hasLine("modules", m) {
			c.fault("E0217", c.c.KubeProxy.Mode.From, "the kernel module %s is not loaded at boot", m)
		}
	}
	for _, s := range []string{"net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables"} {
		if got := c.setting("sysctl", s+" = "); got.V != "1" {
			c.fault("E0217", got.From, "%s is not set to 1 at boot", s)
		}
	}
}

func (c *nodeCheck) hasLine(logical, text string) bool {
	f := c.out.File(c.c.Path(logical, c.n))
	return f != nil && f.Body != nil && slices.ContainsFunc(f.Body.Lines, func(l tree.Line) bool { return l.String() == text })
}

// programs is invariant 25: programs are of the node's architecture.
func (c *nodeCheck) programs() {
	for _, b := range c.out.Binaries {
		if b.Arch != c.n.Arch.V {
			c.fault("E0225", b.From, "the machine is %s, and its %s is %s", c.n.Arch.V, b.Name, b.Arch)
		}
	}
}
