package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
	"sigs.k8s.io/yaml"

	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

// formats are the structured files that overlays see as data: how to tell one,
// to read it and to write it. The first that knows a file counts.
var formats = []struct {
	is    func(path, content string) bool
	read  func(content string) (any, error)
	write func(m *emit.Map) (*tree.Body, error)
}{
	{
		func(path, content string) bool { return strings.HasSuffix(path, ".toml") },
		func(content string) (v any, err error) { _, err = toml.Decode(content, &v); return v, err },
		emit.TOML,
	},
	{
		func(path, content string) bool {
			return strings.HasPrefix(content, "{") || strings.HasSuffix(path, ".json")
		},
		func(content string) (v any, err error) { return v, json.Unmarshal([]byte(content), &v) },
		func(m *emit.Map) (*tree.Body, error) { return emit.JSON(m) },
	},
	{
		func(path, content string) bool {
			return strings.HasPrefix(content, "apiVersion: ") || strings.HasSuffix(path, ".yaml")
		},
		func(content string) (v any, err error) { return v, yaml.UnmarshalStrict([]byte(content), &v) },
		func(m *emit.Map) (*tree.Body, error) { return emit.YAML(m) },
	},
}

// structured is the data of a file; nil if it is plain text.
func structured(path, content string) any {
	for _, f := range formats {
		if f.is(path, content) {
			data, err := f.read(content)
			if err != nil {
				return nil
			}
			return data
		}
	}
	return nil
}

// write is the text of data, in the format of the file that was there, or of
// the path.
func write(path string, was *string, data any) (string, error) {
	top, ok := numbers(data).(map[string]any)
	if !ok {
		return "", errors.New("data must be an object")
	}
	v, err := emit.FromAny(top, "", func(string) origin.Origin { return origin.Origin{} })
	if err != nil {
		return "", err
	}
	content := ""
	if was != nil {
		content = *was
	}
	for _, f := range formats {
		if f.is(path, content) {
			body, err := f.write(v.(*emit.Map))
			if err != nil {
				return "", err
			}
			return string(body.Bytes()), nil
		}
	}
	return "", errors.New("data is for files that end in .yaml, .json or .toml; give content")
}

// numbers turns JSON's numbers into whole ones where they are.
func numbers(data any) any {
	switch d := data.(type) {
	case map[string]any:
		for k := range d {
			d[k] = numbers(d[k])
		}
	case []any:
		for i := range d {
			d[i] = numbers(d[i])
		}
	case json.Number:
		if n, err := d.Int64(); err == nil {
			return n
		}
		f, _ := d.Float64()
		return f
	}
	return data
}

// body is the new content, in which lines that did not change keep their
// origins. Secrets stay names: one that the file had must stay, and one that
// nothing on this node had is refused.
func (l *layer) body(old *tree.File, content string) (*tree.Body, error) {
	if !isText(content) {
		return nil, errors.New("the content must be UTF-8 text without control characters")
	}
	body, err := l.lines(old, content)
	if err != nil {
		return nil, err
	}
	var had []secret.Ref
	if old != nil {
		had = old.Body.Refs()
	}
	has := body.Refs()
	for _, ref := range had {
		if !slices.Contains(has, ref) {
			return nil, fmt.Errorf("%s is gone from it; overlays must keep the names of secrets", ref)
		}
	}
	for _, ref := range has {
		if !slices.Contains(had, ref) && !l.known(ref) {
			return nil, fmt.Errorf("%s is not for this node", ref)
		}
	}
	return body, nil
}

// known says whether a file of the node names the material.
func (l *layer) known(ref secret.Ref) bool {
	return slices.ContainsFunc(l.node.Files, func(f *tree.File) bool {
		return f.Body != nil && slices.ContainsFunc(f.Body.Refs(), func(r secret.Ref) bool { return r.As(secret.PEM) == ref.As(secret.PEM) })
	})
}

func isText(content string) bool {
	return utf8.ValidString(content) && !strings.ContainsFunc(content, func(r rune) bool {
		return unicode.IsControl(r) && r != '\n' && r != '\t'
	})
}

// lines pairs the new lines with the old ones.
func (l *layer) lines(old *tree.File, content string) (*tree.Body, error) {
	var was []tree.Line
	if old != nil {
		was = old.Body.Lines
	}
	texts := strings.Split(strings.TrimSuffix(content, "\n"), "\n")
	kept := unchanged(was, texts)
	body := &tree.Body{}
	for i, text := range texts {
		if at, ok := kept[i]; ok {
			body.Lines = append(body.Lines, was[at])
			continue
		}
		plain, refs, err := secret.Split(text)
		if err != nil {
			return nil, err
		}
		if len(refs) == 0 {
			body.Add(l.from, text)
			continue
		}
		body.AddParts(l.from, interleave(plain, refs)...)
	}
	return body, nil
}

func interleave(texts []string, refs []secret.Ref) []tree.Part {
	parts := []tree.Part{}
	for i, text := range texts {
		if text != "" {
			parts = append(parts, tree.Part{Text: text})
		}
		if i < len(refs) {
			parts = append(parts, tree.Part{Ref: refs[i]})
		}
	}
	return parts
}

// unchanged pairs new lines with old ones that say the same, in order, as many
// as there are (the longest common subsequence): index of new to index of old.
func unchanged(was []tree.Line, texts []string) map[int]int {
	old := make([]string, len(was))
	for i, l := range was {
		old[i] = l.String()
	}
	kept := map[int]int{}
	start := 0
	for start < min(len(old), len(texts)) && old[start] == texts[start] {
		kept[start] = start
		start++
	}
	a, b := old[start:], texts[start:]
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
		kept[start+len(b)] = start + len(a)
	}
	for i, j := range commonLines(a, b) {
		kept[start+j] = start + i
	}
	return kept
}

// maxCells bounds the table of commonLines: beyond it nothing is paired.
const maxCells = 1 << 22

// commonLines is the longest common subsequence: index of a to index of b.
func commonLines(a, b []string) map[int]int {
	if len(a)*len(b) > maxCells {
		return nil
	}
	width := len(b) + 1
	length := make([]int32, (len(a)+1)*width) // of what is common from i and j on
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			length[i*width+j] = max(length[(i+1)*width+j], length[i*width+j+1])
			if a[i] == b[j] {
				length[i*width+j] = length[(i+1)*width+j+1] + 1
			}
		}
	}
	pairs := map[int]int{}
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i] == b[j]:
			pairs[i] = j
			i, j = i+1, j+1
		case length[(i+1)*width+j] >= length[i*width+j+1]:
			i++
		default:
			j++
		}
	}
	return pairs
}
