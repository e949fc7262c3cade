package docs

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/verify"
)

// compiled is a published schema as a reader of plans has it.
func compiled(t *testing.T, file string) *jsonschema.Schema {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + file)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(file, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(file)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// judged is what a schema says of a value.
func judged(t *testing.T, s *jsonschema.Schema, value any) error {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

// What kthwc plan, apply and verify write is what their published schemas say, and
// what has another shape is refused.
func TestPublishedSchemas(t *testing.T) {
	plan := apply.Plan{
		APIVersion: "kthwc.dev/v1alpha1", Kind: "Plan", Cluster: "c", Tree: "ab",
		Hosts: []apply.HostPlan{{
			Node: "worker-0", Drift: []apply.Change{{Do: apply.Modify, Path: "/etc/x", Kind: "file", What: []string{"content"}}},
			Programs: []apply.Blob{{Name: "kubelet", Path: "/opt/kthwc/kubelet", Digest: "ab", Size: 1}},
			Units:    []apply.UnitAction{{Unit: "kubelet.service", Do: apply.Restart, Because: []string{"/etc/x"}}},
		}},
		Rollout:   []apply.Batch{{Nodes: []string{"worker-0"}, Drain: true, Steps: []apply.Step{{Unit: "kubelet.service", Do: apply.Restart, Nodes: []string{"worker-0"}}}, Disruption: "none"}},
		Manifests: []apply.ManifestChange{{Do: apply.Add, Manifest: "m", Kind: "Service", Name: "s"}},
	}
	exit := 0
	for file, good := range map[string]any{
		"plan.schema.json":  plan,
		"event.schema.json": apply.EventRecord{Version: 1, Time: "2026-01-01T00:00:00Z", Type: "summary", Exit: &exit},
		"verify.schema.json": (&verify.Report{Cluster: "c", Results: []verify.Result{
			{Layer: verify.LayerRoute, Name: "a route", Node: "worker-0", Status: verify.Failed, Expected: "a", Actual: "b", Cause: "c", Help: "d"}, {Layer: verify.LayerTLS, Name: "n", Status: verify.OK},
		}}).Document(),
	} {
		s := compiled(t, file)
		if err := judged(t, s, good); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		for _, bad := range []any{[]string{}, map[string]any{"v": "one", "hosts": 3}, map[string]any{}} {
			if judged(t, s, bad) == nil {
				t.Errorf("%s accepts %v", file, bad)
			}
		}
	}
}
