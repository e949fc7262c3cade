package render

import (
	"cmp"
	"fmt"
	"path"
	"strings"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/gcp"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

// reasons says why each constant of the rendered files is there.
var reasons = map[string]string{
	"input":     "The cluster.yaml that everything here was rendered from, verbatim.",
	"directory": "Programs and files of the node need the directory.",
	"swap":      "The kubelet does not start while swap is on, unless told otherwise: memory limits would mean nothing.",

	"package-nginx": "Answers the balancer's health check, which speaks plain HTTP only.", "package-haproxy": "The worker's own proxy to the API servers.",
	"package-socat": "Port-forward copies bytes through it.", "package-conntrack": "kube-proxy deletes stale connection entries with it.",
	"package-ipset": "kube-proxy's ipvs mode keeps address sets with it.", "package-kmod": "Loads kernel modules.",
	"user-etcd": "etcd runs as its own user: nothing else can read its data directory.",

	"unit-section": "Units have three sections: what it is, what it runs, and when it is wanted.", "unit-description": "What `systemctl status` shows.",
	"unit-after-etcd": "Start once the node has its address.", "unit-after-kube-apiserver": "Start once the node has its address.",
	"unit-after-kube-controller-manager": "Start once the node has its address.", "unit-after-kube-scheduler": "Start once the node has its address.",
	"unit-after-kube-proxy": "Start once the node has its address.", "unit-after-containerd": "Pods want the network.", "unit-after-kubelet": "The kubelet asks the runtime for everything.",
	"unit-after-api-proxy": "Start once the node has its address.", "unit-before-api-proxy": "The kubelet and kube-proxy dial it.",
	"unit-wants": "After= alone does not pull the target in.", "unit-requires-kubelet": "Without the runtime the kubelet is of no use.",
	"unit-exec": "The program, by its absolute path.", "unit-restart": "Start it again five seconds after it fails.", "unit-wanted-by": "Start it at boot.",
	"unit-etcd-Type": "etcd tells systemd when it serves; with several members that is when they have a majority.", "unit-etcd-User": "Least rights (CIS 1.1.12).",
	"unit-containerd-ExecStartPre": "The overlay module carries the images' layers; the dash forgives kernels that have it built in.",
	"unit-containerd-Delegate":     "containerd manages the cgroups of pods itself.", "unit-containerd-KillMode": "Pods survive a restart of containerd.",
	"unit-containerd-OOMScoreAdjust": "The kernel kills pods before it kills the runtime.", "unit-containerd-LimitNOFILE": "Every pod costs the runtime open files.",
	"unit-containerd-LimitNPROC": "Pods are bounded by their own limits.", "unit-containerd-LimitCORE": "Core dumps are not cut short.",
	"unit-api-proxy-Type": "The proxy tells systemd when it serves.",
	"api-proxy":           "A proxy on every worker spreads connections over the API servers and leaves out one that is down within two seconds.",

	"config-kind": "The kind of the file, in the version that this release reads.", "scheduler-config": "How the scheduler reaches the API server.", "kube-proxy-config": "How kube-proxy reaches the API server.",
	"leader-election": "One of the schedulers works at a time.",
	"encryption":      "Which resources are encrypted before they reach etcd.", "encryption-identity": "Reads what was written before encryption was on.",
	"kubelet-authentication": "Who may talk to the kubelet.", "kubelet-anonymous": "Nobody without a name (CIS 4.2.1).", "kubelet-webhook": "Tokens are checked with the API server.",
	"kubelet-clientCAFile": "Client certificates of this authority are users (CIS 4.2.3).", "kubelet-authorization": "What they may do is checked with the API server (CIS 4.2.2).",
	"kubelet-clusterDNS": "Where pods resolve names.", "kubelet-tls": "What the kubelet shows the API server (CIS 4.2.9).",
	"kubelet-runtimeRequestTimeout": "Pulling a large image may take this long.", "kubelet-containerRuntimeEndpoint": "The socket of the runtime.",
	"kubelet-cgroupDriver":   "systemd owns the cgroups; kubelet and runtime must agree on it.",
	"kubelet-eventRecordQPS": "Events are limited, not dropped altogether (CIS 4.2.8).", "kubelet-makeIPTablesUtilChains": "kube-proxy counts on these chains (CIS 4.2.6).",
	"kubelet-podPidsLimit": "One pod cannot use up the node's process IDs (CIS 4.2.13).", "kubelet-readOnlyPort": "No port without authentication (CIS 4.2.4).",
	"kubelet-seccompDefault": "Pods get the runtime's system call filter (CIS 4.2.14).", "kubelet-streamingConnectionIdleTimeout": "Idle exec sessions end (CIS 4.2.5).",
	"kubelet-tlsMinVersion": "No TLS before 1.2.", "kubelet-registerNode": "The kubelet creates its Node object.", "kubelet-taints": "Set when the kubelet creates its Node object.",
	"kube-proxy-metrics": "Metrics on loopback only (CIS 4.3.1).",
	"cni-bridge":         "Pods of this node share a bridge.", "cni-isGateway": "The bridge is the pods' gateway.", "cni-ipMasq": "Pods reach the world from the node's address.",
	"cni-ipam": "Addresses come from the node's own range.", "cni-route": "Everything leaves through the bridge.", "cni-portmap": "hostPort works.", "cni-loopback": "Every pod has a loopback interface.",
	"containerd-snapshotter": "Image layers are stacked by overlayfs.", "containerd-runc": "Containers are started by runc.",
	"crictl":            "crictl finds the runtime without guessing, which it warns of.",
	"containerd-cgroup": "systemd owns the cgroups; the kubelet must agree on it.", "containerd-mirrors": "Where the mirrors of registries are listed.",
	"audit-policy": "What the API server records.", "audit-health": "Health checks would drown everything else.", "audit-secrets": "Who touched a secret, never its content.",
	"audit-exec": "Who ran what in which pod.", "audit-rbac": "Every change of rights, in full.", "audit-rest": "Who did what, for everything else.",

	"hosts":               "Nodes find one another by name without a name server.",
	"module-br_netfilter": "Lets packets between pods of one node pass kube-proxy's rules.", "module-overlay": "Carries the images' layers.",
	"module-ip_vs": "kube-proxy's ipvs mode balances in the kernel with it.", "module-ip_vs_rr": "The default way to spread connections in ipvs mode.", "module-nf_conntrack": "ipvs mode follows connections with it.",
	"sysctl-bridge": "Without it a Service fails when its pod is on the client's own node.", "sysctl-forward": "Without it NodePorts time out on a node without pods.",
	"pod-routes": "Pods of other nodes are reached through their nodes; the unit puts the routes back after every boot.",
	"healthz":    "Balancers check plain HTTP; the API server speaks TLS only.", "healthz-port": "Where the balancer asks.",
	"healthz-target": "The API server beside it. /readyz also fails while the server is stopping.", "healthz-verify": "The answer must come from the real API server.",
	"healthz-client": "The API server answers nobody without a certificate.",
	"kubeconfig":     "Where the API server is, whom to trust, and who one is.", "certificates": "Everything that must be issued.",
	"connections":  "Who dials whom, for whoever keeps the firewall.",
	"kubelet-rbac": "The API server may call kubelets, for logs, exec and metrics.", "operators": "The operators' group may do everything, and can be unbound.",
	"healthz-rbac": "The health check may see health, and nothing else.", "coredns": "Names of Services and pods.", "coredns-forward": "Names outside the cluster go to the node's own resolvers.",
}

// Reason is the sentence behind the ID of a fixed origin; "" if there is none.
func Reason(id string) string {
	return cmp.Or(reasons[id], gcp.Reason(id), compile.Reason(id))
}

// Because is a source that no cluster.yaml writes, in words; ok is false for a field.
func Because(source string, release *schema.Release) (text string, ok bool) {
	if id, ok := strings.CutPrefix(source, origin.PrefixFixed); ok {
		return Reason(id), true
	}
	if id, ok := strings.CutPrefix(source, origin.PrefixRow); ok {
		return fmt.Sprintf("version table, %s: %s", id, release.Reference(id)), true
	}
	if path, ok := strings.CutPrefix(source, origin.PrefixDefault); ok {
		return fmt.Sprintf("default of %s: %s", path, schema.Doc(path)), true
	}
	if keyset, ok := strings.CutPrefix(source, origin.PrefixInventory); ok {
		return fmt.Sprintf("inventory.yaml: the rotation of %s", keyset), true
	}
	if file, ok := strings.CutPrefix(source, origin.PrefixOverlay); ok {
		return "the overlay " + file, true
	}
	return "", false
}

// FlagReason is why a unit has the flag of one of its lines, where the line
// itself knows only which fields the value comes from; "" for any other line.
func FlagReason(unit string, l tree.Line) string {
	name, isFlag := strings.CutPrefix(strings.TrimLeft(l.String(), " "), "--")
	if !isFlag {
		return ""
	}
	name, _, _ = strings.Cut(strings.TrimSuffix(name, " \\"), "=")
	id := "flag-" + strings.TrimSuffix(path.Base(unit), ".service") + "-" + name
	if l.From.Has(origin.PrefixFixed + id) {
		return ""
	}
	return Reason(id)
}
