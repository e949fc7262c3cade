package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	udiff "github.com/rogpeppe/go-internal/diff"

	"github.com/kthwc/kthwc/internal/names"
	"github.com/kthwc/kthwc/pkg/inventory"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

var updateRotations = flag.Bool("update-rotations", false, "rewrite golden/rotation; the test still fails once")

// rotations are what golden/rotation shows: what is rotated of which example,
// and what cluster.yaml lists at each stage.
var rotations = []struct {
	name, example string
	args          []string
	keys          []string // spec.encryption.keys before each stage
	stages        int
}{
	{"ca-etcd", "lab", []string{"ca", "etcd"}, nil, 4},
	{"ca-apiserver-serving", "lab", []string{"ca", "apiserver-serving"}, nil, 4},
	{"ca-tutorial", "lab-tutorial", []string{"ca", "ca"}, nil, 4},
	{"service-account", "lab", []string{"service-account"}, nil, 4},
	{"service-account-tutorial", "lab-tutorial", []string{"service-account"}, nil, 4},
	{"encryption", "lab", []string{"encryption"}, []string{"key1, key2", "key2, key1", "key2", "key2"}, 4},
	{"leaf", "lab", []string{"leaf", "kubelet-serving@worker-0"}, nil, 1},
}

// Every stage of every kind of rotation is a golden: the plan at that stage,
// what differs in the rendered files from the stage before, and for which
// versions the names in them stand.
func TestRotationGoldens(t *testing.T) {
	for _, r := range rotations {
		t.Run(r.name, func(t *testing.T) {
			h := &host{T: t, dir: t.TempDir()}
			source, err := os.ReadFile("../../examples/" + r.example + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			h.source(string(source), "key1")
			h.must("pki", "issue")
			h.must("render", "-o", h.dir+"/0")
			before := h.standing(0)
			for stage := 1; stage <= r.stages; stage++ {
				if r.keys != nil {
					h.source(string(source), r.keys[stage-1])
				}
				plan := h.must(append(append([]string{"pki", "rotate"}, r.args...), "--plan")...)
				h.must(append(append([]string{"pki", "rotate"}, r.args...), "--stage", fmt.Sprint(stage), "--confirm", "applied")...)
				h.must("render", "-o", fmt.Sprintf("%s/%d", h.dir, stage))
				after := h.standing(stage)
				text := fmt.Sprintf("# kthwc pki rotate %s --stage %d\n\n## what the plan says before it\n\n%s\n## what differs in the rendered files\n\n%s\n## what their names stand for\n\n%s",
					strings.Join(r.args, " "), stage, plan, h.must("diff", fmt.Sprintf("%s/%d", h.dir, stage-1), fmt.Sprintf("%s/%d", h.dir, stage)), changed(before, after))
				h.golden(fmt.Sprintf("../../golden/rotation/%s/%d.txt", r.name, stage), strings.ReplaceAll(text, h.dir, "DIR"))
				before = after
			}
		})
	}
}

// host is a directory with a cluster.yaml and what was issued for it.
type host struct {
	*testing.T
	dir string
}

// source writes cluster.yaml with a list of encryption keys.
func (h *host) source(text, keys string) {
	h.Helper()
	text = strings.Replace(text, "  provider:", "  encryption: {keys: ["+keys+"]}\n  provider:", 1)
	if err := os.WriteFile(h.dir+"/cluster.yaml", []byte(text), 0o644); err != nil {
		h.Fatal(err)
	}
}

// must runs a command and gives its standard output.
func (h *host) must(args ...string) string {
	h.Helper()
	var out, errs strings.Builder
	if code := run(h.Context(), append([]string{"-f", h.dir + "/cluster.yaml", "--color", "never"}, args...), stdio{nil, &out, &errs}, func(string) string { return "" }); code != 0 {
		h.Fatalf("%v: exit %d\n%s", args, code, errs.String())
	}
	if strings.Contains(out.String()+errs.String(), "PRIVATE KEY") {
		h.Fatalf("%v printed a key", args)
	}
	return out.String()
}

// standing is a line for each file of a stage that names material: nodes, path,
// and the versions that the name stands for.
func (h *host) standing(stage int) []string {
	h.Helper()
	files, _ := filepath.Glob(h.dir + "/*.kthwc/inventory.yaml")
	text, err := os.ReadFile(files[0])
	if err != nil {
		h.Fatal(err)
	}
	inv, err := inventory.Parse(text)
	if err != nil {
		h.Fatal(err)
	}
	r, err := tree.ReadDir(fmt.Sprintf("%s/%d", h.dir, stage))
	if err != nil {
		h.Fatal(err)
	}
	nodes := map[string][]string{}
	var order []string
	put := func(node, path string, refs []secret.Ref) {
		for _, ref := range refs {
			line := fmt.Sprintf("%s  %s: %s", path, ref.Versioned(), pki.Standing(inv, ref))
			if nodes[line] == nil {
				order = append(order, line)
			}
			nodes[line] = append(nodes[line], node)
		}
	}
	for _, n := range r.Tree.Nodes {
		for _, f := range n.Files {
			if f.Body != nil {
				put(n.Name, f.Path, f.Body.Refs())
			}
		}
	}
	for _, f := range r.Tree.Files {
		if f.Body != nil {
			put("you", f.Path, f.Body.Refs())
		}
	}
	for i, line := range order {
		order[i] = names.Ranges(nodes[line]) + ":" + line
	}
	slices.Sort(order)
	return order
}

// changed is the lines that differ.
func changed(before, after []string) string {
	join := func(lines []string) []byte { return []byte(strings.Join(lines, "\n") + "\n") }
	var out strings.Builder
	for i, line := range strings.Split(string(udiff.Diff("", join(before), "", join(after))), "\n") {
		if i > 2 && line != "" && strings.ContainsRune("+-", rune(line[0])) {
			out.WriteString(line + "\n")
		}
	}
	if out.Len() == 0 {
		return "the same as before\n"
	}
	return out.String()
}

func (h *host) golden(path, got string) {
	h.Helper()
	want, _ := os.ReadFile(path)
	if diff := cmp.Diff(string(want), got); diff != "" {
		h.Errorf("%s differs (-want +got); `make golden` rewrites it:\n%.3000s", path, diff)
		if !*updateRotations {
			return
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			h.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			h.Fatal(err)
		}
	}
}
