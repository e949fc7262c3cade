package certmap_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/pkg/certmap"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/schema"
)

var update = flag.Bool("update", false, "rewrite testdata/lab.txt")

func items(t *testing.T, path string) []certmap.Item {
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
	return certmap.Items(pki.Uses(c))
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

func TestGolden(t *testing.T) {
	got := certmap.Text(items(t, "../../examples/lab.yaml"))
	want, err := os.ReadFile("testdata/lab.txt")
	if err != nil && !*update {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/lab.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the map of examples/lab.yaml is another one (-want +got); -update rewrites it:\n%s", diff)
	}
}

func TestTextFitsOnTheScreen(t *testing.T) {
	for _, path := range inputs(t) {
		for line := range strings.Lines(certmap.Text(items(t, path))) {
			line = strings.TrimSuffix(line, "\n")
			if n := utf8.RuneCountInString(line); n > 100 && strings.Contains(strings.TrimSpace(line), " ") {
				t.Errorf("%s: %d columns: %s", path, n, line)
			}
			if strings.TrimRight(line, " ") != line {
				t.Errorf("%s: blanks at the end of %q", path, line)
			}
		}
	}
}

// Nothing is lost when nodes are taken together: every name is in one item.
func TestEveryNameIsInOneItem(t *testing.T) {
	for _, path := range inputs(t) {
		count := map[string]int{}
		for _, i := range items(t, path) {
			for _, name := range i.Names {
				count[i.Kind+name]++
			}
		}
		for name, n := range count {
			if n != 1 {
				t.Errorf("%s: %s is there %d times", path, name, n)
			}
		}
	}
}

// texts are what a well-formed picture shows.
func texts(t *testing.T, svg string) []string {
	t.Helper()
	var out []string
	inside := false
	for decoder := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("the picture is not well-formed: %v", err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			inside = e.Name.Local == "text"
		case xml.CharData:
			if inside {
				out = append(out, string(e))
			}
		case xml.EndElement:
			inside = false
		}
	}
}

func TestPictureShowsEveryItem(t *testing.T) {
	for _, path := range inputs(t) {
		all := items(t, path)
		shown := texts(t, certmap.SVG(all))
		for _, i := range all {
			if !slices.Contains(shown, i.Label()) {
				t.Errorf("%s: %s is not in the picture", path, i.Label())
			}
		}
	}
}

// hostile is a name that no cluster.yaml may have today.
const hostile = "</text><script>alert(1)</script>\"&'`]]>;%% end"

func hostileItems() []certmap.Item {
	return []certmap.Item{{
		Kind: pki.Certificate, Role: "a", Authority: hostile, Why: hostile, Names: []string{hostile},
		Arrows: []certmap.Arrow{{As: compile.ClientAuth, By: hostile, To: hostile, Bundle: hostile}},
	}}
}

func TestTextStaysTextInPictures(t *testing.T) {
	svg := certmap.SVG(hostileItems())
	if n := slices.Index(texts(t, svg), hostile); n < 0 || strings.Contains(svg, "<script") {
		t.Errorf("the name is not shown as it is:\n%s", svg)
	}
}

// The real parser reads every flowchart. It is a package of npm: the directory
// that it is installed in is build/readers, or a directory of NODE_PATH.
func TestMermaidReadsFlowcharts(t *testing.T) {
	charts := map[string]string{"hostile": certmap.Mermaid(hostileItems())}
	for _, path := range inputs(t) {
		charts[path] = certmap.Mermaid(items(t, path))
	}
	node, modules := readers.Path(t, "node"), nodeModules(t)
	input, err := json.Marshal(charts)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(node, "--input-type=module", "-e", readCharts)
	cmd.Env = append(os.Environ(), "MODULES="+modules)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var boxes map[string]int
	if err := json.Unmarshal(out, &boxes); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, chart := range charts {
		if want := strings.Count(chart, "<br/>") + strings.Count(chart, "(\""); boxes[name] != want {
			t.Errorf("%s: mermaid sees %d boxes, and there are %d in\n%s", name, boxes[name], want, chart)
		}
	}
}

const readCharts = `
import { readFileSync } from 'fs';
const from = process.env.MODULES;
const { JSDOM } = (await import(from + '/jsdom/lib/api.js')).default;
const dom = new JSDOM('<!doctype html><body></body>');
globalThis.window = dom.window;
globalThis.document = dom.window.document;
const mermaid = (await import(from + '/mermaid/dist/mermaid.core.mjs')).default;
const boxes = {};
for (const [name, chart] of Object.entries(JSON.parse(readFileSync(0, 'utf8')))) {
  await mermaid.parse(chart);
  boxes[name] = (await mermaid.mermaidAPI.getDiagramFromText(chart)).db.getVertices().size;
}
console.log(JSON.stringify(boxes));
`

func nodeModules(t *testing.T) string {
	t.Helper()
	for _, dir := range append([]string{filepath.Join(readers.Dir(), "node_modules")}, filepath.SplitList(os.Getenv("NODE_PATH"))...) {
		absolute, err := filepath.Abs(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, mermaid := os.Stat(filepath.Join(absolute, "mermaid/dist/mermaid.core.mjs"))
		_, jsdom := os.Stat(filepath.Join(absolute, "jsdom/lib/api.js"))
		if mermaid == nil && jsdom == nil {
			return absolute
		}
	}
	readers.Missing(t, "mermaid is missing: `make readers` installs it where there is npm, or name its node_modules in NODE_PATH")
	return ""
}
