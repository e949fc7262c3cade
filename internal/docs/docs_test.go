package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kthwc/kthwc/pkg/diag"
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

func TestCodeSurvivesMarkdown(t *testing.T) {
	for text, want := range map[string]string{"a": "`a`", "a|b": "`a\\|b`", "a`b": "``a`b``"} {
		if got := code(text); got != want {
			t.Errorf("code(%q) is %q, not %q", text, got, want)
		}
	}
}
