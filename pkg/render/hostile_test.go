package render_test

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	yamlv3 "go.yaml.in/yaml/v3"

	"github.com/kthwc/kthwc/internal/raceless"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

var hostileTexts = []string{
	"a\nb", "a\rb", "a\x00b", "a\u2028b", "a\u0085b", `a"b`, "a'b", "a ; b", "a; include /etc/passwd", "a b", "a\tb", "%n", "$HOME", "a\\", "../../x", "/../x", "-rf", "--x=y",
	"a]\n[b", "#a", "a{}", "${secret:pki/admin.key}", "${cloud:address/api}",
}

// leaves are the texts of a document.
func leaves(n *yamlv3.Node) []*yamlv3.Node {
	if n.Kind == yamlv3.ScalarNode {
		return []*yamlv3.Node{n}
	}
	var out []*yamlv3.Node
	for i, child := range n.Content {
		if n.Kind == yamlv3.MappingNode && i%2 == 0 {
			continue // a key
		}
		out = append(out, leaves(child)...)
	}
	return out
}

// A hostile text in any field is refused, or changes no file's structure: as
// many words to each plain line, the same directives in each unit, data that
// still decodes, and no path outside.
func TestHostileTextChangesNoStructure(t *testing.T) {
	raceless.Only(t)
	source, err := os.ReadFile("../../golden/customised/cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document yamlv3.Node
	if err := yamlv3.Unmarshal(source, &document); err != nil {
		t.Fatal(err)
	}
	before, taken := structure(t, build(t, "../../golden/customised/cluster.yaml")), 0
	for _, leaf := range leaves(&document) {
		was := *leaf
		for _, text := range hostileTexts {
			leaf.Value, leaf.Tag, leaf.Style = text, "!!str", yamlv3.DoubleQuotedStyle
			changed, err := yamlv3.Marshal(&document)
			if err != nil {
				continue
			}
			out := tryRender(changed)
			if out == nil {
				continue
			}
			taken++
			for where, words := range structure(t, out) {
				if had, ok := before[where]; ok && !slices.Equal(had, words) {
					t.Errorf("%q for %q: %s was\n%q\nand is\n%q", text, was.Value, where, had, words)
				}
			}
		}
		*leaf = was
	}
	if taken == 0 {
		t.Error("nothing hostile was taken anywhere: this tests nothing")
	}
}

// tryRender is the tree, or nil if anything refuses the source.
func tryRender(source []byte) *tree.Tree {
	doc, faults := schema.Load("cluster.yaml", source)
	if faults.HasErrors() {
		return nil
	}
	c, faults := compile.Compile(doc, compile.Facts{})
	if faults.HasErrors() {
		return nil
	}
	out, _ := render.Render(c, render.Input{Source: source, Project: os.DirFS("../../golden/customised")})
	return out
}

// structure is what must not change, by place: the files of the user's own
// content and the copy of the input are not in it.
func structure(t *testing.T, all *tree.Tree) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for where, f := range all.All() {
		if !filepath.IsLocal(where) || path.Clean(where) != where {
			t.Errorf("%q is no place of a tree", where)
		}
		if f.Kind != tree.Regular || strings.HasPrefix(where, "input/") || ownContent(f) {
			continue
		}
		out[where] = shape(t, where, string(f.Body.Bytes()))
	}
	return out
}

// ownContent says whether the user wrote the file.
func ownContent(f *tree.File) bool {
	return slices.ContainsFunc(f.From.Sources(), func(s string) bool {
		return strings.HasPrefix(s, "spec.files[") || strings.HasPrefix(s, "spec.units[")
	})
}

func shape(t *testing.T, where, content string) []string {
	t.Helper()
	var data any
	switch ext := path.Ext(where); {
	case ext == ".toml":
		if err := toml.Unmarshal([]byte(content), &data); err != nil {
			t.Errorf("%s: %v\n%s", where, err, content)
		}
	case ext == ".yaml" || ext == ".conflist" || decodable(where):
		if err := decodeAll(content); err != nil {
			t.Errorf("%s: %v\n%s", where, err, content)
		}
	case ext == ".service" || ext == ".conf" && strings.Contains(where, ".service.d/"):
		return directivesOf(t, where, content)
	default:
		return wordsOf(content)
	}
	return nil
}

func decodeAll(content string) error {
	documents := yamlv3.NewDecoder(strings.NewReader(content))
	for range strings.Count(content, "\n---\n") + 1 {
		var data any
		if err := documents.Decode(&data); err != nil {
			return err
		}
	}
	return nil
}

// directivesOf are a unit's keys, and the names of its programs' flags.
func directivesOf(t *testing.T, where, content string) []string {
	t.Helper()
	directives, err := emit.ParseUnit(content)
	if err != nil {
		t.Errorf("%s: %v\n%s", where, err, content)
	}
	var out []string
	for _, d := range directives {
		out = append(out, d.Section+"."+d.Key)
		if d.Key != "ExecStart" {
			continue
		}
		argv, err := emit.ParseExec(d.Value)
		if err != nil {
			t.Errorf("%s: %v\n%s", where, err, content)
		}
		for _, a := range argv {
			name, _, _ := strings.Cut(a, "=")
			out = append(out, name)
		}
	}
	return out
}

// wordsOf counts the words of each line, and keeps what is punctuation to
// nginx and haproxy.
func wordsOf(content string) []string {
	var out []string
	for _, l := range strings.Split(content, "\n") {
		punctuation := strings.Map(func(r rune) rune {
			if strings.ContainsRune("\"';{}#\\$\r\x00\u0085\u2028", r) {
				return r
			}
			return -1
		}, placeholder.ReplaceAllString(l, ""))
		out = append(out, strings.Repeat("w ", len(strings.Fields(l)))+punctuation)
	}
	return out
}
