package diff

import (
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/schema"
)

// Cause is a source whose change moved lines.
type Cause struct {
	Source string   `json:"source"` // as in package origin: spec.api.port, row:etcd, fixed:unit-restart, …
	Pos    diag.Pos `json:"-"`
	Where  string   `json:"where,omitempty"` // cluster.yaml:21:5
	Old    string   `json:"old,omitempty"`   // the field's text; "" when it was not written
	New    string   `json:"new,omitempty"`
}

// because finds which of the sources of what went and what came have changed
// themselves: fields of cluster.yaml first; else version rows; else whatever
// only one of the sides names.
func (c *comparison) because(from, to origin.Origin) []Cause {
	all := origin.Join(from, to).Sources()
	var out []Cause
	for _, source := range all {
		if cause, ok := c.field(source); ok && !slices.ContainsFunc(out, func(o Cause) bool { return o.Source == cause.Source }) {
			out = append(out, cause)
		}
	}
	if len(out) > 0 {
		return innermost(out)
	}
	for _, only := range []func(string) bool{
		func(s string) bool { return strings.HasPrefix(s, origin.PrefixInventory) },
		func(s string) bool { return from.Has(s) != to.Has(s) && !strings.HasPrefix(s, origin.PrefixFixed) },
		func(s string) bool { return strings.HasPrefix(s, origin.PrefixOverlay) },
		func(s string) bool { return strings.HasPrefix(s, origin.PrefixRow) },
		func(s string) bool { return strings.HasPrefix(s, origin.PrefixFixed) },
		func(string) bool { return true },
	} {
		for _, s := range all {
			if only(s) {
				out = append(out, Cause{Source: s})
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

// innermost drops the list that grew where the entry that came is named too.
func innermost(causes []Cause) []Cause {
	return slices.DeleteFunc(slices.Clone(causes), func(whole Cause) bool {
		return slices.ContainsFunc(causes, func(part Cause) bool {
			return strings.HasPrefix(part.Source, whole.Source+"[") || strings.HasPrefix(part.Source, whole.Source+".")
		})
	})
}

// otherPrefixes are those of sources that no cluster.yaml writes.
var otherPrefixes = []string{origin.PrefixRow, origin.PrefixFixed, origin.PrefixOverlay, origin.PrefixInventory}

// field says whether the field of cluster.yaml behind a source is written
// differently in the two files.
func (c *comparison) field(source string) (Cause, bool) {
	path := strings.TrimPrefix(source, origin.PrefixDefault)
	if slices.ContainsFunc(otherPrefixes, func(p string) bool { return strings.HasPrefix(path, p) }) {
		return Cause{}, false
	}
	was, is := c.from.Doc.Written(path), c.to.Doc.Written(path)
	doc := c.to.Doc
	if !is {
		doc = c.from.Doc
	}
	if was != is {
		path = outermost(path, c.from.Doc, c.to.Doc)
	}
	cause := Cause{Source: path, Pos: doc.Pos(path), Old: c.from.Doc.Text(path), New: c.to.Doc.Text(path)}
	cause.Where = cause.Pos.String()
	return cause, was != is || cause.Old != cause.New
}

// outermost is the whole that came or went with a field: a node rather than
// each of its fields.
func outermost(path string, a, b *schema.Document) string {
	for up := schema.Parent(path); up != "" && a.Written(up) != b.Written(up); up = schema.Parent(up) {
		path = up
	}
	return path
}
