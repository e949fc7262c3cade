package render

import (
	"fmt"
	"net"
	"strconv"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

// gateProbes are how a host asks a unit of its own whether it does its work,
// by the class of the gate. Addresses and certificates are the model's
// connections, so that a gate asks as the unit's own clients do.
var gateProbes = map[string]func(b *builder) []tree.Probe{
	// etcd answers /health by a linearizable read: a majority agrees. What it is
	// called follows from its first members; one that was added later has another ID.
	"etcd": func(b *builder) []tree.Probe {
		health := b.asked("etcdctl", "etcd", "/health", `"health":"true"`)
		peer := b.asked("etcd-peer", "etcd-peer", "/members")
		for _, m := range b.c.Etcd.Members {
			if m.Node == b.n {
				peer.URL = m.PeerURL.V + "/members"
				peer.Want = []string{fmt.Sprintf("X-Etcd-Cluster-Id: %x", b.c.Etcd.ClusterID), fmt.Sprintf(`"id":%d,`, m.ID)}
				peer.Cert, peer.Key = b.served("etcd-peer")
				peer.CA, peer.First = b.trusted("etcd-peer"), true
			}
		}
		return []tree.Probe{health, peer}
	},
	"apiserver": func(b *builder) []tree.Probe {
		return []tree.Probe{b.asked("kube-controller-manager", "kube-apiserver", "/readyz", "ok")}
	},
	// These two make their own certificates; nobody can know them.
	"controller-manager": plain("https", 10257, "ok"),
	"scheduler":          plain("https", 10259, "ok"),
	"kubelet":            plain("http", 10248, "ok"),
	"kube-proxy":         plain("http", 10256, ""),
	"healthz": func(b *builder) []tree.Probe {
		return []tree.Probe{{URL: "http://127.0.0.1:80/healthz", Host: b.c.API.HealthHost.V, Want: []string{"ok"}}}
	},
}

// plain asks /healthz at a loopback port.
func plain(scheme string, port int, want string) func(*builder) []tree.Probe {
	p := tree.Probe{URL: scheme + "://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) + "/healthz"}
	if want != "" {
		p.Want = []string{want}
	}
	return func(*builder) []tree.Probe { return []tree.Probe{p} }
}

func (b *builder) probes(gate string) []tree.Probe {
	if of := gateProbes[gate]; of != nil {
		return of(b)
	}
	return nil
}

// asked is a question that a client of this node asks a component beside it.
func (b *builder) asked(client, component, path string, want ...string) tree.Probe {
	for _, d := range b.c.Dials {
		if d.Node != b.n.Name.V || d.Component != client || d.To != component || d.ToNode != "" && d.ToNode != b.n.Name.V {
			continue
		}
		p := tree.Probe{URL: "http://" + net.JoinHostPort(d.Host.V, strconv.Itoa(d.Port.V)) + path, Want: want}
		if d.ServerCA != "" {
			p.URL, p.CA = "https"+p.URL[len("http"):], secret.Bundle(d.ServerCA)
			p.Serves, _ = b.served(component)
		}
		if d.Cert != "" {
			p.Cert, p.Key = secret.Cert(d.Cert), secret.Key(d.Cert)
		}
		return p
	}
	return tree.Probe{}
}

// listener is where a component of this node answers.
func (b *builder) listener(component string) compile.Listener {
	for _, l := range b.c.Listeners {
		if l.Node == b.n.Name.V && l.Component == component {
			return l
		}
	}
	return compile.Listener{}
}

// served is the certificate that a component of this node serves, and its key.
func (b *builder) served(component string) (cert, key secret.Ref) {
	if name := b.listener(component).Cert; name != "" {
		return secret.Cert(name), secret.Key(name)
	}
	return secret.Ref{}, secret.Ref{}
}

// trusted is what a component verifies its clients with; peers are both.
func (b *builder) trusted(component string) secret.Ref {
	if ca := b.listener(component).ClientCA; ca != "" {
		return secret.Bundle(ca)
	}
	return secret.Ref{}
}
