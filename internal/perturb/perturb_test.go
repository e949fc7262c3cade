package perturb

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/pkg/compile"
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
// the file valid. The first pattern that matches counts.
var changes = []struct {
	leaf string
	sets [][]edit // PATH stands for the leaf, NODE for its node
}{
	{`^metadata\.name$`, [][]edit{{{"PATH", "other"}}}},
	{`^spec\.kubernetes\.version$`, [][]edit{{{"PATH", `"1.37.1"`}}, {{"PATH", `"1.32.3"`}}, {{"PATH", `"1.21.0"`}}}},
	{`^spec\.network\.podCIDR$`, [][]edit{{{"PATH", "10.200.0.0/15"}}}},
	{`^spec\.network\.serviceCIDR$`, [][]edit{{{"PATH", "10.64.0.0/24"}, {"spec.network.clusterDNS", "10.64.0.10"}}}},
	{`^spec\.network\.clusterDNS$`, [][]edit{{{"PATH", "10.32.0.53"}}}},
	{`^spec\.api\.address$`, [][]edit{{{"PATH", "192.0.2.99"}}, {{"PATH", "other.example.net"}}}},
	{`^spec\.nodes\[.*\]\.address$`, [][]edit{{{"PATH", "10.240.0.77"}}}},
	{`^spec\.nodes\[.*\]\.podCIDR$`, [][]edit{{{"PATH", "10.200.77.0/24"}}}},
}

func rendered(t *testing.T, source []byte) snapshot {
	t.Helper()
	doc, faults := schema.Load("cluster.yaml", source)
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	c, faults := compile.Compile(doc, compile.Facts{})
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	out, faults := render.Render(c, render.Input{Source: source})
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	return snapshotOf(out)
}

func TestOriginsTellTheTruth(t *testing.T) {
	for _, name := range []string{"cluster", "kthw-1.21", "kthw-1.32", "lab", "lab-tutorial", "lab-server"} {
		t.Run(name, func(t *testing.T) {
			source, err := os.ReadFile("../../examples/" + name + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			doc, _ := schema.Load("cluster.yaml", source)
			before := rendered(t, source)
			for _, leaf := range doc.Leaves() {
				for _, c := range changes {
					if exempt[leaf] == "" && regexp.MustCompile(c.leaf).MatchString(leaf) {
						perturb(t, source, before, leaf, c.sets)
						break
					}
				}
			}
		})
	}
}

// perturb checks both directions for one leaf. An empty line is like any other one, so it cannot be told whether it moved.
func perturb(t *testing.T, source []byte, before snapshot, leaf string, sets [][]edit) {
	t.Helper()
	movedOnce := map[string]bool{}
	for _, set := range sets {
		var names []string
		edits := make([]edit, len(set))
		for i, e := range set {
			edits[i] = edit{strings.ReplaceAll(e.path, "PATH", leaf), e.value}
			names = append(names, edits[i].path)
		}
		text, err := apply(source, edits...)
		if err != nil {
			t.Fatal(err)
		}
		compareAll(t, before, rendered(t, text), leaf, names, movedOnce)
	}
	if len(movedOnce) == 0 {
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

func compareAll(t *testing.T, before, after snapshot, leaf string, names []string, movedOnce map[string]bool) {
	t.Helper()
	for path := range union(before, after) {
		gone, came := moved(before[path], after[path])
		for _, i := range gone {
			movedOnce[fmt.Sprintf("%s:%d", path, i)] = true
			mustName(t, path, before[path][i], leaf, names)
		}
		for _, i := range came {
			mustName(t, path, after[path][i], leaf, names)
		}
	}
}

func mustName(t *testing.T, path string, l line, leaf string, names []string) {
	t.Helper()
	for _, n := range names {
		if l.from.Has(n) {
			return
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
