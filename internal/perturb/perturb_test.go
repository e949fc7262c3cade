package perturb

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/internal/raceless"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/schema"
)

// exempt leaves are not named by the lines that they move.
var exempt = map[string]string{
	"apiVersion":   "there is one value",
	"kind":         "there is one value",
	"spec.profile": "it chooses the set of rules: the reason of a constant is the profile's own",
}

// changes gives, for a leaf, sets of edits: each set is one change that leaves
// the file valid, so some fields change with others. The first pattern that
// matches counts. PATH stands for the leaf, LIST for the list that it is in,
// NODE for its node or pool; ONLY names the one cluster that a set is for.
var changes = []struct {
	leaf string
	sets [][]edit
}{
	{`^metadata\.name$`, [][]edit{{{"PATH", "other"}}}},
	{`^spec\.kubernetes\.version$`, [][]edit{{{"PATH", `"1.37.1"`}}, {{"PATH", `"1.32.3"`}}, {{"PATH", `"1.21.0"`}}, {{"PATH", `"1.21.0"`}, {"spec.extraArgs", ""}}, everywhere("1.32.3"), everywhere("1.21.0")}},

	{`^spec\.network\.nodeCIDR$`, [][]edit{{{"PATH", "10.240.0.0/23"}}, {{"PATH", "192.0.2.0/25"}}}},
	{`^spec\.network\.nodeCIDR\[0\]$`, [][]edit{{{"PATH", "10.240.0.0/23"}}}},
	{`^spec\.network\.nodeCIDR\[1\]$`, [][]edit{{{"PATH", `"fd00:10:240::/63"`}}}},
	{`^spec\.network\.podCIDR$`, [][]edit{{{"PATH", "10.200.0.0/15"}}, {{"PATH", "10.201.0.0/16"}}}},
	{`^spec\.network\.podCIDR\[0\]$`, [][]edit{{{"PATH", "10.201.0.0/16"}}}},
	{`^spec\.network\.podCIDR\[1\]$`, [][]edit{{{"PATH", `"fd00:11:200::/56"`}}}},
	{`^spec\.network\.podCIDRMaskSize\[0\]$`, [][]edit{{{"PATH", "23"}}}},
	{`^spec\.network\.podCIDRMaskSize\[1\]$`, [][]edit{{{"PATH", "65"}}}},
	{`^spec\.network\.serviceCIDR$`, [][]edit{{{"PATH", "10.64.0.0/24"}, {"spec.network.clusterDNS", "10.64.0.10"}}, {{"PATH", "10.64.0.0/24"}}}},
	{`^spec\.network\.serviceCIDR\[0\]$`, [][]edit{{{"PATH", "10.64.0.0/24"}}}},
	{`^spec\.network\.serviceCIDR\[1\]$`, [][]edit{{{"PATH", `"fd00:11:32::/112"`}}}},
	{`^spec\.network\.clusterDNS$`, [][]edit{{{"PATH", "10.32.0.54"}}}},
	{`^spec\.network\.clusterDomain$`, [][]edit{{{"PATH", "other.example.net"}}}},
	{`^spec\.network\.nodePortRange$`, [][]edit{{{"PATH", "31000-31999"}}}},

	{`^spec\.api\.address$`, [][]edit{{{"PATH", "192.0.2.99"}}, {{"PATH", "other.example.net"}}, {{"PATH", "192.0.2.99"}, {"spec.nodes[box].address", "192.0.2.99"}}}},
	{`^spec\.api\.endpoint$`, [][]edit{{{"PATH", "external"}}, {{"PATH", "none"}, {"spec.api.workersVia", ""}}, {{"PATH", "none"}}}},
	{`^spec\.api\.port$`, [][]edit{{{"PATH", "8443"}}}},
	{`^spec\.api\.extraSANs\[\d\]$`, [][]edit{{{"PATH", "more.example.net"}}}},
	{`^spec\.api\.workersVia$`, [][]edit{{{"PATH", "internal"}}}},

	{`^spec\.provider\.gcp\.project$`, [][]edit{{{"PATH", "other-project"}}}},
	{`^spec\.provider\.gcp\.region$`, [][]edit{{{"PATH", "us-east1"}, {"spec.provider.gcp.zone", "us-east1-b"}}}},
	{`^spec\.provider\.gcp\.zone$`, [][]edit{{{"PATH", "us-west1-a"}}}},

	{`^spec\.provider\.gcp\.machineType$`, [][]edit{{{"PATH", "e2-standard-8"}}}},
	{`^spec\.provider\.gcp\.diskSizeGB$`, [][]edit{{{"PATH", "60"}}}},
	{`^spec\.provider\.gcp\.imageProject$`, [][]edit{{{"PATH", "other-project"}}}},
	{`^spec\.provider\.gcp\.imageFamily$`, [][]edit{{{"PATH", "other-family"}}}},

	{`^spec\.etcd\.clusterToken$`, [][]edit{{{"PATH", "other"}}}},
	{`^spec\.kubeProxy\.mode$`, [][]edit{{{"PATH", "ipvs"}}}},
	{`^spec\.dns\.replicas$`, [][]edit{{{"PATH", "5"}}}},
	{`^spec\.dns\.upstream\[0\]$`, [][]edit{{{"PATH", "192.0.2.54"}}}},
	{`^spec\.containerd\.registryMirrors\[0\]\.registry$`, [][]edit{{{"PATH", "quay.io"}}}},
	{`^spec\.containerd\.registryMirrors\[0\]\.endpoints\[\d\]$`, [][]edit{{{"PATH", "https://other.example.net"}}}},
	{`^spec\.containerd\.proxy\.https?$`, [][]edit{{{"PATH", "http://other.example.net:3128"}}}},
	{`^spec\.containerd\.proxy\.noProxy\[0\]$`, [][]edit{{{"PATH", ".example.org"}}}},
	{`^spec\.pki\.keyType$`, [][]edit{{{"PATH", "ecdsa-p384"}}}},
	{`^spec\.pki\..*Lifetime$`, [][]edit{{{"PATH", "400d"}}}},
	{`^spec\.encryption\.provider$`, [][]edit{{{"PATH", "secretbox"}}}},
	{`^spec\.encryption\.resources\[\d\]$`, [][]edit{{{"PATH", "widgets.example.net"}}}},
	{`^spec\.encryption\.keys\[\d\]$`, [][]edit{{{"PATH", "key9"}}}},
	{`^spec\.access\..*CIDRs\[0\]$`, [][]edit{{{"PATH", "198.51.100.128/25"}}, {{"LIST", ""}}}},
	{`^spec\.ssh\.user$`, [][]edit{{{"PATH", "somebody"}}}},
	{`^spec\.ssh\.port$`, [][]edit{{{"PATH", "2200"}}}},
	{`^spec\.ssh\.bastion$`, [][]edit{{{"PATH", "jump@other.example.net:22"}}}},

	{`^spec\.(nodes|pools)\[.*\]\.name$`, [][]edit{{{"PATH", "renamed"}}, {{"PATH", "renamed"}, {"spec.units[node-report.service].on[0]", "renamed"}}}},
	{`^spec\.nodes\[box\]\.roles\[0\]$`, [][]edit{{{"spec.nodes", "[{name: box, roles: [worker], address: 192.0.2.10}, {name: other, roles: [controller], address: 192.0.2.11}]"}}}},
	{`^spec\.nodes\[.*\]\.roles\[0\]$`, [][]edit{{{"PATH", "SWAP"}}, {{"LIST", "[worker]"}, {"spec.pools[batch].roles", "[controller, worker]"}},
		{{"LIST", "[worker]"}, {"spec.pools[arm].roles", "[controller, worker]"}, {"spec.pools[arm].count", "1"}},
		{{"ONLY", "customised"}, {"spec.nodes", "[{name: controller-0, roles: [worker], address: 10.240.0.10, ssh: {port: 22}}, {name: worker-0, roles: [worker], address: 10.240.0.20}, {name: other, roles: [controller], address: 10.240.0.30}]"}}}},
	{`^spec\.nodes\[box\]\.roles\[1\]$`, [][]edit{{{"spec.nodes", "[{name: box, roles: [controller], address: 192.0.2.10}, {name: other, roles: [worker], address: 192.0.2.11}]"}}}},
	{`^spec\.nodes\[.*\]\.roles\[1\]$`, [][]edit{{{"PATH", ""}}}},
	{`^spec\.pools\[.*\]\.roles\[0\]$`, [][]edit{{{"LIST", "[worker, controller]"}, {"NODE.count", "2"}}, {{"PATH", "controller"}, {"NODE.count", "2"}}}},
	{`^spec\.nodes\[.*\]\.address$`, [][]edit{{{"PATH", "10.240.0.77"}}, {{"PATH", "192.0.2.77"}}, {{"PATH", "192.0.2.77"}, {"spec.api.address", "192.0.2.77"}}}},
	{`^spec\.nodes\[.*\]\.address\[0\]$`, [][]edit{{{"PATH", "10.240.0.77"}}}},
	{`^spec\.nodes\[.*\]\.address\[1\]$`, [][]edit{{{"PATH", `"fd00:10:240::77"`}}}},
	{`^spec\.nodes\[.*\]\.podCIDR$`, [][]edit{{{"PATH", "10.200.77.0/24"}}}},
	{`^spec\.nodes\[.*\]\.externalAddress$`, [][]edit{{{"PATH", "192.0.2.77"}}}},
	{`\.arch$`, [][]edit{{{"PATH", "amd64"}, {"NODE.machineType", "e2-standard-4"}}}},
	{`\.machineType$`, [][]edit{{{"PATH", "c4a-standard-2"}}}},
	{`\.kubernetesVersion$`, [][]edit{{{"PATH", "1.37.0"}}, everywhere("1.32.3"), everywhere("1.21.0")}},
	{`\.maxPods$`, [][]edit{{{"PATH", "50"}}}},
	{`\.resolvConf$`, [][]edit{{{"PATH", "/run/other"}}}},
	{`\.labels\[.*\]$`, [][]edit{{{"PATH", "other"}}}},
	{`\.taints\[0\]\.key$`, [][]edit{{{"PATH", "example.net/other"}}}},
	{`\.taints\[0\]\.value$`, [][]edit{{{"PATH", "other"}}, {{"PATH", ""}}}},
	{`\.taints\[0\]\.effect$`, [][]edit{{{"PATH", "PreferNoSchedule"}}}},
	{`\.count$`, [][]edit{{{"PATH", "3"}}, {{"PATH", "0"}}}},
	{`\.addresses$`, [][]edit{{{"PATH", "10.240.0.77"}}}},
	{`^spec\.nodes\[.*\]\.ssh\.address$`, [][]edit{{{"PATH", "other.example.net"}}}},
	{`^spec\.nodes\[.*\]\.ssh\.port$`, [][]edit{{{"PATH", "2201"}}}},
	{`^spec\.nodes\[.*\]\.ssh\.user$`, [][]edit{{{"PATH", "somebody"}}}},
	{`^spec\.nodes\[.*\]\.ssh\.hostKey$`, [][]edit{{{"PATH", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB5uyEmMVK+ZRPyMmBLoYvhSjrLYJGkmcQ5jvAbL3gzH"}}}},

	{`^spec\.extraArgs\.`, [][]edit{{{"PATH", `"77"`}}, {{"PATH", ""}}}},
	{`^spec\.configPatches\.kubelet\.evictionHard`, [][]edit{{{"PATH", "300Mi"}}}},
	{`^spec\.configPatches\.kubelet\.containerLogMaxSize$`, [][]edit{{{"PATH", "60Mi"}}, {{"PATH", ""}}}},
	{`^spec\.configPatches\.`, [][]edit{{{"PATH", "7"}}}},
	{`^spec\.files\[0\]\.path$`, [][]edit{{{"PATH", "/etc/other"}}}},
	{`^spec\.files\[0\]\.content$`, [][]edit{{{"PATH", "another line"}}}},
	{`^spec\.files\[0\]\.mode$`, [][]edit{{{"PATH", `"0600"`}}}},
	{`^spec\.files\[0\]\.(owner|group)$`, [][]edit{{{"PATH", "nobody"}}}},
	{`^spec\.files\[0\]\.on\[0\]$`, [][]edit{{{"PATH", "controller-0"}}}},
	{`^spec\.overlays\[0\]$`, [][]edit{{{"PATH", "overlays/other.jsonnet"}}}},
	{`^spec\.units\[.*\]\.content$`, [][]edit{{{"PATH", "other"}}}},
	{`^spec\.units\[.*\]\.enabled$`, [][]edit{{{"PATH", "false"}}}},
	{`^spec\.units\[.*\]\.on\[0\]$`, [][]edit{{{"PATH", "controller-0"}}}},
	{`^spec\.units\[.*\]\.name$`, [][]edit{{{"PATH", "other.service"}}}},
}

// everywhere runs another release on every machine of the scenario with mixed
// patches: a kubelet must not be newer than the API server.
func everywhere(version string) []edit {
	return []edit{{"spec.kubernetes.version", version}, {"spec.nodes[worker-0].kubernetesVersion", version}, {"spec.pools[batch].kubernetesVersion", version}}
}

// rendered is what the source says, or false if it is not valid.
func rendered(source []byte) (snapshot, diag.List) {
	doc, faults := schema.Load("cluster.yaml", source)
	if faults.HasErrors() {
		return nil, faults
	}
	c, faults := compile.Compile(doc, compile.Facts{})
	if faults.HasErrors() {
		return nil, faults
	}
	out, faults := render.Render(c, render.Input{Source: source, Project: os.DirFS("../../golden/customised")})
	if faults.HasErrors() {
		return nil, faults
	}
	return snapshotOf(out), nil
}

func TestOriginsTellTheTruth(t *testing.T) {
	raceless.Only(t)
	examples, _ := filepath.Glob("../../examples/*.yaml")
	scenarios, _ := filepath.Glob("../../golden/*/cluster.yaml")
	if len(examples) < 6 || len(scenarios) < 4 {
		t.Fatalf("%d examples, %d scenarios", len(examples), len(scenarios))
	}
	for _, path := range append(examples, scenarios...) {
		t.Run(path, func(t *testing.T) {
			source, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			doc, _ := schema.Load("cluster.yaml", source)
			before, faults := rendered(source)
			if faults != nil {
				t.Fatal(faults)
			}
			for _, leaf := range doc.Leaves() {
				if exempt[leaf] == "" {
					perturb(t, doc, before, leaf)
				}
			}
		})
	}
}

// setsFor finds the changes of a leaf.
func setsFor(leaf string) [][]edit {
	for _, c := range changes {
		if regexp.MustCompile(c.leaf).MatchString(leaf) {
			return c.sets
		}
	}
	return nil
}

// allEdits fills in the sets for a leaf. SWAP gives a node and each other node
// in turn the other role: one alone would leave an even number of members.
func allEdits(doc *schema.Document, leaf string) [][]edit {
	var out [][]edit
	for _, set := range setsFor(leaf) {
		switch {
		case set[0].value == "SWAP":
			out = append(out, swaps(doc, leaf)...)
			continue
		case set[0].path == "ONLY" && set[0].value != doc.Cluster.Metadata.Name:
			continue
		case set[0].path == "ONLY":
			set = set[1:]
		}
		out = append(out, edits(leaf, set))
	}
	return out
}

func edits(leaf string, set []edit) []edit {
	var out []edit
	for _, e := range set {
		list, node := leaf, leaf
		if strings.HasSuffix(leaf, "]") {
			list = leaf[:strings.LastIndexByte(leaf, '[')]
		}
		if i := strings.Index(leaf, "]."); i > 0 {
			node = leaf[:i+1]
		}
		out = append(out, edit{strings.NewReplacer("PATH", leaf, "LIST", list, "NODE", node).Replace(e.path), e.value})
	}
	return out
}

func swaps(doc *schema.Document, leaf string) [][]edit {
	name := leaf[strings.Index(leaf, "[")+1 : strings.Index(leaf, "].")]
	nodes := doc.Cluster.Spec.Nodes
	first := nodes[slices.IndexFunc(nodes, func(n schema.Node) bool { return n.Name == name })]
	var out [][]edit
	for _, n := range nodes {
		if n.Name != name {
			out = append(out, append(otherRole(first), otherRole(n)...))
		}
	}
	return append(out, []edit{{"spec.nodes[" + name + "].roles", "[controller]"}})
}

// otherRole makes a controller a worker, and a worker a controller.
func otherRole(n schema.Node) []edit {
	at := "spec.nodes[" + n.Name + "]"
	role := schema.Controller
	if n.Roles[0] == role {
		role = schema.Worker
	}
	out := []edit{{at + ".roles[0]", role}}
	if n.PodCIDR != nil {
		out = append(out, edit{at + ".podCIDR", ""})
	}
	return out
}

// perturb checks both directions for one leaf. An empty line is like any other
// one, so it cannot be told whether it moved.
func perturb(t *testing.T, doc *schema.Document, before snapshot, leaf string) {
	t.Helper()
	movedOnce := map[string]bool{}
	var refused diag.List
	valid := 0
	for _, changed := range allEdits(doc, leaf) {
		text, err := apply(doc.Source(), changed...)
		if err != nil {
			refused = append(refused, diag.Diagnostic{Summary: err.Error()})
			continue
		}
		after, faults := rendered(text)
		if faults != nil {
			refused = append(refused, faults...)
			continue
		}
		valid++
		compareAll(t, before, after, leaf, namesOf(changed), movedOnce)
	}
	switch {
	case setsFor(leaf) == nil:
		t.Errorf("%s: no change is known for this leaf: add one to the table", leaf)
		return
	case valid == 0:
		t.Errorf("%s: no change is valid: %v", leaf, refused)
		return
	case len(movedOnce) == 0:
		t.Errorf("%s moves nothing", leaf)
	}
	for path, lines := range before {
		for i, l := range lines {
			if l.text != "" && l.from.Has(leaf) && !movedOnce[fmt.Sprintf("%s:%d", path, i)] {
				t.Errorf("%s names %s and never moves: %s", path, leaf, l.text)
			}
		}
	}
}

// namesOf are the sources that a line may have moved by: the fields that were
// edited, their defaults, and what they are called after a node is renamed.
func namesOf(changed []edit) []string {
	var out []string
	for _, e := range changed {
		out = append(out, e.path, "default:"+e.path)
		if strings.HasSuffix(e.path, "].name") {
			out = append(out, e.path[:strings.IndexByte(e.path, '[')]+"["+e.value+"].name")
		}
	}
	return out
}

func compareAll(t *testing.T, before, after snapshot, leaf string, names []string, movedOnce map[string]bool) {
	t.Helper()
	for path := range union(before, after) {
		gone, came := moved(before[path], after[path])
		for _, i := range gone {
			movedOnce[fmt.Sprintf("%s:%d", path, i)] = true
			mustName(t, path, before[path][i], leaf, names, successors(before[path][i], after[path], came))
		}
		for _, i := range came {
			mustName(t, path, after[path][i], leaf, names, successors(after[path][i], before[path], gone))
		}
	}
}

// successors are the origins of the lines that stand for a moved line on the
// other side: the same flag or key with another value. A value that a node
// could have been part of, and was not, names the node from then on only.
func successors(l line, others []line, of []int) origin.Origin {
	key := l.text[:strings.IndexAny(l.text+"=", "=:")+0]
	var out origin.Origin
	for _, i := range of {
		if other := others[i].text; len(key) < len(l.text) && strings.HasPrefix(other, key) {
			out = origin.Join(out, others[i].from)
		}
	}
	return out
}

func mustName(t *testing.T, path string, l line, leaf string, names []string, other origin.Origin) {
	t.Helper()
	for _, source := range append(l.from.Sources(), other.Sources()...) {
		for _, n := range names {
			if source == n || strings.HasPrefix(source, n+"[") || strings.HasPrefix(source, n+".") || strings.HasPrefix(n, source+"[") {
				return
			}
		}
	}
	t.Errorf("%s moved with %s and does not name it (%s): %s", path, leaf, l.from, l.text)
}

func union(a, b snapshot) map[string]bool {
	out := map[string]bool{}
	for p := range a {
		out[p] = true
	}
	for p := range b {
		out[p] = true
	}
	return out
}
