package applytest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The page of faults names tests that there are.
func TestPageNamesTestsThatExist(t *testing.T) {
	page, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	cell := regexp.MustCompile("`([a-z0-9/]+)` ((?:(?:Test|Fuzz)[A-Za-z]+(?:, )?)+)")
	named := 0
	for _, m := range cell.FindAllStringSubmatch(string(page), -1) {
		files, err := filepath.Glob(filepath.Join("../..", m[1], "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Errorf("%s has no tests", m[1])
		}
		var text strings.Builder
		for _, f := range files {
			content, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			text.Write(content)
		}
		for _, name := range strings.Split(strings.TrimSuffix(m[2], ", "), ", ") {
			named++
			if !strings.Contains(text.String(), "func "+name+"(") {
				t.Errorf("%s has no %s", m[1], name)
			}
		}
	}
	if words := len(regexp.MustCompile(`\b(Test|Fuzz)[A-Z][A-Za-z]+`).FindAllString(string(page), -1)); named < words-3 {
		t.Errorf("%d tests were looked for, of %d that are named", named, words)
	}
}
