package diag_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/pkg/diag"
)

const source = "a: 1\nb: \x1b[31mred\nc: 3\n"

func printed(t *testing.T, o diag.Options, list ...diag.Diagnostic) string {
	t.Helper()
	o.Source = func(string) []byte { return []byte(source) }
	var b strings.Builder
	if err := diag.Print(&b, list, o); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPrintShowsTheLineAndTheCaret(t *testing.T) {
	got := printed(t, diag.Options{}, diag.Diagnostic{
		Code: "E0010", Summary: "c must be two", Pos: diag.Pos{File: "f.yaml", Line: 3, Col: 4, Len: 1}, Label: "got 3", Help: "write 2",
		Related: []diag.Related{{Pos: diag.Pos{File: "f.yaml", Line: 1, Col: 1, Len: 1}, Label: "because of this"}},
	})
	want := `error[E0010]: c must be two
  --> f.yaml:3:4
  |
1 | a: 1
  | - because of this
3 | c: 3
  |    ^ got 3
  |
   = help: write 2

`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestNothingReachesTheTerminalAsACommand(t *testing.T) {
	got := printed(t, diag.Options{}, diag.Diagnostic{Code: "E0010", Summary: "x\x1b[2J", Pos: diag.Pos{File: "f.yaml", Line: 2, Col: 4, Len: 400}, Label: "\r\n"})
	if strings.ContainsAny(got, "\x1b\r") {
		t.Errorf("%q", got)
	}
}

func TestOnlyTwentyAreShown(t *testing.T) {
	list := make([]diag.Diagnostic, 30)
	if got := printed(t, diag.Options{}, list...); !strings.Contains(got, "... and 10 more") {
		t.Error(got)
	}
}

func TestCodesAreInOrderAndHaveStories(t *testing.T) {
	var errors, warnings []string
	for _, c := range diag.Codes {
		if c.Story == "" || c.Title == "" || c.Slug == "" || (c.Code[0] == 'W') != (c.Severity == diag.Warning) {
			t.Errorf("%+v", c)
		}
		if c.Severity == diag.Warning {
			warnings = append(warnings, c.Code)
			continue
		}
		errors = append(errors, c.Code)
	}
	for _, list := range [][]string{errors, warnings} {
		if !slices.IsSorted(list) || len(slices.Compact(slices.Clone(list))) != len(list) {
			t.Errorf("out of order, or used twice: %v", list)
		}
	}
}
