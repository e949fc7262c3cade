// Package emit writes structured files line by line, so that every line keeps
// the origin of the value on it.
//
// A document is a tree of [Map], [List] and [Scalar]. [YAML] writes it exactly
// as sigs.k8s.io/yaml would, [JSON] as encoding/json with two spaces, [TOML] so
// that any TOML reader gives the same data, and [Unit] writes systemd units,
// with [ParseUnit] beside it. It promises that what is written reads back as
// what was given, whatever the strings contain. It refuses strings that a
// format cannot carry.
package emit

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
)

// Value is a *Map, a *List, a *Block or a Scalar.
type Value interface{ from() origin.Origin }

// Scalar is a leaf: a string, int, int64, float64, bool, nil or secret.Ref.
type Scalar struct {
	V    any
	From origin.Origin
}

// Block is a text of several lines, each with its own origin. Every line ends
// with a line feed; the first one must not begin with a space.
type Block struct {
	Lines []origin.Value[string]
	From  origin.Origin
}

// String is the whole text.
func (b *Block) String() string {
	var out strings.Builder
	for _, l := range b.Lines {
		out.WriteString(l.V + "\n")
	}
	return out.String()
}

// List is a sequence. From says why it is there.
type List struct {
	Items []Value
	From  origin.Origin
}

// Map is a mapping; it is written with sorted keys. From says why it is there.
type Map struct {
	From    origin.Origin
	entries []entry // in the order of keyLess
}

type entry struct {
	key   string
	value Value
}

func (s Scalar) from() origin.Origin { return s.From }
func (b *Block) from() origin.Origin { return b.From }
func (l *List) from() origin.Origin  { return l.From }
func (m *Map) from() origin.Origin   { return m.From }

// NewMap is an empty mapping.
func NewMap(from origin.Origin) *Map { return &Map{From: from} }

func (m *Map) find(key string) (int, bool) {
	return slices.BinarySearchFunc(m.entries, key, func(e entry, k string) int {
		switch {
		case e.key == k:
			return 0
		case keyLess(e.key, k):
			return -1
		}
		return 1
	})
}

// Set gives the key a value, replacing what it had.
func (m *Map) Set(key string, v Value) *Map {
	at, found := m.find(key)
	if found {
		m.entries[at].value = v
		return m
	}
	m.entries = slices.Insert(m.entries, at, entry{key, v})
	return m
}

// Get is the value of a key; nil if there is none.
func (m *Map) Get(key string) Value {
	if at, found := m.find(key); found {
		return m.entries[at].value
	}
	return nil
}

// Delete removes a key.
func (m *Map) Delete(key string) {
	if at, found := m.find(key); found {
		m.entries = slices.Delete(m.entries, at, at+1)
	}
}

// Len is the number of keys.
func (m *Map) Len() int { return len(m.entries) }

// Keys lists the keys in the order of writing.
func (m *Map) Keys() []string {
	keys := make([]string, len(m.entries))
	for i, e := range m.entries {
		keys[i] = e.key
	}
	return keys
}

// Str sets a string.
func (m *Map) Str(key string, v origin.Value[string]) *Map {
	return m.Set(key, Scalar{v.V, v.From})
}

// Fixed sets a constant: a string, int or bool.
func (m *Map) Fixed(key string, v any, from origin.Origin) *Map { return m.Set(key, Scalar{v, from}) }

// Int sets an integer.
func (m *Map) Int(key string, v origin.Value[int]) *Map { return m.Set(key, Scalar{v.V, v.From}) }

// Ref sets the name of late-bound material.
func (m *Map) Ref(key string, ref secret.Ref, from origin.Origin) *Map {
	return m.Set(key, Scalar{ref, from})
}

// Map sets an empty mapping and returns it.
func (m *Map) Map(key string, from origin.Origin) *Map {
	child := NewMap(from)
	m.Set(key, child)
	return child
}

// Strings sets a list of strings.
func (m *Map) Strings(key string, from origin.Origin, items ...origin.Value[string]) *Map {
	return m.Set(key, Strings(from, items...))
}

// List sets a list.
func (m *Map) List(key string, from origin.Origin, items ...Value) *Map {
	return m.Set(key, &List{items, from})
}

// Strings is a list of strings.
func Strings(from origin.Origin, items ...origin.Value[string]) *List {
	l := &List{From: from}
	for _, s := range items {
		l.Items = append(l.Items, Scalar{s.V, s.From})
	}
	return l
}

// FromAny makes a value of plain data (maps with string keys, slices,
// scalars). Every leaf gets the origin that from gives for its pointer: keys
// and indices joined by dots and brackets.
func FromAny(data any, pointer string, from func(pointer string) origin.Origin) (Value, error) {
	switch d := data.(type) {
	case map[string]any:
		m := NewMap(from(pointer))
		for _, k := range sortedKeys(d) {
			v, err := FromAny(d[k], Pointer(pointer, k), from)
			if err != nil {
				return nil, err
			}
			m.Set(k, v)
		}
		return m, nil
	case []any:
		l := &List{From: from(pointer)}
		for i, item := range d {
			v, err := FromAny(item, fmt.Sprintf("%s[%d]", pointer, i), from)
			if err != nil {
				return nil, err
			}
			l.Items = append(l.Items, v)
		}
		return l, nil
	case nil, string, bool, int, int64, float64:
		return Scalar{d, from(pointer)}, nil
	}
	return nil, fmt.Errorf("%s: %T cannot be written", pointer, data)
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Pointer adds a key to a pointer, in the writing of cluster.yaml's paths.
func Pointer(pointer, key string) string {
	for _, r := range key {
		if r == '.' || r == '/' || r == '[' || r == ']' || r == '"' {
			return pointer + `["` + key + `"]`
		}
	}
	if pointer == "" {
		return key
	}
	return pointer + "." + key
}

// Inherit joins from into the origin of a value and of everything below it: an
// entry's lines are there because the entry is.
func Inherit(v Value, from origin.Origin) Value {
	switch v := v.(type) {
	case *Map:
		out := &Map{From: origin.Join(v.From, from), entries: make([]entry, len(v.entries))}
		for i, e := range v.entries {
			out.entries[i] = entry{e.key, Inherit(e.value, from)}
		}
		return out
	case *List:
		out := &List{From: origin.Join(v.From, from), Items: make([]Value, len(v.Items))}
		for i, item := range v.Items {
			out.Items[i] = Inherit(item, from)
		}
		return out
	case *Block:
		out := &Block{From: origin.Join(v.From, from), Lines: slices.Clone(v.Lines)}
		for i := range out.Lines {
			out.Lines[i].From = origin.Join(out.Lines[i].From, from)
		}
		return out
	case Scalar:
		return Scalar{v.V, origin.Join(v.From, from)}
	}
	return v
}

// Merge merges a patch into m as RFC 7386 says: mappings into mappings, null
// deletes, everything else replaces. Leaves get the origin that from gives.
func Merge(m *Map, patch map[string]any, pointer string, from func(pointer string) origin.Origin) error {
	for _, k := range sortedKeys(patch) {
		at := Pointer(pointer, k)
		if patch[k] == nil {
			m.Delete(k)
			continue
		}
		nested, isMap := patch[k].(map[string]any)
		old, wasMap := m.Get(k).(*Map)
		if isMap && wasMap {
			if err := Merge(old, nested, at, from); err != nil {
				return err
			}
			continue
		}
		v, err := FromAny(patch[k], at, from)
		if err != nil {
			return err
		}
		m.Set(k, v)
	}
	return nil
}

// Plain is the value as plain data, with placeholders for secrets.
func Plain(v Value) any {
	switch v := v.(type) {
	case *Map:
		out := make(map[string]any, len(v.entries))
		for _, e := range v.entries {
			out[e.key] = Plain(e.value)
		}
		return out
	case *List:
		out := make([]any, len(v.Items))
		for i, item := range v.Items {
			out[i] = Plain(item)
		}
		return out
	case *Block:
		return v.String()
	case Scalar:
		if ref, ok := v.V.(secret.Ref); ok {
			return ref.String()
		}
		return v.V
	}
	return nil
}

// carried refuses what no format can carry: text that is not UTF-8, numbers
// without a writing, and types that nothing here writes.
func carried(v Value, at string) error {
	switch v := v.(type) {
	case *Map:
		for _, e := range v.entries {
			if !utf8.ValidString(e.key) || len(e.key) > longestKey || e.key == mergeKey {
				return fmt.Errorf("%s: %.40q cannot be a key", at, e.key)
			}
			if err := carried(e.value, Pointer(at, e.key)); err != nil {
				return err
			}
		}
		return nil
	case *List:
		for i, item := range v.Items {
			if err := carried(item, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return nil
	case *Block:
		return carried(Scalar{V: v.String()}, at)
	case Scalar:
		if !writable(v.V) {
			return fmt.Errorf("%s: %.40q cannot be written", at, fmt.Sprint(v.V))
		}
		return nil
	}
	return fmt.Errorf("%s: %T cannot be written", at, v)
}

// longestKey is what YAML readers take on one line; mergeKey is what some of
// them take for an instruction, even in quotes.
const (
	longestKey = 1000
	mergeKey   = "<<"
)

func writable(v any) bool {
	switch v := v.(type) {
	case string:
		return utf8.ValidString(v)
	case float64:
		return !math.IsNaN(v) && !math.IsInf(v, 0)
	case nil, bool, int, int64, secret.Ref:
		return true
	}
	return false
}

// keyLess is the order of keys in sigs.k8s.io/yaml: letters after everything
// else, runs of digits by their number.
func keyLess(a, b string) bool {
	ar, br := []rune(a), []rune(b)
	for i := 0; i < len(ar) && i < len(br); i++ {
		if ar[i] == br[i] {
			continue
		}
		al, bl := unicode.IsLetter(ar[i]), unicode.IsLetter(br[i])
		switch {
		case al && bl:
			return ar[i] < br[i]
		case al || bl:
			return bl
		}
		return numberLess(ar, br, i)
	}
	return len(ar) < len(br)
}

// numberLess compares at i, where a and b first differ and neither has a
// letter. A zero inside a number keeps its place value.
func numberLess(a, b []rune, i int) bool {
	var start int64
	if a[i] == '0' || b[i] == '0' {
		for j := i - 1; j >= 0 && unicode.IsDigit(a[j]); j-- {
			if a[j] != '0' {
				start = 1
				break
			}
		}
	}
	an, ai := number(a, i, start)
	bn, bi := number(b, i, start)
	switch {
	case an != bn:
		return an < bn
	case ai != bi:
		return ai < bi
	}
	return a[i] < b[i]
}

func number(r []rune, i int, n int64) (value int64, end int) {
	for end = i; end < len(r) && unicode.IsDigit(r[end]); end++ {
		n = n*10 + int64(r[end]-'0')
	}
	return n, end
}
