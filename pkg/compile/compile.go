// Package compile resolves a valid document into the complete, cross-checked
// model of the cluster.
//
// It promises that [Compile] is a pure function of the document and the
// committed facts, that every value of the model knows the fields it came
// from, and that a model without errors satisfies the compile-time invariants
// (each with its own code in pkg/diag). It refuses to read files, clocks, the
// network or the environment, and to hold secret bytes.
package compile

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/inventory"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/schema"
)

// Facts are the committed public files that say what only the world knows. The
// zero value means that there are none.
type Facts struct {
	Inventory      *inventory.Inventory // what was issued: keys that are trusted beside the one that signs
	CloudAddresses map[string]string    // "address/api" -> IP
}

// Compile resolves a document. The list holds warnings too; the cluster is nil
// if any fault is an error.
func Compile(doc *schema.Document, facts Facts) (*Cluster, diag.List) {
	r := &resolver{doc: doc, spec: &doc.Cluster.Spec, facts: facts, c: &Cluster{}}
	for _, step := range []func(){
		r.general, r.network, r.nodes, r.podRanges, r.api, r.etcd, r.services, r.custom,
		r.pki, r.rotations, r.kubeconfigs, r.connections, r.check,
	} {
		step()
		if r.faults.HasErrors() {
			break
		}
	}
	r.faults.Sort()
	if r.faults.HasErrors() {
		return nil, r.faults
	}
	return r.c, r.faults
}

// resolver is the state of one Compile.
type resolver struct {
	doc    *schema.Document
	spec   *schema.Spec
	facts  Facts
	c      *Cluster
	faults diag.List
}

func (r *resolver) hardened() bool { return r.spec.Profile == schema.Hardened }

// text pairs a value of the document with its origin.
func (r *resolver) text(path, v string) Text { return origin.Of(v, r.doc.Origin(path)) }

// texts does the same for a list of plain values.
func (r *resolver) texts(path string, values []string) []Text {
	out := make([]Text, len(values))
	for i, v := range values {
		at := path
		if entry := path + "[" + strconv.Itoa(i) + "]"; r.doc.Written(entry) {
			at = entry
		}
		out[i] = r.text(at, v)
	}
	return out
}

// fault reports a fault at a field.
func (r *resolver) fault(code, path, summary, help string) *diag.Diagnostic {
	about, _ := diag.Lookup(code)
	r.faults = append(r.faults, diag.Diagnostic{
		Code: code, Severity: about.Severity, Path: path, Pos: r.doc.Pos(path), Summary: summary, Help: help,
	})
	return &r.faults[len(r.faults)-1]
}

func (r *resolver) general() {
	c, s := r.c, r.spec
	c.Name = r.text("metadata.name", r.doc.Cluster.Metadata.Name)
	c.Profile = r.text("spec.profile", s.Profile)
	c.Kubernetes, c.Release = r.version("spec.kubernetes.version", s.Kubernetes.Version)
	if g := s.Provider.GCP; g != nil {
		at := func(field, v string) Text { return r.text("spec.provider.gcp."+field, v) }
		c.GCP = &GCP{
			Project: at("project", g.Project), Region: at("region", g.Region), Zone: at("zone", g.Zone),
			MachineType: at("machineType", g.MachineType), ImageProject: at("imageProject", g.ImageProject),
			ImageFamily: at("imageFamily", g.ImageFamily),
			DiskSizeGB:  origin.Of(g.DiskSizeGB, r.doc.Origin("spec.provider.gcp.diskSizeGB")),
		}
	}
	c.Operators = r.prefixes("spec.access.operatorCIDRs", s.Access.OperatorCIDRs)
	c.NodePorts = r.prefixes("spec.access.nodePortCIDRs", s.Access.NodePortCIDRs)
}

// version completes "1.37" to the newest patch that the table knows.
func (r *resolver) version(path, v string) (Text, *schema.Release) {
	release, err := schema.ReleaseOf(v)
	if err != nil {
		r.fault("E0114", path, err.Error(), "write one of the supported minors in quotes")
		return Text{}, nil
	}
	t := r.text(path, v)
	if strings.Count(v, ".") == 1 {
		t = origin.Of(release.Patch(), origin.Join(t.From, origin.Row("patch")))
	}
	return t, release
}

func (r *resolver) prefixes(path string, values []string) []Prefix {
	var out []Prefix
	for _, t := range r.texts(path, values) {
		p, err := netip.ParsePrefix(t.V)
		if err != nil || p != p.Masked() {
			r.fault("E0103", path, fmt.Sprintf("%s is not a network: it has bits beyond its prefix", t.V), "write "+p.Masked().String())
			continue
		}
		out = append(out, origin.Of(p, t.From))
	}
	return out
}

func (r *resolver) addrs(path string, values []string) []Addr {
	var out []Addr
	for _, t := range r.texts(path, values) {
		if a, err := netip.ParseAddr(t.V); err == nil {
			out = append(out, origin.Of(a, t.From))
		}
	}
	return out
}

func (r *resolver) network() {
	n, s := &r.c.Network, &r.spec.Network
	n.Nodes = r.prefixes("spec.network.nodeCIDR", s.NodeCIDR)
	n.Pods = r.prefixes("spec.network.podCIDR", s.PodCIDR)
	n.Services = r.prefixes("spec.network.serviceCIDR", s.ServiceCIDR)
	for i, size := range s.PodCIDRMaskSize {
		n.PodMaskSizes = append(n.PodMaskSizes, origin.Of(size, r.texts("spec.network.podCIDRMaskSize", make([]string, len(s.PodCIDRMaskSize)))[i].From))
	}
	if len(n.Pods) == 2 && len(n.PodMaskSizes) == 1 {
		n.PodMaskSizes = append(n.PodMaskSizes, origin.Of(64, origin.Fixed("pod-mask-ipv6")))
	}
	n.Domain = r.text("spec.network.clusterDomain", s.ClusterDomain)
	n.NodePorts = r.text("spec.network.nodePortRange", s.NodePortRange)
	if r.faults.HasErrors() {
		return
	}
	for _, p := range n.Services {
		n.ServiceIPs = append(n.ServiceIPs, origin.Map(p, func(p netip.Prefix) netip.Addr { return nth(p, 1) }))
	}
	n.DNS = origin.Map(n.Services[0], func(p netip.Prefix) netip.Addr { return nth(p, 10) })
	if s.ClusterDNS != "" {
		n.DNS = r.addrs("spec.network.clusterDNS", []string{s.ClusterDNS})[0]
	}
	r.checkNetwork()
}

// nth is the n-th address of a range, counted from its network address.
func nth(p netip.Prefix, n int) netip.Addr {
	bytes := p.Masked().Addr().As16()
	for i := len(bytes) - 1; i >= 0 && n > 0; i-- {
		n += int(bytes[i])
		bytes[i], n = byte(n), n>>8
	}
	a := netip.AddrFrom16(bytes)
	if p.Addr().Is4() {
		return a.Unmap()
	}
	return a
}

func (r *resolver) services() {
	c, s := r.c, r.spec
	c.KubeProxy.Mode = r.proxyMode()
	c.DNS = DNS{Replicas: origin.Of(s.DNS.Replicas, r.doc.Origin("spec.dns.replicas")), Upstream: r.texts("spec.dns.upstream", s.DNS.Upstream)}
	c.PKI = PKI{
		KeyType:      r.text("spec.pki.keyType", s.PKI.KeyType),
		CALifetime:   r.days("spec.pki.caLifetime", s.PKI.CALifetime),
		LeafLifetime: r.days("spec.pki.leafLifetime", s.PKI.LeafLifetime),
	}
	c.Encryption = Encryption{
		Provider:  r.text("spec.encryption.provider", s.Encryption.Provider),
		Resources: r.texts("spec.encryption.resources", s.Encryption.Resources),
		Keys:      r.texts("spec.encryption.keys", s.Encryption.Keys),
	}
	for i, m := range s.Containerd.RegistryMirrors {
		at := fmt.Sprintf("spec.containerd.registryMirrors[%d].", i)
		c.Containerd.Mirrors = append(c.Containerd.Mirrors, Mirror{r.text(at+"registry", m.Registry), r.texts(at+"endpoints", m.Endpoints)})
	}
	if p := s.Containerd.Proxy; p != nil {
		c.Containerd.HTTPProxy = r.text("spec.containerd.proxy.http", p.HTTP)
		c.Containerd.HTTPSProxy = r.text("spec.containerd.proxy.https", p.HTTPS)
		c.Containerd.NoProxy = r.noProxy(p.NoProxy)
	}
}

// proxyMode is the mode that the file says. The profile's default gives way
// where a worker's release is too old for it.
func (r *resolver) proxyMode() Text {
	mode := r.text("spec.kubeProxy.mode", r.spec.KubeProxy.Mode)
	if r.doc.Written("spec.kubeProxy.mode") {
		return mode
	}
	chosen := mode.V
	for _, n := range r.c.Nodes {
		verdict := n.Release.Field("KubeProxyConfiguration", "mode="+mode.V)
		if !n.Worker || verdict.Row.IsZero() {
			continue
		}
		mode.From = origin.Join(mode.From, verdict.Row, n.Version.From)
		if !verdict.Keep {
			chosen = "iptables"
		}
	}
	return origin.Of(chosen, mode.From)
}

// noProxy is what the runtime reaches directly: the user's list and the
// cluster's own ranges and domain.
func (r *resolver) noProxy(users []string) Text {
	n := &r.c.Network
	parts := r.texts("spec.containerd.proxy.noProxy", users)
	for _, ranges := range [][]Prefix{n.Nodes, n.Pods, n.Services} {
		for _, p := range ranges {
			parts = append(parts, origin.Map(p, netip.Prefix.String))
		}
	}
	fixed := origin.Fixed("no-proxy")
	parts = append(parts, origin.Of("localhost", fixed), origin.Of("127.0.0.1", fixed), origin.Of(".svc", fixed),
		origin.Map(n.Domain, func(d string) string { return "." + d }))
	return joined(parts...)
}

// joined is texts with commas between them, from the sources of all.
func joined(parts ...Text) Text {
	var out Text
	for i, p := range parts {
		if i > 0 {
			out.V += ","
		}
		out.V += p.V
		out.From = origin.Join(out.From, p.From)
	}
	return out
}

func (r *resolver) days(path, v string) origin.Value[time.Duration] {
	n, _ := strconv.Atoi(strings.TrimSuffix(v, "d"))
	return origin.Of(time.Duration(n)*24*time.Hour, r.doc.Origin(path))
}

func (r *resolver) custom() {
	c, s := r.c, r.spec
	c.ExtraArgs = map[string][]ExtraArg{}
	for component, flags := range s.ExtraArgs {
		for _, flag := range sortedKeys(flags) {
			path := pathTo("spec.extraArgs", component, flag)
			c.ExtraArgs[component] = append(c.ExtraArgs[component], ExtraArg{flag, r.text(path, flags[flag])})
		}
	}
	for _, p := range []Patch{
		{"kubelet", s.ConfigPatches.Kubelet, "spec.configPatches.kubelet"},
		{"kube-proxy", s.ConfigPatches.KubeProxy, "spec.configPatches.kube-proxy"},
		{"containerd", s.ConfigPatches.Containerd, "spec.configPatches.containerd"},
	} {
		if p.Value != nil {
			c.Patches = append(c.Patches, p)
		}
	}
	for i, f := range s.Files {
		at := fmt.Sprintf("spec.files[%d]", i)
		c.Files = append(c.Files, ExtraFile{
			Path: r.text(at+".path", f.Path), Content: r.text(at+".content", f.Content), Mode: r.text(at+".mode", f.Mode),
			Owner: r.text(at+".owner", f.Owner), Group: r.text(at+".group", f.Group), On: r.texts(at+".on", f.On), From: r.doc.Origin(at + ".path"),
		})
	}
	c.Overlays = r.texts("spec.overlays", s.Overlays)
	for _, u := range s.Units {
		at := "spec.units[" + u.Name + "]"
		c.Units = append(c.Units, ExtraUnit{
			Name: r.text(at+".name", u.Name), Content: r.text(at+".content", u.Content),
			Enabled: origin.Of(u.Enabled, r.doc.Origin(at+".enabled")), On: r.texts(at+".on", u.On), From: r.doc.Origin(at + ".name"),
		})
	}
}
