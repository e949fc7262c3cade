// Package gcp is the Google Cloud side of a cluster.
//
// [Desired] lists every resource that a cluster on Google Cloud needs, in the
// order of creation, as the bodies that the Compute Engine API takes (v1, JSON
// names), each value with its origin. It promises names that are valid and
// unique in a project, that no firewall rule is without sources (an empty list
// means everybody), and that every resource says its project and its region or
// zone. It refuses to reach the cloud: it computes.
package gcp

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/schema"
)

// Resource is one thing that the cloud shall have.
type Resource struct {
	Kind   string       // as the API calls it: "Network", "Instance", ...
	Name   compile.Text // RFC 1035, unique in its project, scope and kind
	Region compile.Text // of regional resources
	Zone   compile.Text // of zonal resources
	Body   *emit.Map    // what is sent, without the name
	Why    string       // text ID
	From   origin.Origin
}

// Desired lists what the cluster needs; nil if it is not on Google Cloud.
func Desired(c *compile.Cluster) []Resource {
	if c.GCP == nil {
		return nil
	}
	p := &planner{c: c, g: c.GCP}
	for _, step := range []func(){p.network, p.firewalls, p.address, p.instances, p.routes, p.balancer} {
		step()
	}
	return p.out
}

type planner struct {
	c   *compile.Cluster
	g   *compile.GCP
	out []Resource
}

func fixed(id string) origin.Origin { return origin.Fixed("gcp-" + id) }

func (p *planner) hardened() bool { return p.c.Profile.V == schema.Hardened }

// named is a name that begins with the cluster's: firewall rules, routes and
// health checks of one project share their names.
func (p *planner) named(suffix string) compile.Text {
	return origin.Map(p.c.Name, func(n string) string { return n + suffix })
}

func (p *planner) add(kind, why string, name compile.Text, r Resource) *emit.Map {
	r.Kind, r.Name, r.Why = kind, name, "gcp-"+why
	r.Body = emit.NewMap(fixed(why))
	p.out = append(p.out, r)
	return r.Body
}

func (p *planner) regional() Resource { return Resource{Region: p.g.Region} }
func (p *planner) zonal() Resource    { return Resource{Zone: p.g.Zone} }

func (p *planner) network() {
	p.add("Network", "network", p.c.Name, Resource{}).Fixed("autoCreateSubnetworks", false, fixed("no-auto")).
		Map("routingConfig", fixed("routing")).Fixed("routingMode", "REGIONAL", fixed("routing"))
	subnet := p.add("Subnetwork", "subnetwork", p.subnet(), p.regional()).Str("network", p.c.Name)
	for _, r := range p.c.Network.Nodes {
		subnet.Str("ipCidrRange", origin.Map(r, netip.Prefix.String))
	}
}

// subnet is the tutorial's own name there.
func (p *planner) subnet() compile.Text {
	if p.hardened() {
		return p.named("-nodes")
	}
	return origin.Of("kubernetes", fixed("subnetwork"))
}

// A rule is one firewall rule: who may reach which ports of whom.
type rule struct {
	suffix, why string
	from        []compile.Text
	allow       []allowed
	tags        []string // of the targets; none: every instance of the network
}

// allowed is a protocol and its ports; no ports are all of them.
type allowed struct {
	protocol string
	ports    []compile.Text
}

func number(n compile.Int) compile.Text {
	return origin.Map(n, strconv.Itoa)
}

func constant(text, id string) compile.Text { return origin.Of(text, fixed(id)) }

func prefixes(lists ...[]compile.Prefix) []compile.Text {
	var out []compile.Text
	for _, l := range lists {
		for _, p := range l {
			out = append(out, origin.Map(p, netip.Prefix.String))
		}
	}
	return out
}

// checkers are the ranges that Google's health checks of target pools come
// from (Cloud Load Balancing documentation, firewall rules for health checks).
var checkers = []string{"35.191.0.0/16", "209.85.152.0/22", "209.85.204.0/22"}

func (p *planner) firewalls() {
	c := p.c
	rules := []rule{
		{"-allow-internal", "internal", prefixes(c.Network.Nodes, c.Network.Pods), []allowed{{"tcp", nil}, {"udp", nil}, {"icmp", nil}}, nil},
		{"-allow-external", "external", prefixes(c.Operators), []allowed{{"tcp", []compile.Text{constant("22", "ssh"), number(c.API.Port)}}, {"icmp", nil}}, nil},
	}
	if c.API.Endpoint.V == compile.LoadBalancer {
		var from []compile.Text
		for _, r := range checkers {
			from = append(from, constant(r, "checkers"))
		}
		rules = append(rules, rule{"-allow-health-check", "health-rule", from, []allowed{{"tcp", []compile.Text{constant("80", "health-port")}}}, []string{schema.Controller}})
	}
	if c.API.WorkersVia.V == compile.Public {
		rules = append(rules, rule{"-allow-workers", "workers-rule", p.workers(), []allowed{{"tcp", []compile.Text{number(c.API.Port)}}}, []string{schema.Controller}})
	}
	if len(c.NodePorts) > 0 {
		ports := []compile.Text{c.Network.NodePorts}
		rules = append(rules, rule{"-allow-node-ports", "nodeport-rule", prefixes(c.NodePorts), []allowed{{"tcp", ports}, {"udp", ports}}, []string{schema.Worker}})
	}
	for _, r := range rules {
		p.firewall(r)
	}
}

// workers are the external addresses that workers arrive from when they dial
// the public address of the API.
func (p *planner) workers() []compile.Text {
	var out []compile.Text
	for _, n := range p.c.Nodes {
		if n.Worker {
			out = append(out, origin.Of(n.External.V.String()+"/32", origin.Join(n.External.From, n.AsWorker, n.From)))
		}
	}
	return out
}

func (p *planner) firewall(r rule) {
	b := p.add("Firewall", r.why, p.named(r.suffix), Resource{}).Str("network", p.c.Name).Fixed("direction", "INGRESS", fixed("ingress")).
		Strings("sourceRanges", fixed(r.why), r.from...)
	var list []emit.Value
	for _, a := range r.allow {
		m := emit.NewMap(fixed(r.why)).Fixed("IPProtocol", a.protocol, fixed(r.why))
		if len(a.ports) > 0 {
			m.Strings("ports", fixed(r.why), a.ports...)
		}
		list = append(list, m)
	}
	b.List("allowed", fixed(r.why), list...)
	if len(r.tags) > 0 {
		b.Strings("targetTags", fixed("tags"), texts(fixed("tags"), r.tags...)...)
	}
}

func texts(from origin.Origin, values ...string) []compile.Text {
	var out []compile.Text
	for _, v := range values {
		out = append(out, origin.Of(v, from))
	}
	return out
}

func (p *planner) address() {
	if p.c.API.Endpoint.V == compile.LoadBalancer {
		b := p.add("Address", "address", p.c.Name, p.regional()).Fixed("addressType", "EXTERNAL", fixed("address"))
		if ip := p.c.API.Address; ip.V.IP.IsValid() {
			b.Str("address", origin.Map(ip, compile.Address.String))
		}
	}
}

// scopes are the tutorial's access scopes. Nothing on a node calls Google's
// API, so the hardened profile gives none.
var scopes = []string{"compute", "devstorage.read_only", "service.management.readonly", "servicecontrol", "logging.write", "monitoring"}

func (p *planner) instances() {
	for _, n := range p.c.Nodes {
		r := p.zonal()
		r.From = origin.Join(n.From, n.Name.From)
		p.instance(p.add("Instance", "instance", n.Name, r), n)
	}
}

func (p *planner) instance(b *emit.Map, n *compile.Node) {
	b.Fixed("canIpForward", true, fixed("forward")).Str("machineType", n.Machine)
	disk := emit.NewMap(fixed("disk")).Fixed("autoDelete", true, fixed("disk")).Fixed("boot", true, fixed("disk"))
	disk.Map("initializeParams", fixed("disk")).Int("diskSizeGb", p.g.DiskSizeGB).Str("sourceImage", p.image(n))
	b.List("disks", fixed("disk"), disk)
	card := emit.NewMap(fixed("card")).Str("subnetwork", p.subnet()).Str("networkIP", origin.Map(n.Addresses[0], netip.Addr.String))
	card.List("accessConfigs", fixed("nat"), emit.NewMap(fixed("nat")).Fixed("name", "external-nat", fixed("nat")).Fixed("type", "ONE_TO_ONE_NAT", fixed("nat")))
	b.List("networkInterfaces", fixed("card"), card)
	tags := append([]compile.Text{p.c.Name}, roleTags(n)...)
	b.Map("tags", fixed("tags")).Strings("items", fixed("tags"), tags...)
	if p.hardened() {
		b.Map("shieldedInstanceConfig", fixed("shielded")).Fixed("enableSecureBoot", true, fixed("shielded")).
			Fixed("enableVtpm", true, fixed("shielded")).Fixed("enableIntegrityMonitoring", true, fixed("shielded"))
		return
	}
	account := emit.NewMap(fixed("scopes")).Fixed("email", "default", fixed("scopes"))
	var urls []compile.Text
	for _, s := range scopes {
		urls = append(urls, constant("https://www.googleapis.com/auth/"+s, "scopes"))
	}
	b.List("serviceAccounts", fixed("scopes"), account.Strings("scopes", fixed("scopes"), urls...))
	p.podRange(b, n)
}

// podRange is the tutorial's note on a worker: its scripts read it there.
func (p *planner) podRange(b *emit.Map, n *compile.Node) {
	if !n.Worker {
		return
	}
	item := emit.NewMap(fixed("pod-cidr")).Fixed("key", "pod-cidr", fixed("pod-cidr")).Str("value", origin.Map(n.PodCIDRs[0], netip.Prefix.String))
	metadata := emit.NewMap(fixed("pod-cidr")).List("items", fixed("pod-cidr"), item)
	b.Set("metadata", emit.Inherit(metadata, n.AsWorker))
}

func roleTags(n *compile.Node) []compile.Text {
	var out []compile.Text
	if n.Controller {
		out = append(out, origin.Of(schema.Controller, n.AsController))
	}
	if n.Worker {
		out = append(out, origin.Of(schema.Worker, n.AsWorker))
	}
	return out
}

// unsuffixed are image families that have no suffix for amd64.
var unsuffixed = map[string]bool{"ubuntu-2004-lts": true, "ubuntu-2204-lts": true, "ubuntu-pro-2004-lts": true, "ubuntu-pro-2204-lts": true}

func (p *planner) image(n *compile.Node) compile.Text {
	family := origin.Zip(p.g.ImageFamily, n.Arch, func(family, arch string) string {
		if arch == "amd64" && unsuffixed[family] {
			return family
		}
		return family + "-" + arch
	})
	return origin.Zip(p.g.ImageProject, family, func(project, family string) string {
		return "projects/" + project + "/global/images/family/" + family
	})
}

// routes bring pods' packets to their nodes.
func (p *planner) routes() {
	for _, n := range p.c.Nodes {
		for _, r := range n.PodCIDRs {
			b := p.add("Route", "route", p.routeName(n, r), Resource{From: p.routeFrom(n)}).Str("network", p.c.Name)
			b.Str("destRange", origin.Map(r, netip.Prefix.String)).Str("nextHopIp", origin.Map(n.Addresses[0], netip.Addr.String)).Fixed("priority", 1000, fixed("priority"))
		}
	}
}

// routeName is after the node; the tutorial's is after the range.
func (p *planner) routeName(n *compile.Node, r compile.Prefix) compile.Text {
	if p.hardened() {
		return origin.Zip(p.c.Name, n.Name, func(cluster, node string) string { return fitting(cluster + "-pods-" + node) })
	}
	return origin.Map(r, func(r netip.Prefix) string {
		return "kubernetes-route-" + strings.NewReplacer(".", "-", "/", "-", ":", "-").Replace(r.String())
	})
}

// routeFrom is why the route is there: the worker, which its name says too
// unless it is the tutorial's.
func (p *planner) routeFrom(n *compile.Node) origin.Origin {
	if p.hardened() {
		return origin.Join(n.From, n.AsWorker)
	}
	return origin.Join(n.Count, n.AsWorker)
}

// fitting keeps a name within the 63 characters of RFC 1035: a longer one ends
// with a hash of the whole.
func fitting(name string) string {
	if len(name) <= 63 {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return name[:54] + "-" + hex.EncodeToString(sum[:4])
}

// balancer is a pass-through one: TLS ends at the API servers. Target pools
// take legacy HTTP health checks only, so nginx answers on every controller.
func (p *planner) balancer() {
	if p.c.API.Endpoint.V != compile.LoadBalancer {
		return
	}
	check, pool, forward := p.named("-api"), p.named("-api"), p.named("-api")
	if !p.hardened() {
		check, pool, forward = constant("kubernetes", "health"), constant("kubernetes-target-pool", "pool"), constant("kubernetes-forwarding-rule", "forwarding")
	}
	p.add("HttpHealthCheck", "health", check, Resource{}).Str("host", p.c.API.HealthHost).Fixed("requestPath", "/healthz", fixed("health")).Fixed("port", 80, fixed("health-port")).
		Fixed("checkIntervalSec", 5, fixed("health")).Fixed("timeoutSec", 5, fixed("health")).Fixed("healthyThreshold", 2, fixed("health")).Fixed("unhealthyThreshold", 2, fixed("health"))
	var members []compile.Text
	for _, m := range p.c.Etcd.Members {
		members = append(members, origin.Of("zones/"+p.g.Zone.V+"/instances/"+m.Name.V, origin.Join(p.g.Zone.From, m.Name.From, m.Node.AsController)))
	}
	p.add("TargetPool", "pool", pool, p.regional()).Strings("healthChecks", fixed("pool"), check).Strings("instances", fixed("pool"), members...)
	p.add("ForwardingRule", "forwarding", forward, p.regional()).Str("IPAddress", p.c.Name).Fixed("IPProtocol", "TCP", fixed("forwarding")).
		Str("portRange", number(p.c.API.Port)).Str("target", pool).Fixed("loadBalancingScheme", "EXTERNAL", fixed("forwarding"))
}
