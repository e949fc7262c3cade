package compile

import (
	"fmt"
	"net/netip"

	"github.com/kthwc/kthwc/pkg/origin"
)

// Fact is one derived value, for people.
type Fact struct {
	Name  string
	Value Text
}

// View lists what was derived from the file.
func (c *Cluster) View() []Fact {
	out := []Fact{
		{"kubernetes.version", c.Kubernetes}, {"api.endpoint", c.API.Endpoint}, {"api.public", c.API.Public},
		{"api.workers", c.API.Workers}, {"api.issuer", c.API.Issuer}, {"network.dns", origin.Map(c.Network.DNS, netip.Addr.String)},
	}
	for _, ip := range c.Network.ServiceIPs {
		out = append(out, Fact{"network.apiService", origin.Map(ip, netip.Addr.String)})
	}
	for _, m := range c.Etcd.Members {
		out = append(out, Fact{"etcd.members[" + m.Name.V + "].id", origin.Of(fmt.Sprintf("%016x", m.ID), origin.Join(m.PeerURL.From, c.Etcd.Token.From))})
	}
	out = append(out, Fact{"etcd.cluster.id", origin.Of(fmt.Sprintf("%016x", c.Etcd.ClusterID), origin.Join(c.Etcd.Initial.From, c.Etcd.Token.From))})
	for _, n := range c.Nodes {
		for _, p := range n.PodCIDRs {
			out = append(out, Fact{"nodes[" + n.Name.V + "].podCIDR", origin.Map(p, netip.Prefix.String)})
		}
	}
	for _, cert := range c.Certs {
		for _, s := range cert.SANs {
			out = append(out, Fact{"certificates[" + cert.Name + "].name", s.Value})
		}
	}
	return out
}
