package compile

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/kthwc/kthwc/pkg/origin"
)

// side says on which nodes a certificate is.
type side int

const (
	onOperator    side = iota
	onController       // one for each controller
	onWorker           // one for each worker
	sharedControl      // one for all controllers
	sharedWorker       // one for all workers
)

// A certRow is one kind of leaf certificate. NODE stands for the node's name.
type certRow struct {
	role  string
	ca    string
	cn    string
	org   string
	side  side
	use   []string
	names string   // which names it carries: "", api, etcd, peer, kubelet
	files []string // logical files: cert/X and key/X of the layout
	kube  string   // the kubeconfig that embeds it
	days  int      // lifetime, when it is not the file's
}

var (
	client = []string{ClientAuth}
	server = []string{ServerAuth}
	both   = []string{ServerAuth, ClientAuth}
)

// hardenedCerts: one key for each host and role, one usage where one is enough
// (Kubernetes best practices for certificates; CIS Kubernetes Benchmark 2.7).
var hardenedCerts = []certRow{
	{role: "apiserver-serving", ca: "apiserver-serving", cn: "kube-apiserver", side: onController, use: server, names: "api", files: []string{"apiserver-serving"}},
	{role: "apiserver-kubelet-client", ca: "kubernetes-client", cn: "kube-apiserver-kubelet-client", side: onController, use: client, files: []string{"apiserver-kubelet-client"}},
	{role: "apiserver-etcd-client", ca: "etcd", cn: "kube-apiserver-etcd-client", side: onController, use: client, files: []string{"apiserver-etcd-client"}},
	{role: "front-proxy-client", ca: "front-proxy", cn: "front-proxy-client", side: onController, use: client, files: []string{"front-proxy-client"}},
	{role: "kube-controller-manager", ca: "kubernetes-client", cn: "system:kube-controller-manager", side: onController, use: client, kube: "kube-controller-manager"},
	{role: "kube-scheduler", ca: "kubernetes-client", cn: "system:kube-scheduler", side: onController, use: client, kube: "kube-scheduler"},
	{role: "healthz", ca: "kubernetes-client", cn: "kthwc-healthz", side: onController, use: client, files: []string{"healthz"}},
	{role: "etcd-server", ca: "etcd", cn: "etcd-server", side: onController, use: server, names: "etcd", files: []string{"etcd-server"}},
	{role: "etcd-peer", ca: "etcd-peer", cn: "etcd-peer", side: onController, use: both, names: "peer", files: []string{"etcd-peer"}},
	{role: "etcd-healthcheck", ca: "etcd", cn: "kthwc-etcd-healthcheck", side: onController, use: client, files: []string{"etcd-healthcheck"}},
	{role: "kubelet-client", ca: "kubernetes-client", cn: "system:node:NODE", org: "system:nodes", side: onWorker, use: client, kube: "kubelet"},
	{role: "kubelet-serving", ca: "kubelet-serving", cn: "system:node:NODE", org: "system:nodes", side: onWorker, use: server, names: "kubelet", files: []string{"kubelet-serving"}},
	{role: "kube-proxy", ca: "kubernetes-client", cn: "system:kube-proxy", org: "system:node-proxier", side: onWorker, use: client, kube: "kube-proxy"},
	{role: "admin", ca: "kubernetes-client", cn: "kthwc-admin", org: "kthwc:cluster-admins", side: onOperator, use: client, kube: "admin", days: 7},
	{role: "super-admin", ca: "kubernetes-client", cn: "kthwc-super-admin", org: "system:masters", side: onOperator, use: client, days: 7},
}

// tutorialCerts: the nine certificates of the tutorial, from one authority,
// each for both usages. The names of the API server's are the right ones.
var tutorialCerts = []certRow{
	{role: "admin", ca: "ca", cn: "admin", org: "system:masters", side: onOperator, use: both, kube: "admin"},
	{role: "kubelet", ca: "ca", cn: "system:node:NODE", org: "system:nodes", side: onWorker, use: both, names: "kubelet", files: []string{"kubelet-serving"}, kube: "kubelet"},
	{role: "kube-controller-manager", ca: "ca", cn: "system:kube-controller-manager", org: "system:kube-controller-manager", side: sharedControl, use: both, kube: "kube-controller-manager"},
	{role: "kube-proxy", ca: "ca", cn: "system:kube-proxy", org: "system:node-proxier", side: sharedWorker, use: both, kube: "kube-proxy"},
	{role: "kube-scheduler", ca: "ca", cn: "system:kube-scheduler", org: "system:kube-scheduler", side: sharedControl, use: both, kube: "kube-scheduler"},
	{role: "kubernetes", ca: "ca", cn: "kubernetes", org: "Kubernetes", side: sharedControl, use: both, names: "api", files: []string{"apiserver-serving", "etcd-server"}},
	{role: "service-accounts", ca: "ca", cn: "service-accounts", org: "Kubernetes", side: sharedControl, use: both},
}

// caRow is one root of trust and the logical files that hold its bundle.
type caRow struct {
	name, cn, why            string
	onControllers, onWorkers []string
}

// An authority's common name differs from every leaf's: a certificate whose
// subject is its issuer's is taken for self-signed (RFC 5280 section 6.1).
var hardenedCAs = []caRow{
	{"kubernetes-client", "kubernetes-client-ca", "ca-kubernetes-client", []string{"ca/kubernetes-client"}, []string{"ca/kubelet-client"}},
	{"apiserver-serving", "apiserver-serving-ca", "ca-apiserver-serving", []string{"ca/apiserver-serving"}, nil},
	{"kubelet-serving", "kubelet-serving-ca", "ca-kubelet-serving", []string{"ca/kubelet-serving"}, nil},
	{"etcd", "etcd-ca", "ca-etcd", []string{"ca/etcd", "ca/etcd@etcd"}, nil},
	{"etcd-peer", "etcd-peer-ca", "ca-etcd-peer", []string{"ca/etcd-peer@etcd"}, nil},
	{"front-proxy", "front-proxy-ca", "ca-front-proxy", []string{"ca/front-proxy"}, nil},
}

var tutorialCAs = []caRow{
	{"ca", "Kubernetes", "ca-tutorial", []string{"ca/kubernetes-client", "ca/etcd@etcd"}, []string{"ca/kubelet-client"}},
}

func (r *resolver) pki() {
	cas, certs := hardenedCAs, hardenedCerts
	if !r.hardened() {
		cas, certs = tutorialCAs, tutorialCerts
	}
	for _, row := range cas {
		r.ca(row)
	}
	for _, row := range certs {
		r.certs(row)
	}
	if r.hardened() {
		r.keyPair()
	}
	for _, cert := range r.c.Certs {
		if cert.Role == "apiserver-kubelet-client" || cert.Role == sharedRoles["apiserver-kubelet-client"] {
			r.c.KubeletClient = cert.CommonName
		}
	}
}

func (r *resolver) ca(row caRow) {
	c := r.c
	ca := CA{Name: row.name, CommonName: origin.Of(row.cn, origin.Fixed(row.why)), Lifetime: c.PKI.CALifetime, KeyType: c.PKI.KeyType, Why: row.why, From: origin.Fixed(row.why)}
	for _, n := range c.Nodes {
		if n.Controller {
			ca.Bundles = c.destinations(ca.Bundles, n, n.AsController, row.onControllers...)
		}
		if n.Worker {
			ca.Bundles = c.destinations(ca.Bundles, n, n.AsWorker, row.onWorkers...)
		}
		if n.Controller && !r.hardened() {
			ca.Keys = c.destinations(ca.Keys, n, n.AsController, "ca-key/signer")
		}
		for i := range ca.Bundles {
			if d := &ca.Bundles[i]; d.Node == n.Name.V && c.shared(row, n, d.Path) {
				d.From = n.From
			}
		}
	}
	c.CAs = append(c.CAs, ca)
}

// destinations adds where the logical files lie on the node, each path once.
func (c *Cluster) destinations(to []Destination, n *Node, role origin.Origin, logical ...string) []Destination {
	for _, l := range logical {
		d := Destination{n.Name.V, c.Path(l, n), origin.Join(n.From, role)}
		known := func(o Destination) bool { return o.Node == d.Node && o.Path == d.Path }
		if len(to) < 4 && !slices.ContainsFunc(to, known) || len(to) >= 4 && !slices.ContainsFunc(to[len(to)-4:], known) {
			to = append(to, d)
		}
	}
	return to
}

// shared says whether controllers and workers both have the bundle at a path.
func (c *Cluster) shared(row caRow, n *Node, path string) bool {
	at := func(l string) bool { return c.Path(l, n) == path }
	return slices.ContainsFunc(row.onControllers, at) && slices.ContainsFunc(row.onWorkers, at)
}

// roleOf is the entry of a node's roles that a certificate is for.
func roleOf(row certRow, n *Node) origin.Origin {
	if row.side == onController || row.side == sharedControl {
		return n.AsController
	}
	return n.AsWorker
}

// certs makes a row's certificates: one for each node, or one for all.
func (r *resolver) certs(row certRow) {
	c := r.c
	if row.side == onOperator || row.side == sharedControl || row.side == sharedWorker {
		c.Certs = append(c.Certs, r.shared(row))
		return
	}
	for _, n := range c.Nodes {
		if row.side == onController && n.Controller || row.side == onWorker && n.Worker {
			cert := r.cert(row, n)
			r.place(cert, row, n)
			c.Certs = append(c.Certs, cert)
		}
	}
}

// shared is the one certificate of a row that is for all its nodes, or for you.
func (r *resolver) shared(row certRow) *Cert {
	cert := r.cert(row, nil)
	for _, n := range r.c.Nodes {
		if row.side == sharedControl && n.Controller {
			r.place(cert, row, n)
		}
		if row.side == sharedWorker && n.Worker && row.kube != "" {
			cert.Kubeconfigs = append(cert.Kubeconfigs, row.kube+"@"+n.Name.V)
		}
	}
	if row.side == onOperator && row.kube != "" {
		cert.Kubeconfigs = []string{row.kube}
	}
	return cert
}

func (r *resolver) place(cert *Cert, row certRow, n *Node) {
	if row.role == tokenCert {
		cert.CertFiles = r.c.destinations(cert.CertFiles, n, n.AsController, "service-account-public")
		cert.KeyFiles = r.c.destinations(cert.KeyFiles, n, n.AsController, "service-account-key")
	}
	for _, f := range row.files {
		cert.CertFiles = r.c.destinations(cert.CertFiles, n, roleOf(row, n), "cert/"+f)
		cert.KeyFiles = r.c.destinations(cert.KeyFiles, n, roleOf(row, n), "key/"+f)
	}
	if row.kube != "" {
		cert.Kubeconfigs = append(cert.Kubeconfigs, row.kube+"@"+n.Name.V)
	}
}

func (r *resolver) cert(row certRow, n *Node) *Cert {
	fixed := origin.Fixed("cert-" + row.role)
	cert := &Cert{
		Name: row.role, Role: row.role, CA: row.ca, Usages: row.use, From: fixed,
		CommonName: origin.Of(row.cn, fixed), Org: origin.Of(row.org, fixed),
		Lifetime: r.c.PKI.LeafLifetime, KeyType: r.c.PKI.KeyType, KeepKey: row.role == tokenCert,
	}
	if row.days > 0 {
		cert.Lifetime = origin.Of(time.Duration(row.days)*24*time.Hour, fixed)
	}
	if n != nil {
		cert.Name, cert.Node = row.role+"@"+n.Name.V, n.Name.V
		cert.From = origin.Join(n.From, roleOf(row, n))
		if row.cn == "system:node:NODE" {
			cert.CommonName = origin.Map(n.Name, func(name string) string { return "system:node:" + name })
		}
	}
	cert.SANs = r.names(row.names, n)
	return cert
}

// names are the subject alternative names that the clients of a listener dial.
func (r *resolver) names(kind string, n *Node) []SAN {
	switch kind {
	case "api":
		return r.apiNames(n)
	case "etcd":
		return append(nodeNames(n, "etcd"), loopback(n)...)
	case "peer":
		return nodeNames(n, "etcd-peer")
	case "kubelet":
		names := nodeNames(n, "kubelet")
		if !n.External.V.IsZero() && !r.hardened() {
			names = append(names, SAN{origin.Map(n.External, Address.String), "san-external"})
		}
		return names
	}
	return nil
}

func nodeNames(n *Node, why string) []SAN {
	out := []SAN{{n.Name, "san-" + why}}
	for _, a := range n.Addresses {
		out = append(out, SAN{origin.Map(a, netip.Addr.String), "san-" + why})
	}
	return out
}

func loopback(n *Node) []SAN {
	fixed := origin.Fixed("san-loopback")
	out := []SAN{{origin.Of("127.0.0.1", fixed), "san-loopback"}}
	if n != nil && len(n.Addresses) > 1 {
		out = append(out, SAN{origin.Of("::1", fixed), "san-loopback"})
	}
	return out
}

// apiNames are the names of the API server: its Service by address and by
// every name that pods use, the nodes, loopback, and what users dial. n is nil
// for a certificate that all controllers share.
func (r *resolver) apiNames(n *Node) []SAN {
	c := r.c
	var out []SAN
	for _, ip := range c.Network.ServiceIPs {
		out = append(out, SAN{origin.Map(ip, netip.Addr.String), "san-service"})
	}
	for _, node := range c.controllers() {
		if n == nil || n == node {
			names := nodeNames(node, "controller")
			for i := range names {
				names[i].Value.From = origin.Join(names[i].Value.From, node.AsController)
			}
			out = append(out, names...)
		}
	}
	out = append(out, loopback(n)...)
	out = append(out, SAN{origin.Map(c.API.Address, Address.String), "san-endpoint"})
	fixed := origin.Fixed("san-service")
	for _, name := range []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc"} {
		out = append(out, SAN{origin.Of(name, fixed), "san-service"})
	}
	out = append(out, SAN{c.API.HealthHost, "san-service"})
	for _, extra := range c.API.ExtraSANs {
		out = append(out, SAN{extra, "san-extra"})
	}
	return distinct(out)
}

// distinct drops names that are there already; the first keeps the sources of all.
func distinct(names []SAN) []SAN {
	at := map[string]int{}
	out := names[:0:0]
	for _, s := range names {
		if i, seen := at[s.Value.V]; seen {
			out[i].Value.From = origin.Join(out[i].Value.From, s.Value.From)
			continue
		}
		at[s.Value.V] = len(out)
		out = append(out, s)
	}
	return out
}

func (r *resolver) keyPair() {
	pair := KeyPair{Name: "service-account", From: origin.Fixed("service-account")}
	for _, n := range r.c.controllers() {
		pair.PublicFiles = r.c.destinations(pair.PublicFiles, n, n.AsController, "service-account-public")
		pair.KeyFiles = r.c.destinations(pair.KeyFiles, n, n.AsController, "service-account-key")
	}
	r.c.KeyPairs = append(r.c.KeyPairs, pair)
}

// kubeconfigs follow from the certificates that they embed: the user of a
// kubeconfig is the common name of its certificate.
func (r *resolver) kubeconfigs() {
	c := r.c
	nodes := map[string]*Node{}
	for _, n := range c.Nodes {
		nodes[n.Name.V] = n
	}
	ca := "apiserver-serving"
	if !r.hardened() {
		ca = "ca"
	}
	for _, cert := range c.Certs {
		for _, name := range cert.Kubeconfigs {
			program, on, _ := strings.Cut(name, "@")
			k := &Kubeconfig{Name: name, Node: on, Cluster: c.Name, Context: "default", CA: ca, Cert: cert.Name, User: cert.CommonName, From: cert.From}
			k.Server, k.Path = r.serverFor(program), "client/admin.kubeconfig"
			if n := nodes[on]; n != nil {
				k.Path = c.Path("kubeconfig/"+program, n)
				k.From = origin.Join(n.From, roleOfProgram(program, n))
			}
			c.Kubeconfig = append(c.Kubeconfig, k)
		}
	}
}

func roleOfProgram(program string, n *Node) origin.Origin {
	if program == "kubelet" || program == "kube-proxy" {
		return n.AsWorker
	}
	return n.AsController
}

// serverFor is what a program dials: the API server on its own host for the
// control plane, the workers' way for workers, the public address for people.
func (r *resolver) serverFor(program string) Text {
	switch program {
	case "kube-controller-manager", "kube-scheduler":
		return r.c.API.Local
	case "kubelet", "kube-proxy":
		return r.c.API.Workers
	}
	return r.c.API.Public
}
