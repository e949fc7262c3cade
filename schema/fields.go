package schema

import (
	"cmp"
	_ "embed"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/format"
	"cuelang.org/go/cue/parser"
	"cuelang.org/go/cue/token"

	"go.yaml.in/yaml/v3"

	"github.com/kthwc/kthwc/pkg/diag"
)

//go:embed cluster.cue
var source []byte

// lazily runs f once, when its result is first wanted: start-up stays fast.
func lazily[T any](f func() T) func() T { return sync.OnceValue(f) }

// Field is what the schema says of one field: its documentation, what its
// value must be, and how CUE writes that.
type Field struct {
	Name     string
	Doc      string
	Expect   string
	Optional bool
	Type     string   // the CUE expression
	value    ast.Expr // the same, parsed
	refs     []string // definitions that the expression names
}

// typeInfo is one definition of cluster.cue.
type typeInfo struct {
	name      string
	expect    string
	exactly   int      // how many fields must be there; 0 if it does not matter
	value     ast.Expr // the CUE expression
	fields    []*Field
	refs      []string // of a definition that is not a structure, or that embeds others
	structure bool
}

// definitions reads the definitions from the text of cluster.cue, in its order.
var definitions = lazily(func() []*typeInfo {
	file, err := parser.ParseFile("cluster.cue", source, parser.ParseComments)
	if err != nil {
		return nil // a test parses the file
	}
	var out []*typeInfo
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.Field); ok {
			out = append(out, typeOf(f))
		}
	}
	return out
})

func typeOf(f *ast.Field) *typeInfo {
	name, _, _ := ast.LabelName(f.Label)
	exactly, _ := strconv.Atoi(attribute(f, "exactly"))
	t := &typeInfo{name: name, expect: expectOf(f), exactly: exactly, value: f.Value}
	body, ok := f.Value.(*ast.StructLit)
	if !ok {
		t.refs = refsOf(f.Value)
		return t
	}
	t.structure = true
	for _, elt := range body.Elts {
		switch e := elt.(type) {
		case *ast.EmbedDecl:
			t.refs = append(t.refs, refsOf(e.Expr)...)
		case *ast.Field:
			if field := fieldOf(e); field != nil {
				t.fields = append(t.fields, field)
			}
		}
	}
	return t
}

// fieldOf describes a field; nil for one that only opens an embedded field.
func fieldOf(f *ast.Field) *Field {
	if id, ok := f.Value.(*ast.Ident); ok && id.Name == "_" {
		return nil
	}
	name, _, err := ast.LabelName(f.Label)
	if err != nil || strings.HasPrefix(name, "#") {
		return nil
	}
	text, _ := format.Node(f.Value)
	return &Field{Name: name, Doc: docOf(f), Expect: expectOf(f), Optional: f.Constraint.String() == "?", Type: string(text), value: f.Value, refs: refsOf(f.Value)}
}

func docOf(f *ast.Field) string {
	var b strings.Builder
	for _, group := range ast.Comments(f) {
		if group.Doc {
			b.WriteString(group.Text())
		}
	}
	return strings.TrimSpace(strings.ReplaceAll(b.String(), "\n", " "))
}

// expectOf reads @expect("...").
func expectOf(f *ast.Field) string {
	text := strings.TrimSuffix(strings.TrimPrefix(attribute(f, "expect"), `"`), `"`)
	return strings.ReplaceAll(text, `\"`, `"`)
}

// attribute is what stands in the parentheses of @name(...); "" if there is none.
func attribute(f *ast.Field, name string) string {
	for _, a := range f.Attrs {
		if key, body := a.Split(); key == name {
			return body
		}
	}
	return ""
}

// refsOf lists the definitions that an expression names.
func refsOf(e ast.Expr) []string {
	var out []string
	ast.Walk(e, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && strings.HasPrefix(id.Name, "#") && id.Name != "#profiles" {
			out = append(out, id.Name)
		}
		return true
	}, nil)
	return out
}

func typeNamed(name string) *typeInfo {
	for _, t := range definitions() {
		if t.name == name {
			return t
		}
	}
	return nil
}

// field finds a field in a definition or in what it embeds.
func (t *typeInfo) field(name string) *Field {
	for _, f := range t.fields {
		if f.Name == name {
			return f
		}
	}
	for _, ref := range t.refs {
		if embedded := typeNamed(ref); embedded != nil {
			if f := embedded.field(name); f != nil {
				return f
			}
		}
	}
	return nil
}

// describe follows a path from #Cluster. Entries of lists and maps keep the
// documentation of the whole, and have expectations of their own; steps that
// the schema does not know change nothing.
func describe(path string) Field {
	current := &Field{refs: []string{"#Cluster"}}
	for _, step := range stepsOf(path) {
		current = cmp.Or(current.below(step), current)
	}
	about := *current
	about.Expect = cmp.Or(about.Expect, expectation(about.refs))
	return about
}

// entryStep stands for any entry of a list.
const entryStep = "[]"

// stepsOf splits spec.nodes[worker-0].labels["example.net/rack"].
func stepsOf(path string) []string {
	var out []string
	for path != "" {
		var step string
		switch {
		case strings.HasPrefix(path, `["`):
			step, path, _ = strings.Cut(path[2:], `"]`)
		case path[0] == '[':
			_, path, _ = strings.Cut(path, "]")
			path = strings.TrimLeft(path, "#0123456789") // of a second entry with the same name
			step = entryStep
		default:
			path = strings.TrimPrefix(path, ".")
			end := strings.IndexAny(path+".", ".[")
			step, path = path[:end], path[end:]
		}
		out = append(out, step)
	}
	return out
}

// below is the field, the entry of a list or the value of a map under a field;
// nil if there is none.
func (f *Field) below(step string) *Field {
	if step == entryStep {
		return f.part(entryOf(f.value))
	}
	for _, ref := range f.refs {
		if t := typeNamed(ref); t != nil && t.structure {
			if found := t.field(step); found != nil {
				return found
			}
		}
	}
	_, value := keyAndValue(f.value)
	return f.part(value)
}

// part is a field that a part of f's expression describes.
func (f *Field) part(e ast.Expr) *Field {
	if e == nil {
		return nil
	}
	return &Field{Name: f.Name, Doc: f.Doc, Optional: true, value: e, refs: refsOf(e)}
}

// entryOf is what the entries of a list are; nil if no arm is a list.
func entryOf(e ast.Expr) ast.Expr {
	for _, arm := range arms(e) {
		switch arm := arm.(type) {
		case *ast.Ident:
			if t := typeNamed(arm.Name); t != nil && !t.structure {
				if entry := entryOf(t.value); entry != nil {
					return entry
				}
			}
		case *ast.ListLit:
			if rest, ok := arm.Elts[len(arm.Elts)-1].(*ast.Ellipsis); ok {
				return rest.Type
			}
			return arm.Elts[0]
		}
	}
	return nil
}

// keyAndValue are K and V of a map [K]: V; nil if the expression is none.
func keyAndValue(e ast.Expr) (key, value ast.Expr) {
	if s, ok := e.(*ast.StructLit); ok {
		for _, elt := range s.Elts {
			if f, ok := elt.(*ast.Field); ok {
				if label, ok := f.Label.(*ast.ListLit); ok {
					return label.Elts[0], f.Value
				}
			}
		}
	}
	return nil, nil
}

// words are the texts that a field may have; nil if it may have others too.
func (f *Field) words() []string {
	var out []string
	for _, arm := range arms(f.value) {
		switch arm := arm.(type) {
		case *ast.UnaryExpr: // a default stands beside what it is one of
			if word, ok := valueOf(arm.X).(string); ok && arm.Op == token.MUL {
				out = append(out, word)
			}
		case *ast.BasicLit:
			word, _ := valueOf(arm).(string)
			out = append(out, word)
		case *ast.Ident:
			t := typeNamed(arm.Name)
			if t == nil || t.structure {
				return nil
			}
			words := f.part(t.value).words()
			if words == nil {
				return nil
			}
			out = append(out, words...)
		default:
			return nil
		}
	}
	return out
}

// structured says whether a field has fields of its own.
func (f *Field) structured() bool {
	if len(f.refs) == 0 {
		return false
	}
	t := typeNamed(f.refs[0])
	_, list := f.value.(*ast.ListLit)
	return t != nil && t.structure && !list
}

// fieldNames lists the fields of a structure, to follow a sentence.
func (f *Field) fieldNames() string {
	for _, ref := range f.refs {
		if t := typeNamed(ref); t != nil && t.structure && len(t.fields) > 0 {
			var names []string
			for _, field := range append(slices.Clone(t.fields), t.embeddedFields()...) {
				names = append(names, field.Name)
			}
			return ": " + strings.Join(names[:min(len(names), 6)], ", ")
		}
	}
	return ""
}

// requiredNames lists the fields of a structure that must be written.
func (f *Field) requiredNames() string {
	var names []string
	for _, ref := range f.refs {
		for _, field := range required(ref) {
			names = append(names, field.Name)
		}
	}
	return strings.Join(names, ", ")
}

var example = regexp.MustCompile(`such as ("[^"]+"|\S+?)(,| or | and |$)`)

// remedy says what to write where something else was expected.
func (f *Field) remedy(expected string) string {
	if m := example.FindStringSubmatch(expected); m != nil {
		return "write it like " + m[1]
	}
	return "write " + expected
}

// expectation is what the first definition that says so wants.
func expectation(refs []string) string {
	for _, ref := range refs {
		if t := typeNamed(ref); t != nil && t.expect != "" {
			return t.expect
		}
	}
	return ""
}

var requiredFields = lazily(func() map[string][]*Field {
	out := map[string][]*Field{}
	for _, t := range definitions() {
		out[t.name] = t.required()
	}
	return out
})

// required lists the fields of a definition that the user must write.
func required(def string) []*Field { return requiredFields()[def] }

func (t *typeInfo) required() []*Field {
	var out []*Field
	for _, f := range t.fields {
		if f.required() {
			out = append(out, f)
		}
	}
	for _, ref := range t.refs {
		if embedded := typeNamed(ref); embedded != nil {
			out = append(out, embedded.required()...)
		}
	}
	return out
}

// required says whether a field has no default of its own or of its parts.
func (f *Field) required() bool {
	if f.Optional || strings.HasPrefix(f.Type, "*") || strings.HasPrefix(f.Name, "#") {
		return false
	}
	if len(f.refs) == 0 {
		return true
	}
	t := typeNamed(f.refs[0])
	return t == nil || !t.structure || t.exactly > 0 || len(t.required()) > 0
}

// Doc is the documentation of the field at path; "" if the schema has none.
func Doc(path string) string {
	return describe(path).Doc
}

func relatedTo(file string, n *yaml.Node, label string) diag.Related {
	return diag.Related{Pos: nodePos(file, n), Label: label}
}
