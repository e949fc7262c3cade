package render

import (
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/gcp"
	"github.com/kthwc/kthwc/pkg/origin"
)

// cloud writes what Google Cloud shall have, in the order of creation. A spec
// is what the Compute Engine API takes.
func (r *renderer) cloud() {
	resources := gcp.Desired(r.c)
	if len(resources) == 0 {
		return
	}
	from := fixed("gcp-plan")
	var list []emit.Value
	for _, resource := range resources {
		list = append(list, cloudResource(r.c, resource))
	}
	r.clusterFile("cloud/plan.yaml", r.yaml(emit.NewMap(from).List("resources", from, list...)), from)
}

func cloudResource(c *compile.Cluster, r gcp.Resource) emit.Value {
	from := origin.Join(fixed(r.Why), r.From)
	m := emit.NewMap(from).Fixed("kind", r.Kind, from).Str("name", r.Name).Str("project", c.GCP.Project).Fixed("why", Reason(r.Why), fixed(r.Why)).Set("spec", r.Body)
	for key, scope := range map[string]compile.Text{"region": r.Region, "zone": r.Zone} {
		if scope.V != "" {
			m.Str(key, scope)
		}
	}
	return emit.Inherit(m, r.From)
}
