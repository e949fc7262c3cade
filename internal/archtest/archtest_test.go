// Package archtest fails when a package imports what it must not.
package archtest

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/kthwc/kthwc/"

// boundaries: an import path prefix, the packages that may have it, and why.
var boundaries = []struct {
	path    string
	allowed []string
	why     string
}{
	{"cuelang.org/go", []string{"schema"}, "CUE's API moves between minors; one package absorbs it"},
	{"github.com/google/go-jsonnet", []string{"pkg/render"}, "manifests and overlays are a matter of rendering"},
	{"github.com/google/yamlfmt", []string{"schema"}, "its output is proven before it is used"},
	{"github.com/cloudflare/cfssl", []string{"pkg/pki"}, "certificates are made in one place"},
	{"filippo.io/age", []string{"pkg/pki"}, "keys are encrypted in one place, which alone holds them"},
	{"k8s.io", []string{"pkg/kube"}, "one package speaks to the Kubernetes API; objects are plain maps elsewhere"},
	{"golang.org/x/crypto/ssh", []string{"pkg/apply/sshconn", "internal/sshtest", "pkg/pki"}, "one package decides which host is to be trusted; pkg/pki reads keys that open the store"},
	{"github.com/spf13/cobra", []string{"cmd/kthwc"}, "libraries return; the command speaks"},
	{"os", []string{"cmd/kthwc", "pkg/tree", "pkg/pki", "pkg/artifact", "pkg/lab", "lab/artifacts/pack", "pkg/apply/sshconn", "internal/durable", "schema/gen", "internal/readers", "internal/docs/gen", "internal/kubetest", "internal/powercut"}, "same input, same bytes: the pipeline reads nothing by itself"},
	{"net/http", []string{"cmd/kthwc", "pkg/artifact", "pkg/apply", "pkg/kube", "pkg/verify", "internal/kubetest"}, "only what gets artefacts, asks units, and the Kubernetes API speak HTTP"},
	{"net", []string{"cmd/kthwc", "pkg/apply", "pkg/apply/sshconn", "pkg/kube", "pkg/lab", "pkg/verify", "internal/sshtest", "internal/kubetest"}, "the compiler has no network"},
	{"math/rand", nil, "same input, same bytes"},
	{"crypto/rand", []string{"cmd/kthwc", "pkg/pki", "pkg/apply", "pkg/apply/sshconn", "internal/sshtest", "internal/kubetest"}, "same input, same bytes"},
	{"log", []string{"schema/gen", "internal/docs/gen"}, "libraries return errors"},
	{module + "pkg/render", []string{"cmd/kthwc", "internal/docs"}, "the stages go one way"},
}

func TestBoundaries(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Doc", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for decoder := json.NewDecoder(strings.NewReader(string(out))); decoder.More(); count++ {
		var p struct {
			ImportPath, Doc string
			Imports         []string
		}
		if err := decoder.Decode(&p); err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		for _, imported := range p.Imports {
			check(t, name, imported)
		}
		if p.Doc == "" && len(p.Imports) > 0 {
			t.Errorf("%s has no package comment", name)
		}
	}
	if count < 8 {
		t.Fatalf("only %d packages were looked at", count)
	}
}

func check(t *testing.T, name, imported string) {
	t.Helper()
	for _, b := range boundaries {
		exact := imported == b.path || strings.Contains(b.path, ".") && strings.HasPrefix(imported, b.path+"/")
		// "net" is for dialling; its address arithmetic and "net/netip" are not.
		if b.path == "net" && (name == "pkg/compile" || name == "pkg/render") {
			continue
		}
		if !exact {
			continue
		}
		allowed := false
		for _, a := range b.allowed {
			allowed = allowed || a == name
		}
		if !allowed {
			t.Errorf("%s imports %s: %s", name, imported, b.why)
		}
	}
}

// A test that is left to the command without the race detector is in that command,
// with its package.
func TestRacelessTestsAreRun(t *testing.T) {
	out, err := exec.Command("git", "-C", "../..", "grep", "-lF", "raceless.Only(", "--", "*_test.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	_, command, _ := strings.Cut(string(makefile), "\nRACELESS = ")
	command, _, _ = strings.Cut(command, "\n\n")
	has := strings.FieldsFunc(command, func(r rune) bool { return strings.ContainsRune(" \\\n\t'^()|$", r) })
	for _, file := range strings.Fields(string(out)) {
		if file == "internal/archtest/archtest_test.go" {
			continue
		}
		for _, want := range append(raceless(t, file), "./"+path.Dir(file)) {
			if !slices.Contains(has, want) {
				t.Errorf("%s is left to RACELESS in the Makefile, which has no %s", file, want)
			}
		}
	}
}

// raceless are the tests of a file that the race detector skips; there must be one.
func raceless(t *testing.T, file string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), "../../"+file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range parsed.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Only" && fmt.Sprint(s.X) == "raceless" {
				out = append(out, f.Name.Name)
			}
			return true
		})
	}
	if len(out) == 0 {
		t.Errorf("%s: no such test was found", file)
	}
	return out
}
