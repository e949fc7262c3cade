package render_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/tree"
)

// The tutorial's 1.21 edition as it is typed on controller-0 and worker-0, with
// its variables filled in: what each unit runs. A flag that is written with a
// space there stands with an equals sign here; the component cannot tell.
var tutorialUnits = map[string][]string{
	"controller-0 etcd": {
		"/usr/local/bin/etcd",
		"--name=controller-0",
		"--cert-file=/etc/etcd/kubernetes.pem",
		"--key-file=/etc/etcd/kubernetes-key.pem",
		"--peer-cert-file=/etc/etcd/kubernetes.pem",
		"--peer-key-file=/etc/etcd/kubernetes-key.pem",
		"--trusted-ca-file=/etc/etcd/ca.pem",
		"--peer-trusted-ca-file=/etc/etcd/ca.pem",
		"--peer-client-cert-auth",
		"--client-cert-auth",
		"--initial-advertise-peer-urls=https://10.240.0.10:2380",
		"--listen-peer-urls=https://10.240.0.10:2380",
		"--listen-client-urls=https://10.240.0.10:2379,https://127.0.0.1:2379",
		"--advertise-client-urls=https://10.240.0.10:2379",
		"--initial-cluster-token=etcd-cluster-0",
		"--initial-cluster=controller-0=https://10.240.0.10:2380,controller-1=https://10.240.0.11:2380,controller-2=https://10.240.0.12:2380",
		"--initial-cluster-state=new",
		"--data-dir=/var/lib/etcd",
	},
	"controller-0 kube-apiserver": {
		"/usr/local/bin/kube-apiserver",
		"--advertise-address=10.240.0.10",
		"--allow-privileged=true",
		"--apiserver-count=3",
		"--audit-log-maxage=30",
		"--audit-log-maxbackup=3",
		"--audit-log-maxsize=100",
		"--audit-log-path=/var/log/audit.log",
		"--authorization-mode=Node,RBAC",
		"--bind-address=0.0.0.0",
		"--client-ca-file=/var/lib/kubernetes/ca.pem",
		"--enable-admission-plugins=NamespaceLifecycle,NodeRestriction,LimitRanger,ServiceAccount,DefaultStorageClass,ResourceQuota",
		"--etcd-cafile=/var/lib/kubernetes/ca.pem",
		"--etcd-certfile=/var/lib/kubernetes/kubernetes.pem",
		"--etcd-keyfile=/var/lib/kubernetes/kubernetes-key.pem",
		"--etcd-servers=https://10.240.0.10:2379,https://10.240.0.11:2379,https://10.240.0.12:2379",
		"--event-ttl=1h",
		"--encryption-provider-config=/var/lib/kubernetes/encryption-config.yaml",
		"--kubelet-certificate-authority=/var/lib/kubernetes/ca.pem",
		"--kubelet-client-certificate=/var/lib/kubernetes/kubernetes.pem",
		"--kubelet-client-key=/var/lib/kubernetes/kubernetes-key.pem",
		"--runtime-config=api/all=true",
		"--service-account-key-file=/var/lib/kubernetes/service-account.pem",
		"--service-account-signing-key-file=/var/lib/kubernetes/service-account-key.pem",
		"--service-account-issuer=https://203.0.113.10:6443",
		"--service-cluster-ip-range=10.32.0.0/24",
		"--service-node-port-range=30000-32767",
		"--tls-cert-file=/var/lib/kubernetes/kubernetes.pem",
		"--tls-private-key-file=/var/lib/kubernetes/kubernetes-key.pem",
		"--v=2",
	},
	"controller-0 kube-controller-manager": {
		"/usr/local/bin/kube-controller-manager",
		"--bind-address=0.0.0.0",
		"--cluster-cidr=10.200.0.0/16",
		"--cluster-name=kubernetes",
		"--cluster-signing-cert-file=/var/lib/kubernetes/ca.pem",
		"--cluster-signing-key-file=/var/lib/kubernetes/ca-key.pem",
		"--kubeconfig=/var/lib/kubernetes/kube-controller-manager.kubeconfig",
		"--leader-elect=true",
		"--root-ca-file=/var/lib/kubernetes/ca.pem",
		"--service-account-private-key-file=/var/lib/kubernetes/service-account-key.pem",
		"--service-cluster-ip-range=10.32.0.0/24",
		"--use-service-account-credentials=true",
		"--v=2",
	},
	"controller-0 kube-scheduler": {"/usr/local/bin/kube-scheduler", "--config=/etc/kubernetes/config/kube-scheduler.yaml", "--v=2"},
	"worker-0 containerd":         {"/bin/containerd"},
	"worker-0 kubelet": {
		"/usr/local/bin/kubelet",
		"--config=/var/lib/kubelet/kubelet-config.yaml",
		"--container-runtime=remote",
		"--container-runtime-endpoint=unix:///var/run/containerd/containerd.sock",
		"--image-pull-progress-deadline=2m",
		"--kubeconfig=/var/lib/kubelet/kubeconfig",
		"--network-plugin=cni",
		"--register-node=true",
		"--v=2",
	},
	"worker-0 kube-proxy": {"/usr/local/bin/kube-proxy", "--config=/var/lib/kube-proxy/kube-proxy-config.yaml"},
}

// The tutorial's keys of units beside ExecStart: those that decide what systemd does.
var tutorialKeys = map[string]string{
	"controller-0 etcd":                    "Type=notify Restart=on-failure RestartSec=5 WantedBy=multi-user.target",
	"controller-0 kube-apiserver":          "Restart=on-failure RestartSec=5 WantedBy=multi-user.target",
	"controller-0 kube-controller-manager": "Restart=on-failure RestartSec=5 WantedBy=multi-user.target",
	"controller-0 kube-scheduler":          "Restart=on-failure RestartSec=5 WantedBy=multi-user.target",
	"worker-0 containerd":                  "After=network.target Restart=always RestartSec=5 Delegate=yes KillMode=process OOMScoreAdjust=-999 LimitNOFILE=1048576 LimitNPROC=infinity LimitCORE=infinity WantedBy=multi-user.target",
	"worker-0 kubelet":                     "After=containerd.service Requires=containerd.service Restart=on-failure RestartSec=5 WantedBy=multi-user.target",
	"worker-0 kube-proxy":                  "Restart=on-failure RestartSec=5 WantedBy=multi-user.target",
}

// The tutorial's configuration files, as data.
var tutorialFiles = map[string]string{
	"controller-0:/etc/kubernetes/config/kube-scheduler.yaml": `{apiVersion: kubescheduler.config.k8s.io/v1beta1, kind: KubeSchedulerConfiguration,
		clientConnection: {kubeconfig: /var/lib/kubernetes/kube-scheduler.kubeconfig}, leaderElection: {leaderElect: true}}`,
	"controller-0:/var/lib/kubernetes/encryption-config.yaml": `{apiVersion: v1, kind: EncryptionConfig, resources: [{resources: [secrets], providers: [
		{aescbc: {keys: [{name: key1, secret: "${secret:keys/encryption/key1|base64}"}]}}, {identity: {}}]}]}`,
	"worker-0:/etc/cni/net.d/10-bridge.conf": `{cniVersion: 0.4.0, name: bridge, type: bridge, bridge: cnio0, isGateway: true, ipMasq: true,
		ipam: {type: host-local, ranges: [[{subnet: 10.200.0.0/24}]], routes: [{dst: 0.0.0.0/0}]}}`,
	"worker-0:/etc/cni/net.d/99-loopback.conf": `{cniVersion: 0.4.0, name: lo, type: loopback}`,
	"worker-0:/var/lib/kubelet/kubelet-config.yaml": `{apiVersion: kubelet.config.k8s.io/v1beta1, kind: KubeletConfiguration,
		authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /var/lib/kubernetes/ca.pem}},
		authorization: {mode: Webhook}, clusterDomain: cluster.local, clusterDNS: [10.32.0.10], podCIDR: 10.200.0.0/24,
		resolvConf: /run/systemd/resolve/resolv.conf, runtimeRequestTimeout: 15m,
		tlsCertFile: /var/lib/kubelet/worker-0.pem, tlsPrivateKeyFile: /var/lib/kubelet/worker-0-key.pem}`,
	"worker-0:/var/lib/kube-proxy/kube-proxy-config.yaml": `{apiVersion: kubeproxy.config.k8s.io/v1alpha1, kind: KubeProxyConfiguration,
		clientConnection: {kubeconfig: /var/lib/kube-proxy/kubeconfig}, mode: iptables, clusterCIDR: 10.200.0.0/16}`,
}

// The tutorial's kubeconfigs: user and server.
var tutorialKubeconfigs = map[string][2]string{
	"worker-0:/var/lib/kubelet/kubeconfig":                                {"system:node:worker-0", "https://203.0.113.10:6443"},
	"worker-2:/var/lib/kubelet/kubeconfig":                                {"system:node:worker-2", "https://203.0.113.10:6443"},
	"worker-0:/var/lib/kube-proxy/kubeconfig":                             {"system:kube-proxy", "https://203.0.113.10:6443"},
	"controller-0:/var/lib/kubernetes/kube-controller-manager.kubeconfig": {"system:kube-controller-manager", "https://127.0.0.1:6443"},
	"controller-0:/var/lib/kubernetes/kube-scheduler.kubeconfig":          {"system:kube-scheduler", "https://127.0.0.1:6443"},
	"client/admin.kubeconfig":                                             {"admin", "https://203.0.113.10:6443"},
}

// tutorialExtra are the files that the tutorial does not have, and why they are rendered.
var tutorialExtra = map[string]string{
	"/etc/hosts":                     "the tutorial's machines found one another by Google's name server",
	"/etc/modules-load.d/kthwc.conf": "without br_netfilter a Service fails from its pod's own node",
	"/etc/sysctl.d/90-kthwc.conf":    "without ip_forward a NodePort fails on a node without pods",
}

func TestTutorialIsTheTutorial(t *testing.T) {
	out := build(t, "../../examples/kthw-1.21.yaml")
	flags := 0
	for name, want := range tutorialUnits {
		node, unit, _ := strings.Cut(name, " ")
		argv, keys := unitOf(t, out.Node(node).File("/etc/systemd/system/"+unit+".service"))
		slices.Sort(argv[1:])
		slices.Sort(want[1:])
		if diff := cmp.Diff(want, argv); diff != "" {
			t.Errorf("%s (-tutorial +rendered):\n%s", name, diff)
		}
		for _, k := range strings.Fields(tutorialKeys[name]) {
			if !slices.Contains(keys, k) {
				t.Errorf("%s has no %s", name, k)
			}
		}
		flags += len(argv) - 1
	}
	if flags != 69 {
		t.Errorf("%d flags in all; the tutorial has 69", flags)
	}
	for name, text := range tutorialFiles {
		if diff := cmp.Diff(data(t, text), data(t, content(t, out, name))); diff != "" {
			t.Errorf("%s (-tutorial +rendered):\n%s", name, diff)
		}
	}
	for name, want := range tutorialKubeconfigs {
		checkKubeconfig(t, name, content(t, out, name), want)
	}
	checkContainerd(t, content(t, out, "worker-0:/etc/containerd/config.toml"))
}

// unitOf gives a unit's command line and the other settings that it has.
func unitOf(t *testing.T, f *tree.File) (argv, keys []string) {
	t.Helper()
	unit, err := emit.ParseUnit(string(f.Body.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range unit {
		if d.Key != "ExecStart" {
			keys = append(keys, d.Key+"="+d.Value)
			continue
		}
		if argv, err = emit.ParseExec(d.Value); err != nil {
			t.Fatal(err)
		}
	}
	return argv, keys
}

// content is the text of NODE:PATH, or of a file of no node.
func content(t *testing.T, out *tree.Tree, name string) string {
	t.Helper()
	f := out.File(name)
	if node, path, ok := strings.Cut(name, ":"); ok {
		f = out.Node(node).File(path)
	}
	if f == nil || f.Body == nil {
		t.Fatalf("%s is not rendered", name)
	}
	return string(f.Body.Bytes())
}

func data(t *testing.T, text string) (v any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return v
}

func checkKubeconfig(t *testing.T, name, text string, want [2]string) {
	t.Helper()
	var k struct {
		Clusters []struct {
			Name    string
			Cluster struct{ Server string }
		}
		Contexts []struct {
			Context struct{ User, Cluster string }
		}
		CurrentContext string `json:"current-context"`
		Users          []struct{ Name string }
	}
	if err := yaml.Unmarshal([]byte(text), &k); err != nil {
		t.Fatal(err)
	}
	got := [2]string{k.Users[0].Name, k.Clusters[0].Cluster.Server}
	if got != want || k.Contexts[0].Context.User != want[0] || k.Clusters[0].Name != "kubernetes-the-hard-way" || k.CurrentContext != "default" {
		text, _ := json.Marshal(k)
		t.Errorf("%s: %s; the tutorial has %v", name, text, want)
	}
}

// checkContainerd compares with the tutorial's three tables, which are of the
// first version of containerd's configuration.
func checkContainerd(t *testing.T, text string) {
	t.Helper()
	for _, want := range []string{
		"[plugins.cri.containerd]\n", "snapshotter = \"overlayfs\"\n", "[plugins.cri.containerd.default_runtime]\n",
		"runtime_type = \"io.containerd.runtime.v1.linux\"\n", "runtime_engine = \"/usr/local/bin/runc\"\n", "runtime_root = \"\"\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("containerd's configuration has no %q", want)
		}
	}
	if strings.Contains(text, "version") {
		t.Error("containerd's configuration has a version; the tutorial's has none")
	}
}

// TestTutorialPaths holds every path of both machines against the tutorial's.
func TestTutorialPaths(t *testing.T) {
	want := map[string]string{
		"controller-0": `/etc/etcd/ca.pem /etc/etcd/kubernetes-key.pem /etc/etcd/kubernetes.pem /etc/kubernetes/config/kube-scheduler.yaml
			/etc/nginx/sites-available/kubernetes.default.svc.cluster.local /etc/systemd/system/etcd.service /etc/systemd/system/kube-apiserver.service
			/etc/systemd/system/kube-controller-manager.service /etc/systemd/system/kube-scheduler.service /var/lib/kubernetes/ca-key.pem /var/lib/kubernetes/ca.pem
			/var/lib/kubernetes/encryption-config.yaml /var/lib/kubernetes/kube-controller-manager.kubeconfig /var/lib/kubernetes/kube-scheduler.kubeconfig
			/var/lib/kubernetes/kubernetes-key.pem /var/lib/kubernetes/kubernetes.pem /var/lib/kubernetes/service-account-key.pem /var/lib/kubernetes/service-account.pem`,
		"worker-0": `/etc/cni/net.d/10-bridge.conf /etc/cni/net.d/99-loopback.conf /etc/containerd/config.toml /etc/systemd/system/containerd.service
			/etc/systemd/system/kube-proxy.service /etc/systemd/system/kubelet.service /var/lib/kube-proxy/kube-proxy-config.yaml /var/lib/kube-proxy/kubeconfig
			/var/lib/kubelet/kubeconfig /var/lib/kubelet/kubelet-config.yaml /var/lib/kubelet/worker-0-key.pem /var/lib/kubelet/worker-0.pem /var/lib/kubernetes/ca.pem`,
	}
	out := build(t, "../../examples/kthw-1.21.yaml")
	for node, paths := range want {
		var got []string
		for _, f := range out.Node(node).Files {
			if _, extra := tutorialExtra[f.Path]; f.Kind == tree.Regular && !extra {
				got = append(got, f.Path)
			}
		}
		if diff := cmp.Diff(strings.Fields(paths), got); diff != "" {
			t.Errorf("%s (-tutorial +rendered):\n%s", node, diff)
		}
	}
}
