package compile

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/schema"
)

// The components that answer, as they are called in listeners and dials.
const (
	etcdComponent  = "etcd"
	etcdPeer       = "etcd-peer"
	apiserver      = "kube-apiserver"
	manager        = "kube-controller-manager"
	scheduler      = "kube-scheduler"
	kubeletServing = "kubelet"
	proxyComponent = "kube-proxy"
	healthSite     = "nginx"
	apiProxy       = "kthwc-api-proxy"
	sshServer      = "sshd"
)

// A listenRow is one port of a component that every node of a role opens.
type listenRow struct {
	component string
	bind      value // nil: every address
	port      int
	cert      string // role of the serving certificate
	clientCA  string // logical file of the bundle that clients are verified with
}

var controllerListens = []listenRow{
	{component: etcdComponent, bind: of(func(_ *Cluster, n *Node) Text { return address(n) }), port: 2379, cert: "etcd-server", clientCA: "ca/etcd@etcd"},
	{component: etcdComponent, bind: constant("127.0.0.1"), port: 2379, cert: "etcd-server", clientCA: "ca/etcd@etcd"},
	{component: etcdPeer, bind: of(func(_ *Cluster, n *Node) Text { return address(n) }), port: 2380, cert: "etcd-peer", clientCA: "ca/etcd-peer@etcd"},
	{component: apiserver, port: localPort, cert: "apiserver-serving", clientCA: "ca/kubernetes-client"},
	{component: manager, bind: boundTo(manager), port: 10257, cert: SelfSigned, clientCA: "ca/kubernetes-client"},
	{component: scheduler, bind: boundTo(scheduler), port: 10259, cert: SelfSigned, clientCA: "ca/kubernetes-client"},
	{component: healthSite, port: 80},
}

var workerListens = []listenRow{
	{component: kubeletServing, port: 10250, cert: "kubelet-serving", clientCA: "ca/kubelet-client"},
	{component: kubeletServing, bind: constant("127.0.0.1"), port: 10248},
	{component: proxyComponent, port: 10256},
	{component: proxyComponent, bind: constant("127.0.0.1"), port: 10249},
}

// boundTo is the component's own --bind-address, or every address without one.
func boundTo(component string) value {
	return func(c *Cluster, n *Node, fixed origin.Origin) Text {
		for _, f := range c.Component(component, n).Flags {
			if f.Name == "bind-address" {
				return f.Value
			}
		}
		return origin.Of("0.0.0.0", fixed)
	}
}

// connections lists every port that is opened and every connection that is
// made. Certificates' names, the firewall and the live checks are judged by it.
func (r *resolver) connections() {
	w := &wiring{c: r.c, certs: map[string]*Cert{}, bundles: map[[2]string]string{}, kubeconfigs: map[string][]*Kubeconfig{}}
	for _, cert := range r.c.Certs {
		w.certs[cert.Name] = cert
	}
	for _, ca := range r.c.CAs {
		for _, d := range ca.Bundles {
			w.bundles[[2]string{d.Node, d.Path}] = ca.Name
		}
	}
	for _, k := range r.c.Kubeconfig {
		w.kubeconfigs[k.Node] = append(w.kubeconfigs[k.Node], k)
	}
	for _, n := range r.c.Nodes {
		w.node(n)
	}
	w.outside()
}

// wiring is the state of one connections step.
type wiring struct {
	c           *Cluster
	certs       map[string]*Cert
	bundles     map[[2]string]string
	kubeconfigs map[string][]*Kubeconfig // by node
}

// sharedRoles are the tutorial's certificates that serve several purposes.
var sharedRoles = map[string]string{
	"apiserver-serving": "kubernetes", "etcd-server": "kubernetes", "etcd-peer": "kubernetes", "apiserver-etcd-client": "kubernetes",
	"apiserver-kubelet-client": "kubernetes", "etcd-healthcheck": "kubernetes", "kubelet-serving": "kubelet", "kubelet-client": "kubelet",
}

// cert is the name of the certificate that a node uses in a role; "" if none.
func (w *wiring) cert(role string, n *Node) string {
	for _, name := range []string{role + "@" + n.Name.V, sharedRoles[role] + "@" + n.Name.V, role, sharedRoles[role]} {
		if w.certs[name] != nil {
			return name
		}
	}
	return ""
}

// bundle is the authority whose bundle lies at the logical file; "" if none.
func (w *wiring) bundle(logical string, n *Node) string {
	return w.bundles[[2]string{n.Name.V, w.c.Path(logical, n)}]
}

func port(n int) Int { return origin.Of(n, origin.Fixed("port-"+strconv.Itoa(n))) }

func (w *wiring) listen(n *Node, rows ...listenRow) {
	for _, row := range rows {
		l := Listener{Node: n.Name.V, Component: row.component, Host: origin.Of("0.0.0.0", origin.Fixed("bind-all")), Port: port(row.port), Protocol: "tcp", Cert: row.cert}
		if row.bind != nil {
			l.Host = row.bind(w.c, n, origin.Fixed("bind-loopback"))
		}
		if row.cert != "" && row.cert != SelfSigned {
			l.Cert = w.cert(row.cert, n)
		}
		if row.clientCA != "" {
			l.ClientCA = w.bundle(row.clientCA, n)
		}
		w.c.Listeners = append(w.c.Listeners, l)
	}
}

func (w *wiring) dial(d Dial) {
	if d.Protocol == "" {
		d.Protocol = "tcp"
	}
	w.c.Dials = append(w.c.Dials, d)
}

// node wires what runs on one machine.
func (w *wiring) node(n *Node) {
	w.c.Listeners = append(w.c.Listeners, Listener{Node: n.Name.V, Component: sshServer, Host: origin.Of("0.0.0.0", origin.Fixed("bind-all")), Port: n.SSH.Port, Protocol: "tcp"})
	w.dial(Dial{Component: Operator, Host: n.SSH.Address, Port: n.SSH.Port, To: sshServer, ToNode: n.Name.V, Why: "dial-ssh"})
	if n.Controller {
		w.listen(n, controllerListens...)
		w.controller(n)
	}
	if n.Worker {
		w.listen(n, workerListens...)
		w.apiProxy(n)
	}
	for _, k := range w.kubeconfigs[n.Name.V] {
		w.kubeconfig(k)
	}
}

func (w *wiring) controller(n *Node) {
	for _, m := range w.c.Etcd.Members {
		w.dial(Dial{Node: n.Name.V, Component: apiserver, Host: address(m.Node), Port: port(2379), To: etcdComponent, ToNode: m.Name.V, Name: address(m.Node),
			ServerCA: w.bundle("ca/etcd", n), Cert: w.cert("apiserver-etcd-client", n), Why: "dial-etcd"})
		if m.Node != n {
			w.dial(Dial{Node: n.Name.V, Component: etcdPeer, Host: address(m.Node), Port: port(2380), To: etcdPeer, ToNode: m.Name.V, Name: address(m.Node),
				ServerCA: w.bundle("ca/etcd-peer@etcd", n), Cert: w.cert("etcd-peer", n), Why: "dial-etcd-peer"})
		}
	}
	loopback := origin.Of("127.0.0.1", origin.Fixed("api-local"))
	w.dial(Dial{Node: n.Name.V, Component: "etcdctl", Host: loopback, Port: port(2379), To: etcdComponent, ToNode: n.Name.V, Name: loopback,
		ServerCA: w.bundle("ca/etcd@etcd", n), Cert: w.cert("etcd-healthcheck", n), Why: "dial-etcdctl"})
	w.health(n, loopback)
	w.kubelets(n)
}

// health is the healthz site asking the API server beside it. The tutorial's
// site does not verify whom it asks.
func (w *wiring) health(n *Node, loopback Text) {
	d := Dial{Node: n.Name.V, Component: healthSite, Host: loopback, Port: port(localPort), To: apiserver, ToNode: n.Name.V, Why: "dial-health"}
	if cert := w.cert("healthz", n); cert != "" {
		d.Name, d.ServerCA, d.Cert = w.c.API.HealthHost, w.bundle("ca/apiserver-serving", n), cert
	}
	w.dial(d)
}

// kubelets are dialled for logs, exec and port-forward. Without
// --kubelet-preferred-address-types the API server takes the host name first.
func (w *wiring) kubelets(n *Node) {
	d := Dial{Node: n.Name.V, Component: apiserver, Port: port(10250), To: kubeletServing,
		ServerCA: w.bundle("ca/kubelet-serving", n), Cert: w.cert("apiserver-kubelet-client", n), Why: "dial-kubelet-api"}
	for _, worker := range w.c.Nodes {
		if !worker.Worker {
			continue
		}
		d.ToNode, d.Name = worker.Name.V, worker.Name
		if w.c.Profile.V == schema.Hardened {
			d.Name = address(worker)
		}
		d.Host = d.Name
		w.dial(d)
	}
}

// apiProxy is the worker's own way to every API server. It passes bytes on:
// the handshake is between its client and the server.
func (w *wiring) apiProxy(n *Node) {
	if w.c.API.WorkersVia.V != Internal {
		return
	}
	w.c.Listeners = append(w.c.Listeners, Listener{Node: n.Name.V, Component: apiProxy, Host: origin.Of("127.0.0.1", origin.Fixed("bind-loopback")), Port: port(ProxyPort), Protocol: "tcp"})
	for _, m := range w.c.Etcd.Members {
		w.dial(Dial{Node: n.Name.V, Component: apiProxy, Host: address(m.Node), Port: port(localPort), To: apiserver, ToNode: m.Name.V, Why: "dial-api-proxy"})
	}
}

// pods reach one another, the API server by its Service (by address and by
// name), and the cluster's DNS.
func (w *wiring) pods() {
	w.dial(Dial{Component: Pods, Protocol: "any", To: Pods, Port: origin.Of(0, origin.Fixed("dial-pods")), Why: "dial-pods"})
	var names []Text
	for _, ip := range w.c.Network.ServiceIPs {
		names = append(names, origin.Map(ip, netip.Addr.String))
	}
	for _, name := range append(names, w.c.API.HealthHost) {
		w.dial(Dial{Component: Pods, Host: name, Port: port(443), Via: proxyComponent, To: apiserver, Name: name, ServerCA: w.podCA(), Why: "dial-service"})
	}
	for _, protocol := range []string{"udp", "tcp"} {
		w.dial(Dial{Component: Pods, Host: origin.Map(w.c.Network.DNS, netip.Addr.String), Port: port(53), Protocol: protocol, Via: proxyComponent, To: "coredns", Why: "dial-dns"})
	}
}

// podCA is what the controller manager hands to pods as ca.crt: its
// --root-ca-file.
func (w *wiring) podCA() string {
	n := w.c.Etcd.Members[0].Node
	return w.bundle("ca/apiserver-serving", n)
}

// kubeconfig is dialled as it is written.
func (w *wiring) kubeconfig(k *Kubeconfig) {
	program, _, _ := strings.Cut(k.Name, "@")
	host, number := splitURL(k.Server.V)
	d := Dial{Node: k.Node, Component: program, Host: origin.Of(host, k.Server.From), Port: port(number), To: apiserver, ServerCA: k.CA, Cert: k.Cert, Why: "dial-" + program}
	switch a := &w.c.API; {
	case k.Server.V == a.Local.V:
		d.ToNode = k.Node
	case k.Server.V != a.Public.V:
		d.Via = apiProxy
	default:
		d.Host.From, d.Port.From = a.Address.From, a.Port.From
		if a.Endpoint.V != None {
			d.Via = Balancer
		}
	}
	d.Name = d.Host
	if k.Node == "" {
		d.Component = Operator
	}
	w.dial(d)
}

// splitURL takes the host and the port out of https://HOST:PORT; the host of a
// placeholder keeps its colon.
func splitURL(url string) (host string, number int) {
	rest := strings.TrimPrefix(url, "https://")
	at := strings.LastIndexByte(rest, ':')
	number, _ = strconv.Atoi(rest[at+1:])
	return strings.Trim(rest[:at], "[]"), number
}

// outside wires the parties that are on no node.
func (w *wiring) outside() {
	for _, k := range w.kubeconfigs[""] {
		w.kubeconfig(k)
	}
	if w.c.API.Endpoint.V != None {
		w.balancer()
	}
	w.pods()
	if len(w.c.NodePorts) > 0 {
		w.nodePorts()
	}
}

func (w *wiring) nodePorts() {
	ports := w.c.Network.NodePorts
	low, high, _ := strings.Cut(ports.V, "-")
	first, _ := strconv.Atoi(low)
	last, _ := strconv.Atoi(high)
	for _, protocol := range []string{"tcp", "udp"} {
		w.dial(Dial{Component: NodePortClient, Port: origin.Of(first, ports.From), LastPort: last, Protocol: protocol, To: proxyComponent, Why: "dial-nodeport"})
	}
}

func (w *wiring) balancer() {
	a := &w.c.API
	w.c.Listeners = append(w.c.Listeners, Listener{Component: Balancer, Host: origin.Map(a.Address, Address.String), Port: a.Port, Protocol: "tcp"})
	for _, m := range w.c.Etcd.Members {
		w.dial(Dial{Component: Balancer, Host: address(m.Node), Port: port(localPort), To: apiserver, ToNode: m.Name.V, Why: "dial-balancer"})
		w.dial(Dial{Component: Balancer, Host: address(m.Node), Port: port(80), To: healthSite, ToNode: m.Name.V, Why: "dial-balancer-health"})
	}
}
