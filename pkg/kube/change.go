package kube

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Do says what becomes of an object.
type Do string

// What can become of an object.
const (
	Add     Do = "add"
	Alter   Do = "change"
	Remove  Do = "delete"
	Same    Do = "same"
	Release Do = "release" // no manifest has it any more, but kthwc did not make it: it stays, and is forgotten
	Unknown Do = "unknown" // Error says why it could not be found out, or not be done
)

// Change is what becomes of one object, or became of it.
type Change struct {
	Do         Do       `json:"do"`
	Manifest   string   `json:"manifest,omitempty"`
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Namespace  string   `json:"namespace,omitempty"`
	Name       string   `json:"name"`
	What       []string `json:"what,omitempty"`     // what differs: "spec.replicas 2 → 3"; of a Secret never a value
	Owners     []string `json:"owners,omitempty"`   // from whom fields are taken: "kubectl: .spec.replicas"
	Warnings   []string `json:"warnings,omitempty"` // of the API server, such as that a version is deprecated
	Error      string   `json:"error,omitempty"`
}

// Ref names the object.
func (c Change) Ref() Ref { return Ref{c.APIVersion, c.Kind, c.Namespace, c.Name} }

func changeOf(r Ref, manifest string) Change {
	return Change{Manifest: manifest, APIVersion: r.APIVersion, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
}

// failed is the change that could not be found out, or not be done.
func (c Change) failed(err error) Change {
	c.Do, c.Error = Unknown, err.Error()
	return c
}

// ignored are the fields that the server keeps for itself.
var ignored = []string{"creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"}

// differences are the paths where two objects differ, with both values, in the
// order of their names. Of a Secret there are paths alone.
func differences(before, after Object) []string {
	d := differ{hidden: after.Str("kind") == "Secret"}
	d.compare("", essence(before), essence(after))
	const most = 40
	if n := len(d.lines); n > most {
		d.lines = append(d.lines[:most:most], fmt.Sprintf("and %d more", n-most))
	}
	return d.lines
}

// essence is an object without status and what the server keeps for itself.
func essence(o Object) map[string]any {
	e := maps.Clone(map[string]any(o))
	delete(e, "status")
	if metadata, ok := e["metadata"].(map[string]any); ok {
		metadata = maps.Clone(metadata)
		for _, name := range ignored {
			delete(metadata, name)
		}
		e["metadata"] = metadata
	}
	return e
}

type differ struct {
	hidden bool
	lines  []string
}

func (d *differ) compare(path string, a, b any) {
	switch {
	case equal(a, b):
	case isMap(a) && isMap(b):
		d.members(path, a.(map[string]any), b.(map[string]any), pathTo)
	case isList(a) && isList(b):
		x, y := byName(a.([]any), b.([]any))
		d.members(path, x, y, func(path, name string) string { return path + "[" + name + "]" })
	default:
		d.lines = append(d.lines, d.line(path, a, b))
	}
}

func isMap(v any) bool  { _, ok := v.(map[string]any); return ok }
func isList(v any) bool { _, ok := v.([]any); return ok }

func (d *differ) members(path string, a, b map[string]any, to func(path, name string) string) {
	names := maps.Clone(a)
	maps.Copy(names, b)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		d.compare(to(path, name), a[name], b[name])
	}
}

// pathTo writes names with dots or slashes in brackets: annotations[kthwc.dev/x].
func pathTo(path, name string) string {
	switch {
	case strings.ContainsAny(name, "./"):
		return path + "[" + name + "]"
	case path == "":
		return name
	}
	return path + "." + name
}

// byName makes maps of two lists: by the names of their members where these
// tell them apart, else by number.
func byName(a, b []any) (x, y map[string]any) {
	x, xNamed := named(a)
	y, yNamed := named(b)
	if xNamed && yNamed {
		return x, y
	}
	return numbered(a), numbered(b)
}

func named(list []any) (map[string]any, bool) {
	m := make(map[string]any, len(list))
	for _, item := range list {
		object, _ := item.(map[string]any)
		name, ok := object["name"].(string)
		if _, twice := m[name]; !ok || twice {
			return nil, false
		}
		m[name] = item
	}
	return m, true
}

func numbered(list []any) map[string]any {
	m := make(map[string]any, len(list))
	for i, item := range list {
		m[fmt.Sprintf("%d", i)] = item
	}
	return m
}

// line says how one value differs from another. Nil is none.
func (d *differ) line(path string, a, b any) string {
	path = printable(path)
	switch {
	case d.hidden && a == nil:
		return path + " is new"
	case d.hidden && b == nil:
		return path + " is removed"
	case d.hidden:
		return path + " differs"
	case a == nil:
		return path + " is new: " + short(b)
	case b == nil:
		return path + " is removed: " + short(a)
	}
	if where, from, to, ok := firstLine(a, b); ok {
		return fmt.Sprintf("%s line %d %s → %s", path, where, short(from), short(to))
	}
	return path + " " + short(a) + " → " + short(b)
}

// firstLine finds the first line where two texts of several lines differ.
func firstLine(a, b any) (number int, from, to string, ok bool) {
	x, isText := a.(string)
	y, isTextToo := b.(string)
	if !isText || !isTextToo || !strings.Contains(x+y, "\n") {
		return 0, "", "", false
	}
	before, after := strings.Split(x, "\n"), strings.Split(y, "\n")
	for number < len(before) && number < len(after) && before[number] == after[number] {
		number++
	}
	return number + 1, at(before, number), at(after, number), true
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return strings.TrimSpace(lines[i])
	}
	return ""
}

// short is a value in one short line.
func short(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return "something"
	}
	const most = 60
	runes := []rune(string(text))
	if len(runes) > most {
		return printable(string(runes[:most]) + "…")
	}
	return printable(string(runes))
}

func equal(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}
