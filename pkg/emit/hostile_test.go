package emit_test

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
	yamlv3 "go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

// formats are the writers of data, each with a reader that is not theirs.
var formats = map[string]struct {
	write func(*emit.Map) (*tree.Body, error)
	read  func([]byte, any) error
}{
	"YAML": {func(m *emit.Map) (*tree.Body, error) { return emit.YAML(m) }, yamlv3.Unmarshal},
	"JSON": {emit.JSON, json.Unmarshal},
	"TOML": {emit.TOML, toml.Unmarshal},
}

// checkFormats says that every format refuses the data, or that its reader
// gives it back; text that is UTF-8 is never refused.
func checkFormats(t interface{ Fatalf(string, ...any) }, data map[string]any, m *emit.Map, carried bool) {
	for name, format := range formats {
		body, err := format.write(m)
		if err != nil {
			if carried {
				t.Fatalf("%s refuses %q: %v", name, data, err)
			}
			continue
		}
		for _, l := range body.Lines {
			if strings.ContainsAny(l.String(), "\n\x00") {
				t.Fatalf("%s writes %q as one line", name, l)
			}
		}
		var got map[string]any
		if err := format.read(body.Bytes(), &got); err != nil {
			t.Fatalf("%s of %q: %v\n%q", name, data, err, body.Bytes())
		}
		if !reflect.DeepEqual(got, data) {
			t.Fatalf("%s of %q reads back as %q:\n%q", name, data, got, body.Bytes())
		}
	}
}

// nested puts one text as a value, in a list, under a key, and below both.
func nested(key, value string) map[string]any {
	return map[string]any{
		"v": value, "list": []any{value, "x", value}, "m": map[string]any{key: value},
		"deep": map[string]any{"deeper": map[string]any{"list": []any{value}, "v": value, "w": "x"}},
	}
}

// carried says whether every format has a writing for both.
func carried(key, value string) bool {
	return utf8.ValidString(key) && utf8.ValidString(value) && len(key) <= 1000 && key != "<<"
}

func TestHostileTextReadsBackOrIsRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(hostile(), rapid.Map(rapid.SliceOfN(hostile(), 2, 4), func(s []string) string { return strings.Join(s, "") }))
		key, value := text.Draw(t, "key"), text.Draw(t, "value")
		d := nested(key, value)
		checkFormats(t, d, mapOf(t, d), carried(key, value))
	})
}

func FuzzFormats(f *testing.F) {
	f.Add("key", "value")
	f.Add("\u2028", "a\r\nb\x00")
	f.Fuzz(func(t *testing.T, key, value string) {
		d := nested(key, value)
		checkFormats(t, d, mapOf(t, d), carried(key, value))
	})
}

// A text of several lines is the same text in every format, whatever its lines
// are.
func TestBlocksReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		block := &emit.Block{}
		for _, l := range rapid.SliceOfN(hostile(), 0, 4).Draw(t, "lines") {
			if utf8.ValidString(l) && !strings.Contains(l, "\n") {
				block.Lines = append(block.Lines, origin.Of(l, origin.Origin{}))
			}
		}
		m := emit.NewMap(origin.Origin{}).Set("b", block)
		m.Map("m", origin.Origin{}).Set("b", block)
		m.Fixed("z", "last", origin.Origin{})
		checkFormats(t, map[string]any{"b": block.String(), "m": map[string]any{"b": block.String()}, "z": "last"}, m, true)
		list := emit.NewMap(origin.Origin{}).List("l", origin.Origin{}, block)
		var got map[string]any
		if err := yamlv3.Unmarshal(written(t)(emit.YAML(list)), &got); err != nil || !reflect.DeepEqual(got["l"], []any{block.String()}) {
			t.Fatalf("%q reads back as %q, %v", block.String(), got, err)
		}
	})
}

// What has no writing is an error, and never another value.
func TestUnwritableValuesAreRefused(t *testing.T) {
	for _, v := range []any{math.NaN(), math.Inf(1), "\xff", struct{}{}, []byte("x"), uint(1)} {
		for name, format := range formats {
			if body, err := format.write(emit.NewMap(origin.Origin{}).Set("k", emit.Scalar{V: v})); err == nil {
				t.Errorf("%s of %v is %q", name, v, body.Bytes())
			}
		}
	}
}

// checkUnit writes texts into a unit, and reads them back.
func checkUnit(t interface{ Fatalf(string, ...any) }, value string, args ...string) {
	u := &emit.UnitFile{}
	u.Section("Service", origin.Origin{})
	u.Key("Environment", value, origin.Origin{})
	var argv []emit.Argument
	for _, a := range args {
		argv = append(argv, emit.Argument{Text: a})
	}
	u.Exec("ExecStart", "/bin/x", origin.Origin{}, argv...)
	u.Key("Restart", "always", origin.Origin{})
	body, err := u.Body()
	if err != nil {
		return
	}
	got, err := emit.ParseUnit(string(body.Bytes()))
	if err != nil || len(got) != 3 {
		t.Fatalf("%q and %q: %q, %v", value, args, got, err)
	}
	if back := strings.ReplaceAll(got[0].Value, "%%", "%"); got[0].Key != "Environment" || back != value {
		t.Fatalf("%q reads back as %q", value, got[0])
	}
	words, err := emit.ParseExec(got[1].Value)
	if err != nil || !reflect.DeepEqual(words, append([]string{"/bin/x"}, args...)) {
		t.Fatalf("%q reads back as %q, %v", args, words, err)
	}
	if got[2] != (emit.Directive{Section: "Service", Key: "Restart", Value: "always"}) {
		t.Fatalf("%q and %q change %q", value, args, got[2])
	}
}

func TestUnitsReadBackOrAreRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		checkUnit(t, hostile().Draw(t, "value"), rapid.SliceOfN(hostile(), 0, 5).Draw(t, "args")...)
	})
}

func FuzzUnit(f *testing.F) {
	for _, s := range []string{"", " x", "%", `\`, "#", "a\nb", ";"} {
		f.Add(s, s, s)
	}
	f.Fuzz(func(t *testing.T, value, a, b string) { checkUnit(t, value, a, b) })
}

func TestProgramsArePlain(t *testing.T) {
	for _, program := range []string{"", "/bin/a b", "/bin/x\nUser=root", "/bin/$x", "/bin/%n", `/bin/"x`, "/bin/x;"} {
		u := &emit.UnitFile{}
		u.Exec("ExecStart", program, origin.Origin{})
		if _, err := u.Body(); err == nil {
			t.Errorf("%q was accepted", program)
		}
	}
}
