package schema

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"

	"github.com/google/yamlfmt"
	"github.com/google/yamlfmt/formatters/basic"
	"go.yaml.in/yaml/v3"

	"github.com/kthwc/kthwc/pkg/diag"
)

// Format lays a cluster.yaml out as `kthwc init` does: two spaces for every
// level, entries of lists indented, one space before a comment. It promises
// that every value, every comment and every blank line stays, and that what it
// gives is formatted already; quotes may come around text with a colon inside
// brackets. It formats any one YAML document, valid or not,
// and refuses (E0018) a file that it could only format by changing it.
func Format(name string, data []byte) ([]byte, diag.List) {
	l := newLoader(name, data)
	before := l.parse(data)
	if before == nil {
		return nil, l.faults
	}
	text := data
	for range rounds {
		next, err := layOut(text)
		if err != nil {
			l.unformattable(1, "the formatter stops: "+err.Error())
			return nil, l.faults
		}
		if bytes.Equal(next, text) {
			return text, nil
		}
		if line, what := changed(before, data, next); line > 0 {
			l.unformattable(line, what)
			return nil, l.faults
		}
		text = next
	}
	l.unformattable(1, "it would be laid out in another way every time")
	return nil, l.faults
}

// rounds is how often a text is laid out until nothing moves: comments beside
// a bracket may need a second one.
const rounds = 4

// layOut runs the formatter. It panics on some texts that are hardly YAML.
func layOut(text []byte) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	config := basic.DefaultConfig()
	config.LineEnding = yamlfmt.LineBreakStyleLF
	config.RetainLineBreaks = true
	config.ScanFoldedAsLiteral = true // folded text keeps its lines
	config.EOFNewline = true
	formatter := basic.BasicFormatter{Config: config, Features: basic.ConfigureFeaturesFromConfig(config)}
	return formatter.Format(text)
}

func (l *loader) unformattable(line int, what string) {
	text := bytes.Split(l.doc.source, []byte("\n"))[line-1]
	at := marked(l.name, text, line, indent)
	d := l.fault("E0018", "", at, "the file cannot be formatted without changing what it says: "+what, "lay the file out by hand; nothing was written")
	if loose.Match(l.doc.source) {
		d.Help = "remove the spaces at the ends of the lines of block text (after | or >), and try again; nothing was written"
	}
}

var (
	loose = regexp.MustCompile(`(?m)[ \t]\r?$`)
	// tail is what may be a comment: from the first # that follows white space.
	tail = regexp.MustCompile(`(?m)(^|[ \t])(#.*?)[ \t\r]*$`)
)

// changed finds the line of the first value or comment of a text that another
// one does not have in the same place; 0 if there is none.
func changed(before *yaml.Node, old, new []byte) (line int, what string) {
	var after yaml.Node
	if err := yaml.Unmarshal(new, &after); err != nil || len(after.Content) == 0 {
		return 1, "the result would not be YAML"
	}
	if n := different(before, after.Content[0]); n != nil {
		return n.Line, "this value would change"
	}
	kept := tails(new)
	for i, t := range tails(old) {
		if i >= len(kept) || !bytes.Equal(t.text, kept[i].text) {
			return t.line, "this comment would move or be lost"
		}
	}
	if len(kept) > len(tails(old)) {
		return 1, "a comment would be added"
	}
	return 0, ""
}

// different finds the first node that is not the same in another tree; nil if
// there is none.
func different(a, b *yaml.Node) *yaml.Node {
	same := a.Kind == b.Kind && a.ShortTag() == b.ShortTag() && a.Value == b.Value && a.Anchor == b.Anchor &&
		trap(a) == trap(b) && len(a.Content) == len(b.Content)
	if !same {
		return a
	}
	for i := range a.Content {
		if n := different(a.Content[i], b.Content[i]); n != nil {
			return n
		}
	}
	return nil
}

type tailAt struct {
	text []byte
	line int
}

// tails lists what may be comments, in order.
func tails(text []byte) []tailAt {
	var out []tailAt
	for i, line := range slices.Collect(bytes.Lines(text)) {
		if m := tail.FindSubmatch(bytes.TrimRight(line, "\n")); m != nil {
			out = append(out, tailAt{m[2], i + 1})
		}
	}
	return out
}
