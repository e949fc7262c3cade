package render

import (
	"cmp"
	"net/netip"
	"strings"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

func hostPort(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

func str(p origin.Value[netip.Prefix]) compile.Text { return origin.Map(p, netip.Prefix.String) }

// encryption is EncryptionConfiguration: the first provider encrypts, all of
// them decrypt, and identity reads what was written before.
func (b *builder) encryption() {
	e := &b.c.Encryption
	from := fixed("encryption")
	kind := origin.Of("apiserver.config.k8s.io/v1 EncryptionConfiguration", from)
	if !b.hardened() {
		kind = b.n.Setting("tutorial-encryption-kind")
	}
	apiVersion, name, _ := strings.Cut(kind.V, " ")
	m := emit.NewMap(from).Fixed("apiVersion", apiVersion, kind.From).Fixed("kind", name, kind.From)
	var keys []emit.Value
	for _, k := range e.Keys {
		key := emit.NewMap(k.From).Str("name", k)
		key.Ref("secret", secret.Symmetric("encryption/"+k.V).Base64(), k.From)
		keys = append(keys, emit.Inherit(key, e.Provider.From))
	}
	provider := emit.NewMap(e.Provider.From)
	provider.Map(e.Provider.V, e.Provider.From).List("keys", e.Provider.From, keys...)
	identity := emit.NewMap(fixed("encryption-identity"))
	identity.Map("identity", fixed("encryption-identity"))
	rule := emit.NewMap(from).Strings("resources", from, e.Resources...).List("providers", from, provider, identity)
	m.List("resources", from, rule)
	b.file("encryption-config", b.yaml(m), "kube-apiserver.service")
}

func (b *builder) scheduler() {
	m := b.document("KubeSchedulerConfiguration")
	m.Map("clientConnection", fixed("scheduler-config")).Fixed("kubeconfig", b.c.Path("kubeconfig/kube-scheduler", b.n), fixed("scheduler-config"))
	m.Map("leaderElection", fixed("leader-election")).Fixed("leaderElect", true, fixed("leader-election"))
	b.file("scheduler-config", b.yaml(m), "kube-scheduler.service")
}

func (b *builder) kubelet() {
	m := b.document("KubeletConfiguration")
	f := func(key string, v any) { b.field(m, "KubeletConfiguration", key, v) }
	authn := m.Map("authentication", fixed("kubelet-authentication"))
	authn.Map("anonymous", fixed("kubelet-anonymous")).Fixed("enabled", false, fixed("kubelet-anonymous"))
	authn.Map("webhook", fixed("kubelet-webhook")).Fixed("enabled", true, fixed("kubelet-webhook"))
	authn.Map("x509", fixed("kubelet-clientCAFile")).Fixed("clientCAFile", b.c.Path("ca/kubelet-client", b.n), fixed("kubelet-clientCAFile"))
	m.Map("authorization", fixed("kubelet-authorization")).Fixed("mode", "Webhook", fixed("kubelet-authorization"))
	m.Str("clusterDomain", b.c.Network.Domain)
	m.Strings("clusterDNS", fixed("kubelet-clusterDNS"), origin.Map(b.c.Network.DNS, netip.Addr.String))
	if len(b.n.PodCIDRs) > 0 {
		m.Str("podCIDR", str(b.n.PodCIDRs[0]))
	}
	m.Str("resolvConf", b.n.ResolvConf)
	f("runtimeRequestTimeout", "15m")
	m.Fixed("tlsCertFile", b.c.Path("cert/kubelet-serving", b.n), nodePath(b))
	m.Fixed("tlsPrivateKeyFile", b.c.Path("key/kubelet-serving", b.n), nodePath(b))
	f("containerRuntimeEndpoint", compile.RuntimeEndpoint)
	if runtime := b.n.Setting("containerd-config-version"); runtime.V != "1" {
		m.Fixed("cgroupDriver", "systemd", origin.Join(fixed("kubelet-cgroupDriver"), runtime.From))
	}
	if b.hardened() {
		kubeletHardening(f)
	}
	if b.hardened() || b.c.GCP == nil || len(b.n.Taints) > 0 {
		b.kubeletNode(m)
	}
	b.patch("kubelet", m)
	b.file("kubelet-config", b.yaml(m), "kubelet.service")
}

// nodePath is the origin of a path that may hold the node's name.
func nodePath(b *builder) origin.Origin {
	if b.hardened() {
		return fixed("kubelet-tls")
	}
	return origin.Join(fixed("kubelet-tls"), b.n.Name.From)
}

// field sets a constant if the kind has the field at the node's minor.
func (b *builder) field(m *emit.Map, kind, key string, v any) {
	verdict := b.n.Release.Field(kind, key)
	if !verdict.Keep {
		return
	}
	from := fixed("kubelet-" + key)
	if !verdict.Row.IsZero() {
		from = origin.Join(from, verdict.Row, b.n.Version.From)
	}
	m.Fixed(key, v, from)
}

func kubeletHardening(f func(string, any)) {
	f("eventRecordQPS", 5)
	f("makeIPTablesUtilChains", true)
	f("podPidsLimit", 4096)
	f("readOnlyPort", 0)
	f("seccompDefault", true)
	f("streamingConnectionIdleTimeout", "5m0s")
	f("tlsMinVersion", "VersionTLS12")
	f("registerNode", true)
}

func (b *builder) kubeletNode(m *emit.Map) {
	m.Int("maxPods", b.n.MaxPods)
	verdict := b.n.Release.Field("KubeletConfiguration", "registerWithTaints")
	if len(b.n.Taints) == 0 || !verdict.Keep {
		return // before the field exists, a flag carries them
	}
	var taints []emit.Value
	for _, t := range b.n.Taints {
		taint := emit.NewMap(fixed("kubelet-taints")).Str("effect", t.Effect).Str("key", t.Key)
		if t.Value.V != "" {
			taint.Str("value", t.Value)
		}
		taints = append(taints, taint)
	}
	list := &emit.List{Items: taints, From: fixed("kubelet-taints")}
	m.Set("registerWithTaints", emit.Inherit(list, origin.Join(verdict.Row, b.n.Version.From)))
}

func (b *builder) kubeProxy() {
	m := b.document("KubeProxyConfiguration")
	m.Map("clientConnection", fixed("kube-proxy-config")).Fixed("kubeconfig", b.c.Path("kubeconfig/kube-proxy", b.n), fixed("kube-proxy-config"))
	m.Str("mode", b.c.KubeProxy.Mode)
	var pods compile.Text
	for i, p := range b.c.Network.Pods {
		if i > 0 {
			pods.V += ","
		}
		pods = origin.Of(pods.V+p.V.String(), origin.Join(pods.From, p.From))
	}
	m.Str("clusterCIDR", pods)
	if b.hardened() {
		m.Fixed("metricsBindAddress", "127.0.0.1:10249", fixed("kube-proxy-metrics"))
		m.Str("hostnameOverride", b.n.Name)
	}
	b.patch("kube-proxy", m)
	b.file("kube-proxy-config", b.yaml(m), "kube-proxy.service")
}

// cni is the bridge of the node's pods and the loopback of every pod.
func (b *builder) cni() {
	version := b.n.Setting("cni-version")
	from := fixed("cni-bridge")
	bridge := emit.NewMap(from).Fixed("type", "bridge", from).Fixed("bridge", "cnio0", from).
		Fixed("isGateway", true, fixed("cni-isGateway")).Fixed("ipMasq", true, fixed("cni-ipMasq"))
	ipam := bridge.Map("ipam", fixed("cni-ipam")).Fixed("type", "host-local", fixed("cni-ipam"))
	var ranges, routes []emit.Value
	for _, p := range b.n.PodCIDRs {
		ranges = append(ranges, &emit.List{From: from, Items: []emit.Value{emit.NewMap(from).Str("subnet", str(p))}})
		dst := "0.0.0.0/0"
		if p.V.Addr().Is6() {
			dst = "::/0"
		}
		routes = append(routes, emit.NewMap(from).Fixed("dst", dst, fixed("cni-route")))
	}
	ipam.List("ranges", from, ranges...).List("routes", fixed("cni-route"), routes...)
	whole := bridge
	if b.hardened() {
		ports := emit.NewMap(fixed("cni-portmap")).Fixed("type", "portmap", fixed("cni-portmap"))
		ports.Map("capabilities", fixed("cni-portmap")).Fixed("portMappings", true, fixed("cni-portmap"))
		whole = emit.NewMap(from).List("plugins", from, bridge, ports)
	}
	whole.Str("cniVersion", version).Fixed("name", "bridge", from)
	b.file("cni-bridge", b.body(emit.JSON(whole)), "containerd.service")
	b.alike("cni-loopback", func() *tree.Body { return b.body(emit.JSON(loopback(version))) }, "containerd.service")
}

// loopback is the interface lo of every pod.
func loopback(version compile.Text) *emit.Map {
	return emit.NewMap(fixed("cni-loopback")).Str("cniVersion", version).Fixed("name", "lo", fixed("cni-loopback")).Fixed("type", "loopback", fixed("cni-loopback"))
}

// containerd is config.toml in the version that this containerd reads.
func (b *builder) containerd() {
	b.alike("containerd-config", b.containerdConfig, "containerd.service")
	b.mirrors()
	b.proxy()
	b.crictl()
}

// crictl tells the runtime's debugging tool where the runtime is.
func (b *builder) crictl() {
	if b.c.Path("crictl-config", b.n) == "" {
		return
	}
	b.alike("crictl-config", func() *tree.Body {
		m := emit.NewMap(fixed("crictl"))
		m.Fixed("runtime-endpoint", compile.RuntimeEndpoint, fixed("crictl")).Fixed("image-endpoint", compile.RuntimeEndpoint, fixed("crictl"))
		return b.yaml(m)
	})
}

func (b *builder) containerdConfig() *tree.Body {
	setting := b.n.Setting("containerd-config-version")
	from := setting.From
	m := emit.NewMap(from)
	plugins := m.Map("plugins", from)
	if setting.V == "1" {
		runtime := plugins.Map("cri", from).Map("containerd", from).Fixed("snapshotter", "overlayfs", fixed("containerd-snapshotter"))
		runtime.Map("default_runtime", from).Fixed("runtime_type", "io.containerd.runtime.v1.linux", from).
			Fixed("runtime_engine", "/usr/local/bin/runc", from).Fixed("runtime_root", "", from)
		b.oldMirrors(plugins.Get("cri").(*emit.Map), from)
	} else {
		m.Fixed("version", 3, from)
		why := func(id string) origin.Origin { return origin.Join(fixed(id), from) }
		images := plugins.Map("io.containerd.cri.v1.images", from).Fixed("snapshotter", "overlayfs", fixed("containerd-snapshotter"))
		if len(b.c.Containerd.Mirrors) > 0 {
			images.Map("registry", why("containerd-mirrors")).Fixed("config_path", b.c.Path("dir/registry-hosts", b.n), why("containerd-mirrors"))
		}
		pause := b.n.Setting("pause")
		images.Map("pinned_images", from).Fixed("sandbox", "registry.k8s.io/pause:"+pause.V, pause.From)
		run := plugins.Map("io.containerd.cri.v1.runtime", from).Map("containerd", from).Fixed("default_runtime_name", "runc", why("containerd-runc"))
		runc := run.Map("runtimes", from).Map("runc", from).Fixed("runtime_type", "io.containerd.runc.v2", why("containerd-runc"))
		runc.Map("options", from).Fixed("BinaryName", b.c.Path("bin/runc", b.n), why("containerd-runc")).Fixed("SystemdCgroup", true, why("containerd-cgroup"))
	}
	b.patch("containerd", m)
	return b.body(emit.TOML(m))
}

// oldMirrors is how containerd before 1.5 is told of mirrors: it knows no
// directory of hosts.
func (b *builder) oldMirrors(cri *emit.Map, from origin.Origin) {
	if len(b.c.Containerd.Mirrors) == 0 {
		return
	}
	list := emit.NewMap(fixed("containerd-mirrors"))
	for _, m := range b.c.Containerd.Mirrors {
		list.Map(m.Registry.V, m.Registry.From).Strings("endpoint", fixed("containerd-mirrors"), m.Endpoints...)
	}
	registry := emit.NewMap(fixed("containerd-mirrors")).Set("mirrors", list)
	cri.Set("registry", emit.Inherit(registry, from))
}

// mirrors tell containerd where to pull from first, a directory per registry.
func (b *builder) mirrors() {
	version := b.n.Setting("containerd-config-version")
	if version.V == "1" {
		return // they are in config.toml itself
	}
	for i, m := range b.c.Containerd.Mirrors {
		if i == 0 {
			b.as = origin.Join(b.n.AsWorker, version.From)
			b.dir("dir/registry-hosts")
		}
		c := &lines{}
		c.add("server = "+emit.TOMLString("https://"+hostOf(m.Registry.V)), m.Registry.From)
		for _, e := range m.Endpoints {
			c.add("", fixed("containerd-mirrors"))
			c.add("[host."+emit.TOMLString(e.V)+"]", e.From)
			c.add(`  capabilities = ["pull", "resolve"]`, fixed("containerd-mirrors"))
		}
		dir := b.c.Path("dir/registry-hosts", b.n) + "/" + m.Registry.V
		b.as = origin.Join(b.n.AsWorker, m.Registry.From, version.From)
		b.directory(dir, 0o755, "root")
		b.as = b.n.AsWorker
		b.add(&tree.File{Path: dir + "/hosts.toml", Kind: tree.Regular, Mode: 0o644, Owner: "root", Group: "root", Body: c.body(), Readers: []string{"containerd.service"}, From: origin.Join(b.as, m.Registry.From, version.From)})
	}
}

// registryHosts are the registries that answer under another name than images
// say; containerd knows it only where it is told no server.
var registryHosts = map[string]string{"docker.io": "registry-1.docker.io"}

func hostOf(registry string) string {
	return cmp.Or(registryHosts[registry], registry)
}

func (b *builder) proxy() {
	p := &b.c.Containerd
	if p.HTTPProxy.V == "" && p.HTTPSProxy.V == "" {
		return
	}
	u := &emit.UnitFile{}
	u.Section("Service", fixed("unit-section"))
	for _, v := range []struct {
		name  string
		value compile.Text
	}{{"HTTP_PROXY", p.HTTPProxy}, {"HTTPS_PROXY", p.HTTPSProxy}, {"NO_PROXY", p.NoProxy}} {
		if v.value.V != "" {
			u.Key("Environment", v.name+"="+v.value.V, v.value.From)
		}
	}
	b.directory("/etc/systemd/system/containerd.service.d", 0o755, "root")
	b.unitFile("containerd-proxy", "containerd.service", u)
}

// auditPolicy records who did what; of Secrets and tokens never the content
// (CIS 3.2.2).
func (b *builder) auditPolicy() {
	from := fixed("audit-policy")
	m := emit.NewMap(from).Fixed("apiVersion", "audit.k8s.io/v1", from).Fixed("kind", "Policy", from)
	m.List("omitStages", from, emit.Scalar{V: "RequestReceived", From: from})
	rule := func(level, id string, fields ...any) emit.Value {
		r := emit.NewMap(fixed(id)).Fixed("level", level, fixed(id))
		for i := 0; i+1 < len(fields); i += 2 {
			v, _ := emit.FromAny(fields[i+1], "", func(string) origin.Origin { return fixed(id) })
			r.Set(fields[i].(string), v)
		}
		return r
	}
	group := func(name string, resources ...any) any { return map[string]any{"group": name, "resources": resources} }
	m.List("rules", from,
		rule("None", "audit-health", "nonResourceURLs", []any{"/healthz*", "/livez*", "/readyz*", "/version"}),
		rule("Metadata", "audit-secrets", "resources", []any{group("", "secrets", "configmaps", "serviceaccounts/token"), group("authentication.k8s.io", "tokenreviews")}),
		rule("Request", "audit-exec", "resources", []any{group("", "pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy")}),
		rule("RequestResponse", "audit-rbac", "resources", []any{group("rbac.authorization.k8s.io")}, "verbs", []any{"create", "update", "patch", "delete"}),
		rule("Metadata", "audit-rest"),
	)
	b.file("audit-policy", b.yaml(m), "kube-apiserver.service")
}
