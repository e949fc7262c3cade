package render_test

import (
	"strings"
	"testing"

	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/pkg/tree"
)

// What the model says of who reads which file is what the rendered files say:
// every reader names its file where it is said to, and every line that names a
// file of material is known as a reader.
func TestReadersAreThoseOfTheFiles(t *testing.T) {
	for _, path := range inputs(t) {
		t.Run(path, func(t *testing.T) {
			uses, rendered := pki.Uses(model(t, path)), build(t, path)
			claimed := map[string]bool{} // node, file and line
			held := map[string]map[string]bool{}
			for _, u := range uses {
				for _, f := range u.Files {
					if f.Node == "" {
						continue
					}
					if held[f.Node] == nil {
						held[f.Node] = map[string]bool{}
					}
					held[f.Node][f.Path] = true
					if rendered.Node(f.Node).File(f.Path) == nil {
						t.Errorf("%s has %s at %s:%s, which is not rendered", u.Name, f.Holds, f.Node, f.Path)
					}
					for _, r := range f.Readers {
						if r.In != "" && !claim(claimed, rendered.Node(f.Node), r, f.Path) {
							t.Errorf("%s:%s does not say %s %s", f.Node, r.In, r.Field, f.Path)
						}
					}
				}
			}
			for _, n := range rendered.Nodes {
				unclaimed(t, claimed, n, held[n.Name])
			}
		})
	}
}

// claim marks the lines by which a reader finds a file.
func claim(claimed map[string]bool, n *tree.Node, r pki.Reader, path string) bool {
	f := n.File(r.In)
	if f == nil {
		return false
	}
	field, found := r.Field[strings.LastIndexByte(r.Field, '.')+1:], false
	for _, l := range f.Body.Lines {
		text := strings.Trim(strings.TrimSpace(l.String()), `;\ `)
		if rest, ok := strings.CutPrefix(text, field); ok && strings.TrimLeft(rest, `=: `) == path {
			claimed[n.Name+r.In+l.String()], found = true, true
		}
	}
	return found
}

func unclaimed(t *testing.T, claimed map[string]bool, n *tree.Node, held map[string]bool) {
	t.Helper()
	for _, f := range n.Files {
		if f.Body == nil {
			continue
		}
		for _, l := range f.Body.Lines {
			for _, word := range strings.FieldsFunc(l.String(), func(r rune) bool { return strings.ContainsRune(` =";,`, r) }) {
				if held[word] && !claimed[n.Name+f.Path+l.String()] {
					t.Errorf("%s:%s reads material in %q, and the model does not know", n.Name, f.Path, l.String())
				}
			}
		}
	}
}

// Every file that holds material is known by its holder.
func TestFilesOfMaterialAreKnown(t *testing.T) {
	for _, path := range inputs(t) {
		held := map[string]bool{}
		for _, u := range pki.Uses(model(t, path)) {
			for _, f := range u.Files {
				held[f.Node+f.Path] = true
			}
		}
		rendered := build(t, path)
		for _, n := range rendered.Nodes {
			for _, f := range n.Files {
				if f.Body != nil && len(f.Body.Refs()) > 0 && !held[n.Name+f.Path] {
					t.Errorf("%s: %s:%s names %v, and no use of them has it", path, n.Name, f.Path, f.Body.Refs())
				}
			}
		}
	}
}
