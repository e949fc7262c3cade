package render

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

// lines is a file of plain lines.
type lines struct{ b tree.Body }

func (l *lines) add(text string, from origin.Origin) { l.b.Add(from, text) }
func (l *lines) body() *tree.Body                    { return &l.b }

func userOf(name, home string, from origin.Origin) tree.User {
	return tree.User{Name: name, Home: home, From: origin.Join(from, fixed("user-"+name))}
}

// host is what every machine needs: kernel settings, names, routes, and how it
// is reached.
func (b *builder) host() {
	s := b.n.SSH
	b.out.Connection = tree.Connection{
		Address: s.Address.V, Port: s.Port.V, User: s.User.V, HostKey: s.HostKey.V, Bastion: s.Bastion.V,
		From: origin.Join(s.Address.From, s.Port.From, s.User.From, s.HostKey.From, s.Bastion.From),
	}
	if b.n.Controller {
		b.out.Roles = append(b.out.Roles, "controller")
	}
	if b.n.Worker {
		b.out.Roles = append(b.out.Roles, "worker")
	}
	b.dir("dir/kubernetes", "dir/pki")
	b.hosts()
	if !b.hardened() {
		b.binary("kubectl")
	}
	if b.c.GCP == nil {
		b.routes()
	}
}

// modulesOfMode are the kernel modules that a mode of kube-proxy needs.
var modulesOfMode = map[string][]string{"ipvs": {"ip_vs", "ip_vs_rr", "nf_conntrack"}}

// modulesFor lists the kernel modules that every worker loads at boot.
func modulesFor(c *compile.Cluster) []string {
	return append([]string{"br_netfilter", "overlay"}, modulesOfMode[c.KubeProxy.Mode.V]...)
}

func (b *builder) kernel() {
	modules, sysctl := &lines{}, &lines{}
	for _, m := range modulesFor(b.c) {
		from := fixed("module-" + m)
		if slices.Contains(modulesOfMode[b.c.KubeProxy.Mode.V], m) {
			from = origin.Join(from, b.c.KubeProxy.Mode.From)
		}
		modules.add(m, from)
	}
	sysctl.add("net.bridge.bridge-nf-call-iptables = 1", fixed("sysctl-bridge"))
	sysctl.add("net.bridge.bridge-nf-call-ip6tables = 1", fixed("sysctl-bridge"))
	sysctl.add("net.ipv4.ip_forward = 1", fixed("sysctl-forward"))
	if len(b.c.Network.Pods) > 1 {
		sysctl.add("net.ipv6.conf.all.forwarding = 1", fixed("sysctl-forward"))
	}
	b.alike("modules", modules.body, "systemd-modules-load.service")
	b.alike("sysctl", sysctl.body, "systemd-sysctl.service")
}

// known are the nodes that this one finds by name.
func (b *builder) known() []*compile.Node {
	if b.n.Controller {
		return b.c.Nodes
	}
	var out []*compile.Node
	for _, m := range b.c.Etcd.Members {
		out = append(out, m.Node)
	}
	return append(out, b.n)
}

// hosts is a marked block in /etc/hosts. A worker needs itself and the
// controllers; a controller reaches every node.
func (b *builder) hosts() {
	c := &lines{}
	for _, n := range b.known() {
		for _, a := range n.Addresses {
			from := origin.Join(a.From, n.Name.From, n.From)
			if n != b.n && b.n.Controller {
				from = origin.Join(from, b.n.AsController)
			}
			if n != b.n && n.Controller {
				from = origin.Join(from, n.AsController)
			}
			c.add(a.V.String()+" "+n.Name.V, from)
		}
	}
	if api := b.c.API.Address; api.V.Name != "" && b.c.API.Endpoint.V == compile.None {
		first := b.c.Etcd.Members[0].Node
		c.add(first.Addresses[0].V.String()+" "+api.V.Name, origin.Join(api.From, b.c.API.Endpoint.From, first.Addresses[0].From, first.AsController))
	}
	b.add(&tree.File{Path: b.c.Path("hosts", b.n), Kind: tree.Regular, Mode: 0o644, Owner: "root", Group: "root", Block: true, Body: c.body(), From: fixed("hosts")})
}

// routes reach the other workers' pods, and are there again after a reboot.
func (b *builder) routes() {
	c := &lines{}
	for _, n := range b.c.Nodes {
		if n == b.n {
			continue
		}
		for f, p := range n.PodCIDRs {
			via := n.Addresses[min(f, len(n.Addresses)-1)]
			c.add(p.V.String()+" via "+via.V.String(), origin.Join(p.From, via.From, n.AsWorker, n.Count))
		}
	}
	b.dir("dir/kubernetes")
	if b.out.File("/etc/kubernetes") == nil {
		b.directory("/etc/kubernetes", 0o755, "root")
	}
	b.file("pod-routes", c.body(), "kthwc-pod-routes.service")
	u := &emit.UnitFile{}
	u.Section("Unit", fixed("unit-section"))
	u.Key("Description", "Routes to the pods of the other workers", fixed("unit-description"))
	u.Key("After", "network-online.target", fixed("pod-routes"))
	u.Key("Wants", "network-online.target", fixed("unit-wants"))
	u.Section("Service", fixed("unit-section"))
	u.Key("Type", "oneshot", fixed("pod-routes"))
	u.Key("RemainAfterExit", "yes", fixed("pod-routes"))
	u.Exec("ExecStart", "/bin/sh", fixed("pod-routes"), emit.Argument{Text: "-euc", From: fixed("pod-routes")},
		emit.Argument{Text: `while read -r range via address; do ip route replace "$range" "$via" "$address"; done < ` + b.c.Path("pod-routes", b.n), From: fixed("pod-routes")})
	u.Section("Install", fixed("unit-section"))
	u.Key("WantedBy", "multi-user.target", fixed("unit-wanted-by"))
	b.unitFile("unit/pod-routes", "kthwc-pod-routes.service", u)
	b.unit("kthwc-pod-routes.service", "")
}

// healthz is the site that answers the balancer's health check in plain HTTP
// and asks the API server beside it.
func (b *builder) healthz() {
	c, from := &lines{}, fixed("healthz")
	host := b.c.API.HealthHost
	c.add("server {", from)
	c.add("    listen 80;", fixed("healthz-port"))
	c.add("    server_name "+host.V+";", host.From)
	c.add("    location /healthz {", from)
	target := "/healthz"
	if b.hardened() {
		target = "/readyz"
	}
	c.add("        proxy_pass https://127.0.0.1:6443"+target+";", fixed("healthz-target"))
	c.add("        proxy_ssl_trusted_certificate "+b.c.Path("ca/apiserver-serving", b.n)+";", fixed("healthz-verify"))
	if b.hardened() {
		c.add("        proxy_ssl_verify on;", fixed("healthz-verify"))
		c.add("        proxy_ssl_name "+host.V+";", host.From)
		c.add("        proxy_ssl_protocols TLSv1.2 TLSv1.3;", fixed("healthz-verify"))
		c.add("        proxy_ssl_certificate "+b.c.Path("cert/healthz", b.n)+";", fixed("healthz-client"))
		c.add("        proxy_ssl_certificate_key "+b.c.Path("key/healthz", b.n)+";", fixed("healthz-client"))
	}
	c.add("    }", from)
	c.add("}", from)
	site := b.c.Path("nginx-site", b.n)
	presence := origin.Join(b.as, host.From)
	b.add(&tree.File{Path: site, Kind: tree.Regular, Mode: 0o644, Owner: "root", Group: "root", Body: c.body(), Readers: []string{"nginx.service"}, From: presence})
	b.add(&tree.File{Path: b.c.Path("nginx-link", b.n), Kind: tree.Symlink, Mode: 0o777, Owner: "root", Group: "root", Target: site, Readers: []string{"nginx.service"}, From: presence})
	b.add(&tree.File{Path: b.c.Path("nginx-default", b.n), Kind: tree.Absent, Readers: []string{"nginx.service"}, From: b.as})
	b.unit("nginx.service", "healthz")
}

// placed is one piece of material at one path of a node.
type placed struct {
	path string
	ref  secret.Ref
	mode uint32
	from origin.Origin
}

// index sorts the model's material and kubeconfigs by node, once.
func (r *renderer) index() {
	r.material, r.kubeconfigs = map[string][]placed{}, map[string][]*compile.Kubeconfig{}
	put := func(files []compile.Destination, ref secret.Ref, mode uint32, from origin.Origin) {
		for _, d := range files {
			r.material[d.Node] = append(r.material[d.Node], placed{d.Path, ref, mode, origin.Join(from, d.From)})
		}
	}
	for _, ca := range r.c.CAs {
		put(ca.Bundles, secret.Bundle(ca.Name), 0o644, ca.From)
		put(ca.Keys, secret.CAKey(ca.Name), 0o600, ca.From)
		put(ca.Signer.Files, ca.Signer.Ref, 0o644, ca.Signer.From)
	}
	for _, cert := range r.c.Certs {
		put(cert.CertFiles, secret.Cert(cert.Name), 0o644, cert.From)
		put(cert.KeyFiles, secret.Key(cert.Name), 0o600, cert.From)
	}
	for _, p := range r.c.KeyPairs {
		put(p.PublicFiles, secret.PublicKey(p.Name), 0o644, p.From)
		put(p.KeyFiles, secret.Key(p.Name), 0o600, p.From)
	}
	for _, k := range r.c.TokenKeys {
		put(k.Files, k.Ref, 0o644, k.From)
	}
	for _, k := range r.c.Kubeconfig {
		r.kubeconfigs[k.Node] = append(r.kubeconfigs[k.Node], k)
	}
}

// secrets is every certificate, key, bundle and kubeconfig of the node, as
// names. Files of several purposes at one path are one file.
func (b *builder) secrets() {
	for _, m := range b.material[b.n.Name.V] {
		if b.out.File(m.path) != nil {
			continue
		}
		owner := "root"
		if strings.HasPrefix(m.path, "/etc/etcd/") && b.hardened() {
			owner = "etcd"
		}
		body := &tree.Body{}
		body.AddParts(m.from, tree.Part{Ref: m.ref})
		b.add(&tree.File{Path: m.path, Kind: tree.Regular, Mode: m.mode, Owner: owner, Group: owner, Body: body, From: m.from})
	}
	for _, k := range b.kubeconfigs[b.n.Name.V] {
		program, _, _ := strings.Cut(k.Name, "@")
		b.as = k.From
		b.file("kubeconfig/"+program, b.kubeconfig(k), program+".service")
	}
}

// kubeconfig is as kubectl writes it.
func (r *renderer) kubeconfig(k *compile.Kubeconfig) *tree.Body {
	from := fixed("kubeconfig")
	cluster := emit.NewMap(from)
	cluster.Map("cluster", from).Ref("certificate-authority-data", secret.Bundle(k.CA).Base64(), from).Set("server", emit.Scalar{V: k.Server.V, From: k.Server.From})
	cluster.Str("name", k.Cluster)
	context := emit.NewMap(from).Fixed("name", k.Context, from)
	context.Map("context", from).Str("cluster", k.Cluster).Str("user", k.User)
	user := emit.NewMap(from).Str("name", k.User)
	user.Map("user", from).Ref("client-certificate-data", secret.Cert(k.Cert).Base64(), k.From).Ref("client-key-data", secret.Key(k.Cert).Base64(), k.From)
	m := emit.NewMap(from).Fixed("apiVersion", "v1", from).Fixed("kind", "Config", from).Fixed("current-context", k.Context, from)
	m.List("clusters", from, cluster).List("contexts", from, context).List("users", from, user).Map("preferences", from)
	return r.yaml(m)
}

// readersOf are the units of every system that read all files of a directory.
var readersOf = map[string][]string{
	"/etc/modules-load.d": {"systemd-modules-load.service"},
	"/etc/sysctl.d":       {"systemd-sysctl.service"},
}

// extras are the user's own files and units.
func (b *builder) extras() {
	for _, f := range b.c.Files {
		if b.wants(f.On) {
			mode, _ := strconv.ParseUint(f.Mode.V, 8, 32)
			b.add(&tree.File{Path: f.Path.V, Kind: tree.Regular, Mode: uint32(mode), Owner: f.Owner.V, Group: f.Group.V,
				Body: textBody(f.Content), Readers: readersOf[path.Dir(f.Path.V)], From: origin.Join(f.From, b.because(f.On)), Metadata: origin.Join(f.Mode.From, f.Owner.From, f.Group.From)})
		}
	}
	for _, u := range b.c.Units {
		if b.wants(u.On) {
			b.add(&tree.File{Path: "/etc/systemd/system/" + u.Name.V, Kind: tree.Regular, Mode: 0o644, Owner: "root", Group: "root",
				Body: textBody(u.Content), Readers: []string{u.Name.V}, From: origin.Join(u.From, b.because(u.On))})
			b.out.Units = append(b.out.Units, tree.Unit{Name: u.Name.V, Enabled: u.Enabled.V, Started: u.Enabled.V, From: origin.Join(u.From, u.Enabled.From, b.because(u.On))})
		}
	}
}

func (b *builder) wants(on []compile.Text) bool {
	for _, t := range on {
		if t.V == b.n.Name.V || t.V == "controller" && b.n.Controller || t.V == "worker" && b.n.Worker {
			return true
		}
	}
	return len(on) == 0
}

// because is why a selector chose this node: its entries, and the node's role
// where an entry is one.
func (b *builder) because(on []compile.Text) origin.Origin {
	var out origin.Origin
	for _, t := range on {
		out = origin.Join(out, t.From)
		switch t.V {
		case schema.Controller:
			out = origin.Join(out, b.n.AsController)
		case schema.Worker:
			out = origin.Join(out, b.n.AsWorker)
		}
	}
	return out
}

func textBody(t compile.Text) *tree.Body {
	c := &lines{}
	for _, l := range strings.Split(strings.TrimSuffix(t.V, "\n"), "\n") {
		c.add(l, t.From)
	}
	return c.body()
}
