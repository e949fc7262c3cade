package render

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/origin"
)

// connections lists who dials whom, for whoever keeps the firewall: the
// model's connections with nodes of one role taken together.
func (r *renderer) connections() {
	from := fixed("connections")
	m := emit.NewMap(from)
	r.groups(m.Map("groups", from))
	var list []emit.Value
	seen := map[string]bool{}
	for i := range r.c.Dials {
		f := flowOf(&r.c.Dials[i])
		if key := fmt.Sprint(f); !seen[key] {
			seen[key] = true
			list = append(list, f.entry(r.c))
		}
	}
	m.List("connections", from, list...)
	r.clusterFile("network/connections.yaml", r.yaml(m), from)
}

// groups says which addresses each party has.
func (r *renderer) groups(m *emit.Map) {
	n := &r.c.Network
	for _, g := range []struct {
		name   string
		ranges []compile.Prefix
	}{{"nodes", n.Nodes}, {"pods", n.Pods}, {"services", n.Services}, {"operators", r.c.Operators}, {"nodePortClients", r.c.NodePorts}} {
		if len(g.ranges) == 0 {
			continue
		}
		from := fixed("connections")
		if g.name == "nodePortClients" && len(g.ranges) == 1 {
			from = origin.Join(from, g.ranges[0].From)
		}
		var items []compile.Text
		for _, p := range g.ranges {
			items = append(items, str(p))
		}
		m.Strings(g.name, from, items...)
	}
	var controllers, workers []compile.Text
	for _, node := range r.c.Nodes {
		for _, a := range node.Addresses {
			text := origin.Map(a, netip.Addr.String)
			text.From = origin.Join(text.From, node.Count)
			if node.Controller {
				controllers = append(controllers, origin.Of(text.V, origin.Join(text.From, node.AsController)))
			}
			if node.Worker {
				workers = append(workers, origin.Of(text.V, origin.Join(text.From, node.AsWorker)))
			}
		}
	}
	m.Strings("controllers", fixed("connections"), controllers...).Strings("workers", fixed("connections"), workers...)
}

// A flow is a connection with the nodes of one role taken together.
type flow struct {
	from, component, to, at string
	first, last             int
	portFrom                origin.Origin
	protocol, via           string
	serverCA, client, why   string
}

// onControllers are the components that controllers run; workers run the rest.
var onControllers = map[string]bool{
	"etcd": true, "etcd-peer": true, "etcdctl": true, "kube-apiserver": true, "kube-controller-manager": true, "kube-scheduler": true, "nginx": true,
}

// groupsOf are the parties that are no component of a node.
var groupsOf = map[string]string{compile.Operator: "operators", compile.NodePortClient: "nodePortClients", compile.Pods: "pods", compile.Balancer: "balancer", "sshd": "nodes", "coredns": "pods"}

func groupOf(component string) string {
	switch {
	case groupsOf[component] != "":
		return groupsOf[component]
	case onControllers[component]:
		return "controllers"
	}
	return "workers"
}

func flowOf(d *compile.Dial) flow {
	role, _, _ := strings.Cut(d.Cert, "@")
	f := flow{
		from: groupOf(d.Component), component: d.Component, to: d.To, at: groupOf(d.To), first: d.Port.V, last: d.LastPort, portFrom: d.Port.From,
		protocol: d.Protocol, via: d.Via, serverCA: d.ServerCA, client: role, why: d.Why,
	}
	switch {
	case d.Via == "kthwc-api-proxy", d.Node != "" && d.Node == d.ToNode && d.Host.V == "127.0.0.1":
		f.at = "the same node"
	case d.Via == compile.Balancer:
		f.at = "balancer"
	case d.Via == "kube-proxy":
		f.at = "services"
	}
	return f
}

func (f flow) entry(c *compile.Cluster) emit.Value {
	from := fixed("connections")
	ports := fmt.Sprint(f.first)
	switch {
	case f.first == 0:
		ports = "any"
	case f.last > 0:
		ports += fmt.Sprintf("-%d", f.last)
	}
	name := f.component + "-to-" + f.to
	if f.component == f.to {
		name = f.to
	}
	if f.protocol == "udp" {
		name += "-udp"
	}
	way := f.way(c)
	m := emit.NewMap(from).Fixed("name", name, from).Fixed("from", f.from, from).Fixed("component", f.component, from).Fixed("to", f.to, from).
		Fixed("at", f.at, origin.Join(from, way)).Fixed("ports", ports, origin.Join(f.portFrom, f.portWay(c))).Fixed("protocol", f.protocol, from).Fixed("why", Reason(f.why), from)
	if f.serverCA != "" {
		m.Fixed("serverAuthority", f.serverCA, from)
	}
	if f.client != "" {
		m.Fixed("clientCertificate", f.client, from)
	}
	if f.via != "" {
		m.Fixed("via", f.via, origin.Join(from, way))
	}
	return emit.Inherit(m, f.presence(c))
}

// way are the fields that decide how the connection goes.
func (f flow) way(c *compile.Cluster) origin.Origin {
	var out origin.Origin
	if f.component == compile.Operator && f.to != "sshd" || f.via == compile.Balancer {
		out = c.API.Endpoint.From
	}
	return origin.Join(out, f.portWay(c))
}

// portWay decides which port is dialled.
func (f flow) portWay(c *compile.Cluster) origin.Origin {
	if f.component == "kubelet" || f.component == "kube-proxy" {
		return c.API.WorkersVia.From
	}
	return origin.Origin{}
}

// presence is why the connection is made at all.
func (f flow) presence(c *compile.Cluster) origin.Origin {
	var out origin.Origin
	switch {
	case f.component == compile.Balancer:
		out = origin.Join(out, c.API.Endpoint.From)
	case f.component == "kthwc-api-proxy":
		out = origin.Join(out, c.API.WorkersVia.From)
	case f.to == "etcd-peer":
		for _, m := range c.Etcd.Members {
			out = origin.Join(out, m.Node.AsController)
		}
	case f.from == "nodePortClients":
		for _, p := range c.NodePorts {
			out = origin.Join(out, p.From)
		}
	}
	return out
}
