package compile_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/schema"
)

// The IDs that the tutorial prints, and that a live etcd had.
func TestEtcdIDs(t *testing.T) {
	var members []uint64
	for host, want := range map[string]uint64{"10": 0xf98dc20bce6225a0, "11": 0xffed16798470cab5, "12": 0x3a57933972cb5131} {
		id := compile.MemberID("etcd-cluster-0", "https://10.240.0."+host+":2380")
		if id != want {
			t.Errorf("member .%s is %x, want %x", host, id, want)
		}
		members = append(members, id)
	}
	if got := compile.ClusterID(members...); got != 0x3e7cc799faffb625 {
		t.Errorf("the cluster is %x", got)
	}
	alone := compile.MemberID("etcd-cluster-0", "http://127.0.0.1:2380")
	if alone != 0x6702b0a34e2cfd39 || compile.ClusterID(alone) != 0x1dda2deacb7d5fb1 {
		t.Errorf("a lone member is %x in cluster %x", alone, compile.ClusterID(alone))
	}
}

func compiled(t *testing.T, source string) (*compile.Cluster, diag.List) {
	t.Helper()
	doc, faults := schema.Load("cluster.yaml", []byte(source))
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	return compile.Compile(doc, compile.Facts{})
}

func example(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../examples/cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Each invariant is broken by one edit of the example, and only by that.
func TestInvariants(t *testing.T) {
	for _, c := range []struct{ name, code, old, new string }{
		{"a reserved node name", "E0101", "name: worker-2", "name: localhost"},
		{"two nodes with one address", "E0102", "address: 10.240.0.22", "address: 10.240.0.21"},
		{"a node outside the node range", "E0102", "address: 10.240.0.22", "address: 10.241.0.22"},
		{"pods and Services overlap", "E0103", "podCIDR: 10.200.0.0/16", "podCIDR: 10.32.0.0/16"},
		{"a range with host bits", "E0103", "nodeCIDR: 10.240.0.0/24", "nodeCIDR: 10.240.0.1/24"},
		{"a pod range outside", "E0104", "podCIDR: 10.200.2.0/24", "podCIDR: 10.201.2.0/24"},
		{"two pod ranges overlap", "E0104", "podCIDR: 10.200.2.0/24", "podCIDR: 10.200.1.0/24"},
		{"too small a pod range", "E0104", "podCIDR: 10.200.2.0/24", "podCIDR: 10.200.2.0/28"},
		{"too small a Service range", "E0105", "serviceCIDR: 10.32.0.0/24", "serviceCIDR: 10.32.0.8/29"},
		{"DNS outside the Service range", "E0106", "clusterDNS: 10.32.0.10", "clusterDNS: 10.33.0.10"},
		{"DNS on the API's address", "E0106", "clusterDNS: 10.32.0.10", "clusterDNS: 10.32.0.1"},
		{"an even number of members", "E0111", "name: worker-0\n      roles: [worker]", "name: worker-0\n      roles: [worker, controller]"},
		{"no worker", "E0126", "  nodes:", "  NOWORKER\n  nodes:"},
		{"an unknown flag", "E0113", "  nodes:", "  extraArgs: {kubelet: {network-plugin: cni}}\n  nodes:"},
		{"an unsupported release", "E0114", `version: "1.37.2"`, `version: "1.99"`},
		{"a kubelet newer than the API", "E0115", `version: "1.37.2"`, `version: "1.32.3"` + "\n  SKEW"},
		{"one family too few", "E0118", "nodeCIDR: 10.240.0.0/24", `nodeCIDR: [10.240.0.0/24, "fd00::/64"]`},
		{"a balancer that nobody has", "E0119", "    gcp:\n      project: my-project\n      region: us-west1\n      zone: us-west1-c", "    static: {}\n  api: {endpoint: loadBalancer}"},
		{"nothing before three controllers", "E0119", "    gcp:\n      project: my-project\n      region: us-west1\n      zone: us-west1-c", "    static: {}\n  api: {endpoint: none}"},
		{"a file for nobody", "E0121", "  nodes:", "  files: [{path: /etc/x, content: x, on: [nobody]}]\n  nodes:"},
		{"a falling port range", "E0122", "    clusterDNS", "    nodePortRange: 32000-30000\n    clusterDNS"},
		{"a key twice", "E0123", "  nodes:", "  encryption: {keys: [a, a]}\n  nodes:"},
		{"a leaf that outlives its CA", "E0124", "  nodes:", "  pki: {caLifetime: 10d}\n  nodes:"},
		{"open to everybody", "W0101", "[203.0.113.0/24]", "[0.0.0.0/0]"},
		{"workers locked out", "W0102", "  nodes:", "  api: {workersVia: public}\n  nodes:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := strings.Replace(example(t), c.old, c.new, 1)
			if source == example(t) {
				t.Fatalf("the example has no %q", c.old)
			}
			if strings.Contains(source, "NOWORKER") {
				source = strings.Replace(source, "  NOWORKER\n", "", 1)
				source, _, _ = strings.Cut(source, "    - name: worker-0")
			}
			if strings.Contains(source, "SKEW") {
				source = strings.Replace(source, "\n  SKEW", "", 1)
				source = strings.Replace(source, "address: 10.240.0.22", "address: 10.240.0.22\n      kubernetesVersion: \"1.37.2\"", 1)
			}
			_, faults := compiled(t, source)
			if len(faults) == 0 {
				t.Fatal("nothing was found")
			}
			for _, f := range faults {
				if f.Code != c.code {
					t.Errorf("also found %s: %s", f.Code, f.Summary)
				}
				if f.Help == "" || !f.Pos.IsValid() {
					t.Errorf("%s says not what to do, or not where: %+v", f.Code, f)
				}
			}
		})
	}
}

func TestTheExampleHasNoFault(t *testing.T) {
	if _, faults := compiled(t, example(t)); len(faults) > 0 {
		t.Error(faults)
	}
}

// The API server's certificate has every name that a kubeconfig dials and that
// pods use.
func TestAPIServerNames(t *testing.T) {
	c, _ := compiled(t, example(t))
	names := map[string]bool{}
	for _, cert := range c.Certs {
		if cert.Name == "apiserver-serving@controller-0" {
			for _, s := range cert.SANs {
				names[s.Value.V] = true
			}
		}
	}
	for _, want := range []string{"10.32.0.1", "10.240.0.10", "127.0.0.1", "kubernetes.default.svc.cluster.local", "kubernetes", "${cloud:address/api}"} {
		if !names[want] {
			t.Errorf("the certificate lacks %s", want)
		}
	}
	if names["kubernetes.default.svc.cluster"] {
		t.Error("the certificate has a name that nobody dials")
	}
}

// Ranges that are allocated lie inside, are disjoint, and leave given ones alone.
func TestPodRangesAreAllocated(t *testing.T) {
	source := strings.Replace(example(t), "      podCIDR: 10.200.0.0/24\n", "", 1)
	source = strings.Replace(source, "      podCIDR: 10.200.2.0/24\n", "", 1)
	c, faults := compiled(t, source)
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	want := map[string]string{"worker-0": "10.200.0.0/24", "worker-1": "10.200.1.0/24", "worker-2": "10.200.2.0/24"}
	for _, n := range c.Nodes {
		if n.Worker && n.PodCIDRs[0].V != netip.MustParsePrefix(want[n.Name.V]) {
			t.Errorf("%s has %s", n.Name.V, n.PodCIDRs[0].V)
		}
	}
}
