package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kthwc/kthwc/pkg/diag"
)

var update = flag.Bool("update", false, "rewrite testdata/errors/*.txt, and fail once")

// validate is `kthwc validate -f FILE` in this process.
func validate(t *testing.T, file string) (code int, printed string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.Background(), []string{"validate", "-f", file}, stdio{strings.NewReader(""), &out, &errs}, func(string) string { return "" })
	if out.Len() > 0 {
		t.Errorf("%s: faults belong on standard error, got on standard output: %s", file, &out)
	}
	return code, errs.String()
}

var (
	headline = regexp.MustCompile(`(?m)^error\[(E\d{4})\]: `)
	place    = regexp.MustCompile(`(?m)^  --> `)
	remedy   = regexp.MustCompile(`(?m)^   = help: .`)
	// internals are words of the schema language and of crashes.
	internals = regexp.MustCompile(`#[A-Z]|\bcue\b|\.cue|schema/|goroutine|panic|<nil>|%!`)
	// several are the goldens that hold more than one mistake.
	several = regexp.MustCompile(`^(bad-|missing-.*-fields|alias)`)
)

// checkError holds for everything that is printed about a file.
func checkError(t *testing.T, code int, printed string) {
	t.Helper()
	if code != exitInvalid {
		t.Errorf("exit code %d, want %d", code, exitInvalid)
	}
	errors := headline.FindAllStringSubmatch(printed, -1)
	if len(errors) == 0 {
		t.Errorf("no error was printed: %s", printed)
	}
	for _, e := range errors {
		if _, ok := diag.Lookup(e[1]); !ok {
			t.Errorf("%s is not in the table of codes", e[1])
		}
	}
	if internal := internals.FindString(printed); internal != "" {
		t.Errorf("%q means nothing to a user", internal)
	}
	for what, pattern := range map[string]*regexp.Regexp{"where": place, "what to do": remedy} {
		if found := len(pattern.FindAllString(printed, -1)); found < len(errors) {
			t.Errorf("%d errors say %s %d times", len(errors), what, found)
		}
	}
}

// Each file in testdata/errors holds one mistake, unless its name says several,
// and NAME.txt what is printed about it.
func TestErrors(t *testing.T) {
	t.Chdir("testdata/errors")
	files, _ := filepath.Glob("*.yaml")
	if len(files) < 150 {
		t.Fatalf("only %d files", len(files))
	}
	seen := map[string]bool{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(file, ".yaml"), func(t *testing.T) {
			code, got := validate(t, file)
			checkError(t, code, got)
			errors := headline.FindAllStringSubmatch(got, -1)
			for _, e := range errors {
				seen[e[1]] = true
			}
			if len(errors) > 1 && !several.MatchString(file) {
				t.Errorf("one mistake has %d errors", len(errors))
			}
			if code := file[:5]; strings.HasPrefix(code, "E0") && (len(errors) == 0 || errors[0][1] != code) {
				t.Errorf("want %s", code)
			}
			compareGolden(t, strings.TrimSuffix(file, ".yaml")+".txt", got)
		})
	}
	checkCodes(t, seen)
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	want, err := os.ReadFile(path)
	if err == nil && string(want) == got {
		return
	}
	t.Errorf("%s:\n%s", path, cmp.Diff(string(want), got))
	if !*update {
		return
	}
	if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
		t.Fatal(err)
	}
}

// withoutGolden are codes of the file and of the compiler that no golden has.
var withoutGolden = map[string]string{
	"E0001": "missing files and directories are made by TestErrorsOfOddFiles",
	"E0002": "a file beyond the limit is made by TestErrorsOfOddFiles",
	"E0018": "fmt gives it, not validate: testdata/script/fmt.txtar",
	"E0107": "no field can break it: a broken model is made in pkg/compile",
	"E0108": "no field can break it: a broken model is made in pkg/compile",
	"E0109": "no field can break it: a broken model is made in pkg/compile",
	"E0110": "no field can break it: a broken model is made in pkg/compile",
}

// checkCodes wants every code of 00xx and 01xx in a golden, or a reason.
func checkCodes(t *testing.T, seen map[string]bool) {
	t.Helper()
	for _, c := range diag.Codes {
		_, excused := withoutGolden[c.Code]
		if c.Severity == diag.Error && c.Code < "E0200" && seen[c.Code] == excused {
			t.Errorf("%s (%s): in a golden: %v, with a reason for none: %v", c.Code, c.Slug, seen[c.Code], excused)
		}
	}
}

// Files that nobody would commit.
func TestErrorsOfOddFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	garbage := bytes.Repeat([]byte("\x9f\x00]{ :\n"), 10<<20/7)
	for name, text := range map[string][]byte{
		"garbage.yaml":  garbage,
		"letters.yaml":  bytes.Repeat([]byte("x"), 10<<20),
		"brackets.yaml": bytes.Repeat([]byte("["), 100_000),
		"braces.yaml":   bytes.Repeat([]byte("{a: "), 100_000),
		"dashes.yaml":   bytes.Repeat([]byte("- "), 100_000),
		"many.yaml":     bytes.Repeat([]byte("a:\n"), 100_000),
	} {
		if err := os.WriteFile(name, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir("folder", 0o755); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"garbage.yaml": "E0002", "letters.yaml": "E0002", "brackets.yaml": "E0007", "braces.yaml": "E0007", "dashes.yaml": "E0007",
		"many.yaml": "E0003", "folder": "E0001", "nowhere.yaml": "E0001",
	} {
		t.Run(file, func(t *testing.T) {
			code, got := validate(t, file)
			checkError(t, code, got)
			if !slices.ContainsFunc(headline.FindAllStringSubmatch(got, -1), func(e []string) bool { return e[1] == want }) {
				t.Errorf("want %s, got %.300s", want, got)
			}
			if len(got) > 20_000 {
				t.Errorf("%d bytes were printed", len(got))
			}
		})
	}
}
