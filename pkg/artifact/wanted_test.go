package artifact

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

func treeOf(t *testing.T, path string) *tree.Tree {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	doc, faults := schema.Load(path, source)
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	cluster, faults := compile.Compile(doc, compile.Facts{})
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	out, faults := render.Render(cluster, render.Input{Source: source, Project: os.DirFS(filepath.Dir(path))})
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	return out
}

// Everything that an example's nodes run has a place and could be locked.
func TestExamplesAreWhole(t *testing.T) {
	examples, _ := filepath.Glob("../../examples/*.yaml")
	if len(examples) < 5 {
		t.Fatalf("only %d examples", len(examples))
	}
	for _, path := range examples {
		needs, err := Wanted(treeOf(t, path))
		if err != nil {
			t.Fatal(err)
		}
		images := 0
		for _, n := range needs {
			p, err := placeOf(n)
			if err != nil || checkAddress(p.url) != nil || n.checkNeed() != nil {
				t.Errorf("%s: %s: %v %v", path, n, p, err)
			}
			if n.IsImage() {
				images++
			}
		}
		if !slices.IsSortedFunc(needs, Need.compare) || images < 1 || len(needs) < 10 {
			t.Errorf("%s: %v", path, needs)
		}
	}
}

// The seed and the newest edition download these, from where their authors do.
func TestPlacesAreTheTutorials(t *testing.T) {
	for _, test := range []struct {
		need     Need
		url, sum string
	}{
		{Need{"etcdctl", "3.4.15", "amd64"}, "https://github.com/etcd-io/etcd/releases/download/v3.4.15/etcd-v3.4.15-linux-amd64.tar.gz",
			"https://github.com/etcd-io/etcd/releases/download/v3.4.15/SHA256SUMS"},
		{Need{"kube-proxy", "1.32.3", "arm64"}, "https://dl.k8s.io/v1.32.3/bin/linux/arm64/kube-proxy", "https://dl.k8s.io/v1.32.3/bin/linux/arm64/kube-proxy.sha256"},
		{Need{"crictl", "1.21.0", "amd64"}, "https://github.com/kubernetes-sigs/cri-tools/releases/download/v1.21.0/crictl-v1.21.0-linux-amd64.tar.gz",
			"https://github.com/kubernetes-sigs/cri-tools/releases/download/v1.21.0/crictl-v1.21.0-linux-amd64.tar.gz.sha256"},
		{Need{"runc", "1.0.0-rc93", "amd64"}, "https://github.com/opencontainers/runc/releases/download/v1.0.0-rc93/runc.amd64",
			"https://github.com/opencontainers/runc/releases/download/v1.0.0-rc93/runc.sha256sum"},
		{Need{"cni-plugins", "1.6.2", "arm64"}, "https://github.com/containernetworking/plugins/releases/download/v1.6.2/cni-plugins-linux-arm64-v1.6.2.tgz",
			"https://github.com/containernetworking/plugins/releases/download/v1.6.2/cni-plugins-linux-arm64-v1.6.2.tgz.sha256"},
		{Need{"containerd", "1.4.4", "amd64"}, "https://github.com/containerd/containerd/releases/download/v1.4.4/containerd-1.4.4-linux-amd64.tar.gz",
			"https://github.com/containerd/containerd/releases/download/v1.4.4/containerd-1.4.4-linux-amd64.tar.gz.sha256sum"},
	} {
		p, err := placeOf(test.need)
		if err != nil || p.url != test.url || p.checksum != test.sum {
			t.Errorf("%s: %+v, %v", test.need, p, err)
		}
	}
	if _, err := placeOf(Need{"emacs", "30", "amd64"}); err == nil {
		t.Error("a place for a program that no node runs")
	}
}

// Images of every kind of container are found, however deep, and short names
// are refused: which registry they mean depends on the machine.
func TestImagesOfManifests(t *testing.T) {
	text := "kind: List\nitems:\n- spec: {template: {spec: {initContainers: [{image: a.io/i:1}], containers: [{image: a.io/c:2}, {name: x}]}}}\n---\nspec: {containers: [{image: short}]}\n"
	f := &tree.File{Path: "manifests/x.yaml", Body: &tree.Body{}}
	for _, line := range strings.Split(text, "\n") {
		f.Body.Lines = append(f.Body.Lines, tree.Line{Text: line})
	}
	node := &tree.Node{Name: "worker-0", Binaries: []tree.Binary{{Name: "containerd", Version: "2.4.2", Arch: "arm64"}}}
	node.Files = []*tree.File{{Path: "/etc/containerd/config.toml", Body: &tree.Body{Lines: []tree.Line{{Text: "[plugins.cri]"}, {Text: `sandbox_image = "k8s.gcr.io/pause:3.4.1"`}}}}}
	tr := &tree.Tree{Nodes: []*tree.Node{node}, Files: []*tree.File{f}}
	if _, err := Wanted(tr); err == nil || !strings.Contains(err.Error(), `"short" is not written as registry/name:tag`) {
		t.Errorf("got %v", err)
	}
	f.Body.Lines = f.Body.Lines[:3]
	got, err := Wanted(tr)
	want := []Need{{"a.io/c", "2", "arm64"}, {"a.io/i", "1", "arm64"}, {"containerd", "2.4.2", "arm64"}, {"k8s.gcr.io/pause", "3.4.1", "arm64"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// lab/artifacts builds the versions of the newest minor that the table has.
func TestLabBuildsWhatTheTableSays(t *testing.T) {
	supported := schema.Supported()
	release, err := schema.ReleaseOf(supported[len(supported)-1])
	if err != nil {
		t.Fatal(err)
	}
	for setting, at := range map[string]string{
		"patch": "kubernetes k8s.io/kubernetes", "etcd": "etcd go.etcd.io/etcd/server/v3", "containerd": "containerd github.com/containerd/containerd/v2",
		"runc": "runc github.com/opencontainers/runc", "cni-plugins": "cni-plugins github.com/containernetworking/plugins",
		"crictl": "crictl sigs.k8s.io/cri-tools", "coredns": "coredns github.com/coredns/coredns",
	} {
		component, module, _ := strings.Cut(at, " ")
		text, err := os.ReadFile("../../lab/artifacts/" + component + "/go.mod")
		if err != nil {
			t.Fatal(err)
		}
		version := regexp.MustCompile(`(?m)^(?:require)?\s*` + regexp.QuoteMeta(module) + ` v(\S+)`).FindSubmatch(text)
		if want := release.Setting(setting).V; version == nil || string(version[1]) != want {
			t.Errorf("lab/artifacts/%s/go.mod has %q, and the table %s", component, version, want)
		}
	}
	script, err := os.ReadFile("../../lab/artifacts/build.sh")
	if want := "v=" + release.Setting("pause").V; err != nil || !strings.Contains(string(script), want) {
		t.Errorf("lab/artifacts/build.sh has no %q", want)
	}
}

// What `make lab-artifacts` built is locked and proven. Archives are left to
// the script, which runs the real command: the race detector unpacks slowly.
func TestBuiltArtifacts(t *testing.T) {
	dir := "../../build/artifacts"
	if d := os.Getenv("KTHWC_ARTIFACTS"); d != "" {
		dir = d
	}
	if _, err := os.Stat(dir + "/dl.k8s.io"); err != nil {
		t.Skip("no built artefacts: `make lab-artifacts` builds them, and proves them itself")
	}
	needs, err := Wanted(treeOf(t, "../../examples/lab.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	needs = slices.DeleteFunc(needs, func(n Need) bool { p, _ := placeOf(n); return p.member != "" })
	c := &Client{Cache: newCache(t), From: dir}
	l, err := c.Lock(t.Context(), "lab", schema.Revision(), needs, nil, false)
	if err != nil || len(l.Artifacts) < 8 {
		t.Fatal(l, err)
	}
	for _, r := range c.Cache.Verify(l) {
		if r.Fault != "" {
			t.Errorf("%s: %s", r.Entry.Need, r.Fault)
		}
	}
}
