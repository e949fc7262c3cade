package docs

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kthwc/kthwc/pkg/certmap"
	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/pki"
)

const project = "../.."

// What is committed is what the tables and examples give.
func TestPagesAreCurrent(t *testing.T) {
	want, err := Files(os.DirFS(project))
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range want {
		got, err := os.ReadFile(filepath.Join(project, "docs", path))
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(text, string(got)); diff != "" {
			t.Errorf("docs/%s is stale (-want +got); `make docs` writes it:\n%.2000s", path, diff)
		}
	}
}

// A page that nothing writes any longer would be read for ever.
func TestNoPageIsLeftBehind(t *testing.T) {
	want, err := Files(os.DirFS(project))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Join(project, "docs"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(filepath.Join(project, "docs"), path)
		if _, written := want[filepath.ToSlash(name)]; strings.HasPrefix(string(text), generated) && !written {
			t.Errorf("docs/%s says that it is generated, and nothing generates it", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEveryCodeIsOnThePage(t *testing.T) {
	page := errorCodes()
	for _, c := range diag.Codes {
		if n := strings.Count(page, "\n### "+c.Code+" "); n != 1 {
			t.Errorf("%s is there %d times", c.Code, n)
		}
	}
}

// The page of certificates has a row for all that there is in its examples.
func TestEveryCertificateIsOnThePage(t *testing.T) {
	page, err := certificates(os.DirFS(project))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range certificateExamples {
		b, err := build(os.DirFS(project), e.input)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range certmap.Items(pki.Uses(b.cluster)) {
			if row := "\n| " + i.Kind + " " + code(i.Label()) + "<br>"; !strings.Contains(page, row) {
				t.Errorf("%s: there is no row for %s %s", e.input, i.Kind, i.Label())
			}
		}
	}
}

func TestCodeSurvivesMarkdown(t *testing.T) {
	for text, want := range map[string]string{"a": "`a`", "a|b": "`a\\|b`", "a`b": "``a`b``"} {
		if got := code(text); got != want {
			t.Errorf("code(%q) is %q, not %q", text, got, want)
		}
	}
}

func specimenTree(t *testing.T) *built {
	t.Helper()
	b, err := build(os.DirFS(project), specimen)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// elsewhere are files that no family has, and where they are explained.
var elsewhere = map[string]string{
	"input/cluster.yaml":       "it is the input, verbatim",
	"network/connections.yaml": "its page is one table, made from its entries",
}

func TestEveryFileIsOnOnePage(t *testing.T) {
	b := specimenTree(t)
	for name := range b.tree.All() {
		where := place(name)
		if !isSpecimen(where) || elsewhere[where] != "" {
			continue
		}
		var on []string
		for _, f := range families {
			for _, r := range f.rows {
				if ok, _ := path.Match(r.where, where); ok {
					on = append(on, f.page)
				}
			}
		}
		if len(on) != 1 {
			t.Errorf("%s is on the pages %q", where, on)
		}
	}
}

func TestEveryLineHasAReason(t *testing.T) {
	b := specimenTree(t)
	for name, f := range b.tree.All() {
		if f.Body == nil {
			continue
		}
		for i, why := range b.reasons(f.Path, f.Body.Lines) {
			if why.String() == "" {
				t.Errorf("%s:%d has no reason: %s", name, i+1, f.Body.Lines[i])
			}
		}
	}
}

func TestEveryPieceOfMaterialHasAReason(t *testing.T) {
	for name, f := range specimenTree(t).tree.All() {
		if f.Body != nil && isMaterial(f) && material(f.Body.Refs()[0]) == "" {
			t.Errorf("%s is for nothing", name)
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#]+)\)`)

// Links of every page of the project lead to files that are there.
func TestLinksLeadSomewhere(t *testing.T) {
	check := func(file string) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), found[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", file, found[1])
			}
		}
	}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		files, _ := filepath.Glob(filepath.Join(project, pattern))
		if len(files) == 0 {
			t.Errorf("no page matches %s", pattern)
		}
		for _, file := range files {
			check(file)
		}
	}
}

// What all lines of an entry have is said of the entry, once.
func TestEntriesSayOnceWhatAllLinesHave(t *testing.T) {
	e := entry{whys: []reason{
		{prose: []string{"A machine."}, fields: []string{"name", "zone"}},
		{prose: []string{"A machine.", "Its disk."}, fields: []string{"name"}},
	}}
	e.raise()
	if e.Why != "A machine." || e.whys[0].String() != "From `zone`." || e.whys[1].String() != "Its disk." {
		t.Errorf("%q %q", e.Why, e.whys)
	}
}

func TestLongRunsAreCut(t *testing.T) {
	if got := shown(make([]string, longRun+1)); !strings.HasSuffix(got, "and 10 more lines") {
		t.Error(got)
	}
	if got := shown(make([]string, longRun)); strings.Contains(got, "more lines") {
		t.Error(got)
	}
}
