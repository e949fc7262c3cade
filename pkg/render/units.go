package render

import (
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

// A unitRow is what a systemd unit says beside its command line. An empty
// value leaves the line out.
type unitRow struct {
	description string
	after       string
	service     [][2]string // before ExecStart
	restart     string
	tail        [][2]string // after ExecStart
}

var unitRows = map[string]unitRow{
	"etcd":                    {"etcd", "network-online.target", [][2]string{{"Type", "notify"}}, "on-failure", nil},
	"kube-apiserver":          {"Kubernetes API Server", "network-online.target", nil, "on-failure", nil},
	"kube-controller-manager": {"Kubernetes Controller Manager", "network-online.target", nil, "on-failure", nil},
	"kube-scheduler":          {"Kubernetes Scheduler", "network-online.target", nil, "on-failure", nil},
	"containerd": {"containerd container runtime", "network.target", [][2]string{{"ExecStartPre", "-/sbin/modprobe overlay"}}, "always", [][2]string{
		{"Delegate", "yes"}, {"KillMode", "process"}, {"OOMScoreAdjust", "-999"}, {"LimitNOFILE", "1048576"}, {"LimitNPROC", "infinity"}, {"LimitCORE", "infinity"},
	}},
	"kubelet":    {"Kubernetes Kubelet", "containerd.service", nil, "on-failure", nil},
	"kube-proxy": {"Kubernetes Kube Proxy", "network-online.target", nil, "on-failure", nil},
}

// service renders a component's unit.
func (b *builder) service(name, gate string) {
	if perPool[name] && len(b.n.Addresses) == 1 {
		b.alike("unit/"+name, func() *tree.Body { return b.bodyOf(b.serviceUnit(name)) }, name+".service")
	} else {
		b.unitFile("unit/"+name, name+".service", b.serviceUnit(name))
	}
	b.unit(name+".service", gate)
}

// perPool are the components whose command line names no node; with two
// address families the kubelet's does.
var perPool = map[string]bool{"containerd": true, "kubelet": true, "kube-proxy": true}

func (b *builder) serviceUnit(name string) *emit.UnitFile {
	row := unitRows[name]
	u := &emit.UnitFile{}
	u.Section("Unit", fixed("unit-section"))
	u.Key("Description", row.description, fixed("unit-description"))
	u.Key("After", row.after, fixed("unit-after-"+name))
	if name == "kubelet" {
		u.Key("Requires", row.after, fixed("unit-requires-kubelet"))
	} else if row.after == "network-online.target" {
		u.Key("Wants", row.after, fixed("unit-wants"))
	}
	u.Section("Service", fixed("unit-section"))
	for _, kv := range row.service {
		u.Key(kv[0], kv[1], fixed("unit-"+name+"-"+kv[0]))
	}
	if name == "etcd" && b.hardened() {
		u.Key("User", "etcd", fixed("unit-etcd-User"))
	}
	b.exec(u, name)
	u.Key("Restart", row.restart, fixed("unit-restart"))
	u.Key("RestartSec", "5", fixed("unit-restart"))
	for _, kv := range row.tail {
		u.Key(kv[0], kv[1], fixed("unit-"+name+"-"+kv[0]))
	}
	u.Section("Install", fixed("unit-section"))
	u.Key("WantedBy", "multi-user.target", fixed("unit-wanted-by"))
	return u
}

func (b *builder) exec(u *emit.UnitFile, name string) {
	component := b.c.Component(name, b.n)
	args := make([]emit.Argument, len(component.Flags))
	for i, f := range component.Flags {
		args[i] = emit.Argument{Text: f.Argument(), From: f.Value.From}
	}
	u.Exec("ExecStart", component.Binary, fixed("unit-exec"), args...)
}

func (b *builder) unitFile(logical, reader string, u *emit.UnitFile) {
	b.file(logical, b.bodyOf(u), reader)
}

func (b *builder) bodyOf(u *emit.UnitFile) *tree.Body {
	body, err := u.Body()
	if err != nil {
		b.fault("E0202", err.Error())
	}
	return body
}

// apiProxy renders the workers' own way to the API servers: a TCP proxy on
// loopback that knows every controller.
func (b *builder) apiProxy() {
	b.as = origin.Join(b.n.AsWorker, b.c.API.WorkersVia.From)
	b.alike("api-proxy-config", b.apiProxyConfig, "kthwc-api-proxy.service")
	b.alike("unit/api-proxy", func() *tree.Body { return b.bodyOf(b.apiProxyUnit()) }, "kthwc-api-proxy.service")
	b.unit("kthwc-api-proxy.service", "")
	b.packages("haproxy")
}

func (b *builder) apiProxyConfig() *tree.Body {
	c := &lines{}
	from := fixed("api-proxy")
	for _, l := range []string{
		"global", "    maxconn 4096", "", "defaults", "    mode tcp", "    timeout connect 1s", "    timeout client 24h", "    timeout server 24h",
		"    option redispatch", "    retries 3", "", "listen apiserver", "    bind 127.0.0.1:7443", "    balance roundrobin", "    default-server check inter 1s fall 2",
	} {
		c.add(l, from)
	}
	for _, m := range b.c.Etcd.Members {
		address := m.Node.Addresses[0]
		c.add("    server "+m.Name.V+" "+hostPort(address.V, 6443), origin.Join(from, m.Name.From, address.From, m.Node.AsController))
	}
	return c.body()
}

func (b *builder) apiProxyUnit() *emit.UnitFile {
	from := fixed("api-proxy")
	u := &emit.UnitFile{}
	u.Section("Unit", fixed("unit-section"))
	u.Key("Description", "Proxy from this node to the Kubernetes API servers", fixed("unit-description"))
	u.Key("After", "network-online.target", fixed("unit-after-api-proxy"))
	u.Key("Wants", "network-online.target", fixed("unit-wants"))
	u.Key("Before", "kubelet.service kube-proxy.service", fixed("unit-before-api-proxy"))
	u.Section("Service", fixed("unit-section"))
	u.Key("Type", "notify", fixed("unit-api-proxy-Type"))
	u.Exec("ExecStart", "/usr/sbin/haproxy", fixed("unit-exec"), emit.Argument{Text: "-Ws", From: fixed("unit-api-proxy-Type")},
		emit.Argument{Text: "-f", From: from}, emit.Argument{Text: b.c.Path("api-proxy-config", b.n), From: from})
	u.Key("Restart", "always", fixed("unit-restart"))
	u.Section("Install", fixed("unit-section"))
	u.Key("WantedBy", "multi-user.target", fixed("unit-wanted-by"))
	return u
}

func (b *builder) controller() {
	b.as = b.n.AsController
	b.packages("nginx")
	b.dir("dir/etcd-conf", "dir/etcd-pki", "dir/etcd-data", "dir/kubernetes-config", "dir/audit-log")
	if b.hardened() {
		b.out.Users = append(b.out.Users, userOf("etcd", "/var/lib/etcd", b.as))
	}
	b.binary("etcd", "etcdctl", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
	if b.hardened() {
		b.binary("kubectl")
	}
	b.service("etcd", "etcd")
	b.service("kube-apiserver", "apiserver")
	b.service("kube-controller-manager", "controller-manager")
	b.service("kube-scheduler", "scheduler")
	b.encryption()
	b.scheduler()
	b.healthz()
	if b.hardened() {
		b.auditPolicy()
	}
}

func (b *builder) worker() {
	b.as = b.n.AsWorker
	b.kernel()
	b.packages("socat", "conntrack", "ipset", "kmod")
	b.dir("dir/cni-conf", "dir/cni-bin", "dir/kubelet", "dir/kubelet-pki", "dir/kube-proxy", "dir/var-run-kubernetes", "dir/containerd")
	b.binary("crictl", "runc", "cni-plugins", "containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy")
	b.service("containerd", "containerd")
	b.service("kubelet", "kubelet")
	b.service("kube-proxy", "kube-proxy")
	b.cni()
	b.containerd()
	b.kubelet()
	b.kubeProxy()
	if b.c.API.WorkersVia.V == "internal" {
		b.apiProxy()
	}
}
