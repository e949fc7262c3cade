package schema_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/schema"
)

// editor is the JSON Schema as an editor reads it; at names a part of it.
func editor(t testing.TB, at string) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema.JSONSchema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("cluster.json", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("cluster.json#" + at)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// plainData is YAML as an editor sees it.
func plainData(t testing.TB, text []byte) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func globbed(t testing.TB, patterns ...string) []string {
	t.Helper()
	var out []string
	for _, p := range patterns {
		files, _ := filepath.Glob(p)
		if len(files) == 0 {
			t.Fatalf("nothing matches %s", p)
		}
		out = append(out, files...)
	}
	return out
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// templates are files that `kthwc init` writes.
func templates(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, provider := range []string{"static", "gcp"} {
		for _, controllers := range []int{1, 3, 5} {
			for _, workers := range []int{0, 1, 2, 200} {
				text, err := schema.Template(provider, controllers, workers)
				if err != nil {
					t.Fatal(err)
				}
				out[fmt.Sprintf("%s-%d-%d", provider, controllers, workers)] = text
			}
		}
	}
	return out
}

func TestJSONSchemaAcceptsWhatIsValid(t *testing.T) {
	s := editor(t, "")
	valid := templates(t)
	for _, f := range globbed(t, "../examples/*.yaml", "../golden/*/cluster.yaml") {
		valid[f] = read(t, f)
	}
	for name, text := range valid {
		if err := s.Validate(plainData(t, text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// shapeCodes are the faults that one field shows.
var shapeCodes = []string{"E0003", "E0005", "E0006", "E0010", "E0015", "E0016"}

// An editor and Load agree about every change of one value: the schema refuses
// what Load refuses for its shape, and nothing else.
func TestJSONSchemaAgreesWithLoad(t *testing.T) {
	s := editor(t, "")
	odd := []any{"x y", "10.240.0.300", 70000, nil, []any{"a", "b"}, map[string]any{}}
	agreements := [2]int{}
	for _, f := range []string{"../golden/customised/cluster.yaml", "../golden/mixed-pool/cluster.yaml"} {
		var root any
		if err := yaml.Unmarshal(read(t, f), &root); err != nil {
			t.Fatal(err)
		}
		change("", root, func(any) {}, odd, func(what string) {
			text, err := yaml.Marshal(root)
			if err != nil {
				t.Fatal(err)
			}
			accepts := s.Validate(plainData(t, text)) == nil
			_, faults := schema.Load("cluster.yaml", text)
			misshapen := slices.ContainsFunc(faults, func(d diag.Diagnostic) bool { return slices.Contains(shapeCodes, d.Code) })
			if accepts == misshapen {
				t.Errorf("%s: %s: the JSON Schema accepts it: %v, Load: %v", f, what, accepts, faults)
			}
			if accepts {
				agreements[0]++
			} else {
				agreements[1]++
			}
		})
	}
	if agreements[0] < 50 || agreements[1] < 200 {
		t.Errorf("only %d valid and %d invalid files were made", agreements[0], agreements[1])
	}
}

// change puts two of the odd values, another two each time, in the place of
// every value below v, one at a time, leaves every field out once, and calls
// look for each.
func change(at string, v any, put func(any), odd []any, look func(what string)) {
	for i := range 2 {
		o := odd[(len(at)+i)%len(odd)]
		put(o)
		look(fmt.Sprintf("%s = %#v", at, o))
	}
	put(v)
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			value := v[key]
			delete(v, key)
			look("no " + at + "." + key)
			v[key] = value
			change(at+"."+key, value, func(x any) { v[key] = x }, odd, look)
		}
	case []any:
		for i, value := range v {
			change(fmt.Sprintf("%s[%d]", at, i), value, func(x any) { v[i] = x }, odd, look)
		}
	}
}

// Every field has documentation, and its default is one of its values.
func TestJSONSchemaDocumentsEveryField(t *testing.T) {
	var doc any
	if err := json.Unmarshal(schema.JSONSchema(), &doc); err != nil {
		t.Fatal(err)
	}
	fields, defaults := 0, 0
	var visit func(at string, v any)
	visit = func(at string, v any) {
		m, _ := v.(map[string]any)
		if preset, ok := m["default"]; ok && !strings.HasSuffix(at, "/properties") {
			defaults++
			if err := editor(t, at).Validate(preset); err != nil {
				t.Errorf("the default of %s: %v", at, err)
			}
		}
		if properties, ok := m["properties"].(map[string]any); ok {
			for name, p := range properties {
				fields++
				if text, _ := p.(map[string]any)["description"].(string); text == "" {
					t.Errorf("%s of %s has no documentation", name, at)
				}
			}
		}
		for key, below := range m {
			visit(at+"/"+key, below)
		}
	}
	visit("", doc)
	if fields < 80 || defaults < 25 {
		t.Errorf("only %d fields and %d defaults", fields, defaults)
	}
}

// The patterns of addresses accept what netip reads, in the writing that
// cluster.yaml has: lower case, no zone, no IPv4 tail.
func TestAddressPatterns(t *testing.T) {
	ip, cidr := editor(t, "/definitions/IP"), editor(t, "/definitions/CIDR")
	rapid.Check(t, func(t *rapid.T) {
		address := rapid.OneOf(
			rapid.StringMatching(`[0-9a-f:]{1,24}`), rapid.StringMatching(`[0-9.]{1,16}`),
			rapid.StringMatching(`(25[0-9]|[0-9]{1,3})(\.(2[0-9]{2}|[0-9]{1,2})){3}`),
			rapid.StringMatching(`([0-9a-f]{1,4}:){0,7}:?([0-9a-f]{0,4}:){0,7}[0-9a-f]{0,5}`),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 16, 16), func(b []byte) string { return netip.AddrFrom16([16]byte(b)).String() }),
		).Draw(t, "address")
		_, err := netip.ParseAddr(address)
		mixed := strings.Contains(address, ":") && strings.Contains(address, ".")
		if want := err == nil && !mixed; (ip.Validate(address) == nil) != want {
			t.Fatalf("%q: netip: %v", address, err)
		}
		bits := rapid.OneOf(rapid.StringMatching(`[0-9]{1,3}`), rapid.Just("032"), rapid.Just("")).Draw(t, "bits")
		_, err = netip.ParsePrefix(address + "/" + bits)
		if want := err == nil && !mixed; (cidr.Validate(address+"/"+bits) == nil) != want {
			t.Fatalf("%q/%q: netip: %v", address, bits, err)
		}
	})
}

// What takes a whole file to judge, or its text, is beyond an editor's schema.
var beyondShape = []string{"trap-no", "trap-on", "trap-yes", "octal-number"} // fine by the rules of YAML 1.2

// The schema refuses every golden with a fault of shape, and accepts those
// that only the compiler refuses.
func TestJSONSchemaRefusesTheGoldens(t *testing.T) {
	s := editor(t, "")
	refused, accepted := 0, 0
	for _, file := range globbed(t, "../cmd/kthwc/testdata/errors/*.yaml") {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		printed := string(read(t, strings.TrimSuffix(file, ".yaml")+".txt"))
		isShape := slices.ContainsFunc(shapeCodes, func(code string) bool { return strings.Contains(printed, "error["+code+"]") })
		isCompiler := strings.Contains(printed, "error[E01")
		if !isShape && !isCompiler || strings.Contains(printed, "error[E0014]") || slices.Contains(beyondShape, name) {
			continue
		}
		if accepts := s.Validate(plainData(t, read(t, file))) == nil; accepts == isShape {
			t.Errorf("%s: the JSON Schema accepts it: %v", name, accepts)
		} else if accepts {
			accepted++
		} else {
			refused++
		}
	}
	if refused < 70 || accepted < 35 {
		t.Errorf("only %d refused and %d accepted", refused, accepted)
	}
}
