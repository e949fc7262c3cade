package compile

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/kthwc/kthwc/pkg/origin"
)

// The ways to the API server, and the port of the workers' own proxy.
const (
	LoadBalancer = "loadBalancer"
	External     = "external"
	None         = "none"
	Public       = "public"
	Internal     = "internal"

	ProxyPort = 7443
)

// localPort is where every API server listens.
const localPort = 6443

func (r *resolver) api() {
	a, s := &r.c.API, &r.spec.API
	r.endpoint()
	a.Port = origin.Of(s.Port, r.doc.Origin("spec.api.port"))
	a.Address = r.apiAddress()
	a.WorkersVia = r.text("spec.api.workersVia", s.WorkersVia)
	if s.WorkersVia == "" {
		a.WorkersVia = origin.Of(Public, origin.Fixed("workers-via"))
		if r.hardened() && a.Endpoint.V != None {
			a.WorkersVia.V = Internal
		}
		if r.hardened() {
			a.WorkersVia.From = origin.Join(a.WorkersVia.From, a.Endpoint.From)
		}
	}
	a.ExtraSANs = r.texts("spec.api.extraSANs", s.ExtraSANs)
	a.Public = origin.Zip(a.Address, a.Port, func(h Address, port int) string { return url(h.String(), port) })
	a.Local = origin.Of(url("127.0.0.1", localPort), origin.Fixed("api-local"))
	a.Workers = a.Public
	if a.WorkersVia.V == Internal {
		a.Workers = origin.Of(url("127.0.0.1", ProxyPort), a.WorkersVia.From)
	}
	a.Issuer = a.Public
	if r.hardened() {
		a.Issuer = origin.Map(r.c.Network.Domain, func(d string) string { return "https://kubernetes.default.svc." + d })
	}
	a.HealthHost = origin.Map(r.c.Network.Domain, func(d string) string { return "kubernetes.default.svc." + d })
}

// endpoint says what stands before the API servers when the file does not.
func (r *resolver) endpoint() {
	s := &r.spec.API
	e := r.text("spec.api.endpoint", s.Endpoint)
	switch {
	case s.Endpoint != "":
	case r.c.GCP != nil:
		e.V = LoadBalancer
	case s.Address != "":
		e.V = External
	default:
		e.V = None
	}
	r.c.API.Endpoint = e
	controllers := len(r.c.controllers())
	switch {
	case e.V == LoadBalancer && r.c.GCP == nil:
		r.fault("E0119", "spec.api.endpoint", "static machines have no balancer of the provider's", "write endpoint: external with the address of your own balancer")
	case e.V == External && s.Address == "":
		r.fault("E0119", "spec.api.endpoint", "an external endpoint needs its address", "add api.address: the IP address or DNS name that clients dial")
	case e.V == None && controllers > 1:
		r.fault("E0119", "spec.api.endpoint", fmt.Sprintf("%d controllers and nothing that clients can dial to reach any of them", controllers), "put a balancer before them and write endpoint: external with its address")
	}
}

func (r *resolver) apiAddress() origin.Value[Address] {
	s := r.spec.API.Address
	if ip, err := netip.ParseAddr(s); err == nil {
		return origin.Of(Address{IP: ip}, r.doc.Origin("spec.api.address"))
	}
	switch {
	case s != "":
		return origin.Of(Address{Name: s}, r.doc.Origin("spec.api.address"))
	case r.c.API.Endpoint.V == None:
		return origin.Map(r.c.controllers()[0].Addresses[0], func(a netip.Addr) Address { return Address{IP: a} })
	}
	return r.cloud("address/api", r.doc.Origin("spec.api.address"))
}

func url(host string, port int) string {
	if strings.HasPrefix(host, "$") {
		return "https://" + host + ":" + strconv.Itoa(port)
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(port))
}

// controllers are the nodes that run etcd and the control plane.
func (c *Cluster) controllers() []*Node {
	var out []*Node
	for _, n := range c.Nodes {
		if n.Controller {
			out = append(out, n)
		}
	}
	return out
}
