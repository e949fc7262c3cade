package render

import (
	"fmt"
	"strings"

	"github.com/kthwc/kthwc/pkg/tree"
)

// check proves what can only be seen on the finished tree.
func (r *renderer) check() {
	for path, f := range r.t.All() {
		if f.Kind != tree.Regular || strings.HasPrefix(path, "input/") {
			continue
		}
		r.checkSecrets(path, f)
		if !userFile(f) {
			r.checkHoles(path, f)
		}
	}
}

// userFile says whether the content is the user's own, which may say anything.
func userFile(f *tree.File) bool {
	for _, s := range f.From.Sources() {
		if strings.HasPrefix(s, "spec.files[") || strings.HasPrefix(s, "spec.units[") {
			return true
		}
	}
	return false
}

// checkSecrets is invariant 21: secrets are readable by their owner only.
func (r *renderer) checkSecrets(path string, f *tree.File) {
	for _, ref := range f.Body.Refs() {
		if ref.Sensitive() && f.Mode&0o077 != 0 {
			r.fault("E0221", fmt.Sprintf("%s has mode %04o and holds %s", path, f.Mode, ref.Name()))
		}
	}
}

// marks are what failed templates leave behind.
var marks = []string{"http://:", "https://:", "http:///", "https:///", "\r", "<no value>", "%!"}

func hole(text string) bool {
	for _, m := range marks {
		if strings.Contains(text, m) {
			return true
		}
	}
	return strings.HasSuffix(text, "=") || strings.HasSuffix(text, "https://") || strings.HasSuffix(text, "http://")
}

// checkHoles is invariant 20: no marks of failed templates.
func (r *renderer) checkHoles(path string, f *tree.File) {
	isYAML := strings.HasSuffix(path, ".yaml")
	for i, l := range f.Body.Lines {
		text := l.String()
		if hole(text) || isYAML && strings.Contains(text, "\t") {
			r.fault("E0220", fmt.Sprintf("%s:%d: %q has a hole", path, i+1, text))
		}
	}
}
