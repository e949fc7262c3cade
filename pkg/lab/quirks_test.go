package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/tree"
)

// rendered is the tree of a file with the overlay for a machine.
func rendered(t *testing.T, file string, f facts) *tree.Tree {
	t.Helper()
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text, err := overlayFor(f)
	if err != nil {
		t.Fatal(err)
	}
	project := fstest.MapFS{"overlay.jsonnet": {Data: []byte(text)}}
	out, faults := render.Render(model(t, file), render.Input{Source: source, Project: project, Overlays: []string{"overlay.jsonnet"}})
	if err := faults.Err(); err != nil {
		t.Fatalf("%s: %v\n%s", file, err, text)
	}
	return out
}

func text(t *testing.T, out *tree.Tree, node, suffix string) string {
	t.Helper()
	for path, f := range out.All() {
		if strings.HasPrefix(path, "nodes/"+node+"/") && strings.HasSuffix(path, suffix) && f.Body != nil {
			return string(f.Body.Bytes())
		}
	}
	t.Fatalf("%s has no %s", node, suffix)
	return ""
}

// On every sort of machine, the tree with the overlay passes all checks, and the
// programs that read the changed files take them.
func TestOverlayIsAccepted(t *testing.T) {
	plain, strict := well(), well()
	plain.cgroup = 2
	strict.capabilities = 0
	for _, file := range []string{"../../examples/lab.yaml", "../../examples/lab-tutorial.yaml", "../../examples/lab-server.yaml", "../../examples/kthw-1.32.yaml", "../../examples/kthw-1.21.yaml"} {
		for _, f := range []facts{plain, strict} {
			out := rendered(t, file, f)
			c := model(t, file)
			for path, rendered := range out.All() {
				if rendered.Kind != tree.Regular || !strings.HasPrefix(path, "nodes/") {
					continue
				}
				content := string(rendered.Body.Bytes())
				switch {
				case strings.Contains(content, "kind: KubeletConfiguration\n") || strings.Contains(content, "kind: KubeProxyConfiguration\n"):
					readers.Judge(t, []byte(content), readers.Path(t, "k8s-reader-"+c.Release.Minor()), "decode")
				case strings.HasSuffix(path, "/etc/containerd/config.toml"):
					judgeContainerd(t, c.Release.Setting("containerd").V, content)
				}
			}
		}
	}
}

func judgeContainerd(t *testing.T, version, content string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(version, ".")
	if out, err := exec.Command(readers.Path(t, "containerd-reader-"+parts[0]+"."+parts[1]), "config", file).CombinedOutput(); err != nil {
		t.Errorf("containerd %s: %v\n%s\n%s", version, err, out, content)
	}
}

// Each quirk reaches the file that it is about, and only where it applies.
func TestQuirksReachTheirFiles(t *testing.T) {
	oldAndStrict, young := well(), well()
	oldAndStrict.capabilities = 0
	young.cgroup = 2
	for _, c := range []struct {
		name, file, suffix, line string
		facts                    facts
		has                      bool
	}{
		{"resolver", example, "/var/lib/kubelet/config.yaml", "resolvConf: /etc/resolv.conf", young, true},
		{"disk", example, "/var/lib/kubelet/config.yaml", "  nodefs.available: 512Mi", young, true},
		{"conntrack", example, "kube-proxy.yaml", "  maxPerCore: 0", young, true},
		{"cgroup 1", example, "/var/lib/kubelet/config.yaml", "failCgroupV1: false", oldAndStrict, true},
		{"cgroup 2", example, "/var/lib/kubelet/config.yaml", "failCgroupV1: false", young, false},
		{"driver", example, "/var/lib/kubelet/config.yaml", "cgroupDriver: cgroupfs", oldAndStrict, true},
		{"old kubelet", "../../examples/kthw-1.21.yaml", "kubelet-config.yaml", "failCgroupV1: false", oldAndStrict, false},
		{"runtime's driver", example, "config.toml", "SystemdCgroup = false", oldAndStrict, true},
		{"oom", example, "config.toml", "restrict_oom_score_adj = true", oldAndStrict, true},
		{"no oom", example, "config.toml", "restrict_oom_score_adj = true", young, false},
	} {
		lines := strings.Split(text(t, rendered(t, c.file, c.facts), "worker-0", c.suffix), "\n")
		found := false
		for _, line := range lines {
			found = found || line == c.line
		}
		if found != c.has {
			t.Errorf("%s: %q there: %v", c.name, c.line, found)
		}
	}
}

// Controllers have nothing that a quirk is about, and keep their files.
func TestQuirksLeaveControllersAlone(t *testing.T) {
	with := rendered(t, example, well())
	for path, f := range with.All() {
		if strings.HasPrefix(path, "nodes/controller-") && f.Body != nil && strings.Contains(f.From.String(), "overlay") {
			t.Errorf("%s was changed", path)
		}
	}
}
