package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/schema"
)

// A finding is one violation of an invariant of the finished model: the field
// that it is best blamed on, what is wrong, and what to do.
type finding struct{ path, summary, help string }

// proofs are the invariants of the finished model. They read what was compiled
// and share no code with what compiled it.
var proofs = []struct {
	code string
	find func(*Cluster) []finding
}{
	{"E0107", handshakes},
	{"E0108", identities},
	{"E0109", kubeconfigUsers},
	{"E0110", kubeletClient},
	{"E0111", members},
	{"E0112", agreements},
	{"E0127", auditPolicies},
}

// A flag of the user's may break an invariant on every node: it is one mistake
// and one fault, whatever else was to be said about the flag.
func (r *resolver) prove() {
	blamed := map[string]bool{}
	for _, p := range proofs {
		for _, f := range p.find(r.c) {
			if isFlag := strings.HasPrefix(f.path, "spec.extraArgs"); isFlag && blamed[f.path] {
				continue
			}
			blamed[f.path] = true
			r.fault(p.code, f.path, f.summary, f.help)
		}
	}
	r.faults = slices.DeleteFunc(r.faults, func(d diag.Diagnostic) bool { return d.Code == "W0103" && blamed[d.Path] })
}

// handshakes proves that the ends of every connection accept each other: the
// dialled name is in the server's certificate, each side trusts the authority
// of the other, and the certificates are for that use.
func handshakes(c *Cluster) []finding {
	h := handshake{certs: map[string]*Cert{}, names: map[string]map[string]bool{}, servers: map[[2]string][]*Listener{}, seen: map[string]bool{}}
	for _, cert := range c.Certs {
		h.certs[cert.Name] = cert
	}
	for i := range c.Listeners {
		l := &c.Listeners[i]
		if l.Cert != "" {
			for _, node := range []string{l.Node, ""} {
				h.servers[[2]string{l.Component, node}] = append(h.servers[[2]string{l.Component, node}], l)
			}
		}
	}
	for i := range c.Dials {
		if d := &c.Dials[i]; d.ServerCA != "" || d.Cert != "" || d.Name.V != "" {
			h.check(d)
		}
	}
	return h.found
}

type handshake struct {
	certs   map[string]*Cert
	names   map[string]map[string]bool // of a certificate
	servers map[[2]string][]*Listener  // by component and node; node "" has all
	seen    map[string]bool
	found   []finding
}

func (h *handshake) check(d *Dial) {
	servers := h.servers[[2]string{d.To, d.ToNode}]
	if len(servers) == 0 {
		h.report(d, "nothing answers: no %s listens on %q", d.To, d.ToNode)
	}
	for _, l := range servers {
		server, client := h.certs[l.Cert], h.certs[d.Cert]
		switch {
		case server == nil:
			h.report(d, "%s shows a certificate %q that nobody issues", l.Component, l.Cert)
		case d.Name.V != "" && !h.has(server, d.Name.V):
			h.report(d, "the certificate %s has no name %s", server.Name, d.Name.V)
		case d.ServerCA != "" && server.CA != d.ServerCA:
			h.report(d, "the certificate %s is of the authority %s, and %s is trusted", server.Name, server.CA, d.ServerCA)
		case !slices.Contains(server.Usages, ServerAuth):
			h.report(d, "the certificate %s is not for servers", server.Name)
		case d.Cert == "" && l.ClientCA == "":
		case d.Cert == "":
			// Other credentials (tokens) are possible where certificates are optional.
		case client == nil:
			h.report(d, "the client certificate %s is not issued", d.Cert)
		case client.CA != l.ClientCA:
			h.report(d, "the client certificate %s is of the authority %s, and %s trusts %s", client.Name, client.CA, l.Component, l.ClientCA)
		case !slices.Contains(client.Usages, ClientAuth):
			h.report(d, "the certificate %s is not for clients", client.Name)
		}
	}
}

func (h *handshake) has(cert *Cert, name string) bool {
	known := h.names[cert.Name]
	if known == nil {
		known = make(map[string]bool, len(cert.SANs))
		for _, s := range cert.SANs {
			known[s.Value.V] = true
		}
		h.names[cert.Name] = known
	}
	return known[name]
}

// report adds a finding once, whatever the number of nodes that have it.
func (h *handshake) report(d *Dial, format string, args ...any) {
	text := fmt.Sprintf("%s on %s dials %s: %s", d.Component, cmp.Or(d.Node, "the outside"), d.To, fmt.Sprintf(format, args...))
	if !h.seen[text] {
		h.seen[text] = true
		h.found = append(h.found, finding{"spec.api", text, "add the name to spec.api.extraSANs if you changed where the component dials; otherwise this is a fault of kthwc"})
	}
}

// userOf is who each program must be (Kubernetes' default RBAC binds these
// names and groups). NODE stands for the node's name.
var userOf = map[string]struct{ name, group string }{
	"kubelet":                 {"system:node:NODE", "system:nodes"},
	"kube-proxy":              {"system:kube-proxy", ""},
	"kube-controller-manager": {"system:kube-controller-manager", ""},
	"kube-scheduler":          {"system:kube-scheduler", ""},
}

// identities proves that the certificate in every program's kubeconfig has the
// name and group that the Node authorizer and the default roles know.
func identities(c *Cluster) []finding {
	certs := map[string]*Cert{}
	for _, cert := range c.Certs {
		certs[cert.Name] = cert
	}
	var out []finding
	for _, k := range c.Kubeconfig {
		program, _, _ := strings.Cut(k.Name, "@")
		want, known := userOf[program]
		cert := certs[k.Cert]
		if !known || cert == nil {
			continue
		}
		name := strings.ReplaceAll(want.name, "NODE", k.Node)
		if cert.CommonName.V != name || want.group != "" && cert.Org.V != want.group {
			out = append(out, finding{"spec.nodes", fmt.Sprintf("%s is %s in group %s, and Kubernetes knows it as %s in group %s", k.Name, cert.CommonName.V, cert.Org.V, name, want.group), "this is a fault of kthwc"})
		}
	}
	return out
}

// kubeconfigUsers proves that the user that a kubeconfig names is the one that
// its certificate makes it.
func kubeconfigUsers(c *Cluster) []finding {
	certs := map[string]*Cert{}
	for _, cert := range c.Certs {
		certs[cert.Name] = cert
	}
	var out []finding
	for _, k := range c.Kubeconfig {
		switch cert := certs[k.Cert]; {
		case cert == nil:
			out = append(out, finding{"spec.nodes", fmt.Sprintf("the kubeconfig %s embeds the certificate %s, which nobody issues", k.Name, k.Cert), "this is a fault of kthwc"})
		case cert.CommonName.V != k.User.V:
			out = append(out, finding{"spec.nodes", fmt.Sprintf("the kubeconfig %s calls its user %s, and its certificate %s", k.Name, k.User.V, cert.CommonName.V), "this is a fault of kthwc"})
		}
	}
	return out
}

// kubeletClient proves that the user with rights on kubelets is the one that
// API servers show them.
func kubeletClient(c *Cluster) []finding {
	want := c.KubeletClient.V
	shown := map[string]bool{}
	for i := range c.Dials {
		if d := &c.Dials[i]; d.Why == "dial-kubelet-api" {
			shown[d.Cert] = true
		}
	}
	for _, cert := range c.Certs {
		if shown[cert.Name] && cert.CommonName.V != want {
			return []finding{{"spec.profile", fmt.Sprintf("API servers are %s to kubelets, and the role is bound to %s", cert.CommonName.V, want), "this is a fault of kthwc"}}
		}
	}
	return nil
}

// flag is the value of a component's flag on a node, users' flags included;
// ok is false if it has none.
func (c *Cluster) flag(component, name string, n *Node) (v Text, ok bool) {
	for _, f := range c.Component(component, n).Flags {
		if f.Name == name {
			return f.Value, true
		}
	}
	return Text{}, false
}

// members proves that every member, and every API server, has the same list of
// members, which are the controllers.
func members(c *Cluster) []finding {
	var out []finding
	for _, m := range c.Etcd.Members {
		initial, _ := c.flag("etcd", "initial-cluster", m.Node)
		servers, _ := c.flag(apiserver, "etcd-servers", m.Node)
		for _, other := range c.Etcd.Members {
			if !slices.Contains(strings.Split(initial.V, ","), other.Name.V+"="+other.PeerURL.V) {
				out = append(out, finding{pathOf(initial, "spec.nodes"), fmt.Sprintf("etcd on %s does not know the member %s at %s", m.Name.V, other.Name.V, other.PeerURL.V), "leave --initial-cluster to the list of nodes"})
			}
			if !slices.Contains(strings.Split(servers.V, ","), other.ClientURL.V) {
				out = append(out, finding{pathOf(servers, "spec.nodes"), fmt.Sprintf("the API server on %s does not know etcd at %s", m.Name.V, other.ClientURL.V), "leave --etcd-servers to the list of nodes"})
			}
		}
		if n := len(strings.Split(initial.V, ",")); n != len(c.Etcd.Members) {
			out = append(out, finding{pathOf(initial, "spec.nodes"), fmt.Sprintf("etcd on %s starts with %s, and the controllers are %d", m.Name.V, count(n, "member", "members"), len(c.Etcd.Members)), "leave --initial-cluster to the list of nodes"})
		}
	}
	return out
}

// pathOf is the field that a value came from, or the one given.
func pathOf(v Text, otherwise string) string {
	for _, s := range v.From.Sources() {
		if strings.HasPrefix(s, "spec.extraArgs") {
			return s
		}
	}
	return otherwise
}

// agreements proves that components which must have the same value do: the
// Service range, the pods' range, and the key pair of service accounts.
func agreements(c *Cluster) []finding {
	n := c.Etcd.Members[0].Node
	want := []struct{ component, flag, value, what string }{
		{apiserver, "service-cluster-ip-range", ranges(c.Network.Services).V, "the Service range, which is in certificates and the cluster's DNS too"},
		{manager, "service-cluster-ip-range", ranges(c.Network.Services).V, "the Service range of the API server"},
		{manager, "cluster-cidr", ranges(c.Network.Pods).V, "the pod range that kube-proxy and the nodes have"},
		{apiserver, "service-account-signing-key-file", c.Path("service-account-key", n), "the key that signs tokens"},
		{manager, "service-account-private-key-file", c.Path("service-account-key", n), "the key that signs tokens"},
		{apiserver, "service-account-key-file", c.Path("service-account-public", n), "the key that verifies tokens"},
		{manager, "root-ca-file", c.Path("ca/apiserver-serving", n), "the authority of the API servers' certificates"},
	}
	var out []finding
	for _, w := range want {
		got, ok := c.flag(w.component, w.flag, n)
		if !ok || !slices.Contains(strings.Split(got.V, ","), w.value) && got.V != w.value {
			out = append(out, finding{pathOf(got, "spec.network"), fmt.Sprintf("%s has --%s=%s, and %s is %s", w.component, w.flag, got.V, w.what, w.value), "change the field of spec.network, so that every component follows"})
		}
	}
	return out
}

// auditPolicies proves that audit logs come with a policy: without one nothing
// is recorded. The tutorial's lack of one is a warning of its own.
func auditPolicies(c *Cluster) []finding {
	if c.Profile.V == schema.Tutorial {
		return nil
	}
	n := c.Etcd.Members[0].Node
	_, logs := c.flag(apiserver, "audit-log-path", n)
	policy, _ := c.flag(apiserver, "audit-policy-file", n)
	if logs && policy.V == "" {
		return []finding{{pathOf(policy, "spec.extraArgs"), "the API server has an audit log and no audit policy: nothing would be recorded", "name a policy with --audit-policy-file, or leave the flag alone"}}
	}
	return nil
}
