package compile

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/schema"
)

func model(t *testing.T, path string, edits ...string) (*Cluster, diag.List) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(edits) > 0 && edits[0] == "NETWORK" {
		edits = dual
	}
	source := strings.NewReplacer(edits...).Replace(string(text))
	if len(edits) > 0 && source == string(text) {
		t.Fatalf("%s has no %q", path, edits[0])
	}
	doc, faults := schema.Load("cluster.yaml", []byte(source))
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	return Compile(doc, Facts{})
}

// dual makes the example dual-stack.
var dual = []string{
	"nodeCIDR: 10.240.0.0/24", `nodeCIDR: [10.240.0.0/24, "fd00:1::/64"]`, "podCIDR: 10.200.0.0/16", `podCIDR: [10.200.0.0/16, "fd00:2::/48"]`,
	"serviceCIDR: 10.32.0.0/24", `serviceCIDR: [10.32.0.0/24, "fd00:3::/112"]`,
	"address: 10.240.0.10", `address: [10.240.0.10, "fd00:1::10"]`, "address: 10.240.0.11", `address: [10.240.0.11, "fd00:1::11"]`, "address: 10.240.0.12", `address: [10.240.0.12, "fd00:1::12"]`,
	"address: 10.240.0.20", `address: [10.240.0.20, "fd00:1::20"]`, "address: 10.240.0.21", `address: [10.240.0.21, "fd00:1::21"]`, "address: 10.240.0.22", `address: [10.240.0.22, "fd00:1::22"]`,
}

var examples = []string{
	"../../examples/cluster.yaml", "../../examples/kthw-1.21.yaml", "../../examples/kthw-1.32.yaml", "../../examples/lab.yaml", "../../examples/lab-tutorial.yaml",
	"../../examples/lab-server.yaml", "../../golden/dual-stack/cluster.yaml", "../../golden/mixed-pool/cluster.yaml", "../../golden/customised/cluster.yaml", "../../golden/single-node/cluster.yaml",
}

func find(c *Cluster, code string) []finding {
	for _, p := range proofs {
		if p.code == code {
			return p.find(c)
		}
	}
	return nil
}

func certNamed(c *Cluster, role string) *Cert {
	return c.Certs[slices.IndexFunc(c.Certs, func(cert *Cert) bool { return cert.Role == role })]
}

// Each proof of the finished model sees the one thing that is broken.
func TestProofsSeeABrokenModel(t *testing.T) {
	for _, b := range []struct {
		name, code string
		damage     func(*Cluster)
	}{
		{"a name that is dialled is not in the certificate", "E0107", func(c *Cluster) {
			cert := certNamed(c, "etcd-server")
			cert.SANs = slices.DeleteFunc(cert.SANs, func(s SAN) bool { return s.Value.V == "127.0.0.1" })
		}},
		{"the Service's address is not in the certificate", "E0107", func(c *Cluster) {
			cert := certNamed(c, "apiserver-serving")
			cert.SANs = slices.DeleteFunc(cert.SANs, func(s SAN) bool { return s.Value.V == "10.32.0.1" })
		}},
		{"a server of another authority", "E0107", func(c *Cluster) { certNamed(c, "kubelet-serving").CA = "etcd" }},
		{"a client of another authority", "E0107", func(c *Cluster) { certNamed(c, "apiserver-etcd-client").CA = "kubernetes-client" }},
		{"a server certificate for clients", "E0107", func(c *Cluster) { certNamed(c, "apiserver-serving").Usages = client }},
		{"a client certificate for servers", "E0107", func(c *Cluster) { certNamed(c, "kube-scheduler").Usages = server }},
		{"nobody listens", "E0107", func(c *Cluster) { c.Listeners = nil }},
		{"a certificate that nobody issues", "E0107", func(c *Cluster) {
			c.Certs = slices.DeleteFunc(c.Certs, func(x *Cert) bool { return x.Role == "healthz" })
		}},
		{"a kubelet with another name", "E0108", func(c *Cluster) { certNamed(c, "kubelet-client").CommonName.V = "worker-0" }},
		{"a kubelet outside its group", "E0108", func(c *Cluster) { certNamed(c, "kubelet-client").Org.V = "nodes" }},
		{"a user that is not its certificate's", "E0109", func(c *Cluster) { c.Kubeconfig[0].User.V = "nobody" }},
		{"a kubeconfig without a certificate", "E0109", func(c *Cluster) { c.Kubeconfig[0].Cert = "none" }},
		{"a role for another user", "E0110", func(c *Cluster) { c.KubeletClient = origin.Of("kubernetes", origin.Origin{}) }},
	} {
		t.Run(b.name, func(t *testing.T) {
			c, faults := model(t, examples[0])
			if faults.HasErrors() || len(find(c, b.code)) > 0 {
				t.Fatalf("the example is broken already: %v %v", faults, find(c, b.code))
			}
			b.damage(c)
			if len(find(c, b.code)) == 0 {
				t.Error("nothing was found")
			}
		})
	}
}

// What users can break through extraArgs and fields is reported at its place.
func TestProofsBlameTheUsersField(t *testing.T) {
	const nodes = "  nodes:"
	for _, c := range []struct{ name, code, path, old, new string }{
		{"other members", "E0111", "spec.extraArgs.etcd.initial-cluster", nodes, "  extraArgs: {etcd: {initial-cluster: a=https://10.0.0.1:2380}}\n  nodes:"},
		{"other servers", "E0111", "spec.extraArgs.kube-apiserver.etcd-servers", nodes, "  extraArgs: {kube-apiserver: {etcd-servers: https://10.0.0.1:2379}}\n  nodes:"},
		{"another Service range", "E0112", "spec.extraArgs.kube-controller-manager.service-cluster-ip-range", nodes, "  extraArgs: {kube-controller-manager: {service-cluster-ip-range: 10.99.0.0/24}}\n  nodes:"},
		{"another pod range", "E0112", "spec.extraArgs.kube-controller-manager.cluster-cidr", nodes, "  extraArgs: {kube-controller-manager: {cluster-cidr: 10.99.0.0/16}}\n  nodes:"},
		{"another signing key", "E0112", "spec.extraArgs.kube-apiserver.service-account-signing-key-file", nodes, "  extraArgs: {kube-apiserver: {service-account-signing-key-file: /etc/other.key}}\n  nodes:"},
		{"a mode that 1.21 does not have", "E0116", "spec.kubeProxy.mode", `version: "1.37.2"`, "version: \"1.21.0\"\n  kubeProxy: {mode: nftables}"},
		{"no audit policy", "E0127", "spec.extraArgs.kube-apiserver.audit-policy-file", nodes, "  extraArgs: {kube-apiserver: {audit-policy-file: \"\"}}\n  nodes:"},
		{"a digit in front", "E0128", "spec.nodes[2nd].name", "name: worker-2", "name: 2nd"},
		{"an Arm machine of an x86 type", "E0128", "spec.nodes[worker-2].arch", "name: worker-2", "name: worker-2\n      arch: arm64"},
		{"a zone elsewhere", "E0128", "spec.provider.gcp.zone", "zone: us-west1-c", "zone: us-east1-b"},
		{"a pod range without pods", "E0104", "spec.nodes[controller-0].podCIDR", "address: 10.240.0.10", "address: 10.240.0.10\n      podCIDR: 10.200.9.0/24"},
		{"an IPv6 range for the cloud", "E0128", "spec.network.nodeCIDR", "NETWORK", ""},
		{"a replaced flag", "W0103", "spec.extraArgs.kubelet.v", nodes, "  extraArgs: {kubelet: {v: \"4\"}}\n  nodes:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, faults := model(t, examples[0], c.old, c.new)
			at := slices.IndexFunc(faults, func(d diag.Diagnostic) bool { return d.Code == c.code })
			if at < 0 || faults[at].Path != c.path || !faults[at].Pos.IsValid() || faults[at].Help == "" {
				t.Errorf("got %v", faults)
			}
		})
	}
}

func TestExamplesHoldEveryProof(t *testing.T) {
	for _, path := range examples {
		c, faults := model(t, path)
		if faults.HasErrors() {
			t.Fatal(path, faults)
		}
		for _, p := range proofs {
			if found := p.find(c); len(found) > 0 {
				t.Errorf("%s: %s: %v", path, p.code, found)
			}
		}
	}
}

// The profile's own mode gives way to an old release; a written one does not.
func TestProxyModeFollowsTheRelease(t *testing.T) {
	c, faults := model(t, examples[0], `version: "1.37.2"`, `version: "1.21.0"`)
	if faults.HasErrors() || c.KubeProxy.Mode.V != "iptables" || !c.KubeProxy.Mode.From.Has("row:nftables-mode") {
		t.Errorf("%v %v", c, faults)
	}
}
