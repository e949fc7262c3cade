package schema

import (
	"bytes"
	"fmt"
	"strings"
)

// CUE is the definition of cluster.yaml in CUE.
func CUE() []byte { return bytes.Clone(source) }

// Markdown documents every field.
func Markdown() []byte {
	var b bytes.Buffer
	b.WriteString("# The fields of cluster.yaml\n")
	for _, t := range definitions() {
		if len(t.fields) == 0 || strings.HasPrefix(t.name, "#profiles") {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n| field | value | default | what it is |\n|---|---|---|---|\n", strings.TrimPrefix(t.name, "#"))
		for _, f := range append(t.fields, t.embeddedFields()...) {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Name, cell(f.expectation()), cell(f.defaultText()), cell(f.Doc))
		}
	}
	return b.Bytes()
}

func (t *typeInfo) embeddedFields() []*Field {
	var out []*Field
	for _, ref := range t.refs {
		if e := typeNamed(ref); e != nil {
			out = append(out, e.fields...)
		}
	}
	return out
}

func (f *Field) expectation() string {
	if f.Expect != "" {
		return f.Expect
	}
	if text := expectation(f.refs); text != "" {
		return text
	}
	if len(f.refs) > 0 {
		return "see " + strings.TrimPrefix(f.refs[0], "#")
	}
	return "a mapping"
}

func (f *Field) defaultText() string {
	if rest, ok := strings.CutPrefix(f.Type, "*"); ok {
		text, _, _ := strings.Cut(rest, " | ")
		if strings.HasPrefix(text, "#profiles") {
			return "the profile's"
		}
		return "`" + text + "`"
	}
	if f.required() {
		return "required"
	}
	return ""
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// Template is a commented cluster.yaml to start from.
func Template(provider string, controllers, workers int) ([]byte, error) {
	where, ok := map[string]string{
		"static": "  api:\n    # Your balancer's address: clients and workers dial it. It needs a TCP\n    # forward to port 6443 of every controller.\n    address: 10.240.0.100\n  provider:\n    # Machines that exist already.\n    static: {}\n",
		"gcp":    "  provider:\n    gcp:\n      project: my-project\n      region: us-west1\n      zone: us-west1-c\n",
	}[provider]
	switch {
	case !ok:
		return nil, fmt.Errorf("no provider %q; the providers are static and gcp", provider)
	case controllers != 1 && controllers != 3 && controllers != 5:
		return nil, fmt.Errorf("%d controllers make no better etcd cluster; use 1, 3 or 5", controllers)
	case workers < 0 || workers > 200:
		return nil, fmt.Errorf("from 0 to 200 workers are listed by name; use pools for more")
	}
	var b bytes.Buffer
	b.WriteString("# A cluster for kthwc. Everything that is left out has a default:\n# `kthwc schema --format markdown` lists the fields.\napiVersion: kthwc.dev/v1alpha1\nkind: Cluster\nmetadata:\n  name: my-cluster\nspec:\n" + where)
	b.WriteString("  access:\n    # Where you come from: the API and SSH are open to these ranges.\n    operatorCIDRs: [203.0.113.0/24]\n  nodes:\n")
	list := func(name, role string, n, first int) {
		for i := range n {
			fmt.Fprintf(&b, "    - name: %s-%d\n      roles: [%s]\n      address: 10.240.0.%d\n", name, i, role, first+i)
		}
	}
	list("controller", "controller", controllers, 10)
	list("worker", "worker", workers, 20)
	return b.Bytes(), nil
}
