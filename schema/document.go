package schema

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/origin"
)

// Document is a valid cluster.yaml: typed values with defaults filled in, and
// the place of everything that the user wrote.
//
// A path names a field from the root, with the entries of lists by their name
// where they have one: spec.nodes[worker-0].address, spec.api.extraSANs[0],
// spec.nodes[worker-0].labels["example.net/rack"].
type Document struct {
	Cluster Cluster

	name   string
	source []byte
	places map[string]place
	leaves []string
}

// place is where a field stands.
type place struct {
	key, value *yaml.Node // key is nil for entries of lists
}

// Name is the file name that the document was loaded under.
func (d *Document) Name() string { return d.name }

// Source is the bytes that the document was loaded from.
func (d *Document) Source() []byte { return d.source }

// Leaves lists every scalar that the user wrote, in the order of the file.
func (d *Document) Leaves() []string { return d.leaves }

// Written says whether the user wrote the field, rather than the schema.
func (d *Document) Written(path string) bool {
	_, ok := d.places[path]
	return ok
}

// Text is what the user wrote for the field: a scalar as it is read, and of a
// list or mapping only how many entries it has. It is "" for what is not written.
func (d *Document) Text(path string) string {
	at, ok := d.places[path]
	switch {
	case !ok:
		return ""
	case at.value.Kind == yaml.ScalarNode:
		return at.value.Value
	case at.value.Kind == yaml.MappingNode:
		return fmt.Sprintf("%d fields", len(at.value.Content)/2)
	}
	return fmt.Sprintf("%d entries", len(at.value.Content))
}

// Origin is the field itself when the user wrote it, and the schema's default otherwise.
func (d *Document) Origin(path string) origin.Origin {
	if d.Written(path) {
		return origin.Field(path)
	}
	return origin.Default(path)
}

// Pos is where the field's value stands, or that of its deepest ancestor that
// the user wrote.
func (d *Document) Pos(path string) diag.Pos { return d.pos(path, false) }

// KeyPos is like Pos for the field's key.
func (d *Document) KeyPos(path string) diag.Pos { return d.pos(path, true) }

func (d *Document) pos(path string, wantKey bool) diag.Pos {
	for p := path; p != ""; p = Parent(p) {
		at, ok := d.places[p]
		if !ok {
			continue
		}
		node := at.value
		if at.key != nil && (wantKey || p != path || node.Kind != yaml.ScalarNode) {
			node = at.key
		}
		return nodePos(d.name, node)
	}
	return diag.Pos{File: d.name, Line: 1, Col: 1}
}

func nodePos(file string, n *yaml.Node) diag.Pos {
	length := len([]rune(n.Value))
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		length += 2
	}
	if n.Kind != yaml.ScalarNode || n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 || strings.Contains(n.Value, "\n") {
		length = 1
	}
	return diag.Pos{File: file, Line: n.Line, Col: n.Column, Len: max(length, 1)}
}

// Parent cuts the last step off a path; "" at the root.
func Parent(path string) string {
	if strings.HasSuffix(path, `"]`) {
		return path[:strings.LastIndex(path, `["`)]
	}
	if strings.HasSuffix(path, "]") {
		return path[:strings.LastIndexByte(path, '[')]
	}
	return path[:max(strings.LastIndexByte(path, '.'), 0)]
}

// join adds a field to a path.
func join(path, field string) string {
	if strings.ContainsAny(field, "./[]\"") {
		return path + `["` + field + `"]`
	}
	if path == "" {
		return field
	}
	return path + "." + field
}
