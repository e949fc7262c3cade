package gcp_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/kthwc/kthwc/internal/bench"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/gcp"
	"github.com/kthwc/kthwc/schema"
)

func desired(t *testing.T, source []byte) []gcp.Resource {
	t.Helper()
	doc, faults := schema.Load("cluster.yaml", source)
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	c, faults := compile.Compile(doc, compile.Facts{})
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	return gcp.Desired(c)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var (
	regional = map[string]bool{"Subnetwork": true, "Address": true, "TargetPool": true, "ForwardingRule": true}
	zonal    = map[string]bool{"Instance": true}
	name     = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`) // RFC 1035
)

// Every resource has a valid name of its own and says where it is; every
// firewall rule says from whom.
func TestResourcesAreWellFormed(t *testing.T) {
	for label, source := range map[string][]byte{
		"hardened": read(t, "../../examples/cluster.yaml"), "tutorial": read(t, "../../examples/kthw-1.21.yaml"), "a pool": bench.Pool(40),
	} {
		seen := map[string]bool{}
		for _, r := range desired(t, source) {
			id := r.Kind + "/" + r.Name.V
			if seen[id] || !name.MatchString(r.Name.V) {
				t.Errorf("%s: the name %s is taken or not valid", label, id)
			}
			seen[id] = true
			if (r.Region.V != "") != regional[r.Kind] || (r.Zone.V != "") != zonal[r.Kind] {
				t.Errorf("%s: %s has region %q and zone %q", label, id, r.Region.V, r.Zone.V)
			}
			if gcp.Reason(r.Why) == "" {
				t.Errorf("%s: %s has no reason", label, id)
			}
			if sources, ok := r.Body.Get("sourceRanges").(*emit.List); r.Kind == "Firewall" && (!ok || len(sources.Items) == 0) {
				t.Errorf("%s: %s lets everybody in", label, id)
			}
		}
		if len(seen) < 10 {
			t.Errorf("%s: only %d resources", label, len(seen))
		}
	}
}

// Names that a resource refers to are those of earlier resources.
func TestReferencesAreMadeBefore(t *testing.T) {
	made := map[string]bool{}
	for _, r := range desired(t, read(t, "../../examples/kthw-1.21.yaml")) {
		body := emit.Plain(r.Body).(map[string]any)
		for field, kind := range map[string]string{"network": "Network", "target": "TargetPool", "IPAddress": "Address"} {
			if ref, ok := body[field].(string); ok && !made[kind+"/"+ref] {
				t.Errorf("%s %s refers to %s %s, which comes later or never", r.Kind, r.Name.V, kind, ref)
			}
		}
		made[r.Kind+"/"+r.Name.V] = true
	}
}

func TestStaticMachinesHaveNoCloud(t *testing.T) {
	if got := desired(t, read(t, "../../examples/lab.yaml")); got != nil {
		t.Errorf("%d resources", len(got))
	}
}
