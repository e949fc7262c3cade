package schema_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/schema"
)

// versions.json is what versions.cue says, and CUE proves the rows.
func TestVersionsAreFresh(t *testing.T) {
	want, err := schema.EvaluateVersions()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("versions.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("versions.json is stale: run `go generate ./schema`")
	}
}

func TestExamplesAreValid(t *testing.T) {
	files, _ := filepath.Glob("../examples/*.yaml")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		doc, faults := schema.Load(f, text)
		if len(faults) > 0 {
			t.Errorf("%s: %v", f, faults)
			continue
		}
		for _, leaf := range doc.Leaves() {
			if !doc.Written(leaf) || !doc.Pos(leaf).IsValid() {
				t.Errorf("%s: %s has no place", f, leaf)
			}
		}
	}
}

func TestTemplatesAreValid(t *testing.T) {
	for _, provider := range []string{"static", "gcp"} {
		for _, controllers := range []int{1, 3, 5} {
			text, err := schema.Template(provider, controllers, 2)
			if err != nil {
				t.Fatal(err)
			}
			if _, faults := schema.Load("cluster.yaml", text); len(faults) > 0 {
				t.Errorf("%s: %v", provider, faults)
			}
		}
	}
	if _, err := schema.Template("static", 2, 2); err == nil {
		t.Error("two controllers were accepted")
	}
}

// Every fault has its code, and a place in the file.
func TestFaults(t *testing.T) {
	example, err := os.ReadFile("../examples/cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) string { return strings.Replace(string(example), old, new, 1) }
	for _, c := range []struct{ name, code, source string }{
		{"larger than the limit", "E0002", strings.Repeat("x", schema.MaxBytes+1)},
		{"a misspelt field", "E0003", edit("podCIDR", "podCidr")},
		{"a key twice", "E0004", edit("  provider:", "  provider: {static: {}}\n  provider:")},
		{"a list where a mapping belongs", "E0005", edit("metadata:\n  name: kubernetes-the-hard-way", "metadata: [a]")},
		{"no name", "E0006", edit("metadata:\n  name: kubernetes-the-hard-way", "metadata: {}")},
		{"a tab", "E0007", edit("  name: kubernetes", "\tname: kubernetes")},
		{"two documents", "E0008", string(example) + "---\nkind: Cluster\n"},
		{"empty", "E0009", "# nothing\n"},
		{"nothing at all", "E0009", ""},
		{"a bad address", "E0010", edit("10.240.0.10", "10.240.0.300")},
		{"an anchor", "E0011", edit("roles: [controller]", "roles: &r [controller]")},
		{"an alias bomb", "E0011", "metadata: &a [x, x]\nspec: &b [*a, *a]\n"},
		{"a tag", "E0012", edit("name: kubernetes-the-hard-way", "name: !!binary aGk=")},
		{"a byte order mark", "E0013", "\ufeff" + string(example)},
		{"not UTF-8", "E0013", "\xff\xfe" + string(example)},
		{"NUL", "E0013", edit("my-project", "my\x00project")},
		{"a key that is a number", "E0014", edit("  provider:", "  1: x\n  provider:")},
		{"a version without quotes", "E0015", edit(`"1.37.2"`, "1.37")},
		{"a name that is a boolean", "E0015", edit("name: worker-0", "name: no")},
		{"two providers", "E0016", edit("  provider:", "  provider:\n    static: {}")},
		{"one name twice", "E0017", edit("name: worker-1", "name: worker-0")},
	} {
		t.Run(c.name, func(t *testing.T) {
			doc, faults := schema.Load("cluster.yaml", []byte(c.source))
			if doc != nil || !faults.HasErrors() {
				t.Fatal("it was accepted")
			}
			found := false
			for _, f := range faults {
				found = found || f.Code == c.code
			}
			if !found {
				t.Errorf("want %s, got %v", c.code, faults)
			}
			checkFaults(t, faults, c.source)
		})
	}
}

func checkFaults(t *testing.T, faults diag.List, source string) {
	t.Helper()
	lines := strings.Count(source, "\n") + 1
	for _, f := range faults {
		if _, ok := diag.Lookup(f.Code); !ok {
			t.Errorf("%s is not in the table", f.Code)
		}
		if f.Pos.Line < 1 || f.Pos.Line > lines {
			t.Errorf("%s stands at line %d of %d", f.Code, f.Pos.Line, lines)
		}
		if strings.Contains(f.Summary, "#Cluster") || strings.Contains(f.Summary, ".cue") {
			t.Errorf("a fault speaks of the schema: %s", f.Summary)
		}
	}
}

func FuzzLoad(f *testing.F) {
	files, _ := filepath.Glob("../examples/*.yaml")
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil {
			f.Add(text)
		}
	}
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("spec: {nodes: [{name: [x]}]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, faults := schema.Load("cluster.yaml", data)
		if (doc == nil) != faults.HasErrors() {
			t.Fatal("a document with errors, or none without")
		}
		checkFaults(t, faults, string(data))
	})
}

func TestReleases(t *testing.T) {
	r, err := schema.ReleaseOf("1.37")
	if err != nil {
		t.Fatal(err)
	}
	if r.Known("kubelet", "network-plugin") || !r.Known("kubelet", "node-ip") {
		t.Error("the kubelet's flags at 1.37 are wrong")
	}
	if r.Nearest("kube-apiserver", "event-tttl") != "event-ttl" {
		t.Error("no suggestion for a misspelt flag")
	}
	if _, err := schema.ReleaseOf("1.20"); err == nil || !strings.Contains(err.Error(), "1.37") {
		t.Errorf("an unsupported release: %v", err)
	}
	old, _ := schema.ReleaseOf("1.21.0")
	if v := old.Flag("kubelet", "network-plugin"); !v.Keep || v.Row.IsZero() {
		t.Error("1.21 has --network-plugin")
	}
}
