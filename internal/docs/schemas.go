package docs

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/verify"
)

// schemaOf is the JSON Schema (draft 2020-12) of what a command writes, read off
// the type that is written; what a field means is its comment.
func schemaOf(dir string, value any, title string) func(fs.FS) (string, error) {
	return func(project fs.FS) (string, error) {
		comments, err := commentsOf(project, dir)
		if err != nil {
			return "", err
		}
		r := &jsonschema.Reflector{
			Anonymous:     true,
			LookupComment: func(t reflect.Type, field string) string { return comments[t.Name()+"."+field] },
		}
		s := r.Reflect(value)
		s.Title = title
		text, err := json.MarshalIndent(s, "", "  ")
		return string(text) + "\n", err
	}
}

var (
	planSchema   = schemaOf("pkg/apply", &apply.Plan{}, "kthwc plan --format json")
	eventSchema  = schemaOf("pkg/apply", &apply.EventRecord{}, "kthwc apply --format json, one object a line")
	verifySchema = schemaOf("pkg/verify", &verify.Document{}, "kthwc verify --format json")
)

// commentsOf are the comments of a package's types ("Type.") and fields
// ("Type.Field"), on one line each.
func commentsOf(project fs.FS, dir string) (map[string]string, error) {
	out := map[string]string{}
	files, err := fs.Glob(project, dir+"/*.go")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := fs.ReadFile(project, file)
		if err != nil {
			return nil, err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			d, ok := n.(*ast.GenDecl)
			if !ok {
				return true
			}
			for _, spec := range d.Specs {
				if t, ok := spec.(*ast.TypeSpec); ok {
					out[t.Name.Name+"."] = oneLine(d.Doc)
					fieldComments(t, out)
				}
			}
			return true
		})
	}
	return out, nil
}

func fieldComments(t *ast.TypeSpec, out map[string]string) {
	s, ok := t.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range s.Fields.List {
		for _, name := range f.Names {
			text := oneLine(f.Doc)
			if text == "" {
				text = oneLine(f.Comment)
			}
			out[t.Name.Name+"."+name.Name] = text
		}
	}
}

func oneLine(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }
