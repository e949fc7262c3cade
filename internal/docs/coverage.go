package docs

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/tree"
)

// An edition is one edition of the tutorial and everything that it makes a
// person type.
type edition struct {
	title   string
	example string // the input that is that edition
	rows    []artefact
	beyond  []artefact // what is rendered and is not in the tutorial
}

// An artefact is one thing that the tutorial makes by hand: where it is in what
// is rendered from the edition's example, or why it is not needed.
//
// A place is NODE:/PATH or PATH, followed by " # TEXT" if only a part of the
// file is meant; or "program NODE NAME", or "package NODE NAME".
type artefact struct {
	chapter string
	what    string
	at      []string
	why     string // what differs; without a place, why it is not rendered
}

// coverage is the page of every artefact of the editions.
func coverage(project fs.FS) (string, error) {
	var b strings.Builder
	b.WriteString(generated + "# What the tutorial types, and where it is\n\nEverything that two editions of Kubernetes The Hard Way make a person type, and what kthwc renders for it. What is not\nrendered says why. A test looks up every place that is named here in the rendered tree.\n")
	for _, e := range editions {
		in, err := build(project, e.example)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "\n## %s\n\nPlaces are in what is rendered from `%s`.\n\n| chapter | what | where | remark |\n|---|---|---|---|\n", e.title, e.example)
		for _, a := range slices.Concat(e.rows, e.beyond) {
			for _, at := range a.at {
				if err := in.has(at); err != nil {
					return "", fmt.Errorf("%s: %s: %w", e.title, a.what, err)
				}
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", a.chapter, a.what, places(a.at), a.why)
		}
	}
	b.WriteString("\n## Faults of the editions\n\nWhat does not work in the editions as they are written, and what becomes of it in `profile: tutorial`.\n\n| edition | fault | what becomes of it | how |\n|---|---|---|---|\n")
	for _, d := range defects {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", d.edition, d.what, d.fate, d.how)
	}
	return b.String(), nil
}

func places(at []string) string {
	if len(at) == 0 {
		return "not rendered"
	}
	out := make([]string, len(at))
	for i, place := range at {
		name, text, part := strings.Cut(place, " # ")
		out[i] = code(name)
		if part {
			out[i] += ": " + code(strings.TrimSpace(text))
		}
	}
	return strings.Join(out, "<br>")
}

// has is an error unless the place is in the rendered tree.
func (b *built) has(place string) error {
	if fields := strings.Fields(place); fields[0] == "program" || fields[0] == "package" {
		return b.hasOnNode(fields[0], fields[1], fields[2])
	}
	name, text, _ := strings.Cut(place, " # ")
	f := b.file(name)
	switch {
	case f == nil:
		return fmt.Errorf("%s renders no %s", b.path, name)
	case f.Body != nil && !strings.Contains(string(f.Body.Bytes()), text):
		return fmt.Errorf("%s: %s does not say %q", b.path, name, text)
	}
	return nil
}

// file finds NODE:/PATH or PATH; nil if there is none.
func (b *built) file(name string) *tree.File {
	node, inside, ofNode := strings.Cut(name, ":")
	if !ofNode {
		return b.tree.File(name)
	}
	if n := b.tree.Node(node); n != nil {
		return n.File(path.Clean(inside))
	}
	return nil
}

func (b *built) hasOnNode(kind, node, name string) error {
	n := b.tree.Node(node)
	if n == nil {
		return fmt.Errorf("%s has no node %s", b.path, node)
	}
	found := slices.ContainsFunc(n.Packages, func(p tree.Package) bool { return p.Name == name })
	if kind == "program" {
		found = slices.ContainsFunc(n.Binaries, func(p tree.Binary) bool { return p.Name == name })
	}
	if !found {
		return fmt.Errorf("%s: %s has no %s %s", b.path, node, kind, name)
	}
	return nil
}
