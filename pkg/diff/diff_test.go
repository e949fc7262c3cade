package diff_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/diff"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

func example(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../examples/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func side(t *testing.T, source string) diff.Side {
	t.Helper()
	doc, faults := schema.Load("cluster.yaml", []byte(source))
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	c, faults := compile.Compile(doc, compile.Facts{})
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	out, faults := render.Render(c, render.Input{Source: []byte(source)})
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	return diff.Side{Tree: out, Doc: doc}
}

func onDisk(t *testing.T, s diff.Side) (string, *tree.Rendered) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "rendered")
	if err := tree.Write(dir, s.Tree, tree.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := tree.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, r
}

// What is read from a directory is what was written to it, with every origin.
func TestDirectoriesAreReadBackWhole(t *testing.T) {
	files, _ := filepath.Glob("../../examples/*.yaml")
	if len(files) == 0 {
		t.Fatal("no examples")
	}
	for _, f := range files {
		s := side(t, example(t, filepath.Base(f)))
		_, r := onDisk(t, s)
		if len(r.Edited) > 0 {
			t.Errorf("%s: %v count as edited", f, r.Edited)
		}
		if d := cmp.Diff(s.Tree.Manifest(), r.Tree.Manifest()); d != "" {
			t.Errorf("%s (-written +read):\n%.2000s", f, d)
		}
		if changes := diff.Trees(s, diff.Side{Tree: r.Tree, Doc: s.Doc}); len(changes) > 0 {
			t.Errorf("%s differs from itself: %+v", f, changes)
		}
	}
}

// An edit of one place is the cause of everything that it moves, and of
// nothing else.
func TestCausesAreTheEdit(t *testing.T) {
	for _, edit := range []struct{ old, new, cause string }{
		{"10.32.0.0/24\n    clusterDNS: 10.32.0.10", "10.32.0.0/25\n    clusterDNS: 10.32.0.10", "spec.network.serviceCIDR"},
		{"      address: 10.240.0.22\n", "      address: 10.240.0.23\n", "spec.nodes[worker-2].address"},
		{"      podCIDR: 10.200.1.0/24\n", "      podCIDR: 10.200.7.0/24\n", "spec.nodes[worker-1].podCIDR"},
		{"\n  nodes:\n", "\n  kubeProxy: {mode: ipvs}\n  nodes:\n", "spec.kubeProxy"},
		{"\n    - name: worker-2\n", "\n    - name: worker-9\n      roles: [worker]\n      address: 10.240.0.29\n    - name: worker-2\n", "spec.nodes[worker-9]"},
	} {
		source := example(t, "cluster.yaml")
		edited := strings.Replace(source, edit.old, edit.new, 1)
		if edited == source {
			t.Fatalf("the example has no %q", edit.old)
		}
		for _, sides := range [][2]string{{source, edited}, {edited, source}} {
			changes := diff.Trees(side(t, sides[0]), side(t, sides[1]))
			if len(changes) < 2 || changes[0].Name != "input/cluster.yaml" {
				t.Errorf("%s: %d changes", edit.cause, len(changes))
				continue
			}
			for _, c := range changes[1:] {
				for _, causes := range causesOf(c) {
					if len(causes) != 1 || causes[0].Source != edit.cause || !causes[0].Pos.IsValid() {
						t.Errorf("%s moves %s because of %+v", edit.cause, c.Name, causes)
					}
				}
			}
		}
	}
}

func causesOf(c diff.Change) [][]diff.Cause {
	var out [][]diff.Cause
	for _, h := range c.Hunks {
		out = append(out, h.Because)
	}
	if len(out) == 0 || len(c.Because) > 0 {
		out = append(out, c.Because)
	}
	return out
}

func TestSameChangesAreOne(t *testing.T) {
	source := example(t, "cluster.yaml")
	edited := strings.Replace(source, "\n  nodes:\n", "\n  etcd: {clusterToken: another}\n  nodes:\n", 1)
	found := false
	for _, c := range diff.Trees(side(t, source), side(t, edited)) {
		isUnit := strings.HasSuffix(c.Name, "/etcd.service")
		found = found || isUnit
		if isUnit && !slices.Equal(c.Nodes, []string{"controller-0", "controller-1", "controller-2"}) {
			t.Errorf("%s changes on %v", c.Name, c.Nodes)
		}
	}
	if !found {
		t.Error("the unit does not change")
	}
}

// Whatever is done to a directory by hand is named, and undone by rendering.
func TestHandEditsAreNamed(t *testing.T) {
	s := side(t, example(t, "cluster.yaml"))
	dir, _ := onDisk(t, s)
	at := func(p string) string { return filepath.Join(dir, filepath.FromSlash(p)) }
	for _, err := range []error{
		os.WriteFile(at("nodes/worker-0/etc/hosts"), []byte("10.0.0.1 ${secret:\n"), 0o644),
		os.Remove(at("nodes/worker-1/etc/hosts")),
		os.WriteFile(at("nodes/worker-1/etc/stray"), nil, 0o644),
		os.WriteFile(at("notes"), []byte("mine"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r, err := tree.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"nodes/worker-0/etc/hosts", "nodes/worker-1/etc/hosts", "nodes/worker-1/etc/stray", "notes"}
	if d := cmp.Diff(want, r.Edited); d != "" {
		t.Error(d)
	}
	var got []string
	for _, c := range diff.Trees(diff.Side{Tree: r.Tree, Doc: s.Doc, Edited: r.Edited}, s) {
		if !c.Edited {
			t.Errorf("%s is not marked as edited", c.Name)
		}
		got = append(got, string(c.Op)+" "+strings.Join(c.Nodes, ",")+c.Name)
	}
	if d := cmp.Diff([]string{"removed notes", "changed worker-0/etc/hosts", "added worker-1/etc/hosts", "removed worker-1/etc/stray"}, got); d != "" {
		t.Error(d)
	}
}

// A change of reasons alone is a change: the manifest differs.
func TestReasonsAloneAreAChange(t *testing.T) {
	source := example(t, "cluster.yaml")
	was, is := side(t, source), side(t, source)
	is.Tree.Nodes[0].Files[0].From = is.Tree.Nodes[1].From
	if changes := diff.Trees(was, is); len(changes) != 1 || changes[0].What != "manifest" {
		t.Errorf("%+v", changes)
	}
}
