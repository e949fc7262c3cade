package compile

import (
	"strings"

	"github.com/kthwc/kthwc/schema"
)

// A layoutRow says where one logical file lies in each profile, and who may
// read it. An empty path means that the profile has no such file. NODE stands
// for the node's name.
type layoutRow struct {
	Logical  string
	Hardened string
	Tutorial string
	Mode     uint32 // hardened; the tutorial's modes are tutorialMode's
	Owner    string
}

// The tutorial's paths are those of the 1.21 edition; the hardened ones are
// where kubeadm puts the same things, so that tools which know kubeadm's
// layout (CIS benchmarks) find them.
var layout = []layoutRow{
	// Programs.
	{"bin/etcd", "/usr/local/bin/etcd", "/usr/local/bin/etcd", 0o755, "root"},
	{"bin/etcdctl", "/usr/local/bin/etcdctl", "/usr/local/bin/etcdctl", 0o755, "root"},
	{"bin/etcdutl", "/usr/local/bin/etcdutl", "/usr/local/bin/etcdutl", 0o755, "root"},
	{"bin/kube-apiserver", "/usr/local/bin/kube-apiserver", "/usr/local/bin/kube-apiserver", 0o755, "root"},
	{"bin/kube-controller-manager", "/usr/local/bin/kube-controller-manager", "/usr/local/bin/kube-controller-manager", 0o755, "root"},
	{"bin/kube-scheduler", "/usr/local/bin/kube-scheduler", "/usr/local/bin/kube-scheduler", 0o755, "root"},
	{"bin/kubectl", "/usr/local/bin/kubectl", "/usr/local/bin/kubectl", 0o755, "root"},
	{"bin/kubelet", "/usr/local/bin/kubelet", "/usr/local/bin/kubelet", 0o755, "root"},
	{"bin/kube-proxy", "/usr/local/bin/kube-proxy", "/usr/local/bin/kube-proxy", 0o755, "root"},
	{"bin/crictl", "/usr/local/bin/crictl", "/usr/local/bin/crictl", 0o755, "root"},
	{"bin/runc", "/usr/local/bin/runc", "/usr/local/bin/runc", 0o755, "root"},
	{"bin/containerd", "/usr/local/bin/containerd", "/bin/containerd", 0o755, "root"},
	{"bin/containerd-shim-runc-v2", "/usr/local/bin/containerd-shim-runc-v2", "/bin/containerd-shim-runc-v2", 0o755, "root"},
	{"bin/ctr", "/usr/local/bin/ctr", "/bin/ctr", 0o755, "root"},
	{"dir/cni-bin", "/opt/cni/bin", "/opt/cni/bin", 0o755, "root"},

	// Units.
	{"unit/etcd", "/etc/systemd/system/etcd.service", "/etc/systemd/system/etcd.service", 0o600, "root"},
	{"unit/kube-apiserver", "/etc/systemd/system/kube-apiserver.service", "/etc/systemd/system/kube-apiserver.service", 0o600, "root"},
	{"unit/kube-controller-manager", "/etc/systemd/system/kube-controller-manager.service", "/etc/systemd/system/kube-controller-manager.service", 0o600, "root"},
	{"unit/kube-scheduler", "/etc/systemd/system/kube-scheduler.service", "/etc/systemd/system/kube-scheduler.service", 0o600, "root"},
	{"unit/containerd", "/etc/systemd/system/containerd.service", "/etc/systemd/system/containerd.service", 0o600, "root"},
	{"unit/kubelet", "/etc/systemd/system/kubelet.service", "/etc/systemd/system/kubelet.service", 0o600, "root"},
	{"unit/kube-proxy", "/etc/systemd/system/kube-proxy.service", "/etc/systemd/system/kube-proxy.service", 0o600, "root"},
	{"unit/api-proxy", "/etc/systemd/system/kthwc-api-proxy.service", "/etc/systemd/system/kthwc-api-proxy.service", 0o600, "root"},
	{"unit/pod-routes", "/etc/systemd/system/kthwc-pod-routes.service", "/etc/systemd/system/kthwc-pod-routes.service", 0o600, "root"},

	// Data.
	{"dir/etcd-data", "/var/lib/etcd", "/var/lib/etcd", 0o700, "etcd"},
	{"dir/kubernetes", "/etc/kubernetes", "/var/lib/kubernetes", 0o755, "root"},
	{"dir/pki", "/etc/kubernetes/pki", "", 0o755, "root"},
	{"dir/etcd-conf", "/etc/etcd", "/etc/etcd", 0o755, "root"},
	{"dir/etcd-pki", "/etc/etcd/pki", "", 0o750, "etcd"},
	{"dir/kubernetes-config", "", "/etc/kubernetes/config", 0o755, "root"},
	{"dir/kubelet", "/var/lib/kubelet", "/var/lib/kubelet", 0o700, "root"},
	{"dir/kube-proxy", "", "/var/lib/kube-proxy", 0o755, "root"},
	{"dir/var-run-kubernetes", "", "/var/run/kubernetes", 0o755, "root"},
	{"dir/cni-conf", "/etc/cni/net.d", "/etc/cni/net.d", 0o755, "root"},
	{"dir/containerd", "/etc/containerd", "/etc/containerd", 0o755, "root"},
	{"dir/registry-hosts", "/etc/containerd/certs.d", "/etc/containerd/certs.d", 0o755, "root"},
	{"dir/audit-log", "/var/log/kubernetes", "", 0o700, "root"},
	{"audit-log", "/var/log/kubernetes/audit.log", "/var/log/audit.log", 0o600, "root"},

	// Trust bundles.
	{"ca/kubernetes-client", "/etc/kubernetes/pki/kubernetes-client-ca.crt", "/var/lib/kubernetes/ca.pem", 0o644, "root"},
	{"ca/apiserver-serving", "/etc/kubernetes/pki/apiserver-serving-ca.crt", "/var/lib/kubernetes/ca.pem", 0o644, "root"},
	{"ca/kubelet-serving", "/etc/kubernetes/pki/kubelet-serving-ca.crt", "/var/lib/kubernetes/ca.pem", 0o644, "root"},
	{"ca/front-proxy", "/etc/kubernetes/pki/front-proxy-ca.crt", "", 0o644, "root"},
	{"ca/etcd", "/etc/kubernetes/pki/etcd-ca.crt", "/var/lib/kubernetes/ca.pem", 0o644, "root"},                        // the API server's copy
	{"ca/etcd@etcd", "/etc/etcd/pki/ca.crt", "/etc/etcd/ca.pem", 0o644, "root"},                                        // etcd's own
	{"ca/etcd-peer@etcd", "/etc/etcd/pki/peer-ca.crt", "/etc/etcd/ca.pem", 0o644, "root"},                              // etcd's own
	{"ca/kubelet-client", "/etc/kubernetes/pki/kubernetes-client-ca.crt", "/var/lib/kubernetes/ca.pem", 0o644, "root"}, // the kubelet's clientCAFile
	{"ca/signer", "", "/var/lib/kubernetes/ca-signer.pem", 0o644, "root"},                                              // of a key on the host, while its authority is being replaced
	{"ca-key/signer", "", "/var/lib/kubernetes/ca-key.pem", 0o600, "root"},

	// Certificates and keys: .crt and .key of a role, by c.CertPath and c.KeyPath.
	{"cert/apiserver-serving", "/etc/kubernetes/pki/apiserver.crt", "/var/lib/kubernetes/kubernetes.pem", 0o644, "root"},
	{"key/apiserver-serving", "/etc/kubernetes/pki/apiserver.key", "/var/lib/kubernetes/kubernetes-key.pem", 0o600, "root"},
	{"cert/apiserver-kubelet-client", "/etc/kubernetes/pki/apiserver-kubelet-client.crt", "/var/lib/kubernetes/kubernetes.pem", 0o644, "root"},
	{"key/apiserver-kubelet-client", "/etc/kubernetes/pki/apiserver-kubelet-client.key", "/var/lib/kubernetes/kubernetes-key.pem", 0o600, "root"},
	{"cert/apiserver-etcd-client", "/etc/kubernetes/pki/apiserver-etcd-client.crt", "/var/lib/kubernetes/kubernetes.pem", 0o644, "root"},
	{"key/apiserver-etcd-client", "/etc/kubernetes/pki/apiserver-etcd-client.key", "/var/lib/kubernetes/kubernetes-key.pem", 0o600, "root"},
	{"cert/front-proxy-client", "/etc/kubernetes/pki/front-proxy-client.crt", "", 0o644, "root"},
	{"key/front-proxy-client", "/etc/kubernetes/pki/front-proxy-client.key", "", 0o600, "root"},
	{"cert/healthz", "/etc/kubernetes/pki/healthz-client.crt", "", 0o644, "root"},
	{"key/healthz", "/etc/kubernetes/pki/healthz-client.key", "", 0o600, "root"},
	{"cert/etcd-server", "/etc/etcd/pki/server.crt", "/etc/etcd/kubernetes.pem", 0o644, "etcd"},
	{"key/etcd-server", "/etc/etcd/pki/server.key", "/etc/etcd/kubernetes-key.pem", 0o600, "etcd"},
	{"cert/etcd-peer", "/etc/etcd/pki/peer.crt", "/etc/etcd/kubernetes.pem", 0o644, "etcd"},
	{"key/etcd-peer", "/etc/etcd/pki/peer.key", "/etc/etcd/kubernetes-key.pem", 0o600, "etcd"},
	{"cert/etcd-healthcheck", "/etc/etcd/pki/healthcheck-client.crt", "/etc/etcd/kubernetes.pem", 0o644, "root"},
	{"key/etcd-healthcheck", "/etc/etcd/pki/healthcheck-client.key", "/etc/etcd/kubernetes-key.pem", 0o600, "root"},
	{"cert/kubelet-serving", "/var/lib/kubelet/pki/kubelet-serving.crt", "/var/lib/kubelet/NODE.pem", 0o644, "root"},
	{"key/kubelet-serving", "/var/lib/kubelet/pki/kubelet-serving.key", "/var/lib/kubelet/NODE-key.pem", 0o600, "root"},
	{"service-account-public", "/etc/kubernetes/pki/sa.pub", "/var/lib/kubernetes/service-account.pem", 0o644, "root"},
	{"service-account-trusted", "/etc/kubernetes/pki/sa-GENERATION.pub", "/var/lib/kubernetes/service-account-GENERATION.pem", 0o644, "root"},
	{"service-account-key", "/etc/kubernetes/pki/sa.key", "/var/lib/kubernetes/service-account-key.pem", 0o600, "root"},
	{"dir/kubelet-pki", "/var/lib/kubelet/pki", "", 0o700, "root"},

	// Component configuration.
	{"encryption-config", "/etc/kubernetes/encryption-config.yaml", "/var/lib/kubernetes/encryption-config.yaml", 0o600, "root"},
	{"audit-policy", "/etc/kubernetes/audit-policy.yaml", "", 0o600, "root"},
	{"scheduler-config", "/etc/kubernetes/kube-scheduler.yaml", "/etc/kubernetes/config/kube-scheduler.yaml", 0o600, "root"},
	{"kubelet-config", "/var/lib/kubelet/config.yaml", "/var/lib/kubelet/kubelet-config.yaml", 0o600, "root"},
	{"kube-proxy-config", "/etc/kubernetes/kube-proxy.yaml", "/var/lib/kube-proxy/kube-proxy-config.yaml", 0o600, "root"},
	{"kubeconfig/kube-controller-manager", "/etc/kubernetes/controller-manager.conf", "/var/lib/kubernetes/kube-controller-manager.kubeconfig", 0o600, "root"},
	{"kubeconfig/kube-scheduler", "/etc/kubernetes/scheduler.conf", "/var/lib/kubernetes/kube-scheduler.kubeconfig", 0o600, "root"},
	{"kubeconfig/kubelet", "/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/kubeconfig", 0o600, "root"},
	{"kubeconfig/kube-proxy", "/etc/kubernetes/proxy.conf", "/var/lib/kube-proxy/kubeconfig", 0o600, "root"},
	{"cni-bridge", "/etc/cni/net.d/10-bridge.conflist", "/etc/cni/net.d/10-bridge.conf", 0o600, "root"},
	{"cni-loopback", "/etc/cni/net.d/99-loopback.conf", "/etc/cni/net.d/99-loopback.conf", 0o600, "root"},
	{"containerd-config", "/etc/containerd/config.toml", "/etc/containerd/config.toml", 0o600, "root"},
	{"containerd-proxy", "/etc/systemd/system/containerd.service.d/http-proxy.conf", "/etc/systemd/system/containerd.service.d/http-proxy.conf", 0o600, "root"},
	{"crictl-config", "/etc/crictl.yaml", "", 0o644, "root"},
	{"api-proxy-config", "/etc/kubernetes/kthwc-api-proxy.cfg", "/etc/kubernetes/kthwc-api-proxy.cfg", 0o644, "root"},

	// The host.
	{"nginx-site", "/etc/nginx/sites-available/kubernetes.default.svc.DOMAIN", "/etc/nginx/sites-available/kubernetes.default.svc.DOMAIN", 0o644, "root"},
	{"nginx-link", "/etc/nginx/sites-enabled/kubernetes.default.svc.DOMAIN", "/etc/nginx/sites-enabled/kubernetes.default.svc.DOMAIN", 0o777, "root"},
	{"nginx-default", "/etc/nginx/sites-enabled/default", "/etc/nginx/sites-enabled/default", 0, "root"},
	{"hosts", "/etc/hosts", "/etc/hosts", 0o644, "root"},
	{"modules", "/etc/modules-load.d/kthwc.conf", "/etc/modules-load.d/kthwc.conf", 0o644, "root"},
	{"sysctl", "/etc/sysctl.d/90-kthwc.conf", "/etc/sysctl.d/90-kthwc.conf", 0o644, "root"},
	{"pod-routes", "/etc/kubernetes/pod-routes", "/etc/kubernetes/pod-routes", 0o644, "root"},
}

var layoutByName = func() map[string]*layoutRow {
	m := make(map[string]*layoutRow, len(layout))
	for i := range layout {
		m[layout[i].Logical] = &layout[i]
	}
	return m
}()

// Path is where the logical file lies on the node; "" if this profile has no
// such file. node may be nil where the path does not depend on it.
func (c *Cluster) Path(logical string, node *Node) string {
	row := layoutByName[logical]
	if row == nil {
		return ""
	}
	path := row.Hardened
	if c.Profile.V == schema.Tutorial {
		path = row.Tutorial
	}
	path = strings.ReplaceAll(path, "DOMAIN", c.Network.Domain.V)
	if node != nil {
		path = strings.ReplaceAll(path, "NODE", node.Name.V)
	}
	return path
}

// Mode is the least mode of the logical file that its readers can live with.
// The tutorial leaves units and configuration readable by all.
func (c *Cluster) Mode(logical string) uint32 {
	row := layoutByName[logical]
	if row == nil {
		return 0o600
	}
	config := strings.HasSuffix(logical, "-config") && !strings.HasPrefix(logical, "dir/")
	public := strings.HasPrefix(logical, "unit/") || config || strings.HasPrefix(logical, "cni-")
	if c.Profile.V == schema.Tutorial && public && logical != "encryption-config" {
		return 0o644
	}
	return row.Mode
}

// Owner is the user and group of the logical file.
func (c *Cluster) Owner(logical string) string {
	row := layoutByName[logical]
	if row == nil || c.Profile.V == schema.Tutorial {
		return "root"
	}
	return row.Owner
}
