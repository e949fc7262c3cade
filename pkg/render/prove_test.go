package render

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

// example renders examples/cluster.yaml after replacements.
func example(t *testing.T, edits ...string) (*renderer, diag.List) {
	t.Helper()
	text, err := os.ReadFile("../../examples/cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	source := strings.NewReplacer(edits...).Replace(string(text))
	if len(edits) > 0 && source == string(text) {
		t.Fatalf("the example has no %q", edits[0])
	}
	doc, faults := schema.Load("cluster.yaml", []byte(source))
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	c, faults := compile.Compile(doc, compile.Facts{})
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	out, faults := Render(c, Input{Source: []byte(source)})
	return &renderer{c: c, t: out}, faults
}

func without(f *tree.File, text string) {
	f.Body = &tree.Body{Lines: slices.DeleteFunc(slices.Clone(f.Body.Lines), func(l tree.Line) bool { return strings.Contains(l.String(), text) })}
}

// Each proof of the finished tree sees the one thing that is broken.
func TestProofsSeeABrokenTree(t *testing.T) {
	for _, b := range []struct {
		name, code string
		damage     func(*tree.Node)
	}{
		{"another configuration version", "E0215", func(n *tree.Node) { without(n.File("/etc/containerd/config.toml"), "version = 3") }},
		{"another cgroup driver", "E0216", func(n *tree.Node) { without(n.File("/var/lib/kubelet/config.yaml"), "cgroupDriver") }},
		{"a module that is not loaded", "E0217", func(n *tree.Node) { without(n.File("/etc/modules-load.d/kthwc.conf"), "br_netfilter") }},
		{"no forwarding", "E0217", func(n *tree.Node) { without(n.File("/etc/sysctl.d/90-kthwc.conf"), "ip_forward") }},
		{"a file that is named and not there", "E0218", func(n *tree.Node) {
			n.Files = slices.DeleteFunc(n.Files, func(f *tree.File) bool { return strings.HasSuffix(f.Path, "kubelet-serving.key") })
		}},
		{"a program that is named and not there", "E0218", func(n *tree.Node) { n.Binaries = nil }},
		{"a file that nothing names", "E0219", func(n *tree.Node) { without(n.File("/etc/systemd/system/kube-proxy.service"), "--config") }},
		{"a program of another architecture", "E0225", func(n *tree.Node) { n.Binaries[0].Arch = "arm64" }},
	} {
		t.Run(b.name, func(t *testing.T) {
			r, faults := example(t)
			if len(faults) > 0 {
				t.Fatal(faults)
			}
			b.damage(r.t.Node("worker-1"))
			r.check()
			for _, f := range r.faults {
				if f.Code != b.code {
					t.Errorf("also found %s: %s", f.Code, f.Summary)
				}
			}
			if len(r.faults) == 0 {
				t.Error("nothing was found")
			}
		})
	}
}

// What a user's own field breaks is blamed on that field, once for all nodes.
func TestProofsBlameTheUsersField(t *testing.T) {
	const nodes = "  nodes:"
	for _, c := range []struct{ name, code, path, new string }{
		{"cgroupfs for the kubelet alone", "E0216", "spec.configPatches.kubelet.cgroupDriver", "  configPatches: {kubelet: {cgroupDriver: cgroupfs}}\n  nodes:"},
		{"an old form of containerd's file", "E0215", "spec.configPatches.containerd.version", "  configPatches: {containerd: {version: 2}}\n  nodes:"},
		{"a path that nothing makes", "W0106", "spec.extraArgs.kube-apiserver.oidc-ca-file", "  extraArgs: {kube-apiserver: {oidc-ca-file: /etc/oidc.pem}}\n  nodes:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, faults := example(t, nodes, c.new)
			if len(faults) != 1 || faults[0].Code != c.code || faults[0].Path != c.path {
				t.Errorf("got %v, want one %s at %s", faults, c.code, c.path)
			}
		})
	}
	both := "  extraArgs: {kube-apiserver: {oidc-ca-file: /etc/oidc.pem}}\n  files: [{path: /etc/oidc.pem, content: x, on: [controller]}]\n  nodes:"
	if _, faults := example(t, nodes, both); len(faults) > 0 {
		t.Errorf("a file of the user's own is there: %v", faults)
	}
}
