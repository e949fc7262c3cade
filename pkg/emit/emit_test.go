package emit_test

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

func none(string) origin.Origin { return origin.Origin{} }

func hostile() *rapid.Generator[string] {
	return rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
		"", "no", "0644", "1.30", "a: b", "- x", "#c", "'", `"`, `\`, "a\nb", "a\n", "\n", " x ", "x:", "null", "~", "@", "`", "%", "{}", "[", "é", "10.0.0.1", "true", "Yes", "0x10", "1e3", ".inf", "a\tb",
		" ; ", ";", "%n", "$HOME", "${x}", "../../x", "-rf", "--x", "a\x00b", "a\rb", "a\r\nb", "a\u2028b", "a\u2029b", "a\u0085b", "\ufeffa", "a\x7fb", "\xff", "a\xc3", "| a\n  b\n", " a\nb", "a\n\n b\n\n", "---", "--- a\n...", "!!int 3", "&a", "*a", "<<", "=", "? x", "0x1F", "1_000", "12:30:45", "2001-01-01", "\"'\\%$\n",
	}))
}

// keys are such that the library's own order of them is an order: with digits
// and signs it is not transitive.
func keys() *rapid.Generator[string] {
	return rapid.StringMatching(`[a-zA-Z][a-zA-Z./_-]{0,12}|yes|no|null`)
}

// short texts are not folded, however deep they stand, and have none of the
// line breaks that are Unicode's and not ASCII's.
func short(s string) bool {
	return utf8.ValidString(s) && len(strconv.QuoteToASCII(s)) < 40 && !strings.ContainsAny(s, "\u0085\u2028\u2029\ufeff\r")
}

func printable(s string) bool {
	return len(s) < 100 && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// data draws a mapping of mappings, lists and scalars.
func data() *rapid.Generator[map[string]any] {
	leaf := rapid.OneOf(
		rapid.Map(hostile().Filter(short), func(s string) any { return s }),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Map(rapid.IntRange(-1000, 1000000), func(n int) any { return n }),
	)
	value := leaf
	for range 3 {
		inner := value
		value = rapid.OneOf(leaf,
			rapid.Map(rapid.SliceOfN(inner, 0, 3), func(s []any) any { return s }),
			rapid.Map(rapid.MapOfN(keys(), inner, 0, 4), func(m map[string]any) any { return m }))
	}
	return rapid.MapOfN(keys(), value, 0, 5)
}

// written is the text of what a writer did not refuse.
func written(t interface{ Fatal(...any) }) func(*tree.Body, error) []byte {
	return func(b *tree.Body, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
}

func mapOf(t interface{ Fatal(...any) }, d map[string]any) *emit.Map {
	v, err := emit.FromAny(d, "", none)
	if err != nil {
		t.Fatal(err)
	}
	return v.(*emit.Map)
}

func TestYAMLIsWhatTheLibraryWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := data().Draw(t, "data")
		want, err := yaml.Marshal(d)
		if err != nil {
			t.Skip("the library cannot write it")
		}
		if got := string(written(t)(emit.YAML(mapOf(t, d)))); got != string(want) {
			t.Fatalf("got:\n%s\nwant:\n%s", got, want)
		}
	})
}

func TestJSONReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := data().Draw(t, "data")
		want, _ := json.Marshal(d)
		var a, b any
		if err := json.Unmarshal(written(t)(emit.JSON(mapOf(t, d))), &a); err != nil {
			t.Fatal(err)
		}
		_ = json.Unmarshal(want, &b)
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("%v is not %v", a, b)
		}
	})
}

func TestTOMLReadsBack(t *testing.T) {
	text := rapid.StringMatching(`[ -~äöü\n\t"\\]{0,20}`)
	key := text.Filter(func(s string) bool { return s != "<<" }) // refused: it merges where YAML reads it
	table := rapid.MapOfN(key, rapid.Map(text, func(s string) any { return s }), 0, 4)
	rapid.Check(t, func(t *rapid.T) {
		d := map[string]any{"a": "x", "list": []any{"y", 3}, "t": table.Draw(t, "t"), "u": map[string]any{"v": table.Draw(t, "v"), "n": 7, "b": true}}
		body, err := emit.TOML(mapOf(t, d))
		if err != nil {
			t.Fatal(err)
		}
		var got any
		if err := toml.Unmarshal(body.Bytes(), &got); err != nil {
			t.Fatalf("%v\n%s", err, body.Bytes())
		}
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(d)
		if string(a) != string(b) {
			t.Fatalf("%s\nis not\n%s", a, b)
		}
	})
}

func TestMergeIsRFC7386(t *testing.T) {
	m := mapOf(t, map[string]any{"a": map[string]any{"b": 1, "c": 2}, "d": []any{1}, "e": "x"})
	patch := map[string]any{"a": map[string]any{"b": nil, "f": 3}, "d": []any{2}, "e": map[string]any{"g": true}}
	if err := emit.Merge(m, patch, "p", origin.Field); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"a": map[string]any{"c": 2, "f": 3}, "d": []any{2}, "e": map[string]any{"g": true}}
	if got := emit.Plain(m); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if from := m.Get("a").(*emit.Map).Get("f").(emit.Scalar).From; !from.Has("p.a.f") {
		t.Errorf("the leaf comes from %v", from)
	}
}

func checkArgument(t interface {
	Fatalf(string, ...any)
}, text string) {
	word, err := emit.QuoteArgument(text)
	if err != nil {
		return
	}
	if strings.ContainsAny(word, "\n\r\x00") {
		t.Fatalf("%q was written as %q", text, word)
	}
	argv, err := emit.ParseExec("/bin/x " + word + " tail")
	if err != nil || len(argv) != 3 || argv[1] != text || argv[2] != "tail" {
		t.Fatalf("%q was written as %q and read as %q, %v", text, word, argv, err)
	}
}

func TestArgumentsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { checkArgument(t, hostile().Draw(t, "text")) })
}

func TestUnitsCannotBeInjected(t *testing.T) {
	for _, text := range []string{"a\nExecStartPre=/bin/rm", "a\rb", "a\x00b", "\x1b[31m", "\xff"} {
		if word, err := emit.QuoteArgument(text); err == nil {
			t.Errorf("%q was written as %q", text, word)
		}
		u := &emit.UnitFile{}
		u.Key("Description", text, origin.Origin{})
		if _, err := u.Body(); err == nil {
			t.Errorf("Description=%q was accepted", text)
		}
	}
}

func FuzzArgument(f *testing.F) {
	for _, s := range []string{"", ";", "$HOME", "%H", `a"b`, `\`, "'x y'", "-x", "@x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) { checkArgument(t, text) })
}

func FuzzYAML(f *testing.F) {
	f.Add("key", "value")
	f.Add("yes", "no")
	f.Fuzz(func(t *testing.T, key, value string) {
		if !printable(key) || !carried(key, value) {
			return
		}
		d := map[string]any{key: value}
		want, err := yaml.Marshal(d)
		if err != nil {
			return
		}
		got := written(t)(emit.YAML(mapOf(t, d)))
		if printable(value) && string(got) != string(want) {
			t.Fatalf("got %q, want %q", got, want)
		}
		var a, b map[string]any // quoted text beyond one line may be folded elsewhere
		if err := yaml.Unmarshal(got, &a); err != nil {
			t.Fatalf("%v: %q", err, got)
		}
		if err := yaml.Unmarshal(want, &b); err != nil || !reflect.DeepEqual(a, b) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}
