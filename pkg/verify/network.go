package verify

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/kube"
)

// resolvConf asserts that pods are told the address of the cluster's DNS.
func resolvConf(ctx context.Context, p *probe) {
	want := "nameserver " + p.Cluster.Network.DNS.V.String() + ", search " + p.space.name + ".svc." + p.Cluster.Network.Domain.V
	for _, made := range p.running() {
		text, err := p.exec(ctx, made, "cat", "/etc/resolv.conf")
		if err != nil {
			p.fail(made.node, "resolv.conf of a pod", want, said(err), apiFault(err))
			continue
		}
		p.equal(made.node, "resolv.conf of a pod", want, resolver(text), blame{cause: "the kubelet tells pods another DNS: clusterDNS or clusterDomain of its configuration", help: "compare " + p.Cluster.Path("kubelet-config", p.node(made.node)) + " with kthwc plan; restart the kubelet"})
	}
}

// resolver reads the name servers and the first domain of a resolv.conf.
func resolver(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" && words[0] != "search" {
			continue
		}
		out = append(out, words[0]+" "+words[1])
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// allPairs is up to how many nodes every pair is tried; more make a ring.
const allPairs = 4

// podToPod asks the pod of each node from the pods of others.
func podToPod(ctx context.Context, p *probe) {
	list := p.running()
	if len(p.workers()) < 2 {
		p.impossible("", "pod to pod of another node", "there is one worker")
		return
	}
	type pair struct{ from, to *pod }
	var pairs []pair
	for i, from := range list {
		for j, to := range list {
			if i != j && (len(list) <= allPairs || j == (i+1)%len(list)) {
				pairs = append(pairs, pair{from, to})
			}
		}
	}
	each(pairs, func(x pair) {
		p := p.at()
		got := p.got(ctx, x.from, x.to.reach())
		name := "pod to pod of " + x.to.node
		if got == x.to.name {
			p.ok(x.from.node, name, got)
			return
		}
		p.fail(x.from.node, name, x.to.name, got, blame{cause: "packets between the pods of these nodes are lost: a route, IP forwarding, or a firewall between the nodes",
			help: fmt.Sprintf("on both: ip route; sysctl net.ipv4.ip_forward; nft list ruleset. The pods are %s and %s", x.from.ip, x.to.ip)}, x.to.node)
	})
}

// serverToPod asks a pod of each node through each API server.
func serverToPod(ctx context.Context, p *probe) {
	each(p.controllers(), func(n *compile.Node) {
		client, err := p.connect(n)
		if err != nil {
			p.skip(n.Name.V, "API server to pods", said(err))
			return
		}
		defer client.Close()
		for _, made := range p.running() {
			p := p.at()
			name, want := "API server to a pod of "+made.node, made.name
			text, err := client.GetRaw(ctx, fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/from-%s", p.space.name, made.name, serverPort, n.Name.V))
			got := hostIn(string(text))
			if err != nil {
				got = said(err)
			}
			if got == want {
				p.ok(n.Name.V, name, got)
				continue
			}
			p.fail(n.Name.V, name, want, got, blame{cause: "the controller has no way to pods: a route, or a firewall", help: "on " + n.Name.V + ": ip route get " + made.ip}, made.node)
		}
	})
}

// serviceFromPods asks Services from pods: by address, by name, with the server
// on another node and on the same one.
func serviceFromPods(ctx context.Context, p *probe) {
	echo, second := p.clusterIP(ctx, "echo"), p.clusterIP(ctx, "second")
	if echo == "" || second == "" {
		return
	}
	lost := blame{cause: "kube-proxy does not turn the Service's address into a pod's", help: "journalctl -u kube-proxy -n 50 there; nft list ruleset, or iptables-save -t nat"}
	each(p.running(), func(made *pod) {
		p := p.at()
		get := func(service string) func() string {
			return func() string { return p.got(ctx, made, "http://"+address(service, 80)+"/") }
		}
		p.answered(made.node, "Service from a pod", "a pod of the Service", soon(ctx, "echo-", get(echo)), "echo-", lost)
		if server := p.space.second; server != nil {
			p.answered(made.node, "Service with one server", server.name, soon(ctx, server.name, get(second)), server.name, p.oneServer(made, lost))
		}
		api := p.Cluster.Network.ServiceIPs[0].V.String()
		text, err := p.exec(ctx, made, "get", "http://"+address(api, 443)+"/")
		if err != nil {
			text = said(err)
		}
		// It answers that it wants TLS: so it is reached.
		p.answered(made.node, "the API's Service from a pod", "the API server answers", text, "400", lost)
	})
}

// oneServer is the likely cause where the only server of a Service is not
// reached: on the same node, answers take a shorter way back.
func (p *probe) oneServer(from *pod, otherwise blame) blame {
	if from.node != p.space.second.node {
		return otherwise
	}
	return blame{cause: "the server is on the same node, and its answers take the bridge past kube-proxy's rules: br_netfilter is not loaded or not switched on",
		help: "on " + from.node + ": modprobe br_netfilter; sysctl net.bridge.bridge-nf-call-iptables=1"}
}

// rulesFollow is how long kube-proxy may take until a Service that has servers leads
// to them. It is not longer than one answer that does not come, so that those are not
// waited for twice.
const rulesFollow = answerPatience

// soon asks until the answer has a text in it, as long as rules may take to follow.
func soon(ctx context.Context, part string, ask func() string) string {
	late := time.After(rulesFollow)
	for {
		got := ask()
		if strings.Contains(got, part) {
			return got
		}
		select {
		case <-late:
			return got
		case <-ctx.Done():
			return got
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// answered asserts that an answer has a text in it.
func (p *probe) answered(node, name, want, got, part string, b blame) {
	if strings.Contains(got, part) {
		p.ok(node, name, want)
		return
	}
	p.fail(node, name, want, short(got), b)
}

// clusterIP is the address of one of our Services; "" where it could not be
// found out, which is recorded.
func (p *probe) clusterIP(ctx context.Context, name string) string {
	o, err := p.space.client.Get(ctx, kube.Ref{APIVersion: "v1", Kind: "Service", Namespace: p.space.name, Name: name})
	if err != nil {
		p.fail("", "Service "+name, "exists", said(err), apiFault(err))
		return ""
	}
	ip := o.Str("spec", "clusterIP")
	if !within(p.Cluster.Network.Services, ip) {
		p.fail("", "Service "+name, "an address in "+prefixes(p.Cluster.Network.Services), ip, blame{cause: "the API servers have another range of Services", help: "compare --service-cluster-ip-range on the controllers"})
	}
	return ip
}

// serviceFromNodes asks Services from the machines themselves.
func serviceFromNodes(ctx context.Context, p *probe) {
	echo := p.clusterIP(ctx, "echo")
	for _, n := range p.Cluster.Nodes {
		name := "Service from the node"
		switch {
		case echo == "":
			return
		case !n.Worker:
			p.impossible(n.Name.V, name, "no kube-proxy runs on controllers")
		case p.states[n.Name.V] == nil:
			p.skip(n.Name.V, name, "the machine does not answer")
		default:
			p.fromNode(ctx, n.Name.V, n.Name.V, name, address(echo, 80), "echo-")
		}
	}
}

// fromNode asks an address from a machine ("" is where the operator is); about
// is the node that the result is of.
func (p *probe) fromNode(ctx context.Context, from, about, name, at, part string) {
	p = p.at()
	got := soon(ctx, "200 from "+part, func() string {
		conn, err := p.open(ctx, from, at)
		if err != nil {
			return said(err)
		}
		return p.asked(ctx, conn, "/")
	})
	p.answered(about, name, "200 from a pod", got, "200 from "+part, blame{cause: "kube-proxy of " + about + " does not turn " + at + " into a pod's address", help: "on " + about + ": journalctl -u kube-proxy -n 50; nft list ruleset, or iptables-save -t nat"})
}

// nodePort asks the NodePort of the Deployment on every node, from outside and
// from another node. Nodes without a pod pass on.
func nodePort(ctx context.Context, p *probe) {
	if len(p.space.web) == 0 {
		p.skip("", "NodePort", "no pod of the Deployment runs")
		return
	}
	o, err := p.space.client.Get(ctx, kube.Ref{APIVersion: "v1", Kind: "Service", Namespace: p.space.name, Name: "web"})
	if err != nil || len(o.List("spec", "ports")) == 0 {
		p.fail("", "NodePort", "the Service has one", said(errors.Join(err, errNone)), apiFault(err))
		return
	}
	port := int(o.List("spec", "ports")[0].Int("nodePort"))
	list := p.workers()
	each(list, func(n *compile.Node) {
		p.outside(ctx, n, port)
		others := slices.DeleteFunc(slices.Clone(p.Cluster.Nodes), func(o *compile.Node) bool { return o == n || p.states[o.Name.V] == nil })
		if len(others) > 0 {
			from := others[0].Name.V
			p.fromNode(ctx, from, n.Name.V, "NodePort from "+from, address(primary(n), port), "web-")
		}
	})
}

var errNone = errors.New("it has no port")

// outside asks a NodePort from where the operator is.
func (p *probe) outside(ctx context.Context, n *compile.Node, port int) {
	name := "NodePort from outside"
	host := primary(n)
	if external := n.External.V; !external.IsZero() {
		host = external.String()
	}
	switch {
	case p.Cluster.GCP != nil && len(p.Cluster.NodePorts) == 0:
		p.impossible(n.Name.V, name, "access.nodePortCIDRs is empty: the firewall lets nobody in")
	case strings.HasPrefix(host, "${"):
		p.impossible(n.Name.V, name, "the node has no external address")
	default:
		p.fromNode(ctx, "", n.Name.V, name, address(host, port), "web-")
	}
}

// clusterDNS resolves names in a pod of each node.
func clusterDNS(ctx context.Context, p *probe) {
	api := p.Cluster.Network.ServiceIPs[0].V.String()
	names := []struct{ name, want string }{
		{"kubernetes.default", api}, {p.Cluster.API.HealthHost.V, api}, {"echo", p.clusterIP(ctx, "echo")},
	}
	list := p.running()
	each(list, func(made *pod) {
		for _, x := range names {
			p.at().resolves(ctx, made, x.name, x.want)
		}
	})
	if p.o.External == "" {
		p.skip("", "DNS: an external name", "no name was given: kthwc verify --external-name example.com")
		return
	}
	for _, made := range first(list) {
		p.resolves(ctx, made, p.o.External, "")
	}
}

// resolves asserts what a name is in a pod; an empty want is any address.
func (p *probe) resolves(ctx context.Context, on *pod, name, want string) {
	text, err := p.exec(ctx, on, "resolve", name)
	if err != nil {
		text = said(err)
	}
	got := strings.Join(strings.Fields(text), " ")
	_, bad := netip.ParseAddr(strings.Fields(got + " -")[0])
	if want == "" && bad == nil {
		want = got
	}
	if want == "" {
		want = "an address"
	}
	b := blame{cause: "CoreDNS does not answer, or does not know the name", help: "kubectl -n kube-system logs -l k8s-app=kube-dns"}
	if name == p.o.External {
		b = blame{cause: "CoreDNS does not reach a resolver outside", help: "look at /etc/resolv.conf of the nodes that CoreDNS runs on (resolvConf of the kubelet)"}
	}
	p.equal(on.node, "DNS: "+name, want, short(got), b)
}
