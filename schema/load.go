package schema

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/cuecontext"
	cueerrors "cuelang.org/go/cue/errors"
	"go.yaml.in/yaml/v3"

	"github.com/kthwc/kthwc/pkg/diag"
)

// MaxBytes is the size of the largest cluster.yaml that is read: several times
// what five thousand nodes listed one by one take.
const MaxBytes = 4 << 20

// Load reads one cluster.yaml. name stands in positions. The list holds every
// fault that was found; the document is nil if any of them is an error.
func Load(name string, data []byte) (*Document, diag.List) {
	l := newLoader(name, data)
	root := l.parse(data)
	if root == nil {
		return nil, l.faults
	}
	plain := l.walk("", nil, root, rootShape)
	if fields, ok := plain.(map[string]any); ok {
		l.judge(fields)
	}
	l.faults.Sort()
	if l.faults.HasErrors() {
		return nil, l.faults
	}
	return l.doc, l.faults
}

// Peek finds what was written where, and judges nothing: it is for a document
// of an earlier day, which may be one that [Load] refuses now. Text that is not
// YAML gives a document without places.
func Peek(name string, data []byte) *Document {
	l := newLoader(name, data)
	if root := l.parse(data); root != nil {
		l.walk("", nil, root, rootShape)
	}
	return l.doc
}

// loader is the state of one Load.
type loader struct {
	name   string
	doc    *Document
	faults diag.List
	items  map[string][]string // path of a list -> paths of its entries
	maps   []string            // paths of maps, whose keys are judged
	broken map[string]bool     // paths with a fault: no second one for them
	around map[string]bool     // paths that have one of these below them
}

func newLoader(name string, data []byte) *loader {
	return &loader{
		name: name, doc: &Document{name: name, source: data, places: map[string]place{}},
		items: map[string][]string{}, broken: map[string]bool{}, around: map[string]bool{},
	}
}

func (l *loader) fault(code, path string, at diag.Pos, summary, help string) *diag.Diagnostic {
	l.faults = append(l.faults, diag.Diagnostic{Code: code, Path: path, Pos: at, Summary: summary, Help: help})
	return &l.faults[len(l.faults)-1]
}

// parse checks the bytes and reads the one YAML document in them; nil after a fault.
func (l *loader) parse(data []byte) *yaml.Node {
	start := diag.Pos{File: l.name, Line: 1, Col: 1}
	switch at := badByte(data); {
	case len(data) > MaxBytes:
		l.fault("E0002", "", start, fmt.Sprintf("the file is larger than %d MiB", MaxBytes>>20), "a cluster.yaml of this size is not one that a person reviews; use pools for many machines of one kind")
		return nil
	case at >= 0:
		l.bytesFault(data, at)
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	switch err := decoder.Decode(&first); {
	case errors.Is(err, io.EOF) || err == nil && isNull(&first):
		l.fault("E0009", "", start, "the file is empty, or holds nothing but comments", "`kthwc init` writes a file to start from")
		return nil
	case err != nil:
		l.syntax(err)
		return nil
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		l.fault("E0008", "", nodePos(l.name, second.Content[0]), "the file holds more than one document", "keep one cluster in a file; remove everything from the second `---` on")
		return nil
	case !errors.Is(err, io.EOF):
		l.syntax(err)
		return nil
	}
	return first.Content[0]
}

func isNull(document *yaml.Node) bool {
	return len(document.Content) == 0 || document.Content[0].Tag == "!!null"
}

// badByte finds the first byte that plain UTF-8 text does not have; -1 if none.
func badByte(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		control := r < ' ' && r != '\n' && r != '\t' && r != '\r'
		if r == utf8.RuneError && size <= 1 || control || r == '\uFEFF' || r == 0x7f {
			return i
		}
		i += size
	}
	return -1
}

func position(file string, data []byte, offset int) diag.Pos {
	before := data[:offset]
	line := bytes.Count(before, []byte("\n")) + 1
	col := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return diag.Pos{File: file, Line: line, Col: col, Len: 1}
}

// definition is cluster.cue, compiled, with the context that it was compiled in.
var definition = lazily(func() (d struct {
	context    *cue.Context
	file, root cue.Value
}) {
	d.context = cuecontext.New()
	d.file = d.context.CompileBytes(source, cue.Filename("cluster.cue"))
	d.root = d.file.LookupPath(cue.ParsePath("#Cluster"))
	return d
})

// accepts says whether one of the definitions accepts a value.
func accepts(defs []string, v any) bool {
	d := definition()
	return slices.ContainsFunc(defs, func(def string) bool {
		return d.file.LookupPath(cue.ParsePath(def)).Unify(d.context.Encode(v)).Validate(cue.Final(), cue.Concrete(true)) == nil
	})
}

// judge lets CUE judge the values, fill in the defaults, and decode.
func (l *loader) judge(fields map[string]any) {
	d := definition()
	unified := d.root.Unify(d.context.Encode(fields))
	l.judgeKeys()
	paths := map[string]bool{}
	for _, e := range cueerrors.Errors(unified.Validate(cue.Final(), cue.Concrete(true))) {
		paths[l.pathOf(e.Path())] = true
	}
	l.refuseAll(paths)
	l.exactlyOneProvider(fields)
	if l.faults.HasErrors() {
		return
	}
	if err := unified.Decode(&l.doc.Cluster); err != nil {
		l.fault("E0010", "", diag.Pos{File: l.name, Line: 1, Col: 1}, "a value does not fit: "+err.Error(), "")
	}
}

// judgeKeys refuses keys of maps: CUE reports them at their values, or not at
// all beside other faults.
func (l *loader) judgeKeys() {
	good := map[string]bool{} // most maps have the same keys
	for _, path := range l.maps {
		about := describe(path)
		key, _ := keyAndValue(about.value)
		if key == nil {
			continue // anything may be below
		}
		name := about.part(key)
		name.Expect = expectation(name.refs)
		node := l.doc.places[path].value
		for i := 0; i < len(node.Content); i += 2 {
			k := node.Content[i]
			id := strings.Join(append(name.refs, k.Value), " ")
			if good[id] = good[id] || k.Tag != "!!str" || accepts(name.refs, k.Value); !good[id] && !l.covered(join(path, k.Value)) {
				l.breaks(join(path, k.Value))
				d := l.fault("E0010", join(path, k.Value), nodePos(l.name, k), fmt.Sprintf("a key in %s must be %s", path, name.Expect), name.instead(k))
				d.Label = "got " + shown(k)
			}
		}
	}
}

// refuseAll reports what CUE did not accept, the innermost first: a list is
// not at fault for its entries. A field that nobody wrote is only at fault
// when nothing else is.
func (l *loader) refuseAll(paths map[string]bool) {
	inner := slices.SortedFunc(maps.Keys(paths), func(a, b string) int {
		return cmp.Or(len(stepsOf(b))-len(stepsOf(a)), strings.Compare(a, b))
	})
	for _, path := range inner {
		if at, written := l.doc.places[path]; written && !l.covered(path) && !l.fits(path, at.value) {
			l.refuse(path, at.value)
		}
	}
	for _, path := range inner {
		if !l.faults.HasErrors() {
			about := describe(path)
			l.missed(path, &about)
		}
	}
}

// fits says whether an entry of a list is right by itself: CUE also compares
// entries with those of the default.
func (l *loader) fits(path string, n *yaml.Node) bool {
	return strings.HasSuffix(path, "]") && n.Tag == "!!str" && accepts(describe(path).refs, n.Value)
}

// pathOf turns CUE's steps ("#Cluster", "spec", "nodes", "3") into a path.
func (l *loader) pathOf(steps []string) string {
	path := ""
	for _, s := range steps {
		entries, isList := l.items[path]
		n, err := strconv.Atoi(s)
		switch {
		case strings.HasPrefix(s, "#"):
		case isList && err == nil && n < len(entries):
			path = entries[n]
		case isList:
			return path
		default:
			path = join(path, strings.Trim(s, `"`))
		}
	}
	return path
}

// breaks remembers that a path has a fault.
func (l *loader) breaks(path string) {
	l.broken[path] = true
	for p := Parent(path); p != ""; p = Parent(p) {
		l.around[p] = true
	}
}

// covered says whether a fault was already given for the path or around it.
func (l *loader) covered(path string) bool {
	for p := path; p != ""; p = Parent(p) {
		if l.broken[p] {
			return true
		}
	}
	return l.around[path]
}

// refuse reports a value that CUE did not accept.
func (l *loader) refuse(path string, n *yaml.Node) {
	about := describe(path)
	d := l.fault("E0010", path, nodePos(l.name, n), fmt.Sprintf("%s must be %s", path, cmp.Or(about.Expect, "something else")), about.instead(n))
	d.Label = "got " + shown(n)
	l.breaks(path)
}

// instead says what to write instead of a value: the nearest word, the value
// as it would be accepted, or one like the example.
func (f *Field) instead(n *yaml.Node) string {
	if near := cmp.Or(diag.Nearest(n.Value, f.words()), f.repaired(n)); near != "" {
		return fmt.Sprintf("write %q instead of %s", near, shown(n))
	}
	help := f.remedy(f.Expect)
	if like, ok := strings.CutPrefix(help, "write it like "); ok && n.Kind == yaml.SequenceNode && like[0] != '[' {
		return "write it like [" + like + "]"
	}
	return help
}

var unusual = regexp.MustCompile(`[^a-z0-9.-]+`)

// repairs are small changes that make values acceptable.
var repairs = []func(string) string{
	strings.ToLower,
	func(v string) string { return strings.TrimLeft(v[strings.LastIndex(v, "//")+1:], "/-v") },
	func(v string) string { return strings.Trim(unusual.ReplaceAllString(strings.ToLower(v), "-"), "-") },
	func(v string) string { return synonyms[v] },
}

// synonyms are what the same things are called elsewhere.
var synonyms = map[string]string{"x86_64": "amd64", "aarch64": "arm64", "master": "controller", "control-plane": "controller", "node": "worker"}

// repaired is the value after the first repair that makes it acceptable; "" if none does.
func (f *Field) repaired(n *yaml.Node) string {
	if n.Tag != "!!str" || strings.ContainsFunc(n.Value, unicode.IsControl) {
		return ""
	}
	for _, repair := range repairs {
		fixed := repair(n.Value)
		if fixed != n.Value && fixed != "" && (slices.Contains(f.words(), fixed) || accepts(f.refs, fixed)) {
			return fixed
		}
	}
	return ""
}

func (l *loader) missed(path string, about *Field) {
	l.breaks(path)
	help := fmt.Sprintf("add %s: %s", about.Name, cmp.Or(about.Expect, expectation(about.refs)))
	if about.structured() {
		help = fmt.Sprintf("add %s: and, indented below it, %s", about.Name, cmp.Or(expectation(about.refs), about.requiredNames()))
	}
	d := l.fault("E0006", path, l.doc.KeyPos(path), path+" is missing", help)
	if about.Doc != "" {
		d.Notes = append(d.Notes, about.Name+" is "+lowerFirst(strings.TrimSuffix(about.Doc, ".")))
	}
}

func (l *loader) exactlyOneProvider(fields map[string]any) {
	spec, _ := fields["spec"].(map[string]any)
	provider, _ := spec["provider"].(map[string]any)
	if spec == nil || len(provider) == 1 || l.covered("spec.provider") {
		return
	}
	l.fault("E0016", "spec.provider", l.doc.KeyPos("spec.provider"), "spec.provider must have exactly one of gcp and static", "write "+describe("spec.provider").Expect)
}

func shown(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		if len(n.Content) == 0 {
			return "an empty list"
		}
		return "a list of " + strconv.Itoa(len(n.Content))
	}
	value := []rune(n.Value)
	if len(value) > 60 {
		value = append(value[:57], '.', '.', '.')
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!str":
		return strconv.Quote(string(value))
	}
	return string(value)
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
