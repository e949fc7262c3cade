package render_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/internal/bench"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

func model(t *testing.T, path string) *compile.Cluster {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	doc, faults := schema.Load(path, source)
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	c, faults := compile.Compile(doc, compile.Facts{})
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	return c
}

func build(t *testing.T, path string) *tree.Tree {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out, faults := render.Render(model(t, path), render.Input{Source: source, Project: os.DirFS(filepath.Dir(path))})
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func inputs(t *testing.T) []string {
	t.Helper()
	examples, _ := filepath.Glob("../../examples/*.yaml")
	scenarios, _ := filepath.Glob("../../golden/*/cluster.yaml")
	if len(examples) == 0 || len(scenarios) == 0 {
		t.Fatal("no examples or no scenarios")
	}
	return append(examples, scenarios...)
}

// Every line has an origin, and every constant's reason is in a table.
func TestEveryLineHasAReason(t *testing.T) {
	for _, path := range inputs(t) {
		for where, f := range build(t, path).All() {
			if f.From.IsZero() {
				t.Errorf("%s: nothing says why %s is there", path, where)
			}
			if f.Body == nil {
				continue
			}
			for i, l := range f.Body.Lines {
				if l.From.IsZero() {
					t.Errorf("%s: %s:%d %q has no origin", path, where, i+1, l)
				}
				for _, s := range l.From.Sources() {
					if id, ok := strings.CutPrefix(s, "fixed:"); ok && render.Reason(id) == "" {
						t.Errorf("%s: %s:%d: no reason for %s", path, where, i+1, id)
					}
				}
			}
		}
	}
}

// Units read back by the parser have the arguments that the model has.
func TestUnitsReadBack(t *testing.T) {
	for _, path := range inputs(t) {
		for where, f := range build(t, path).All() {
			if !strings.HasSuffix(where, ".service") || f.Body == nil {
				continue
			}
			directives, err := emit.ParseUnit(string(f.Body.Bytes()))
			if err != nil {
				t.Errorf("%s: %s: %v", path, where, err)
			}
			for _, d := range directives {
				if d.Key != "ExecStart" {
					continue
				}
				if argv, err := emit.ParseExec(d.Value); err != nil || len(argv) == 0 || argv[0][0] != '/' {
					t.Errorf("%s: %s: %q, %v", path, where, argv, err)
				}
			}
		}
	}
}

// Two renders give the same bytes.
func TestRenderIsDeterministic(t *testing.T) {
	for _, path := range inputs(t) {
		a, b := build(t, path), build(t, path)
		if x, y := flatten(a), flatten(b); !slices.Equal(x, y) {
			t.Errorf("%s rendered differently", path)
		}
	}
}

func flatten(t *tree.Tree) []string {
	var out []string
	for path, f := range t.All() {
		text := path
		if f.Body != nil {
			text += "\n" + string(f.Body.Bytes())
		}
		out = append(out, text)
	}
	return out
}

// Every https URL of the tree is a connection or a listener of the model, so
// that what proves these proves what the files say.
func TestEveryURLIsInTheModel(t *testing.T) {
	url := regexp.MustCompile(`https://(\$\{[^}]+\}:\d+|[^\s"',;/|]+)`)
	for _, path := range inputs(t) {
		c := model(t, path)
		known := map[string]bool{c.API.Issuer.V: true}
		for _, d := range c.Dials {
			host := d.Host.V
			if strings.Contains(host, ":") && !strings.HasPrefix(host, "$") {
				host = "[" + host + "]"
			}
			known[fmt.Sprintf("https://%s:%d", host, d.Port.V)] = true
		}
		for _, m := range c.Etcd.Members {
			known[m.PeerURL.V], known[m.ClientURL.V] = true, true
		}
		for _, m := range c.Containerd.Mirrors {
			known["https://"+registryItself(m.Registry.V)] = true
			for _, e := range m.Endpoints {
				known[url.FindString(e.V)] = true
			}
		}
		for _, proxy := range []compile.Text{c.Containerd.HTTPProxy, c.Containerd.HTTPSProxy} {
			known[url.FindString(proxy.V)] = true
		}
		seen := 0
		for where, f := range build(t, path).All() {
			if f.Body == nil || strings.HasPrefix(where, "input/") || strings.HasPrefix(where, "cloud/") {
				continue
			}
			for _, u := range url.FindAllString(string(f.Body.Bytes()), -1) {
				seen++
				if !known[u] {
					t.Errorf("%s: %s: %s is no connection of the model", path, where, u)
				}
			}
		}
		if seen == 0 {
			t.Errorf("%s: no URL was seen", path)
		}
	}
}

// The number of processors changes nothing.
func TestRenderIsTheSameOnOneProcessor(t *testing.T) {
	source := bench.Pool(40)
	doc, faults := schema.Load("cluster.yaml", source)
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	c, _ := compile.Compile(doc, compile.Facts{})
	var trees [][]string
	for _, n := range []int{1, 2, 7} {
		before := runtime.GOMAXPROCS(n)
		out, faults := render.Render(c, render.Input{Source: source})
		runtime.GOMAXPROCS(before)
		if err := faults.Err(); err != nil {
			t.Fatal(err)
		}
		manifest, err := out.Manifest().JSON()
		if err != nil {
			t.Fatal(err)
		}
		trees = append(trees, append(flatten(out), string(manifest)))
	}
	if !slices.Equal(trees[0], trees[1]) || !slices.Equal(trees[0], trees[2]) {
		t.Error("the tree depends on the number of processors")
	}
}

// Whoever may list a directory may also enter it.
func TestDirectoriesCanBeEntered(t *testing.T) {
	for _, path := range inputs(t) {
		for name, f := range build(t, path).All() {
			if f.Kind == tree.Dir && f.Mode&0o444>>2 != f.Mode&0o111 {
				t.Errorf("%s: %s has mode %04o", path, name, f.Mode)
			}
		}
	}
}
