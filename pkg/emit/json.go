package emit

import (
	"encoding/json"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

// JSON writes a document with two spaces of indentation and sorted keys. What
// JSON cannot carry is an error.
func JSON(m *Map) (*tree.Body, error) {
	if err := carried(m, ""); err != nil {
		return nil, err
	}
	w := &jsonWriter{&tree.Body{}}
	w.value("", "", m, "")
	return w.body, nil
}

type jsonWriter struct{ body *tree.Body }

// value writes head, the value, and tail (the comma before a neighbour).
func (w *jsonWriter) value(indent, head string, v Value, tail string) {
	switch v := v.(type) {
	case *Map:
		if v.Len() == 0 {
			w.body.Add(v.From, indent+head+"{}"+tail)
			return
		}
		w.body.Add(v.From, indent+head+"{")
		for i, e := range v.entries {
			w.value(indent+"  ", quoted(e.key)+": ", e.value, comma(i, len(v.entries)))
		}
		w.body.Add(v.From, indent+"}"+tail)
	case *List:
		if len(v.Items) == 0 {
			w.body.Add(v.From, indent+head+"[]"+tail)
			return
		}
		w.body.Add(v.From, indent+head+"[")
		for i, item := range v.Items {
			w.value(indent+"  ", "", item, comma(i, len(v.Items)))
		}
		w.body.Add(v.From, indent+"]"+tail)
	case *Block:
		w.leaf(v.From, indent+head, v.String(), tail)
	case Scalar:
		w.leaf(v.From, indent+head, v.V, tail)
	}
}

func (w *jsonWriter) leaf(from origin.Origin, head string, v any, tail string) {
	if ref, ok := v.(secret.Ref); ok {
		w.body.AddParts(from, tree.Part{Text: head + `"`}, tree.Part{Ref: ref}, tree.Part{Text: `"` + tail})
		return
	}
	w.body.Add(from, head+quoted(v)+tail)
}

func comma(i, n int) string {
	if i < n-1 {
		return ","
	}
	return ""
}

func quoted(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return "null"
	}
	return string(text)
}
