package render

import (
	"embed"
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/go-jsonnet"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/origin"
)

// The manifests are jsonnet: functions of the cluster that give a list of
// Kubernetes objects.
//
//go:embed manifests
var sources embed.FS

// manifestFiles are the manifests, with the reason of what is constant in each.
var manifestFiles = []struct {
	name, reason string
	hardenedOnly bool
}{
	{"00-operators", "operators", true},
	{"10-apiserver-to-kubelet", "kubelet-rbac", false},
	{"10-healthz", "healthz-rbac", true},
	{"20-coredns", "coredns", false},
}

// manifests are the objects that the cluster needs before it is of use.
func (r *renderer) manifests() {
	vm := jsonnet.MakeVM()
	vm.Importer(&embedded{read: map[string]jsonnet.Contents{}})
	facts := &facts{}
	input, _ := json.Marshal(r.manifestInput(facts)) // maps of strings
	vm.TLACode("cluster", string(input))
	for _, m := range manifestFiles {
		if m.hardenedOnly && !r.hardened() {
			continue
		}
		documents, err := evaluate(vm, m.name+".jsonnet", facts, fixed(m.reason))
		if err != nil {
			r.fault("E0220", err.Error())
			continue
		}
		r.clusterFile("manifests/"+m.name+".yaml", r.yaml(documents...), fixed(m.reason))
	}
}

// manifestInput is the argument of every manifest. Whether there is one at all
// may depend on the profile; values are facts.
func (r *renderer) manifestInput(f *facts) map[string]any {
	image := r.c.Release.Companion("coredns")
	upstream := []any{f.name("/etc/resolv.conf", fixed("coredns-forward"))}
	if len(r.c.DNS.Upstream) > 0 {
		upstream = nil
	}
	for _, u := range r.c.DNS.Upstream {
		upstream = append(upstream, f.text(u))
	}
	return map[string]any{
		"profile": r.c.Profile.V,
		"domain":  f.text(r.c.Network.Domain),
		"dns": map[string]any{
			"address":  f.text(origin.Map(r.c.Network.DNS, netip.Addr.String)),
			"version":  f.name(image.V, origin.Join(image.From, r.c.Kubernetes.From)),
			"replicas": f.name(r.c.DNS.Replicas.V, r.c.DNS.Replicas.From),
			"upstream": upstream,
		},
	}
}

// facts are values that jsonnet sees by a name only. Where the name comes out
// again, the value stands with its origin: so a manifest's lines know which
// values they were made of.
type facts struct{ values []emit.Scalar }

// name of a value: no text that is read anywhere holds these characters.
func (f *facts) name(v any, from origin.Origin) string {
	f.values = append(f.values, emit.Scalar{V: v, From: from})
	return fmt.Sprintf("\x01%d\x02", len(f.values)-1)
}

func (f *facts) text(v compile.Text) string { return f.name(v.V, v.From) }

var factName = regexp.MustCompile("\x01([0-9]+)\x02")

// bind puts the values where their names came out. Everything else is a
// constant of the manifest.
func (f *facts) bind(data any, reason origin.Origin) emit.Value {
	switch d := data.(type) {
	case map[string]any:
		m := emit.NewMap(reason)
		for k, v := range d {
			m.Set(k, f.bind(v, reason))
		}
		return m
	case []any:
		l := &emit.List{From: reason}
		for _, item := range d {
			l.Items = append(l.Items, f.bind(item, reason))
		}
		return l
	case json.Number:
		n, _ := strconv.Atoi(d.String()) // manifests have whole numbers only
		return emit.Scalar{V: n, From: reason}
	case string:
		return f.bindText(d, reason)
	}
	return emit.Scalar{V: data, From: reason}
}

func (f *facts) bindText(text string, reason origin.Origin) emit.Value {
	if at := factName.FindStringSubmatch(text); at != nil && at[0] == text {
		return f.value(at[1])
	}
	if !strings.HasSuffix(text, "\n") {
		v := f.line(text, reason)
		return emit.Scalar{V: v.V, From: v.From}
	}
	block := &emit.Block{From: reason}
	for line := range strings.Lines(text) {
		block.Lines = append(block.Lines, f.line(strings.TrimSuffix(line, "\n"), reason))
	}
	return block
}

func (f *facts) line(text string, reason origin.Origin) compile.Text {
	from := reason
	text = factName.ReplaceAllStringFunc(text, func(name string) string {
		v := f.value(strings.Trim(name, "\x01\x02"))
		from = origin.Join(from, v.From)
		return fmt.Sprint(v.V)
	})
	return origin.Of(text, from)
}

func (f *facts) value(number string) emit.Scalar {
	n, _ := strconv.Atoi(number) // the pattern has digits only
	return f.values[n]
}

// evaluate runs one manifest and gives its objects.
func evaluate(vm *jsonnet.VM, name string, f *facts, reason origin.Origin) ([]*emit.Map, error) {
	text, err := vm.EvaluateFile(name)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var objects []map[string]any
	if err := decoder.Decode(&objects); err != nil {
		return nil, fmt.Errorf("%s does not give a list of objects: %w", name, err)
	}
	documents := make([]*emit.Map, len(objects))
	for i, o := range objects {
		documents[i] = f.bind(o, reason).(*emit.Map)
	}
	return documents, nil
}

// embedded imports from the program itself.
type embedded struct{ read map[string]jsonnet.Contents }

// Import implements jsonnet.Importer.
func (e *embedded) Import(_, name string) (jsonnet.Contents, string, error) {
	if known, ok := e.read[name]; ok {
		return known, name, nil
	}
	text, err := sources.ReadFile(path.Join("manifests", name))
	if err != nil {
		return jsonnet.Contents{}, "", err
	}
	e.read[name] = jsonnet.MakeContentsRaw(text)
	return e.read[name], name, nil
}
