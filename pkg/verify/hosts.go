package verify

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

// observe looks at all hosts at once. What a host does not answer is a failure
// of the check "machines".
func (r *run) observe(ctx context.Context) (err error) {
	r.states = map[string]*apply.State{}
	if r.hosts, err = r.Fleet.Observe(ctx, false); err != nil {
		return err
	}
	for name, h := range r.hosts {
		if h.Err == nil && h.State != nil {
			r.states[name] = h.State
		}
	}
	return nil
}

// machines asserts that every machine answers, and is the one that is meant.
func machines(_ context.Context, p *probe) {
	for _, n := range p.Tree.Nodes {
		h, want := p.hosts[n.Name], "a machine called "+n.Name+" answers"
		switch {
		case h.Err != nil:
			p.fail(n.Name, "it answers", want, said(h.Err), blame{cause: "the machine is off, or SSH does not reach it", help: "start it; kthwc preflight says more"})
		case h.State == nil:
			p.skip(n.Name, "it answers", "nobody connected to it")
		default:
			p.equal(n.Name, "it answers", want, "a machine called "+h.State.Facts.Hostname+" answers", blame{cause: "the address leads to another machine, or its name was changed", help: "hostnamectl set-hostname " + n.Name})
		}
	}
}

// seen calls f for each node whose host answered, several at a time.
func (r *run) seen(f func(*tree.Node, *apply.State)) {
	nodes := slices.DeleteFunc(slices.Clone(r.Tree.Nodes), func(n *tree.Node) bool { return r.states[n.Name] == nil })
	each(nodes, func(n *tree.Node) { f(n, r.states[n.Name]) })
}

// units asserts that units run, and will after the next boot.
func units(_ context.Context, p *probe) {
	p.seen(func(n *tree.Node, state *apply.State) {
		for _, u := range n.Units {
			is := state.Units[u.Name]
			want, got := unitState(u), is.Active+", "+is.File
			if is.Load == "not-found" {
				got = "there is no such unit"
			}
			help := fmt.Sprintf("on %s: systemctl enable --now %s; journalctl -u %s -n 50", n.Name, u.Name, u.Name)
			p.equal(n.Name, u.Name, want, got, broken(unitLayer(u.Name), "the unit was stopped, or fails", help))
		}
	})
}

// unitState is how systemd calls what a unit shall be.
func unitState(u tree.Unit) string {
	active := map[bool]string{true: "active", false: "inactive"}[u.Started]
	return active + ", " + map[bool]string{true: "enabled", false: "disabled"}[u.Enabled]
}

// files asserts that every path is as it was rendered and materialised: kind,
// content, mode, owner.
func files(_ context.Context, p *probe) {
	plan, err := p.MakePlan(p.hosts, apply.Scope{})
	if err != nil {
		p.fail("", "files", "what is wanted is known", said(err), blame{cause: "the lock or the store has not all that the tree names", help: "kthwc artifacts lock; kthwc pki issue"})
		return
	}
	for _, h := range plan.Hosts {
		switch {
		case p.states[h.Node] == nil:
		case h.Unknown != "":
			p.fail(h.Node, "files", "every path can be looked at", short(h.Unknown), blame{cause: "the machine has another cluster's files, or its disk fails", help: "kthwc plan says more"})
		default:
			p.fileResults(p.Tree.Node(h.Node), h)
		}
	}
}

func (p *probe) fileResults(n *tree.Node, h apply.HostPlan) {
	for _, c := range h.Changes {
		layer := LayerHost
		if f := n.File(c.Path); f != nil {
			layer = p.fileLayer(n, f)
		}
		want, got := "as rendered", changed(c)
		p.fail(n.Name, c.Path, want, got, broken(layer, "somebody changed it since the last apply, or cluster.yaml was changed and not applied", "kthwc plan shows the difference; kthwc apply brings it back"))
	}
	for _, u := range h.Users {
		p.fail(n.Name, "user "+u, "exists", "does not exist", blame{help: "kthwc apply makes it"})
	}
	for _, name := range h.Packages {
		p.fail(n.Name, "package "+name, "installed", "not installed", blame{help: "kthwc apply installs it"})
	}
	for _, b := range slices.Concat(h.Programs, h.Images) {
		p.fail(n.Name, b.Name, "installed", "not installed", blame{help: "kthwc apply installs it"})
	}
	p.ok(n.Name, "files", fmt.Sprintf("%d paths as rendered", h.Same))
}

// changed is what a path is instead of what it shall be.
func changed(c apply.Change) string {
	switch {
	case c.NotIssued != "":
		return "unknown: " + c.NotIssued
	case c.Do == apply.Add:
		return "missing"
	case c.Do == apply.Delete:
		return "there, and should not be"
	}
	return strings.Join(c.What, ", ")
}

// A fileRow says which layer a path belongs to.
type fileRow struct {
	layer Layer
	is    func(p *probe, n *tree.Node, f *tree.File) bool
}

// fileRows are tried in order.
var fileRows = []fileRow{
	{LayerDNS, at("/etc/hosts")},
	{LayerCNI, below("/etc/cni/")},
	{LayerAuthn, (*probe).trustsClients},
	{LayerAuthn, (*probe).hasKubeconfig},
	{LayerTLS, func(_ *probe, _ *tree.Node, f *tree.File) bool { return isMaterial(f) }},
}

func at(path string) func(*probe, *tree.Node, *tree.File) bool {
	return func(_ *probe, _ *tree.Node, f *tree.File) bool { return f.Path == path }
}

func below(dir string) func(*probe, *tree.Node, *tree.File) bool {
	return func(_ *probe, _ *tree.Node, f *tree.File) bool { return strings.HasPrefix(f.Path, dir) }
}

// isMaterial says whether a file is a certificate, a key or a bundle alone.
func isMaterial(f *tree.File) bool {
	return f.Body != nil && len(f.Body.Lines) == 1 && len(f.Body.Refs()) == 1 && strings.HasPrefix(f.Body.Refs()[0].Name(), "pki/")
}

// trustsClients says whether a component of the node verifies its clients with
// the file.
func (p *probe) trustsClients(n *tree.Node, f *tree.File) bool {
	if !isMaterial(f) {
		return false
	}
	for _, l := range p.Cluster.Listeners {
		if l.Node == n.Name && l.ClientCA != "" && f.Body.Refs()[0] == secret.Bundle(l.ClientCA) {
			return true
		}
	}
	return false
}

func (p *probe) hasKubeconfig(n *tree.Node, f *tree.File) bool {
	return slices.ContainsFunc(p.Cluster.Kubeconfig, func(k *compile.Kubeconfig) bool { return k.Node == n.Name && k.Path == f.Path })
}

// fileLayer is the layer that a path belongs to: by what it is, or by the unit
// that reads it.
func (p *probe) fileLayer(n *tree.Node, f *tree.File) Layer {
	for _, row := range fileRows {
		if row.is(p, n, f) {
			return row.layer
		}
	}
	for _, unit := range f.Units() {
		return unitLayer(unit)
	}
	return LayerHost
}

// versionFlag is how programs are asked for their version, and what stands
// before it; --version where a program is not listed.
var versionFlags = map[string]string{
	"kubectl": "version --client", "containerd-shim-runc-v2": "-v", "etcdctl": "version", "etcdutl": "version",
}

// versionScript runs programs: path, and the words that ask. It prints a line
// for each.
const versionScript = `while [ $# -gt 1 ]; do
	"$1" $2 </dev/null 2>&1 | head -n 3 | tr '\n' ' '
	echo
	shift 2
done`

// programs asserts that what would run is of the version that was asked for.
func programs(ctx context.Context, p *probe) {
	p.seen(func(n *tree.Node, _ *apply.State) {
		var args []string
		for _, b := range n.Binaries {
			program, ask := b.Path, versionFlags[b.Name]
			if b.Name == "cni-plugins" {
				program = path.Join(b.Path, "bridge")
			}
			if ask == "" {
				ask = "--version"
			}
			args = append(args, program, ask)
		}
		printed, err := p.lines(ctx, n.Name, versionScript, args...)
		for i, b := range n.Binaries {
			got := "nothing"
			switch {
			case err != nil:
				got = said(err)
			case i < len(printed):
				got = short(printed[i])
			}
			p.version(n.Name, b, got)
		}
	})
}

func (p *probe) version(node string, b tree.Binary, printed string) {
	want := "version " + b.Version
	if slices.ContainsFunc(strings.FieldsFunc(printed, betweenVersions), func(word string) bool { return strings.TrimPrefix(word, "v") == b.Version }) {
		p.ok(node, b.Name, want)
		return
	}
	p.fail(node, b.Name, want, printed, blame{cause: "another version is at " + b.Path + ", or none", help: "kthwc apply installs it"})
}

// betweenVersions are the characters that no version has.
func betweenVersions(r rune) bool { return strings.ContainsRune(" \t\",:()", r) }

// routeScript prints the routes of both families.
const routeScript = `ip -4 route show; ip -6 route show 2>/dev/null || true`

// routes asserts the ways to other nodes' pods. On Google Cloud they are the
// network's own.
func routes(ctx context.Context, p *probe) {
	if p.Cluster.GCP != nil {
		p.impossible("", "routes to pods", "the routes are Google Cloud's, not the machines': kthwc cloud plan compares them, and pods try them")
		return
	}
	p.seen(func(n *tree.Node, _ *apply.State) {
		printed, err := p.lines(ctx, n.Name, routeScript)
		if err != nil {
			p.fail(n.Name, "routes to pods", "ip route answers", said(err), broken(LayerHost, "", ""))
			return
		}
		for _, other := range p.workers() {
			if other.Name.V == n.Name {
				continue
			}
			for i, c := range other.PodCIDRs {
				p.route(n.Name, other, c.V, other.Addresses[min(i, len(other.Addresses)-1)].V, printed)
			}
		}
	})
}

func (p *probe) route(node string, other *compile.Node, pods netip.Prefix, via netip.Addr, table []string) {
	want := fmt.Sprintf("%s via %s", pods, via)
	got := "no route"
	for _, line := range table {
		if words := strings.Fields(line); len(words) > 0 && words[0] == pods.String() {
			got = strings.Join(words[:min(3, len(words))], " ")
		}
	}
	p.equal(node, "route to the pods of "+other.Name.V, want, got,
		blame{cause: "the route was deleted or changed", help: "on " + node + ": systemctl restart kthwc-pod-routes"})
}
