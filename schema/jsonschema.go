package schema

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/literal"
	"cuelang.org/go/cue/token"
)

// JSONSchema is the definition of cluster.yaml as JSON Schema draft 7, for
// editors: what they complete, show beside the cursor and underline. It is
// read off the text of cluster.cue, so that it cannot say something else; what
// takes more than one field to judge is for [Load] alone.
func JSONSchema() []byte {
	g := generator{definitions: map[string]any{}}
	root := g.definition(typeNamed("#Cluster"))
	root["$schema"] = "http://json-schema.org/draft-07/schema#"
	root["title"] = "cluster.yaml of kthwc"
	root["definitions"] = g.definitions
	text, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(err) // strings, numbers, lists and maps only
	}
	return append(text, '\n')
}

// A node is one schema: keywords and their values.
type node = map[string]any

// generator collects the definitions that are referred to.
type generator struct{ definitions map[string]any }

// reference refers to a definition, and writes it if nothing did before.
func (g *generator) reference(name string) node {
	short := strings.TrimPrefix(name, "#")
	if _, done := g.definitions[short]; !done {
		g.definitions[short] = node{} // ends recursion
		g.definitions[short] = g.definition(typeNamed(name))
	}
	return node{"$ref": "#/definitions/" + short}
}

func (g *generator) definition(t *typeInfo) node {
	var n node
	if t.structure {
		n = g.object(t)
	} else {
		n = g.schema(t.value)
	}
	explain(n, t.expect)
	return n
}

// explain is what editors say instead of the pattern.
func explain(n node, expect string) {
	if n["pattern"] != nil && expect != "" {
		n["patternErrorMessage"] = "must be " + expect
	}
}

// object is a structure: its fields and those that it embeds, and no others.
func (g *generator) object(t *typeInfo) node {
	properties, needed := node{}, []string{}
	for _, f := range append(slices.Clone(t.fields), t.embeddedFields()...) {
		p := g.schema(f.value)
		p["description"] = f.description()
		explain(p, f.Expect)
		properties[f.Name] = p
		if f.required() {
			needed = append(needed, f.Name)
		}
	}
	n := node{"type": "object", "properties": properties, "additionalProperties": false}
	if len(needed) > 0 {
		n["required"] = needed
	}
	if t.exactly > 0 {
		n["minProperties"], n["maxProperties"] = t.exactly, t.exactly
	}
	return n
}

// description is the documentation, what the value must be, and its default
// where that depends on the profile.
func (f *Field) description() string {
	parts := []string{f.Doc}
	expect := f.Expect
	if _, isWhole := f.value.(*ast.BinaryExpr); isWhole || len(f.refs) == 1 && f.Type == f.refs[0] {
		expect = cmp.Or(expect, expectation(f.refs))
	}
	if expect != "" {
		parts = append(parts, "Must be "+expect+".")
	}
	if strings.HasPrefix(f.Type, "*#profiles") {
		parts = append(parts, "The default is the profile's.")
	}
	return strings.Join(parts, " ")
}

// alone makes room for a limit beside a reference: draft 7 ignores it there.
// What only documents may stand beside one, and editors show it.
func alone(n node) node {
	if n["$ref"] == nil {
		return n
	}
	return node{"allOf": []any{n}}
}

// schema is what an expression of CUE allows. It panics on expressions that
// cluster.cue does not have.
func (g *generator) schema(e ast.Expr) node {
	switch e := e.(type) {
	case *ast.BasicLit:
		return oneOf(valueOf(e))
	case *ast.Ident:
		return g.named(e.Name)
	case *ast.UnaryExpr:
		return limit(e)
	case *ast.CallExpr: // strings.MaxRunes
		return node{"maxLength": valueOf(e.Args[0])}
	case *ast.ListLit:
		return g.list(e)
	case *ast.StructLit:
		return g.mapping(e)
	case *ast.BinaryExpr:
		if e.Op == token.OR {
			return g.either(e)
		}
		return g.both(e)
	}
	panic(fmt.Sprintf("cluster.cue: no JSON Schema for %T", e))
}

var typeNames = map[string]string{"int": "integer", "bool": "boolean", "string": "string"}

func (g *generator) named(name string) node {
	if typeName, ok := typeNames[name]; ok {
		return node{"type": typeName}
	}
	return g.reference(name)
}

// limit is a pattern or a bound.
func limit(e *ast.UnaryExpr) node {
	switch v := valueOf(e.X); e.Op {
	case token.MAT:
		return node{"type": "string", "pattern": pattern(v.(string))}
	case token.NMAT:
		return node{"type": "string", "not": node{"pattern": pattern(v.(string))}}
	case token.GEQ:
		return node{"minimum": v}
	case token.LEQ:
		return node{"maximum": v}
	}
	panic("cluster.cue: no JSON Schema for " + e.Op.String())
}

var codePoint = regexp.MustCompile(`\\x\{([0-9a-f]+)\}`)

// pattern writes code points out: \x{2028} is RE2's alone.
func pattern(re2 string) string {
	return codePoint.ReplaceAllStringFunc(re2, func(escape string) string {
		n, _ := strconv.ParseInt(codePoint.FindStringSubmatch(escape)[1], 16, 32)
		return string(rune(n))
	})
}

// list is [...T], [T, ...T] or [T, T].
func (g *generator) list(l *ast.ListLit) node {
	n := node{"type": "array"}
	least := len(l.Elts)
	if rest, ok := l.Elts[len(l.Elts)-1].(*ast.Ellipsis); ok {
		least--
		n["items"] = g.schema(rest.Type)
	} else {
		n["items"], n["maxItems"] = g.schema(l.Elts[0]), least
	}
	if least > 0 {
		n["minItems"] = least
	}
	return n
}

// mapping is {}, {...} or [K]: V. Hidden fields say nothing.
func (g *generator) mapping(s *ast.StructLit) node {
	n := node{"type": "object", "additionalProperties": false}
	if key, value := keyAndValue(s); key != nil {
		n["propertyNames"], n["additionalProperties"] = g.schema(key), g.schema(value)
	}
	for _, elt := range s.Elts {
		if _, open := elt.(*ast.Ellipsis); open {
			delete(n, "additionalProperties")
		}
	}
	return n
}

// both is A & B: the keywords of both. A structure of hidden fields only adds
// what no file writes.
func (g *generator) both(e *ast.BinaryExpr) node {
	if _, hidden := e.Y.(*ast.StructLit); hidden {
		return g.schema(e.X)
	}
	n := alone(g.schema(e.X))
	maps.Copy(n, g.schema(e.Y))
	return n
}

// either is A | B. A default that stands beside words is one of them; beside
// anything else it is a value of that (a test proves it).
func (g *generator) either(e *ast.BinaryExpr) node {
	var words, others []any
	var preset any
	for _, arm := range arms(e) {
		star, marked := arm.(*ast.UnaryExpr)
		if marked = marked && star.Op == token.MUL; marked {
			arm, preset = star.X, valueOf(star.X)
		}
		if word, ok := arm.(*ast.BasicLit); ok {
			words = append(words, valueOf(word))
		} else if !marked {
			others = append(others, g.schema(arm))
		}
	}
	n := node{"anyOf": others}
	switch len(others) {
	case 0:
		n = oneOf(words...)
	case 1:
		n = others[0].(node)
	}
	if preset != nil {
		n["default"] = preset
	}
	return n
}

func arms(e ast.Expr) []ast.Expr {
	if b, ok := e.(*ast.BinaryExpr); ok && b.Op == token.OR {
		return append(arms(b.X), arms(b.Y)...)
	}
	return []ast.Expr{e}
}

func oneOf(words ...any) node { return node{"type": "string", "enum": words} }

// valueOf is a literal's value; nil for what is computed.
func valueOf(e ast.Expr) any {
	switch e := e.(type) {
	case *ast.ListLit:
		out := []any{}
		for _, entry := range e.Elts {
			out = append(out, valueOf(entry))
		}
		return out
	case *ast.BasicLit:
		switch e.Kind {
		case token.STRING:
			text, _ := literal.Unquote(e.Value)
			return text
		case token.TRUE, token.FALSE:
			return e.Kind == token.TRUE
		}
		n, _ := strconv.Atoi(e.Value)
		return n
	}
	return nil
}
