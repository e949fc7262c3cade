package render

import (
	"slices"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

// readers says of every certificate, key, bundle and kubeconfig which units
// must learn of its change: those whose own text, or whose configuration,
// names its path.
func (b *builder) readers() {
	named := map[string][]string{} // path -> units
	for _, f := range b.out.Files {
		if f.Kind != tree.Regular || f.Block || len(f.Body.Refs()) > 0 {
			continue
		}
		for _, p := range b.named(f.Body) {
			named[p] = append(named[p], f.Units()...)
		}
	}
	for i, f := range b.out.Files {
		units := named[f.Path]
		if f.Kind != tree.Regular || len(units) == 0 || len(f.Readers) > 0 || len(f.Body.Refs()) == 0 {
			continue
		}
		known := *f
		slices.Sort(units)
		known.Readers = slices.Compact(units)
		known.Metadata = origin.Join(f.Metadata, b.unitsFrom(known.Readers))
		b.out.Files[i] = &known
	}
}

// unitsFrom is why the node has the units.
func (b *builder) unitsFrom(names []string) origin.Origin {
	var out origin.Origin
	for _, u := range b.out.Units {
		if slices.Contains(names, u.Name) {
			out = origin.Join(out, u.From)
		}
	}
	return out
}

// named lists the paths that a body names, once for a body that nodes share.
func (b *builder) named(body *tree.Body) []string {
	if known, ok := b.pools.Load(body); ok {
		return known.([]string)
	}
	var out []string
	for _, l := range body.Lines {
		out = append(out, pathsOf(l.Text)...)
		for _, part := range l.Parts {
			out = append(out, pathsOf(part.Text)...)
		}
	}
	if b.n.Pool != "" {
		b.pools.Store(body, out)
	}
	return out
}
