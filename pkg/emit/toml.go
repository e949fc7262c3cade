package emit

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

// TOML writes a document: a table's own keys first, then its tables, each with
// a full header. Lists hold scalars only; null has no writing and is an error.
func TOML(m *Map) (*tree.Body, error) {
	if err := carried(m, ""); err != nil {
		return nil, err
	}
	w := &tomlWriter{body: &tree.Body{}}
	w.table(nil, m)
	return w.body, w.err
}

type tomlWriter struct {
	body *tree.Body
	err  error
}

func (w *tomlWriter) table(path []string, m *Map) {
	var tables []entry
	own := 0
	for _, e := range m.entries {
		if _, isTable := e.value.(*Map); isTable {
			tables = append(tables, e)
			continue
		}
		if own++; own == 1 {
			w.header(path, m)
		}
		w.body.AddParts(e.value.from(), w.assignment(e)...)
	}
	if own == 0 && len(tables) == 0 {
		w.header(path, m)
	}
	for _, t := range tables {
		w.table(append(path[:len(path):len(path)], tomlKey(t.key)), t.value.(*Map))
	}
}

func (w *tomlWriter) header(path []string, m *Map) {
	if len(path) == 0 {
		return
	}
	if len(w.body.Lines) > 0 {
		w.body.Add(m.From, "")
	}
	w.body.Add(m.From, "["+strings.Join(path, ".")+"]")
}

func (w *tomlWriter) assignment(e entry) []tree.Part {
	head := tomlKey(e.key) + " = "
	switch v := e.value.(type) {
	case Scalar:
		if ref, ok := v.V.(secret.Ref); ok {
			return []tree.Part{{Text: head + `"`}, {Ref: ref}, {Text: `"`}}
		}
		return []tree.Part{{Text: head + w.scalar(v)}}
	case *Block:
		return []tree.Part{{Text: head + TOMLString(v.String())}}
	case *List:
		items := make([]string, len(v.Items))
		for i, item := range v.Items {
			s, ok := item.(Scalar)
			if !ok {
				w.err = fmt.Errorf("%s: a list in TOML holds scalars only", e.key)
				return nil
			}
			items[i] = w.scalar(s)
		}
		return []tree.Part{{Text: head + "[" + strings.Join(items, ", ") + "]"}}
	}
	return nil
}

func (w *tomlWriter) scalar(s Scalar) string {
	switch v := s.V.(type) {
	case string:
		return TOMLString(v)
	case bool:
		return strconv.FormatBool(v)
	case int:
		return strconv.Itoa(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		text := strconv.FormatFloat(v, 'f', -1, 64)
		if !strings.Contains(text, ".") {
			text += ".0"
		}
		return text
	}
	w.err = fmt.Errorf("%v has no writing in TOML", s.V)
	return `""`
}

func tomlKey(key string) string {
	bare := key != "" && strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
	if bare {
		return key
	}
	return TOMLString(key)
}

// TOMLString writes a basic string (TOML 1.0.0); s must be UTF-8. JSON's escapes are a subset of
// TOML's but for DEL, which TOML does not allow as it is.
func TOMLString(s string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(s) != nil {
		return `""`
	}
	return strings.ReplaceAll(strings.TrimSuffix(b.String(), "\n"), "\x7f", `\u007f`)
}
