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
	r.clusterFile("network/connections.yaml", emit.YAML(m), from)
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
		var items []compile.Text
		for _, p := range g.ranges {
			items = append(items, str(p))
		}
		m.Strings(g.name, fixed("connections"), items...)
	}
	var controllers, workers []compile.Text
	for _, node := range r.c.Nodes {
		for _, a := range node.Addresses {
			text := origin.Map(a, netip.Addr.String)
			text.From = origin.Join(text.From, node.Roles, node.From)
			if node.Controller {
				controllers = append(controllers, text)
			}
			if node.Worker {
				workers = append(workers, text)
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
	m := emit.NewMap(from).Fixed("from", f.from, from).Fixed("component", f.component, from).Fixed("to", f.to, from).Fixed("at", f.at, from).
		Fixed("ports", ports, f.portFrom).Fixed("protocol", f.protocol, from).Fixed("why", Reason(f.why), from)
	if f.serverCA != "" {
		m.Fixed("serverAuthority", f.serverCA, from)
	}
	if f.client != "" {
		m.Fixed("clientCertificate", f.client, from)
	}
	if f.via != "" {
		m.Fixed("via", f.via, viaOrigin(c, f.via))
	}
	return m
}

// viaOrigin is the field that put something between the two ends.
func viaOrigin(c *compile.Cluster, via string) origin.Origin {
	switch via {
	case compile.Balancer:
		return c.API.Endpoint.From
	case "kthwc-api-proxy":
		return c.API.WorkersVia.From
	}
	return fixed("connections")
}
