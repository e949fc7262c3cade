package schema

import (
	"cmp"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kthwc/kthwc/pkg/diag"
)

// A shape is what a YAML value may look like, before CUE judges what it says.
// It is derived from the Go mirror.
type shape struct {
	kind   shapeKind
	fields map[string]*shape // of a structure
	names  []string          // of the fields, in the order of the file format
	entry  *shape            // of a list or map
	def    string            // the CUE definition of a structure
}

type shapeKind int

const (
	anything shapeKind = iota
	text
	number
	boolean
	structure
	list
	dictionary
	textOrList
	numberOrList
)

var kindNames = map[shapeKind]string{
	text: "text", number: "a whole number", boolean: "true or false", structure: "a mapping", list: "a list",
	dictionary: "a mapping", textOrList: "text, or a list of text", numberOrList: "a whole number, or a list of them",
}

var rootShape = shapeOf(reflect.TypeFor[Cluster]())

func shapeOf(t reflect.Type) *shape {
	switch {
	case t == reflect.TypeFor[StringList]():
		return &shape{kind: textOrList, entry: &shape{kind: text}}
	case t == reflect.TypeFor[IntList]():
		return &shape{kind: numberOrList, entry: &shape{kind: number}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return shapeOf(t.Elem())
	case reflect.String:
		return &shape{kind: text}
	case reflect.Int:
		return &shape{kind: number}
	case reflect.Bool:
		return &shape{kind: boolean}
	case reflect.Slice:
		return &shape{kind: list, entry: shapeOf(t.Elem())}
	case reflect.Map:
		return &shape{kind: dictionary, entry: shapeOf(t.Elem())}
	case reflect.Struct:
		s := &shape{kind: structure, fields: map[string]*shape{}, def: "#" + t.Name()}
		s.addFields(t)
		return s
	}
	return &shape{kind: anything}
}

func (s *shape) addFields(t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			s.addFields(f.Type)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		s.fields[name] = shapeOf(f.Type)
		s.names = append(s.names, name)
	}
}

// walk checks the shape of a value and of everything below it, records where
// it stands, and returns it as plain data for CUE; nil when its shape is wrong.
func (l *loader) walk(path string, key, n *yaml.Node, want *shape) any {
	if !l.plain(path, n) {
		return nil
	}
	l.doc.places[path] = place{key, n}
	switch want.kind {
	case structure, dictionary:
		if n.Kind == yaml.MappingNode {
			return l.mapping(path, n, want)
		}
	case list:
		if n.Kind == yaml.SequenceNode {
			return l.sequence(path, n, want)
		}
	case textOrList, numberOrList:
		if n.Kind == yaml.SequenceNode {
			return l.sequence(path, n, want)
		}
		return l.scalar(path, n, want.entry.kind, want.kind)
	case anything:
		return l.whatever(path, n)
	default:
		return l.scalar(path, n, want.kind, want.kind)
	}
	return l.wrongKind(path, n, want.kind)
}

// plain refuses what only some YAML readers understand in the same way.
func (l *loader) plain(path string, n *yaml.Node) bool {
	at := nodePos(l.name, n)
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		l.fault("E0011", path, at, "anchors and aliases are not supported", "write the value out; a reviewer sees every value where it is used")
	case n.Style&yaml.TaggedStyle != 0:
		l.fault("E0012", path, at, fmt.Sprintf("the tag %s is not supported", n.Tag), "remove the tag; quote the value if it must be text")
	default:
		return true
	}
	l.breaks(path)
	return false
}

func (l *loader) mapping(path string, n *yaml.Node, want *shape) map[string]any {
	out := make(map[string]any, len(n.Content)/2)
	seen := make(map[string]*yaml.Node, len(n.Content)/2)
	meant := map[string]bool{} // fields that a misspelt key stands for
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		entry := want.entry
		if !l.goodKey(path, key, seen) {
			continue
		}
		if want.kind == structure {
			if entry = want.fields[key.Value]; entry == nil {
				meant[l.unknown(path, key, want.names)] = true
				continue
			}
		}
		seen[key.Value] = key
		if got := l.walk(join(path, key.Value), key, value, entry); got != nil {
			out[key.Value] = got
		}
	}
	if want.kind == dictionary {
		l.maps = append(l.maps, path)
	}
	for _, f := range required(want.def) {
		if seen[f.Name] == nil && !meant[f.Name] {
			l.missed(join(path, f.Name), f)
		}
	}
	return out
}

func (l *loader) goodKey(path string, key *yaml.Node, seen map[string]*yaml.Node) bool {
	at := nodePos(l.name, key)
	switch {
	case key.Tag == "!!merge":
		l.fault("E0011", path, at, "merge keys (<<) are not supported", "write the fields out; a reviewer sees every value where it is used")
	case key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Tag == "!!null":
		l.fault("E0014", path, at, fmt.Sprintf("a key%s must be text, not %s", within(path), shown(key)), "write a word before the colon")
	case key.Tag != "!!str":
		l.fault("E0014", path, at, fmt.Sprintf("a key%s must be text, but %s is %s to YAML", within(path), key.Value, cmp.Or(tagNames[key.Tag], "something else")), fmt.Sprintf("quote it: %q:", key.Value))
	case strings.ContainsAny(key.Value, "\"\n"):
		l.breaks(join(path, key.Value))
		l.fault("E0014", path, at, fmt.Sprintf("a key%s must not contain quotes or line feeds: %s", within(path), shown(key)), "choose another key")
	case seen[key.Value] != nil:
		d := l.fault("E0004", join(path, key.Value), at, fmt.Sprintf("%s is given twice", join(path, key.Value)), "remove one of the two; readers disagree on which one counts")
		d.Related = append(d.Related, relatedTo(l.name, seen[key.Value], "first given here"))
	default:
		return true
	}
	return false
}

// within says where a key stands.
func within(path string) string {
	if path == "" {
		return " at the top of the file"
	}
	return " in " + path
}

// unknown reports a key that is not a field. It gives the field that was meant;
// "" if no field is close.
func (l *loader) unknown(path string, key *yaml.Node, known []string) string {
	l.breaks(join(path, key.Value))
	d := l.fault("E0003", join(path, key.Value), nodePos(l.name, key), fmt.Sprintf("unknown field %q%s", key.Value, within(path)), "")
	near := diag.Nearest(key.Value, known)
	switch {
	case near != "":
		d.Label = fmt.Sprintf("did you mean %q?", near)
		d.Help = fmt.Sprintf("write %s instead of %s", near, key.Value)
	case len(known) == 0:
		d.Help = "remove it; there are no fields here"
	case len(known) == 1:
		d.Help = "remove it; the only field here is " + known[0]
	default:
		d.Help = "remove it, or use one of the fields here: " + strings.Join(known, ", ")
	}
	return near
}

func (l *loader) sequence(path string, n *yaml.Node, want *shape) []any {
	out := make([]any, 0, len(n.Content))
	names := map[string]*yaml.Node{}
	for i, item := range n.Content {
		at := path + "[" + strconv.Itoa(i) + "]"
		if name := nameOf(item, want.entry); name != nil {
			at = path + "[" + name.Value + "]"
			if first := names[name.Value]; first != nil {
				d := l.fault("E0017", at, nodePos(l.name, name), fmt.Sprintf("%s has two entries with the name %q", path, name.Value), "give every entry its own name")
				d.Related = append(d.Related, relatedTo(l.name, first, "first given here"))
				at += "#" + strconv.Itoa(i)
			}
			names[name.Value] = name
		}
		got := l.walk(at, nil, item, want.entry)
		if got == nil {
			continue
		}
		l.items[path] = append(l.items[path], at)
		out = append(out, got)
	}
	if l.items[path] == nil {
		l.items[path] = []string{}
	}
	return out
}

// nameOf finds the name that identifies an entry of a list; nil if there is none.
func nameOf(item *yaml.Node, want *shape) *yaml.Node {
	if want.kind != structure || !slices.Contains(want.names, "name") || item.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(item.Content); i += 2 {
		if item.Content[i].Value == "name" && item.Content[i+1].Kind == yaml.ScalarNode && !strings.ContainsAny(item.Content[i+1].Value, "[]\"\n") {
			return item.Content[i+1]
		}
	}
	return nil
}

// scalar reads one value. declared is the kind to name in a fault.
func (l *loader) scalar(path string, n *yaml.Node, want, declared shapeKind) any {
	l.doc.leaves = append(l.doc.leaves, path)
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag == "!!null":
	case want == text && n.Tag == "!!str" && trap(n):
		return l.unquoted(path, n, "true or false to some YAML readers")
	case want == text && n.Tag == "!!str":
		return n.Value
	case want == text:
		return l.unquoted(path, n, tagNames[n.Tag]+" to YAML")
	case want == number && n.Tag == "!!int":
		if v, err := strconv.Atoi(n.Value); err == nil && !strings.HasPrefix(strings.TrimLeft(n.Value, "+-"), "0") || n.Value == "0" {
			return v
		}
	case want == boolean && n.Tag == "!!bool":
		return n.Value == "true"
	}
	return l.wrongKind(path, n, declared)
}

// unquoted reports text that is something else to a YAML reader.
func (l *loader) unquoted(path string, n *yaml.Node, what string) any {
	d := l.fault("E0015", path, nodePos(l.name, n), fmt.Sprintf("%s must be text, but %s is %s", path, n.Value, what), fmt.Sprintf("quote it: %q", n.Value))
	d.Label = "not in quotes"
	l.breaks(path)
	return nil
}

var tagNames = map[string]string{"!!int": "a number", "!!float": "a number", "!!bool": "true or false", "!!timestamp": "a date"}

// trap says whether an unquoted word is a boolean to readers of YAML 1.1.
func trap(n *yaml.Node) bool {
	return n.Style == 0 && slices.Contains([]string{"yes", "no", "on", "off", "y", "n"}, strings.ToLower(n.Value))
}

func (l *loader) wrongKind(path string, n *yaml.Node, want shapeKind) any {
	about := describe(path)
	wanted := kindNames[want]
	if want == text || want == number || want == boolean {
		wanted = cmp.Or(about.Expect, wanted)
	}
	d := l.fault("E0005", path, nodePos(l.name, n), fmt.Sprintf("%s must be %s", path, wanted), kindHelp(path, &about, n, want))
	if path == "" {
		d.Summary = "the file must be a mapping with apiVersion, kind, metadata and spec"
		d.Help = "`kthwc init` writes a file to start from"
	}
	d.Label = "got " + shown(n)
	l.breaks(path)
	return nil
}

var (
	withoutSpace = regexp.MustCompile(`^([A-Za-z]+):(\S.*)$`)
	truths       = map[string]string{"yes": "true", "on": "true", "y": "true", "true": "true", "1": "true", "no": "false", "off": "false", "n": "false", "false": "false", "0": "false"}
)

// kindHelp says what to write instead of a value of the wrong kind.
func kindHelp(path string, about *Field, n *yaml.Node, want shapeKind) string {
	digits := strings.TrimLeft(n.Value, "0")
	_, err := strconv.Atoi(digits)
	glued := withoutSpace.FindStringSubmatch(n.Value)
	isMapping := want == structure || want == dictionary
	switch {
	case n.Tag == "!!null" && isMapping:
		return "write its fields on the lines below, indented, or {} for none"
	case n.Tag == "!!null" && strings.HasSuffix(path, "]"):
		return "write a value, or remove the entry"
	case n.Tag == "!!null" && !about.required():
		return "write a value, or remove the key to use the default"
	case isMapping && glued != nil:
		return fmt.Sprintf("put a space after the colon: %s: %s", glued[1], glued[2])
	case isMapping:
		return "write fields on the lines below, indented" + about.fieldNames()
	case want == list && n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		return fmt.Sprintf("write a list: [%s]", n.Value)
	case want == list:
		return "write a list: a line for every entry, with a dash and a space in front"
	case want == text && n.Kind == yaml.SequenceNode && len(n.Content) == 1 && n.Content[0].Kind == yaml.ScalarNode:
		return "write it without brackets: " + n.Content[0].Value
	case want == number && err == nil:
		return "write " + digits + ", without quotes and without a zero in front"
	case want == boolean && truths[strings.ToLower(n.Value)] != "":
		return "write " + truths[strings.ToLower(n.Value)] + " without quotes"
	}
	return about.remedy(cmp.Or(about.Expect, kindNames[want]))
}

// whatever reads a value that this program only passes on.
func (l *loader) whatever(path string, n *yaml.Node) any {
	switch n.Kind {
	case yaml.MappingNode:
		return l.mapping(path, n, &shape{kind: dictionary, entry: &shape{kind: anything}})
	case yaml.SequenceNode:
		return l.sequence(path, n, &shape{kind: list, entry: &shape{kind: anything}})
	}
	l.doc.leaves = append(l.doc.leaves, path)
	var v any
	if err := n.Decode(&v); err != nil {
		l.fault("E0007", path, nodePos(l.name, n), "this value cannot be read: "+strings.TrimPrefix(err.Error(), "yaml: "), "quote it if it is text")
		return nil
	}
	if _, isTime := v.(interface{ Unix() int64 }); isTime {
		return n.Value
	}
	if v == nil {
		return null{}
	}
	return v
}

// null stands for an explicit null in a patch: it deletes.
type null struct{}

// MarshalJSON writes null.
func (null) MarshalJSON() ([]byte, error) { return []byte("null"), nil }
