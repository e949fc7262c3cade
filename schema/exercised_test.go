package schema

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// Every field that a user may write stands in an example or a scenario: what
// the golden trees and the origins' test do not see is not tested.
func TestEveryFieldIsExercised(t *testing.T) {
	written := map[string]bool{}
	for _, pattern := range []string{"../examples/*.yaml", "../golden/*/cluster.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, leaf := range Peek(file, text).Leaves() {
				written[entries.ReplaceAllString(leaf, "[]")] = true
				for up := leaf; up != ""; up = Parent(up) {
					written[entries.ReplaceAllString(up, "[]")+".*"] = true
				}
			}
		}
	}
	var fields int
	rootShape.scalars("", func(path string) {
		fields++
		if !written[path] {
			t.Errorf("no example or scenario writes %s", path)
		}
	})
	if fields < 60 {
		t.Errorf("only %d fields were looked at", fields)
	}
}

var entries = regexp.MustCompile(`\[[^\]]*\]`)

// scalars calls f for every field that holds a value. A value that may be one
// or a list counts where either is written.
func (s *shape) scalars(path string, f func(path string)) {
	switch s.kind {
	case structure:
		for _, name := range s.names {
			s.fields[name].scalars(join(path, name), f)
		}
	case list:
		s.entry.scalars(path+"[]", f)
	case dictionary:
		f(path + ".*")
	case text, number, boolean:
		f(path)
	}
}
