package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/schema"
)

// checkNetwork proves that the ranges are disjoint and of matching families,
// and that the Service range holds what it must.
func (r *resolver) checkNetwork() {
	n := &r.c.Network
	type named struct {
		path string
		p    netip.Prefix
	}
	var all []named
	var odd []string // ranges of other families
	for _, set := range []struct {
		path   string
		ranges []Prefix
	}{{"spec.network.nodeCIDR", n.Nodes}, {"spec.network.podCIDR", n.Pods}, {"spec.network.serviceCIDR", n.Services}} {
		for _, p := range set.ranges {
			for _, other := range all {
				if other.path != set.path && other.p.Overlaps(p.V) {
					d := r.fault("E0103", set.path, fmt.Sprintf("%s %s overlaps %s %s", set.path, p.V, other.path, other.p), "choose ranges that share no address")
					r.relate(d, other.path, "the other range", other.p)
				}
			}
			all = append(all, named{set.path, p.V})
		}
		if !sameFamilies(set.ranges, n.Nodes) {
			odd = append(odd, set.path)
		}
	}
	if len(odd) > 0 {
		at := odd[0]
		if !r.doc.Written(at) {
			at = "spec.network.nodeCIDR"
		}
		d := r.fault("E0118", at, strings.Join(odd, " and ")+" must have the address families of spec.network.nodeCIDR", "give every range an IPv4 entry, or an IPv4 and an IPv6 entry in this order")
		for _, path := range odd {
			if !r.doc.Written(path) {
				d.Notes = append(d.Notes, path+" is not written; its default is IPv4 only")
			}
		}
	}
	r.checkServices()
}

// relate shows the field that a fault has to do with, or its default if the
// file does not write it.
func (r *resolver) relate(d *diag.Diagnostic, path, label string, value fmt.Stringer) {
	if r.doc.Written(path) {
		d.Related = append(d.Related, diag.Related{Pos: r.doc.Pos(path), Label: label})
		return
	}
	d.Notes = append(d.Notes, fmt.Sprintf("%s is %s, the default of %s", label, value, path))
}

func sameFamilies(a, b []Prefix) bool {
	return slices.EqualFunc(a, b, func(x, y Prefix) bool { return x.V.Addr().Is4() == y.V.Addr().Is4() })
}

func (r *resolver) checkServices() {
	n := &r.c.Network
	for _, s := range n.Services {
		if hostBits := s.V.Addr().BitLen() - s.V.Bits(); hostBits < 4 || hostBits > 20 {
			r.fault("E0105", "spec.network.serviceCIDR", fmt.Sprintf("%s has %d bits for Services; the API server wants 4 to 20", s.V, hostBits), "use a range such as 10.32.0.0/24")
		}
	}
	first := n.Services[0].V
	switch {
	case !first.Contains(n.DNS.V):
		d := r.fault("E0106", "spec.network.clusterDNS", fmt.Sprintf("%s is not in the Service range %s", n.DNS.V, first), "use an address of the range, such as "+nth(first, 10).String())
		r.relate(d, "spec.network.serviceCIDR", "the Service range", first)
	case n.DNS.V == n.ServiceIPs[0].V || n.DNS.V == first.Masked().Addr():
		r.fault("E0106", "spec.network.clusterDNS", fmt.Sprintf("%s is taken: the first addresses of the range are the network's and the API server's", n.DNS.V), "use "+nth(first, 10).String())
	}
	low, high, _ := strings.Cut(n.NodePorts.V, "-")
	from, _ := strconv.Atoi(low)
	to, _ := strconv.Atoi(high)
	if from >= to || to > 65535 || from <= 10259 {
		r.fault("E0122", "spec.network.nodePortRange", fmt.Sprintf("%s is not a range of free ports", n.NodePorts.V), "use a rising range above 10259, where no component listens, such as 30000-32767")
	}
}

// reservedNames mean something on every machine or in every cluster already.
var reservedNames = []string{"localhost", "kubernetes", "default", "controller", "worker"}

func (r *resolver) checkNodes() {
	names, addresses := map[string]*Node{}, map[netip.Addr]*Node{}
	for _, n := range r.c.Nodes {
		at := nodePath(n)
		switch other := names[n.Name.V]; {
		case other != nil:
			d := r.fault("E0101", at+".name", fmt.Sprintf("two machines are called %s", n.Name.V), "choose another name; the machines of a pool are NAME-0, NAME-1 and so on")
			d.Related = append(d.Related, diag.Related{Pos: r.doc.Pos(nodePath(other) + ".name"), Label: "the other one"})
		case slices.Contains(reservedNames, n.Name.V):
			r.fault("E0101", at+".name", fmt.Sprintf("no machine can be called %s: the name means something else", n.Name.V), "choose another name, such as worker-0")
		case len(n.Name.V) > 63:
			r.fault("E0101", at+".name", fmt.Sprintf("the name %s has %d characters, and host names end at 63", n.Name.V, len(n.Name.V)), "choose a shorter name")
		}
		names[n.Name.V] = n
		for i, a := range n.Addresses {
			r.checkAddress(n, addressPath(n), i, a.V, addresses)
		}
		if len(n.Addresses) != len(r.c.Network.Nodes) {
			r.fault("E0118", addressPath(n), fmt.Sprintf("%s has %s, but spec.network.nodeCIDR has %s", n.Name.V, count(len(n.Addresses), "address", "addresses"), count(len(r.c.Network.Nodes), "range", "ranges")), "give the node one address of every range, in the same order")
		}
		r.checkSkew(n)
	}
}

// count is a number with its noun.
func count(n int, one, many string) string {
	if n == 1 {
		return "one " + one
	}
	return strconv.Itoa(n) + " " + many
}

// nodePath is where the node, or its pool, stands in the file.
func nodePath(n *Node) string {
	if n.Pool != "" {
		return "spec.pools[" + n.Pool + "]"
	}
	return "spec.nodes[" + n.Name.V + "]"
}

func addressPath(n *Node) string {
	if n.Pool != "" {
		return nodePath(n) + ".addresses"
	}
	return nodePath(n) + ".address"
}

func (r *resolver) checkAddress(n *Node, path string, i int, a netip.Addr, seen map[netip.Addr]*Node) {
	ranges := r.c.Network.Nodes
	switch other := seen[a]; {
	case other != nil:
		d := r.fault("E0102", path, fmt.Sprintf("%s has the address of %s: %s", n.Name.V, other.Name.V, a), "give every machine its own address")
		d.Related = append(d.Related, diag.Related{Pos: r.doc.Pos(addressPath(other)), Label: other.Name.V + " has it"})
	case i < len(ranges) && !ranges[i].V.Contains(a):
		d := r.fault("E0102", path, fmt.Sprintf("%s is not in the node range %s", a, ranges[i].V), "change the address or spec.network.nodeCIDR")
		r.relate(d, "spec.network.nodeCIDR", "the node range", ranges[i].V)
	case a.String() == r.spec.API.Address && r.c.Nodes[0] != n && r.spec.API.Endpoint != None:
		r.fault("E0102", path, fmt.Sprintf("%s is the address of the API endpoint", a), "the balancer and the machines need different addresses")
	}
	seen[a] = n
}

func (r *resolver) checkSkew(n *Node) {
	behind := n.Release.Behind(r.c.Release)
	allowed, _ := strconv.Atoi(r.c.Release.Setting("kubelet-max-skew").V)
	if behind < 0 || behind > allowed || n.Controller && behind != 0 {
		r.fault("E0115", nodePath(n)+".kubernetesVersion", fmt.Sprintf("%s runs %s beside an API server of %s", n.Name.V, n.Release.Minor(), r.c.Release.Minor()), fmt.Sprintf("workers may be up to %d minors older than the controllers, never newer", allowed))
	}
}

func (r *resolver) checkPodRanges() {
	type podRange struct {
		n *Node
		p netip.Prefix
	}
	var seen []podRange
	for _, n := range r.c.Nodes {
		if !n.Worker && len(n.PodCIDRs) > 0 {
			r.fault("E0104", nodePath(n)+".podCIDR", fmt.Sprintf("%s has a pod range and runs no pods", n.Name.V), "remove podCIDR, or give the node the role worker")
		}
		for f, p := range n.PodCIDRs {
			if f < len(r.c.Network.Pods) && !inside(p.V, r.c.Network.Pods[f].V) {
				d := r.fault("E0104", nodePath(n)+".podCIDR", fmt.Sprintf("%s is not in the pod range %s", p.V, r.c.Network.Pods[f].V), "choose a range inside spec.network.podCIDR")
				r.relate(d, "spec.network.podCIDR", "the pod range", r.c.Network.Pods[f].V)
			}
			if room := p.V.Addr().BitLen() - p.V.Bits(); room < 12 && 1<<room-3 < n.MaxPods.V {
				r.fault("E0104", r.written(nodePath(n)+".maxPods", nodePath(n)+".podCIDR", "spec.network.podCIDRMaskSize"), fmt.Sprintf("%s has room for %d pods, and %s may run %d", p.V, 1<<room-3, n.Name.V, n.MaxPods.V), "lower maxPods of the node, or use a larger pod range")
			}
			seen = append(seen, podRange{n, p.V})
		}
	}
	slices.SortStableFunc(seen, func(a, b podRange) int { return a.p.Addr().Compare(b.p.Addr()) })
	for i := 1; i < len(seen); i++ {
		if a, b := seen[i-1], seen[i]; a.p.Overlaps(b.p) {
			d := r.fault("E0104", nodePath(b.n)+".podCIDR", fmt.Sprintf("the pod range %s of %s overlaps %s of %s", b.p, b.n.Name.V, a.p, a.n.Name.V), "give every worker its own range")
			r.relate(d, nodePath(a.n)+".podCIDR", "the other range", a.p)
		}
	}
}

// written is the first of the fields that the file writes, or else the last.
func (r *resolver) written(paths ...string) string {
	for _, p := range paths {
		if r.doc.Written(p) {
			return p
		}
	}
	return paths[len(paths)-1]
}

func inside(p, outer netip.Prefix) bool {
	return p.Bits() >= outer.Bits() && outer.Contains(p.Addr())
}

// check proves what takes the whole model.
func (r *resolver) check() {
	c := r.c
	if c.PKI.LeafLifetime.V > c.PKI.CALifetime.V {
		r.fault("E0124", r.written("spec.pki.caLifetime", "spec.pki.leafLifetime"), "certificates would live longer than their authority", "make pki.caLifetime longer than pki.leafLifetime")
	}
	keys := map[string]bool{}
	for i, k := range c.Encryption.Keys {
		if keys[k.V] {
			r.fault("E0123", fmt.Sprintf("spec.encryption.keys[%d]", i), fmt.Sprintf("the key %q is listed twice", k.V), "list every key once, the primary first")
		}
		keys[k.V] = true
	}
	r.checkAccess()
	r.checkFlags()
	r.checkSelectors()
	r.checkProxyMode()
	r.checkCloud()
	r.prove()
	r.checkSecretNames()
	if !r.hardened() {
		for _, k := range keptFromTutorial {
			r.fault(k.code, "spec.profile", k.summary, k.help)
		}
	}
	if !c.Release.Newest() {
		r.fault("W0108", "spec.kubernetes.version", fmt.Sprintf("Kubernetes %s gets no more fixes", c.Release.Minor()), "use "+schema.Supported()[len(schema.Supported())-1]+" unless this is what you want to learn")
	}
}

// keptFromTutorial are the tutorial's own weaknesses that its profile keeps.
var keptFromTutorial = []struct{ code, summary, help string }{
	{"W0105", "one certificate serves the API server, etcd and the kubelet client, as in the tutorial", "profile: hardened has a key for each host and role"},
	{"W0107", "audit flags without a policy record nothing, as in the tutorial", "profile: hardened has a policy"},
	{"W0109", "kube-proxy takes its node's name from the host, as in the tutorial", "every machine's host name must be its node's; profile: hardened also says it to kube-proxy"},
}

// checkSecretNames keeps the names of secrets kthwc's own: text of the user's
// that looks like one would be replaced by the secret on the host.
func (r *resolver) checkSecretNames() {
	for _, leaf := range r.doc.Leaves() {
		if strings.Contains(leaf, secret.Open) || strings.Contains(r.doc.Text(leaf), secret.Open) {
			r.fault("E0129", leaf, "text of yours must not contain "+secret.Open, "take it out: an overlay may move names that are there, and nothing may make new ones")
		}
	}
}

func (r *resolver) checkAccess() {
	open := slices.ContainsFunc(r.c.Operators, func(p Prefix) bool { return p.V.Bits() == 0 })
	switch {
	case open:
		r.fault("W0101", "spec.access.operatorCIDRs", "everybody may reach the API server and SSH", "list the ranges that you come from in spec.access.operatorCIDRs")
	case r.c.API.WorkersVia.V == Public && r.c.GCP != nil:
		r.fault("W0102", "spec.access.operatorCIDRs", "workers dial the public address and arrive from their external addresses, which operatorCIDRs may not include", "use workersVia: internal, or add the workers' external addresses")
	}
}

// checkFlags proves that every flag of extraArgs exists at the minors that get it.
func (r *resolver) checkFlags() {
	for _, component := range sortedKeys(r.c.ExtraArgs) {
		for _, a := range r.c.ExtraArgs[component] {
			path := pathTo("spec.extraArgs", component, a.Flag)
			if !r.c.Release.Known(component, a.Flag) {
				help := fmt.Sprintf("remove it: %s would stop at once with `unknown flag`", component)
				if near := r.c.Release.Nearest(component, a.Flag); near != "" {
					help = "did you mean " + near + "?"
				}
				if minors := schema.MinorsWith(component, a.Flag); len(minors) > 0 {
					help = fmt.Sprintf("remove it: %s would stop at once with `unknown flag`; %s has it", component, strings.Join(minors, " and "))
				}
				r.fault("E0113", path, fmt.Sprintf("%s %s has no flag --%s", component, r.c.Release.Minor(), a.Flag), help).Pos = r.doc.KeyPos(path)
				continue
			}
			r.checkReplaced(component, path, a)
		}
	}
}

// checkReplaced says so when a flag of the user's stands instead of a rendered one.
func (r *resolver) checkReplaced(component, path string, a ExtraArg) {
	for _, row := range flagRows[component] {
		v := row.hardened
		if !r.hardened() {
			v = row.tutorial
		}
		if row.flag != a.Flag || v == nil {
			continue
		}
		d := r.fault("W0103", path, fmt.Sprintf("--%s of %s replaces a flag that kthwc renders", a.Flag, component), "remove it unless you mean it: no other file follows the new value")
		d.Notes = append(d.Notes, "why it is rendered: "+lowerFirst(row.why))
	}
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// armSeries are Google Cloud's machine series with Arm processors.
var armSeries = []string{"t2a-", "c4a-", "n4a-", "a4x-"}

// checkCloud proves that Google Cloud can make every machine.
func (r *resolver) checkCloud() {
	g := r.c.GCP
	if g == nil {
		return
	}
	if !strings.HasPrefix(g.Zone.V, g.Region.V+"-") {
		r.fault("E0128", "spec.provider.gcp.zone", fmt.Sprintf("the zone %s is not in the region %s", g.Zone.V, g.Region.V), "zones are called REGION-LETTER, such as "+g.Region.V+"-a")
	}
	if len(r.c.Network.Nodes) > 1 {
		r.fault("E0128", "spec.network.nodeCIDR", "Google Cloud chooses IPv6 ranges itself, so a dual-stack address plan cannot be given to it", "use one IPv4 range, or provider static")
	}
	for _, n := range r.c.Nodes {
		if first := n.Name.V[0]; first >= '0' && first <= '9' {
			r.fault("E0128", nodePath(n)+".name", fmt.Sprintf("instances on Google Cloud begin with a letter, and %s does not (RFC 1035)", n.Name.V), "put a letter in front")
		}
		arm := slices.ContainsFunc(armSeries, func(s string) bool { return strings.HasPrefix(n.Machine.V, s) })
		if arm != (n.Arch.V == "arm64") {
			r.fault("E0128", nodePath(n)+".arch", fmt.Sprintf("%s is %s, and machines of type %s are not", n.Name.V, n.Arch.V, n.Machine.V), "give it a machineType of that architecture: e2, n2, c3 for amd64; t2a, c4a, n4a for arm64")
			return
		}
	}
}

// checkProxyMode proves that every worker's kube-proxy knows the mode.
func (r *resolver) checkProxyMode() {
	mode := r.c.KubeProxy.Mode.V
	for _, n := range r.c.Nodes {
		if n.Worker && !n.Release.Field("KubeProxyConfiguration", "mode="+mode).Keep {
			r.fault("E0116", "spec.kubeProxy.mode", fmt.Sprintf("kube-proxy %s on %s has no mode %s", n.Release.Minor(), n.Name.V, mode), "use iptables, or a release that has the mode")
			return
		}
	}
}

func (r *resolver) checkSelectors() {
	known := []string{schema.Controller, schema.Worker}
	for _, n := range r.c.Nodes {
		known = append(known, n.Name.V)
	}
	check := func(on []Text) {
		for _, t := range on {
			if slices.Contains(known, t.V) {
				continue
			}
			d := r.fault("E0121", t.From.Sources()[0], fmt.Sprintf("%q is neither a role nor a node", t.V), "write controller, worker, or the name of a node")
			if near := diag.Nearest(t.V, known); near != "" {
				d.Label = fmt.Sprintf("did you mean %q?", near)
			}
		}
	}
	for _, f := range r.c.Files {
		check(f.On)
	}
	for _, u := range r.c.Units {
		check(u.On)
	}
}
