package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/schema"
)

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// pathTo adds keys to a path in the writing of cluster.yaml's paths.
func pathTo(path string, keys ...string) string {
	for _, k := range keys {
		path = emit.Pointer(path, k)
	}
	return path
}

func (r *resolver) nodes() {
	for i := range r.spec.Nodes {
		r.listed(&r.spec.Nodes[i])
	}
	for i := range r.spec.Pools {
		r.pool(&r.spec.Pools[i])
	}
	if len(r.c.Nodes) == 0 {
		r.fault("E0120", "spec.nodes", "the cluster has no nodes", "list them below spec.nodes, each with name, roles and address: one, three or five controllers, and workers")
		return
	}
	if !slices.ContainsFunc(r.c.Nodes, func(n *Node) bool { return n.Controller }) {
		r.fault("E0120", "spec.nodes", "no node has the role controller", "give one, three or five nodes roles: [controller]")
	}
	if !slices.ContainsFunc(r.c.Nodes, func(n *Node) bool { return n.Worker }) {
		r.fault("E0126", "spec.nodes", "no node has the role worker", "give at least one node roles: [worker], or [controller, worker]")
	}
	if !r.faults.HasErrors() {
		r.checkNodes()
	}
}

func (r *resolver) listed(s *schema.Node) {
	at := "spec.nodes[" + s.Name + "]"
	n := r.machine(at, &s.Machine)
	n.Name = r.text(at+".name", s.Name)
	n.From = n.Name.From
	n.Addresses = r.addrs(at+".address", s.Address)
	n.External = r.external(s, at)
	if s.PodCIDR != nil {
		n.PodCIDRs = r.prefixes(at+".podCIDR", s.PodCIDR)
	}
	n.SSH = r.ssh(n, at, s.SSH)
	r.c.Nodes = append(r.c.Nodes, n)
}

// external is the address that others reach the node by. On Google Cloud it is
// known only to the cloud unless the file says it.
func (r *resolver) external(s *schema.Node, at string) origin.Value[Address] {
	switch {
	case s.ExternalAddress != "":
		ip, _ := netip.ParseAddr(s.ExternalAddress)
		return origin.Of(Address{IP: ip}, r.doc.Origin(at+".externalAddress"))
	case r.c.GCP != nil:
		return r.cloud("instance/"+s.Name, r.doc.Origin(at+".name"))
	}
	return origin.Value[Address]{}
}

// cloud is an address that the cloud gives: from the facts, or to be resolved.
func (r *resolver) cloud(name string, from origin.Origin) origin.Value[Address] {
	if ip, err := netip.ParseAddr(r.facts.CloudAddresses[name]); err == nil {
		return origin.Of(Address{IP: ip}, from)
	}
	return origin.Of(Address{Cloud: name}, from)
}

func (r *resolver) pool(s *schema.Pool) {
	at := "spec.pools[" + s.Name + "]"
	first := r.addrs(at+".addresses", s.Addresses)
	count := r.doc.Origin(at + ".count")
	shared := r.machine(at, &s.Machine)
	shared.Pool = s.Name
	name := r.doc.Origin(at + ".name")
	for i := range s.Count {
		n := *shared
		n.Name = origin.Of(s.Name+"-"+strconv.Itoa(i), name)
		n.Count = count
		n.From = origin.Join(name, count)
		n.Addresses = make([]Addr, len(first))
		for f, a := range first {
			n.Addresses[f] = origin.Of(nth(netip.PrefixFrom(a.V, a.V.BitLen()), i), a.From)
		}
		if r.c.GCP != nil {
			n.External = r.cloud("instance/"+n.Name.V, name)
		}
		n.SSH = r.ssh(&n, at, nil)
		r.c.Nodes = append(r.c.Nodes, &n)
	}
}

// machine is what a node and a pool have in common.
func (r *resolver) machine(at string, s *schema.Machine) *Node {
	n := &Node{
		Controller: slices.Contains(s.Roles, schema.Controller),
		Worker:     slices.Contains(s.Roles, schema.Worker),
		Arch:       r.text(at+".arch", s.Arch),
		ResolvConf: r.text(at+".resolvConf", s.ResolvConf),
		MaxPods:    origin.Of(s.MaxPods, r.doc.Origin(at+".maxPods")),
		Version:    r.c.Kubernetes,
		Release:    r.c.Release,
	}
	for _, role := range r.texts(at+".roles", s.Roles) {
		if role.V == schema.Controller {
			n.AsController = role.From
		} else {
			n.AsWorker = role.From
		}
	}
	for _, k := range sortedKeys(s.Labels) {
		n.Labels = append(n.Labels, Label{k, r.text(pathTo(at+".labels", k), s.Labels[k])})
	}
	for i, t := range s.Taints {
		taint := fmt.Sprintf("%s.taints[%d]", at, i)
		n.Taints = append(n.Taints, Taint{r.text(taint+".key", t.Key), r.text(taint+".value", t.Value), r.text(taint+".effect", t.Effect)})
	}
	switch {
	case s.MachineType != "" && r.c.GCP == nil:
		r.fault("E0128", at+".machineType", "static machines have no machine type", "remove it, or use provider gcp")
	case s.MachineType != "":
		n.Machine = r.text(at+".machineType", s.MachineType)
	case r.c.GCP != nil:
		n.Machine = r.c.GCP.MachineType
	}
	if s.KubernetesVersion != "" {
		n.Version, n.Release = r.version(at+".kubernetesVersion", s.KubernetesVersion)
	}
	return n
}

func (r *resolver) ssh(n *Node, at string, s *schema.NodeSSH) SSH {
	out := SSH{
		User:    r.text("spec.ssh.user", r.spec.SSH.User),
		Port:    origin.Of(r.spec.SSH.Port, r.doc.Origin("spec.ssh.port")),
		Bastion: r.text("spec.ssh.bastion", r.spec.SSH.Bastion),
	}
	switch external := n.External.V; {
	case external.IP.IsValid(), external.Cloud != "" && out.Bastion.V == "":
		out.Address = origin.Map(n.External, Address.String)
	case len(n.Addresses) > 0:
		out.Address = origin.Map(n.Addresses[0], netip.Addr.String)
	}
	if s == nil {
		return out
	}
	if s.Address != "" {
		out.Address = r.text(at+".ssh.address", s.Address)
	}
	if s.Port != 0 {
		out.Port = origin.Of(s.Port, r.doc.Origin(at+".ssh.port"))
	}
	if s.User != "" {
		out.User = r.text(at+".ssh.user", s.User)
	}
	if s.HostKey != "" {
		out.HostKey = r.text(at+".ssh.hostKey", s.HostKey)
	}
	return out
}

// podRanges gives every worker without a range the next free one of the pod
// range, in the order of the nodes (index and family give the same range on
// every run).
func (r *resolver) podRanges() {
	taken := map[netip.Prefix]bool{}
	for _, n := range r.c.Nodes {
		for _, p := range n.PodCIDRs {
			taken[p.V] = true
		}
	}
	for f, pods := range r.c.Network.Pods {
		size := r.c.Network.PodMaskSizes[min(f, len(r.c.Network.PodMaskSizes)-1)]
		next := netip.PrefixFrom(pods.V.Addr(), size.V)
		// The next free range depends on who comes before: on the lists as wholes.
		from := origin.Join(pods.From, size.From, r.lists())
		for _, n := range r.c.Nodes {
			if !n.Worker || len(n.PodCIDRs) > f {
				continue
			}
			for taken[next] {
				next = following(next)
			}
			if size.V < pods.V.Bits() || !pods.V.Contains(next.Addr()) {
				r.fault("E0104", "spec.network.podCIDR", fmt.Sprintf("%s has no range of /%d left for %s", pods.V, size.V, n.Name.V), "use a larger network.podCIDR, or a larger network.podCIDRMaskSize (smaller ranges)")
				return
			}
			n.PodCIDRs = append(n.PodCIDRs, origin.Of(next, from))
			next = following(next)
		}
	}
	r.checkPodRanges()
}

// lists are the lists of nodes that the file has.
func (r *resolver) lists() origin.Origin {
	var out origin.Origin
	for _, l := range []string{"spec.nodes", "spec.pools"} {
		if r.doc.Written(l) {
			out = origin.Join(out, r.doc.Origin(l))
		}
	}
	return out
}

// following is the range of the same size right after p.
func following(p netip.Prefix) netip.Prefix {
	bytes := p.Addr().As16()
	bit := p.Bits() - 1
	if p.Addr().Is4() {
		bit += 96
	}
	for step := 1 << (7 - bit%8); step > 0 && bit >= 0; bit, step = bit-8, 1 {
		sum := int(bytes[bit/8]) + step
		bytes[bit/8] = byte(sum)
		if sum < 256 {
			break
		}
	}
	a := netip.AddrFrom16(bytes)
	if p.Addr().Is4() {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, p.Bits())
}

// Setting is an answer of the version table at the node's release. It comes
// from the table, and from the field that says the release where that matters.
func (n *Node) Setting(name string) Text {
	answer := n.Release.Setting(name)
	if schema.Varies(name) {
		answer.From = origin.Join(answer.From, n.Version.From)
	}
	return answer
}
