package schema

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
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
	l := &loader{name: name, doc: &Document{name: name, source: data, places: map[string]place{}}, items: map[string][]string{}}
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
	l := &loader{name: name, doc: &Document{name: name, source: data, places: map[string]place{}}, items: map[string][]string{}}
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
	broken []string            // paths whose shape is wrong: no second fault for them
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
		l.fault("E0013", "", position(l.name, data, at), fmt.Sprintf("the file is not plain UTF-8 text: byte 0x%02x", data[at]), "save the file as UTF-8 without a byte order mark and without control characters")
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	switch err := decoder.Decode(&first); {
	case errors.Is(err, io.EOF) || err == nil && isNull(&first):
		l.fault("E0009", "", start, "the file is empty", "`kthwc init` writes a file to start from")
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

// syntax turns the YAML reader's error, which begins "yaml: line N: ", into a fault.
func (l *loader) syntax(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	at := diag.Pos{File: l.name, Line: 1, Col: 1}
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		number, message, _ := strings.Cut(rest, ": ")
		if n, err := strconv.Atoi(number); err == nil {
			at.Line, text = min(max(n, 1), bytes.Count(l.doc.source, []byte("\n"))+1), message
		}
	}
	l.fault("E0007", "", at, "this is not YAML: "+text, "check the indentation and the quotes on this line and the one before; YAML indents with spaces")
}

// definition is cluster.cue, compiled, with the context that it was compiled in.
var definition = lazily(func() (d struct {
	context *cue.Context
	root    cue.Value
}) {
	d.context = cuecontext.New()
	d.root = d.context.CompileBytes(source, cue.Filename("cluster.cue")).LookupPath(cue.ParsePath("#Cluster"))
	return d
})

// judge lets CUE judge the values, fill in the defaults, and decode.
func (l *loader) judge(fields map[string]any) {
	d := definition()
	unified := d.root.Unify(d.context.Encode(fields))
	seen := map[string]bool{}
	for _, e := range cueerrors.Errors(unified.Validate(cue.Final(), cue.Concrete(true))) {
		steps := e.Path()
		path := l.pathOf(steps)
		if !seen[path] && !l.covered(path) {
			seen[path] = true
			l.refuse(path, steps)
		}
	}
	l.exactlyOneProvider(fields)
	if l.faults.HasErrors() {
		return
	}
	if err := unified.Decode(&l.doc.Cluster); err != nil {
		l.fault("E0010", "", diag.Pos{File: l.name, Line: 1, Col: 1}, "a value does not fit: "+err.Error(), "")
	}
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

// covered says whether a fault was already given for the path or around it.
func (l *loader) covered(path string) bool {
	return slices.ContainsFunc(l.broken, func(b string) bool {
		return path == b || strings.HasPrefix(path, b+".") || strings.HasPrefix(path, b+"[") || strings.HasPrefix(b, path+".") || strings.HasPrefix(b, path+"[")
	})
}

// refuse reports a value that CUE did not accept, or a field that it missed.
func (l *loader) refuse(path string, steps []string) {
	about := describe(steps)
	if at, written := l.doc.places[path]; written {
		got := shown(at.value)
		d := l.fault("E0010", path, nodePos(l.name, at.value), fmt.Sprintf("%s must be %s", path, cmp.Or(about.Expect, "something else")), "")
		d.Label = "got " + got
		return
	}
	l.missed(path, &about)
}

func (l *loader) missed(path string, about *Field) {
	l.broken = append(l.broken, path)
	d := l.fault("E0006", path, l.doc.KeyPos(path), path+" is missing", fmt.Sprintf("add %s: %s", about.Name, cmp.Or(about.Expect, expectation(about.refs), "a mapping")))
	if about.Doc != "" {
		d.Notes = append(d.Notes, lowerFirst(about.Doc))
	}
}

func (l *loader) exactlyOneProvider(fields map[string]any) {
	spec, _ := fields["spec"].(map[string]any)
	provider, _ := spec["provider"].(map[string]any)
	if spec == nil || len(provider) == 1 || l.covered("spec.provider") {
		return
	}
	l.fault("E0016", "spec.provider", l.doc.KeyPos("spec.provider"), "spec.provider must have exactly one of gcp and static", "write `static: {}` for machines that exist already, or `gcp:` with project, region and zone")
}

func shown(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list of " + strconv.Itoa(len(n.Content))
	}
	value := []rune(n.Value)
	if len(value) > 60 {
		value = append(value[:57], '.', '.', '.')
	}
	return strconv.Quote(string(value))
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
