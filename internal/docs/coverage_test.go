package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/schema"
)

func editionTree(t *testing.T, e edition) *built {
	t.Helper()
	b, err := build(os.DirFS(project), e.example)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEveryArtefactIsRenderedOrExcused(t *testing.T) {
	for _, e := range editions {
		b := editionTree(t, e)
		for _, a := range slices.Concat(e.rows, e.beyond) {
			if len(a.at) == 0 && a.why == "" {
				t.Errorf("%s: %s is neither rendered nor excused", e.title, a.what)
			}
			for _, at := range a.at {
				if err := b.has(at); err != nil {
					t.Errorf("%s: %s: %v", e.title, a.what, err)
				}
			}
		}
	}
}

// A place that is not there is found, whatever its form.
func TestMissingPlacesAreFound(t *testing.T) {
	b := specimenTree(t)
	for _, place := range []string{
		"controller-0:/etc/nothing", "nobody:/etc/hosts", "manifests/99-nothing.yaml", "controller-0:/etc/hosts # no such text",
		"program worker-0 etcd", "package worker-0 nginx", "program nobody etcd",
	} {
		if b.has(place) == nil {
			t.Errorf("%q was found", place)
		}
	}
}

// Nothing is rendered that the page does not name: of each role one node counts.
func TestEverythingRenderedIsNamed(t *testing.T) {
	first := map[string][]string{"examples/kthw-1.21.yaml": {"controller-0", "worker-0"}, "examples/kthw-1.32.yaml": {"server", "node-0"}}
	for _, e := range editions {
		b := editionTree(t, e)
		var named []string
		for _, a := range slices.Concat(e.rows, e.beyond) {
			for _, at := range a.at {
				name, _, _ := strings.Cut(at, " # ")
				named = append(named, name)
			}
		}
		for name := range b.tree.All() {
			where := place(name)
			node, _, ofNode := strings.Cut(where, ":")
			if ofNode && !slices.Contains(first[e.example], node) {
				continue
			}
			if !slices.Contains(named, where) {
				t.Errorf("%s: nothing on the page names %s", e.title, where)
			}
		}
	}
}

var codes = regexp.MustCompile(`\b[EW]\d{4}\b`)

// A code that a page names is one that kthwc has.
func TestPagesNameKnownCodes(t *testing.T) {
	pages, err := Files(os.DirFS(project))
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range pages {
		for _, found := range codes.FindAllString(text, -1) {
			if _, ok := diag.Lookup(found); !ok {
				t.Errorf("docs/%s names %s, which is no code", path, found)
			}
		}
	}
}

// A warning that keeps a fault of the tutorial is one that the edition gives.
func TestKeptFaultsAreWarnedOf(t *testing.T) {
	given := map[string]bool{}
	for _, e := range editions {
		source, err := os.ReadFile(filepath.Join(project, e.example))
		if err != nil {
			t.Fatal(err)
		}
		doc, _ := schema.Load(e.example, source)
		_, faults := compile.Compile(doc, compile.Facts{})
		for _, f := range faults {
			given[f.Code] = true
		}
	}
	for _, d := range defects {
		if code := codes.FindString(d.how); d.fate == keptWithNote && !given[code] {
			t.Errorf("%s: no edition gives %q", d.what, code)
		}
	}
}
