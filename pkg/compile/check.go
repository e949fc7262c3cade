package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/kthwc/kthwc/pkg/diag"
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
	for _, set := range []struct {
		path   string
		ranges []Prefix
	}{{"spec.network.nodeCIDR", n.Nodes}, {"spec.network.podCIDR", n.Pods}, {"spec.network.serviceCIDR", n.Services}} {
		for _, p := range set.ranges {
			for _, other := range all {
				if other.path != set.path && other.p.Overlaps(p.V) {
					d := r.fault("E0103", set.path, fmt.Sprintf("%s %s overlaps %s %s", set.path, p.V, other.path, other.p), "choose ranges that share no address")
					d.Related = append(d.Related, diag.Related{Pos: r.doc.Pos(other.path), Label: "the other range"})
				}
			}
			all = append(all, named{set.path, p.V})
		}
		if len(set.ranges) != len(n.Nodes) || !sameFamilies(set.ranges, n.Nodes) {
			r.fault("E0118", set.path, set.path+" has other address families than spec.network.nodeCIDR", "give every range an IPv4 entry, or an IPv4 and an IPv6 entry in this order")
		}
	}
	r.checkServices()
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
		d.Related = append(d.Related, diag.Related{Pos: r.doc.Pos("spec.network.serviceCIDR"), Label: "the Service range"})
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
	names, addresses := map[string]bool{}, map[netip.Addr]*Node{}
	for _, n := range r.c.Nodes {
		at := nodePath(n)
		if names[n.Name.V] || slices.Contains(reservedNames, n.Name.V) || len(n.Name.V) > 63 {
			r.fault("E0101", at+".name", fmt.Sprintf("the node name %q is taken, reserved or too long", n.Name.V), "choose another name")
		}
		names[n.Name.V] = true
		for i, a := range n.Addresses {
			r.checkAddress(n, addressPath(n), i, a.V, addresses)
		}
		if len(n.Addresses) != len(r.c.Network.Nodes) {
			r.fault("E0118", addressPath(n), fmt.Sprintf("%s has %d addresses, but spec.network.nodeCIDR has %d ranges", n.Name.V, len(n.Addresses), len(r.c.Network.Nodes)), "give the node one address of every range, in the same order")
		}
		r.checkSkew(n)
	}
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
		d.Related = append(d.Related, diag.Related{Pos: r.doc.Pos("spec.network.nodeCIDR"), Label: "the node range"})
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
	var seen []Prefix
	for _, n := range r.c.Nodes {
		if !n.Worker && len(n.PodCIDRs) > 0 {
			r.fault("E0104", nodePath(n)+".podCIDR", fmt.Sprintf("%s has a pod range and runs no pods", n.Name.V), "remove podCIDR, or give the node the role worker")
		}
		for f, p := range n.PodCIDRs {
			if f < len(r.c.Network.Pods) && !inside(p.V, r.c.Network.Pods[f].V) {
				r.fault("E0104", nodePath(n)+".podCIDR", fmt.Sprintf("%s is not in the pod range %s", p.V, r.c.Network.Pods[f].V), "choose a range inside spec.network.podCIDR")
			}
			if room := p.V.Addr().BitLen() - p.V.Bits(); room < 12 && 1<<room-3 < n.MaxPods.V {
				r.fault("E0104", nodePath(n)+".maxPods", fmt.Sprintf("%s has room for %d pods, not for %d", p.V, 1<<room-3, n.MaxPods.V), "lower maxPods, or use a larger pod range")
			}
			seen = append(seen, p)
		}
	}
	slices.SortFunc(seen, func(a, b Prefix) int { return a.V.Addr().Compare(b.V.Addr()) })
	for i := 1; i < len(seen); i++ {
		if seen[i-1].V.Overlaps(seen[i].V) {
			r.fault("E0104", "spec.nodes", fmt.Sprintf("the pod ranges %s and %s overlap", seen[i-1].V, seen[i].V), "give every worker its own range")
		}
	}
}

func inside(p, outer netip.Prefix) bool {
	return p.Bits() >= outer.Bits() && outer.Contains(p.Addr())
}

// check proves what takes the whole model.
func (r *resolver) check() {
	c := r.c
	if c.PKI.LeafLifetime.V > c.PKI.CALifetime.V {
		r.fault("E0124", "spec.pki.leafLifetime", "certificates would live longer than their authority", "make pki.caLifetime longer than pki.leafLifetime")
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
	if !r.hardened() {
		r.fault("W0105", "spec.profile", "one certificate serves the API server, etcd and the kubelet client, as in the tutorial", "profile: hardened has a key for each host and role")
		r.fault("W0107", "spec.profile", "audit flags without a policy record nothing, as in the tutorial", "profile: hardened has a policy")
	}
	if !c.Release.Newest() {
		r.fault("W0108", "spec.kubernetes.version", fmt.Sprintf("Kubernetes %s gets no more fixes", c.Release.Minor()), "use "+schema.Supported()[len(schema.Supported())-1]+" unless this is what you want to learn")
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
				help := "the release has no such flag"
				if near := r.c.Release.Nearest(component, a.Flag); near != "" {
					help = "did you mean " + near + "?"
				}
				if minors := schema.MinorsWith(component, a.Flag); len(minors) > 0 {
					help = "the flag exists in " + strings.Join(minors, ", ")
				}
				r.fault("E0113", path, fmt.Sprintf("%s %s has no flag --%s", component, r.c.Release.Minor(), a.Flag), help)
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
	known := map[string]bool{schema.Controller: true, schema.Worker: true}
	for _, n := range r.c.Nodes {
		known[n.Name.V] = true
	}
	check := func(on []Text) {
		for _, t := range on {
			if !known[t.V] {
				r.fault("E0121", t.From.Sources()[0], fmt.Sprintf("%q is neither a role nor a node", t.V), "write controller, worker, or the name of a node")
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
