package render

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

func (r *renderer) clusterFile(path string, body *tree.Body, from origin.Origin) {
	r.put(&tree.File{Path: path, Kind: tree.Regular, Mode: 0o644, Owner: "root", Group: "root", Body: body, From: from})
}

// client is the operator's own kubeconfig.
func (r *renderer) client() {
	for _, k := range r.kubeconfigs[""] {
		r.put(&tree.File{Path: k.Path, Kind: tree.Regular, Mode: 0o600, Owner: "root", Group: "root", Body: kubeconfig(k), From: k.From})
	}
}

// certificates lists what must be issued, for reviewers and for the PKI.
func (r *renderer) certificates() {
	from := fixed("certificates")
	var cas, certs []emit.Value
	for _, ca := range r.c.CAs {
		m := emit.NewMap(ca.From).Fixed("name", ca.Name, ca.From).Str("commonName", ca.CommonName).Str("keyType", ca.KeyType).Str("lifetime", days(ca.Lifetime))
		cas = append(cas, m.Set("bundles", r.destinations(ca.Bundles, ca.From)))
	}
	for _, c := range r.c.Certs {
		certs = append(certs, r.certificate(c))
	}
	m := emit.NewMap(from).List("authorities", from, cas...).List("certificates", from, certs...)
	r.clusterFile("pki/certificates.yaml", emit.YAML(m), from)
}

func (r *renderer) certificate(c *compile.Cert) emit.Value {
	m := emit.NewMap(c.From).Fixed("name", c.Name, c.From).Fixed("authority", c.CA, c.From).Str("commonName", c.CommonName).
		Str("keyType", c.KeyType).Str("lifetime", days(c.Lifetime))
	if c.Org.V != "" {
		m.Str("organization", c.Org)
	}
	var names, usages []emit.Value
	for _, s := range c.SANs {
		names = append(names, emit.Scalar{V: s.Value.V, From: s.Value.From})
	}
	for _, u := range c.Usages {
		usages = append(usages, emit.Scalar{V: u, From: c.From})
	}
	if len(names) > 0 {
		m.List("names", c.From, names...)
	}
	m.List("usages", c.From, usages...)
	if len(c.CertFiles) > 0 {
		m.Set("certificateFiles", r.destinations(c.CertFiles, c.From)).Set("keyFiles", r.destinations(c.KeyFiles, c.From))
	}
	return emit.Inherit(m, c.From)
}

func days(d origin.Value[time.Duration]) compile.Text {
	return origin.Map(d, func(d time.Duration) string { return fmt.Sprintf("%dd", int(d.Hours())/24) })
}

// destinations are there because their nodes are, with these roles.
func (r *renderer) destinations(files []compile.Destination, from origin.Origin) *emit.List {
	l := &emit.List{From: from}
	for _, d := range files {
		l.Items = append(l.Items, emit.Scalar{V: d.Node + ":" + d.Path, From: origin.Join(from, d.From)})
	}
	return l
}

// object is the head of a Kubernetes object.
func object(api, kind, name, namespace string, from origin.Origin) *emit.Map {
	m := emit.NewMap(from).Fixed("apiVersion", api, from).Fixed("kind", kind, from)
	meta := m.Map("metadata", from).Fixed("name", name, from)
	if namespace != "" {
		meta.Fixed("namespace", namespace, from)
	}
	return m
}

func plain(data any, from origin.Origin) emit.Value {
	v, _ := emit.FromAny(data, "", func(string) origin.Origin { return from })
	return v
}

const rbac = "rbac.authorization.k8s.io/v1"

// role binds a ClusterRole with the rules to one subject.
func role(name string, rules []any, subject map[string]any, from origin.Origin) []*emit.Map {
	r := object(rbac, "ClusterRole", name, "", from).Set("rules", plain(rules, from))
	binding := object(rbac, "ClusterRoleBinding", name, "", from)
	binding.Set("roleRef", plain(map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}, from))
	binding.Set("subjects", plain([]any{subject}, from))
	return []*emit.Map{r, binding}
}

func person(kind, name string) map[string]any {
	return map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
}

// manifests are the objects that the cluster needs before it is of use.
func (r *renderer) manifests() {
	from := fixed("kubelet-rbac")
	user, verbs := "kubernetes", []any{"*"}
	if r.hardened() {
		user, verbs = "kube-apiserver-kubelet-client", []any{"get", "create"}
		r.hardenedManifests()
	}
	rules := []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"nodes/proxy", "nodes/stats", "nodes/log", "nodes/spec", "nodes/metrics"}, "verbs": verbs}}
	r.clusterFile("manifests/10-apiserver-to-kubelet.yaml", emit.YAML(role("system:kube-apiserver-to-kubelet", rules, person("User", user), from)...), from)
	r.coreDNS()
}

func (r *renderer) hardenedManifests() {
	from := fixed("operators")
	binding := object(rbac, "ClusterRoleBinding", "kthwc:cluster-admins", "", from)
	binding.Set("roleRef", plain(map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}, from))
	binding.Set("subjects", plain([]any{person("Group", "kthwc:cluster-admins")}, from))
	r.clusterFile("manifests/00-operators.yaml", emit.YAML(binding), from)
	health := fixed("healthz-rbac")
	rules := []any{map[string]any{"nonResourceURLs": []any{"/healthz", "/livez", "/readyz"}, "verbs": []any{"get"}}}
	r.clusterFile("manifests/10-healthz.yaml", emit.YAML(role("kthwc:healthz", rules, person("User", "kthwc-healthz"), health)...), health)
}

// coreDNS is the cluster's DNS: its rights, its configuration, the pods and
// the Service at the address that every kubelet tells its pods.
func (r *renderer) coreDNS() {
	from := fixed("coredns")
	account := object("v1", "ServiceAccount", "coredns", "kube-system", from)
	list := []any{"list", "watch"}
	rights := role("system:coredns", []any{
		map[string]any{"apiGroups": []any{""}, "resources": []any{"endpoints", "services", "pods", "namespaces"}, "verbs": list},
		map[string]any{"apiGroups": []any{"discovery.k8s.io"}, "resources": []any{"endpointslices"}, "verbs": list},
	}, map[string]any{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}, from)
	documents := append([]*emit.Map{account}, append(rights, r.corefile(), r.dnsDeployment(), r.dnsService())...)
	r.clusterFile("manifests/20-coredns.yaml", emit.YAML(documents...), from)
}

func (r *renderer) corefile() *emit.Map {
	from := fixed("coredns")
	upstream := origin.Of("/etc/resolv.conf", fixed("coredns-forward"))
	for i, u := range r.c.DNS.Upstream {
		if i == 0 {
			upstream = u
			continue
		}
		upstream = origin.Of(upstream.V+" "+u.V, origin.Join(upstream.From, u.From))
	}
	domain := r.c.Network.Domain
	text := &emit.Block{From: from}
	for _, l := range []compile.Text{
		{V: ".:53 {"}, {V: "    errors"}, {V: "    health { lameduck 5s }"}, {V: "    ready"},
		{V: "    kubernetes " + domain.V + " in-addr.arpa ip6.arpa {", From: domain.From},
		{V: "        pods insecure"}, {V: "        fallthrough in-addr.arpa ip6.arpa"}, {V: "    }"}, {V: "    prometheus :9153"},
		{V: "    forward . " + upstream.V, From: upstream.From},
		{V: "    cache 30"}, {V: "    loop"}, {V: "    reload"}, {V: "    loadbalance"}, {V: "}"},
	} {
		text.Lines = append(text.Lines, origin.Of(l.V, origin.Join(from, l.From)))
	}
	m := object("v1", "ConfigMap", "coredns", "kube-system", from)
	m.Map("data", from).Set("Corefile", text)
	return m
}

func (r *renderer) dnsDeployment() *emit.Map {
	from := fixed("coredns")
	image := r.c.Release.Companion("coredns")
	m := object("apps/v1", "Deployment", "coredns", "kube-system", from)
	labels := map[string]any{"k8s-app": "kube-dns"}
	spec := m.Map("spec", from).Int("replicas", r.c.DNS.Replicas)
	spec.Set("selector", plain(map[string]any{"matchLabels": labels}, from))
	template := spec.Map("template", from)
	template.Set("metadata", plain(map[string]any{"labels": labels}, from))
	probe := func(path string, port int) any {
		return map[string]any{"httpGet": map[string]any{"path": path, "port": port}, "timeoutSeconds": 5}
	}
	container := plain(map[string]any{
		"name": "coredns", "args": []any{"-conf", "/etc/coredns/Corefile"},
		"resources":      map[string]any{"limits": map[string]any{"memory": "170Mi"}, "requests": map[string]any{"cpu": "100m", "memory": "70Mi"}},
		"livenessProbe":  probe("/health", 8080),
		"readinessProbe": probe("/ready", 8181),
		"ports": []any{
			map[string]any{"containerPort": 53, "name": "dns", "protocol": "UDP"}, map[string]any{"containerPort": 53, "name": "dns-tcp", "protocol": "TCP"},
			map[string]any{"containerPort": 9153, "name": "metrics", "protocol": "TCP"},
		},
		"securityContext": map[string]any{"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": map[string]any{"add": []any{"NET_BIND_SERVICE"}, "drop": []any{"ALL"}}},
		"volumeMounts":    []any{map[string]any{"mountPath": "/etc/coredns", "name": "config", "readOnly": true}},
	}, from).(*emit.Map)
	container.Fixed("image", "registry.k8s.io/coredns/coredns:v"+image.V, origin.Join(image.From, r.c.Kubernetes.From))
	pod := template.Map("spec", from)
	pod.List("containers", from, container).Fixed("dnsPolicy", "Default", from).Fixed("serviceAccountName", "coredns", from).Fixed("priorityClassName", "system-cluster-critical", from)
	pod.Set("nodeSelector", plain(map[string]any{"kubernetes.io/os": "linux"}, from))
	pod.Set("volumes", plain([]any{map[string]any{"name": "config", "configMap": map[string]any{"name": "coredns"}}}, from))
	return m
}

func (r *renderer) dnsService() *emit.Map {
	from := fixed("coredns")
	m := object("v1", "Service", "kube-dns", "kube-system", from)
	spec := m.Map("spec", from).Str("clusterIP", origin.Map(r.c.Network.DNS, netip.Addr.String))
	spec.Set("selector", plain(map[string]any{"k8s-app": "kube-dns"}, from))
	spec.Set("ports", plain([]any{
		map[string]any{"name": "dns", "port": 53, "protocol": "UDP"}, map[string]any{"name": "dns-tcp", "port": 53, "protocol": "TCP"},
		map[string]any{"name": "metrics", "port": 9153, "protocol": "TCP"},
	}, from))
	return m
}
