// Package certmap shows who uses which certificate: as text, as a Mermaid
// flowchart, and as a picture in SVG.
//
// It promises that what is alike on several nodes is said once, that the same
// uses give the same bytes, and that whatever stands in a name stays text. It
// refuses to know anything by itself: all of it is what package pki found.
package certmap

import (
	"path"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/internal/names"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/pki"
)

// Item is material of one role, taken together over the nodes.
type Item struct {
	Kind, Role, Authority, Why, Apart string
	Names                             []string
	Arrows                            []Arrow
	Files                             []File
	Waits                             []string
}

// Label is the names in short: kubelet-client@worker-{0..2}.
func (i *Item) Label() string { return names.Ranges(i.Names) }

// Arrow is one party showing the item to another.
type Arrow struct {
	As, By, To, Bundle, Why string
	Beside                  bool     // each shows it to the other on its own node
	Certificates            []string // roles; of what an authority judges
}

// File is one path on the nodes that have it.
type File struct {
	Where, Holds string
	Readers      []Reader
}

// Reader is a component with the fields by which it finds a file.
type Reader struct {
	Component, Fields string
	Pickup            pki.Pickup
	References        []string
}

// Items takes the uses of one role together, each authority before what it
// signs, and keys at the end.
func Items(uses []pki.Use) []Item {
	var roles []string
	alike := map[string][]pki.Use{}
	for _, u := range uses {
		key := u.Kind + " " + u.Role
		if alike[key] == nil {
			roles = append(roles, key)
		}
		alike[key] = append(alike[key], u)
	}
	var out []Item
	for _, key := range roles {
		out = append(out, itemOf(alike[key]))
	}
	return ordered(out)
}

// ordered puts certificates behind their authorities.
func ordered(items []Item) []Item {
	var out, rest []Item
	for _, a := range items {
		switch {
		case a.Kind == pki.Authority:
			out = append(out, a)
			for _, c := range items {
				if c.Kind == pki.Certificate && c.Authority == a.Role {
					out = append(out, c)
				}
			}
		case a.Kind != pki.Certificate || !slices.ContainsFunc(items, func(i Item) bool { return i.Kind == pki.Authority && i.Role == a.Authority }):
			rest = append(rest, a)
		}
	}
	return append(out, rest...)
}

func itemOf(uses []pki.Use) Item {
	first := uses[0]
	i := Item{Kind: first.Kind, Role: first.Role, Authority: first.Authority, Why: first.Why, Apart: first.Apart}
	for _, u := range uses {
		i.Names = append(i.Names, u.Name)
		for _, w := range u.Waits {
			if !slices.Contains(i.Waits, w.Text) {
				i.Waits = append(i.Waits, w.Text)
			}
		}
	}
	i.Arrows, i.Files = arrows(uses), files(uses)
	return i
}

// bundle is the keys of a map in the order in which they came.
type bundle[K comparable, V any] struct {
	keys []K
	of   map[K][]V
}

func (b *bundle[K, V]) add(k K, v V) {
	if b.of == nil {
		b.of = map[K][]V{}
	}
	if b.of[k] == nil {
		b.keys = append(b.keys, k)
	}
	b.of[k] = append(b.of[k], v)
}

func arrows(uses []pki.Use) []Arrow {
	type kind struct{ as, by, to, judge, why string }
	var all bundle[kind, pki.Showing]
	for _, u := range uses {
		for _, s := range u.Showings {
			all.add(kind{s.As, s.By.Component, s.To.Component, s.Bundle, s.Why}, s)
		}
	}
	var out []Arrow
	for _, k := range all.keys {
		a := Arrow{As: k.as, Bundle: k.judge, Why: k.why, Beside: true}
		var by, to []string
		for _, s := range all.of[k] {
			by, to = append(by, s.By.Node), append(to, s.To.Node)
			role, _, _ := strings.Cut(s.Certificate, "@")
			a.Certificates = append(a.Certificates, role)
			a.Beside = a.Beside && s.By.Node != "" && s.By.Node == s.To.Node
		}
		a.By, a.To = party(k.by, by), party(k.to, to)
		a.Certificates = names.Sorted(a.Certificates)
		out = append(out, a)
	}
	return out
}

// party is a component on nodes: kubelet@worker-{0..2}.
func party(component string, nodes []string) string {
	on := names.Ranges(names.Sorted(nodes))
	if on == "" {
		return component
	}
	return component + "@" + on
}

func files(uses []pki.Use) []File {
	type kind struct{ path, holds, readers string }
	var all bundle[kind, pki.Holder]
	for _, u := range uses {
		for _, f := range u.Files {
			where := alikePath(f.Path, u.Node)
			var readers strings.Builder
			for _, r := range f.Readers {
				readers.WriteString(r.Component + r.Field + string(r.Pickup) + "\n")
			}
			all.add(kind{where, f.Holds, readers.String()}, f)
		}
	}
	var out []File
	for _, k := range all.keys {
		var nodes []string
		for _, f := range all.of[k] {
			nodes = append(nodes, f.Node)
		}
		where := k.path
		if on := names.Ranges(names.Sorted(nodes)); on != "" {
			where = on + ":" + k.path
		}
		out = append(out, File{where, k.holds, readers(all.of[k][0].Readers)})
	}
	return out
}

// alikePath is the path with NODE where a file is called like its node.
func alikePath(file, node string) string {
	dir, base := path.Split(file)
	rest, ok := strings.CutPrefix(base, node)
	if ok && node != "" && (strings.HasPrefix(rest, ".") || strings.HasPrefix(rest, "-key.")) {
		return dir + "NODE" + rest
	}
	return file
}

// readers are the fields of one component together, where a change comes to
// them in one way.
func readers(of []pki.Reader) []Reader {
	type kind struct {
		component string
		pickup    pki.Pickup
	}
	var all bundle[kind, pki.Reader]
	for _, r := range of {
		all.add(kind{r.Component, r.Pickup}, r)
	}
	var out []Reader
	for _, k := range all.keys {
		one := Reader{Component: k.component, Pickup: k.pickup}
		var fields []string
		for _, r := range all.of[k] {
			fields = append(fields, r.Field)
			if !slices.Contains(one.References, r.Reference) {
				one.References = append(one.References, r.Reference)
			}
		}
		one.Fields = strings.Join(fields, ", ")
		out = append(out, one)
	}
	return out
}

// Role says in one word what the showing is: server, client or signs.
func (a *Arrow) Role() string { return roles[a.As] }

// roles say in one word what a showing is.
var roles = map[string]string{compile.ServerAuth: "server", compile.ClientAuth: "client", pki.TokenSigning: "signs"}

// pickups say what a change of the item takes: the components to restart.
func (i *Item) pickups() string {
	var restart []string
	reload := false
	for _, f := range i.Files {
		for _, r := range f.Readers {
			switch r.Pickup {
			case pki.Restart:
				restart = append(restart, r.Component)
			case pki.Reload:
				reload = true
			}
		}
	}
	switch {
	case len(restart) > 0:
		return "restart " + strings.Join(names.Sorted(restart), ", ")
	case reload:
		return "reload"
	case len(i.Files) == 0:
		return "on no host"
	}
	return string(pki.EachRun)
}
