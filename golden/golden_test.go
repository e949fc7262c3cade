// Package golden compares what is rendered from the examples and the scenarios
// here with what is committed: file set, bytes, and through the manifest modes,
// owners and origins.
package golden

import (
	"flag"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

var update = flag.Bool("update", false, "rewrite the trees; the test still fails once")

func TestGolden(t *testing.T) {
	examples, _ := filepath.Glob("../examples/*.yaml")
	scenarios, _ := filepath.Glob("*/cluster.yaml")
	if len(examples) == 0 || len(scenarios) == 0 || len(examples)+len(scenarios) >= 15 {
		t.Fatalf("%d examples and %d scenarios", len(examples), len(scenarios))
	}
	for _, path := range examples {
		name := filepath.Base(path)
		compare(t, path, filepath.Join("examples", name[:len(name)-len(".yaml")]))
	}
	for _, path := range scenarios {
		compare(t, path, filepath.Join(filepath.Dir(path), "tree"))
	}
}

func compare(t *testing.T, input, dir string) {
	t.Helper()
	t.Run(input, func(t *testing.T) {
		rendered := filepath.Join(t.TempDir(), "rendered")
		write(t, input, rendered)
		want, got := read(t, dir), read(t, rendered)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s differs (-want +got); `make golden` rewrites it:\n%.3000s", dir, diff)
			if *update {
				replace(t, rendered, dir)
			}
		}
	})
}

func write(t *testing.T, input, dir string) {
	t.Helper()
	source, err := os.ReadFile(input)
	if err != nil {
		t.Fatal(err)
	}
	doc, faults := schema.Load("cluster.yaml", source)
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	c, faults := compile.Compile(doc, compile.Facts{})
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	out, faults := render.Render(c, render.Input{Source: source, Project: os.DirFS(filepath.Dir(input))})
	if faults.HasErrors() {
		t.Fatal(faults)
	}
	if err := tree.Write(dir, out, tree.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[filepath.ToSlash(rel)] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func replace(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	files := read(t, from)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		at := filepath.Join(to, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(files[path]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
