package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"runtime"

	"github.com/kthwc/kthwc/pkg/compile"
)

// Fleet is what a lab makes of a cluster: its machines, its network and the
// balancer before its API servers.
type Fleet struct {
	Cluster  string         `json:"cluster"`
	Gateway  []netip.Prefix `json:"gateway"` // the operator's addresses on the bridge: every machine's way out
	Machines []Machine      `json:"machines"`
	Balancer *Balancer      `json:"balancer,omitempty"`
	API      Endpoint       `json:"api"`
}

// Endpoint is where the cluster's API is: what cluster.yaml calls it, an address
// or a name, and where connections to it go.
type Endpoint struct {
	Name    string         `json:"name"`
	Address netip.AddrPort `json:"address"`
}

// Machine is one host.
type Machine struct {
	Name      string         `json:"name"`
	Addresses []netip.Prefix `json:"addresses"`
	User      string         `json:"user"`
	Port      int            `json:"port"`
}

// Address is where the machine's SSH server is reached.
func (m Machine) Address() string { return m.Addresses[0].Addr().String() }

// Balancer passes connections on to the API servers that are healthy, as the
// cloud's does.
type Balancer struct {
	Address  netip.Addr `json:"address"`
	Port     int        `json:"port"`
	Host     string     `json:"host"` // of the health check
	Backends []Backend  `json:"backends"`
}

// Backend is one API server behind the balancer.
type Backend struct {
	Name    string         `json:"name"`
	Address netip.AddrPort `json:"address"`
	Check   int            `json:"check"` // the port that answers for its health
}

// NewFleet takes from the model what the lab makes. It refuses clusters that are
// not for machines of one's own.
func NewFleet(c *compile.Cluster) (*Fleet, error) {
	f := &Fleet{Cluster: c.Name.V}
	if c.GCP != nil {
		return nil, &Error{Refused, "this cluster is for Google Cloud, and the lab has machines of its own", "write provider: {static: {}}, or take examples/lab.yaml"}
	}
	for _, n := range c.Nodes {
		if n.Arch.V != runtime.GOARCH {
			return nil, &Error{Refused, fmt.Sprintf("%s is %s, and this machine is %s", n.Name.V, n.Arch.V, runtime.GOARCH), "write arch: " + runtime.GOARCH}
		}
		m := Machine{Name: n.Name.V, User: n.SSH.User.V, Port: n.SSH.Port.V}
		for i, a := range n.Addresses {
			m.Addresses = append(m.Addresses, netip.PrefixFrom(a.V, c.Network.Nodes[i].V.Bits()))
		}
		f.Machines = append(f.Machines, m)
	}
	if err := f.balance(c); err != nil {
		return nil, err
	}
	f.API = Endpoint{c.API.Address.V.String(), netip.AddrPortFrom(endpoint(c), uint16(c.API.Port.V))}
	for _, p := range c.Network.Nodes {
		gateway, err := f.free(p.V)
		if err != nil {
			return nil, err
		}
		f.Gateway = append(f.Gateway, gateway)
	}
	return f, nil
}

// balance makes the balancer of the model's connections, where the model has
// one that is no machine itself.
func (f *Fleet) balance(c *compile.Cluster) error {
	for _, l := range c.Listeners {
		if l.Component != compile.Balancer {
			continue
		}
		address := c.API.Address.V.IP
		if !address.IsValid() {
			return &Error{Refused, fmt.Sprintf("the API endpoint %s is a name, and the lab's balancer needs an address", c.API.Address.V), "write an IP address at spec.api.address"}
		}
		if f.holds(address) {
			return nil
		}
		f.Balancer = &Balancer{Address: address, Port: l.Port.V, Host: c.API.HealthHost.V, Backends: backends(c)}
	}
	return nil
}

// endpoint is the address of the balancer, or else of the machine that clients
// are sent to: the first controller, where cluster.yaml has but a name.
func endpoint(c *compile.Cluster) netip.Addr {
	if a := c.API.Address.V.IP; a.IsValid() {
		return a
	}
	for _, n := range c.Nodes {
		if n.Controller {
			return n.Addresses[0].V
		}
	}
	return netip.Addr{}
}

// backends pairs what the balancer dials on each controller: the API server, and
// the site that answers for its health.
func backends(c *compile.Cluster) []Backend {
	var out []Backend
	at := map[string]int{}
	for _, d := range c.Dials {
		if d.Component != compile.Balancer {
			continue
		}
		address, err := netip.ParseAddr(d.Host.V)
		if err != nil {
			continue
		}
		i, known := at[d.ToNode]
		if !known {
			i, at[d.ToNode] = len(out), len(out)
			out = append(out, Backend{Name: d.ToNode})
		}
		if d.Why == "dial-balancer-health" {
			out[i].Check = d.Port.V
		} else {
			out[i].Address = netip.AddrPortFrom(address, uint16(d.Port.V))
		}
	}
	return out
}

func (f *Fleet) holds(a netip.Addr) bool {
	for _, m := range f.Machines {
		for _, p := range m.Addresses {
			if p.Addr() == a {
				return true
			}
		}
	}
	return false
}

// free is the first address of a range that nobody has.
func (f *Fleet) free(p netip.Prefix) (netip.Prefix, error) {
	for a := p.Masked().Addr().Next(); p.Contains(a); a = a.Next() {
		if !f.holds(a) && (f.Balancer == nil || f.Balancer.Address != a) {
			return netip.PrefixFrom(a, p.Bits()), nil
		}
	}
	return netip.Prefix{}, &Error{Refused, fmt.Sprintf("the node range %s has no address left for the lab's own end of the network", p), "make spec.network.nodeCIDR larger"}
}

// Machine finds a machine by name.
func (f *Fleet) Machine(name string) (Machine, error) {
	for _, m := range f.Machines {
		if m.Name == name {
			return m, nil
		}
	}
	return Machine{}, &Error{Refused, fmt.Sprintf("the lab has no machine %q", name), "kthwc lab status lists them"}
}

// Fleet is what the lab was made from.
func (l *Lab) Fleet() (*Fleet, error) {
	text, err := os.ReadFile(l.path("fleet.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{Refused, "there is no lab in " + l.State, "kthwc lab up makes it; --state names another directory"}
	}
	if err != nil {
		return nil, err
	}
	f := &Fleet{}
	return f, json.Unmarshal(text, f)
}

func (l *Lab) writeFleet(f *Fleet) error {
	text, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return err
	}
	return writeFile(l.path("fleet.json"), append(text, '\n'), 0o644)
}
