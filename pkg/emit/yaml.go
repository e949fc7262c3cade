package emit

import (
	"slices"
	"strconv"
	"strings"
	"unicode"

	"sigs.k8s.io/yaml"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

// YAML writes documents as sigs.k8s.io/yaml would write the same data: sorted
// keys, two spaces, lists not indented. Several documents are separated by
// "---" lines. What YAML cannot carry is an error.
func YAML(documents ...*Map) (*tree.Body, error) {
	w := &yamlWriter{body: &tree.Body{}}
	for i, d := range documents {
		if err := carried(d, ""); err != nil {
			return nil, err
		}
		if i > 0 {
			w.body.Add(d.From, "---")
		}
		if d.Len() == 0 {
			w.body.Add(d.From, "{}")
		}
		w.entries("", "", d, origin.Origin{})
	}
	return w.body, nil
}

type yamlWriter struct{ body *tree.Body }

// entries writes a mapping. first stands in front of its first line (the dash
// of a list's entry), and lead is the origin of that dash.
func (w *yamlWriter) entries(first, indent string, m *Map, lead origin.Origin) {
	for i, e := range m.entries {
		prefix := indent
		from := origin.Origin{}
		if i == 0 && first != "" {
			prefix, from = first, lead
		}
		w.value(prefix+yamlKey(e.key)+":", indent, e.value, from)
	}
}

// value writes what follows a key or a dash.
func (w *yamlWriter) value(head, indent string, v Value, lead origin.Origin) {
	from := origin.Join(lead, v.from())
	switch v := v.(type) {
	case *Map:
		if v.Len() == 0 {
			w.body.Add(from, head+" {}")
			return
		}
		w.body.Add(from, head)
		w.entries("", indent+"  ", v, origin.Origin{})
	case *List:
		if len(v.Items) == 0 {
			w.body.Add(from, head+" []")
			return
		}
		w.body.Add(from, head)
		w.items(indent, v)
	case *Block:
		if !v.literal() {
			w.scalar(head+" ", indent+"  ", Scalar{V: v.String()}, from)
			return
		}
		w.body.Add(from, head+" |")
		for _, l := range v.Lines {
			text := l.V
			if text != "" {
				text = indent + "  " + text
			}
			w.body.Add(l.From, text)
		}
	case Scalar:
		w.scalar(head+" ", indent+"  ", v, from)
	}
}

func (w *yamlWriter) items(indent string, l *List) {
	for _, item := range l.Items {
		w.item(indent, item, origin.Origin{}, indent+"- ")
	}
}

func (w *yamlWriter) item(indent string, item Value, lead origin.Origin, dash string) {
	from := origin.Join(lead, item.from())
	inner := indent + "  "
	switch v := item.(type) {
	case *Map:
		if v.Len() == 0 {
			w.body.Add(from, dash+"{}")
			return
		}
		w.entries(dash, inner, v, from)
	case *List:
		if len(v.Items) == 0 {
			w.body.Add(from, dash+"[]")
			return
		}
		for i, nested := range v.Items {
			prefix := inner + "- "
			if i == 0 {
				prefix = dash + "- "
			} else {
				from = origin.Origin{}
			}
			w.item(inner, nested, from, prefix)
		}
	case *Block:
		w.scalar(dash, inner, Scalar{V: v.String()}, from)
	case Scalar:
		w.scalar(dash, inner, v, from)
	}
}

// literal says whether the lines can stand as they are: the first one gives the
// indentation, and none has what YAML would read otherwise.
func (b *Block) literal() bool {
	if len(b.Lines) == 0 || b.Lines[0].V == "" || b.Lines[0].V[0] == ' ' || b.Lines[len(b.Lines)-1].V == "" {
		return false
	}
	return !slices.ContainsFunc(b.Lines, func(l origin.Value[string]) bool {
		return strings.ContainsFunc(l.V, func(r rune) bool { return r != ' ' && !unicode.IsPrint(r) })
	})
}

// scalar writes a leaf; a text of several lines goes on with indent.
func (w *yamlWriter) scalar(head, indent string, s Scalar, from origin.Origin) {
	if ref, ok := s.V.(secret.Ref); ok {
		w.body.AddParts(from, tree.Part{Text: head}, tree.Part{Ref: ref})
		return
	}
	lines := yamlScalar(s.V)
	w.body.Add(from, head+lines[0])
	for _, l := range lines[1:] {
		if l != "" {
			l = strings.TrimPrefix(indent, "  ") + l
		}
		w.body.Add(from, l)
	}
}

// yamlKey is on one line, whatever is in it.
func yamlKey(key string) string {
	if lines := yamlScalar(key); len(lines) == 1 {
		return lines[0]
	}
	return strconv.QuoteToASCII(key)
}

// unsafeBreaks are what readers of YAML do not agree on: line breaks that are
// not ASCII's, and the byte order mark.
const unsafeBreaks = "\u0085\u2028\u2029\ufeff"

// yamlScalar is a scalar as the lines that follow "k: ". Continuation lines
// are indented by two spaces. What the library cannot write safely is in
// quotes, with Go's escapes, which are YAML's too.
func yamlScalar(v any) []string {
	switch v := v.(type) {
	case string:
		if isPlain(v) {
			return []string{v}
		}
	case int:
		return []string{strconv.Itoa(v)}
	case bool:
		return []string{strconv.FormatBool(v)}
	}
	text, err := yaml.Marshal(map[string]any{"k": v})
	if s, ok := v.(string); ok && (err != nil || strings.ContainsAny(s, unsafeBreaks)) {
		return []string{strconv.QuoteToASCII(s)}
	}
	return strings.Split(strings.TrimSuffix(strings.TrimPrefix(string(text), "k: "), "\n"), "\n")
}

var reserved = []string{"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}

// isPlain says whether a string needs no quotes for certain. What it does not
// know goes to the library.
func isPlain(s string) bool {
	switch {
	case s == "" || len(s) > 60 && strings.Contains(s, " ") || len(s) <= 5 && slices.Contains(reserved, strings.ToLower(s)):
		return false
	case '0' <= s[0] && s[0] <= '9':
		return isAddress(s)
	case !isLetter(s[0]) && s[0] != '/':
		return false
	}
	for i := range len(s) {
		if !plainAt(s, i) {
			return false
		}
	}
	return true
}

// plainAt says whether a byte means nothing to YAML where it stands: a colon
// inside a word, a space between words, and bytes that never mean anything.
func plainAt(s string, i int) bool {
	switch c := s[i]; c {
	case '/', '.', '_', '-', '@', '=', ',', ';', '\'', '(', ')', '+':
		return true
	case ':':
		return i < len(s)-1 && s[i+1] != ' '
	case ' ':
		return i < len(s)-1 && (isLetter(s[i+1]) || '0' <= s[i+1] && s[i+1] <= '9')
	default:
		return isLetter(c) || '0' <= c && c <= '9'
	}
}

// isAddress says whether s is four numbers with dots, and perhaps a prefix
// length: not a number to any reader.
func isAddress(s string) bool {
	host, length, found := strings.Cut(s, "/")
	return strings.Count(host, ".") == 3 && !strings.Contains(host, "..") && strings.Trim(host, "0123456789.") == "" && host[len(host)-1] != '.' &&
		(!found || length != "" && strings.Trim(length, "0123456789") == "")
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
