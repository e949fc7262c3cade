package render_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

// judged are the inputs whose minor has a reader.
var judged = map[string]string{
	"../../examples/cluster.yaml":           "1.37",
	"../../examples/lab.yaml":               "1.37",
	"../../examples/lab-server.yaml":        "1.37",
	"../../examples/lab-tutorial.yaml":      "1.37",
	"../../golden/customised/cluster.yaml":  "1.37",
	"../../golden/dual-stack/cluster.yaml":  "1.37",
	"../../golden/mixed-pool/cluster.yaml":  "1.37",
	"../../golden/single-node/cluster.yaml": "1.37",
	"../../examples/kthw-1.32.yaml":         "1.32",
	"../../examples/kthw-1.21.yaml":         "1.21",
}

// Every Kubernetes component accepts its rendered arguments.
func TestComponentsAcceptTheirFlags(t *testing.T) {
	for path, minor := range judged {
		reader := readers.Path(t, "k8s-reader-"+minor)
		for where, f := range build(t, path).All() {
			component := strings.TrimSuffix(filepath.Base(where), ".service")
			if !strings.HasPrefix(component, "kube") || f.Kind != tree.Regular || !strings.HasSuffix(where, ".service") {
				continue
			}
			readers.Judge(t, []byte(strings.Join(execArgs(t, f), "\n")), reader, "args", component)
		}
	}
}

// The version table has the CoreDNS and the sandbox image that kubeadm of the
// minor goes with. The tutorial's own 1.21 edition has older choices.
func TestCompanionsAreKubeadms(t *testing.T) {
	for _, minor := range []string{"1.32", "1.37"} {
		release, err := schema.ReleaseOf(minor)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(readers.Path(t, "k8s-reader-"+minor), "companions").Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"coredns", "pause"} {
			if want := name + "\t" + release.Setting(name).V + "\n"; !strings.Contains(string(out), want) {
				t.Errorf("%s: kubeadm has\n%sand the version table %s", minor, out, want)
			}
		}
	}
}

func execArgs(t *testing.T, f *tree.File) []string {
	t.Helper()
	directives, err := emit.ParseUnit(string(f.Body.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range directives {
		if d.Key == "ExecStart" {
			argv, err := emit.ParseExec(d.Value)
			if err != nil {
				t.Fatal(err)
			}
			return argv[1:]
		}
	}
	t.Fatal("no ExecStart")
	return nil
}

// Every YAML document is one that the components decode strictly.
func TestComponentsDecodeTheirFiles(t *testing.T) {
	for path, minor := range judged {
		reader := readers.Path(t, "k8s-reader-"+minor)
		for where, f := range build(t, path).All() {
			if f.Kind != tree.Regular || !decodable(where) {
				continue
			}
			content := strings.NewReplacer("|base64}", "", "${secret:pki/", "", "${secret:keys/", "").Replace(string(f.Body.Bytes()))
			readers.Judge(t, materialised(content), reader, "decode")
		}
	}
}

func decodable(where string) bool {
	if top, _, _ := strings.Cut(where, "/"); top != "nodes" && top != "manifests" && top != "client" {
		return false // written for people and for kthwc itself
	}
	if strings.HasSuffix(where, "/etc/crictl.yaml") {
		return false // no Kubernetes object
	}
	switch filepath.Ext(where) {
	case ".yaml", ".kubeconfig":
		return true
	}
	return strings.HasSuffix(where, "/kubeconfig") || strings.HasPrefix(filepath.Base(where), "controller-manager.conf") ||
		strings.HasSuffix(where, "/kubernetes/kubelet.conf") || strings.HasSuffix(where, "/kubernetes/proxy.conf") || strings.HasSuffix(where, "/kubernetes/scheduler.conf")
}

// materialised gives embedded data a valid base64 text: the names of the
// material stand where its bytes will.
func materialised(content string) []byte {
	lines := strings.Split(content, "\n")
	for i, l := range lines {
		if key, _, ok := strings.Cut(l, "-data: "); ok {
			lines[i] = key + "-data: Zm9v"
		}
	}
	return []byte(strings.Join(lines, "\n"))
}

// systemd accepts every unit: programs are stubs in a root of its own.
func TestSystemdAcceptsTheUnits(t *testing.T) {
	analyze := readers.Path(t, "systemd-analyze")
	root := t.TempDir()
	units := root + "/etc/systemd/system"
	for _, d := range []string{units, root + "/usr/lib/systemd"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", "-a", "/usr/lib/systemd/system", root+"/usr/lib/systemd/").CombinedOutput(); err != nil {
		t.Fatalf("copy the machine's units: %v\n%s", err, out)
	}
	broken := filepath.Join(units, "broken.service")
	if err := os.WriteFile(broken, []byte("[Service]\nExecStart=/no/such/program\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if exec.Command(analyze, "verify", "--root="+root, "--man=no", "--recursive-errors=no", broken).Run() == nil {
		t.Fatal("systemd-analyze accepts a unit whose program does not exist: it judges nothing here")
	}
	seen := map[string]bool{}
	for _, path := range inputs(t) {
		for where, f := range build(t, path).All() {
			if !strings.HasSuffix(where, ".service") || f.Body == nil || seen[string(f.Body.Bytes())] {
				continue
			}
			seen[string(f.Body.Bytes())] = true
			unit := filepath.Join(units, filepath.Base(where))
			stub(t, root, f)
			if err := os.WriteFile(unit, f.Body.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			readers.Judge(t, nil, analyze, "verify", "--root="+root, "--man=no", "--recursive-errors=no", unit)
			if err := os.Remove(unit); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(seen) < 20 {
		t.Errorf("only %d distinct units were judged", len(seen))
	}
}

func stub(t *testing.T, root string, f *tree.File) {
	t.Helper()
	directives, _ := emit.ParseUnit(string(f.Body.Bytes()))
	for _, d := range directives {
		if !strings.HasPrefix(d.Key, "Exec") {
			continue
		}
		program := filepath.Join(root, strings.TrimPrefix(strings.Fields(d.Value)[0], "-"))
		if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// The judge itself can say no.
func TestReadersRefuse(t *testing.T) {
	for _, minor := range []string{"1.32", "1.37"} {
		reader := readers.Path(t, "k8s-reader-"+minor)
		for _, c := range []struct {
			stdin string
			args  []string
		}{
			{"--network-plugin=cni", []string{"args", "kubelet"}},
			{"apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPodz: 1\n", []string{"decode"}},
			{"apiVersion: kubescheduler.config.k8s.io/v1beta1\nkind: KubeSchedulerConfiguration\n", []string{"decode"}},
		} {
			cmd := exec.Command(reader, c.args...)
			cmd.Stdin = strings.NewReader(c.stdin)
			if cmd.Run() == nil {
				t.Errorf("%s accepts %q", reader, c.stdin)
			}
		}
	}
}
