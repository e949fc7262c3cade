// Package bench makes large clusters and measures the pipeline on them.
//
// It promises inputs that are valid, the same every time, and shaped like what
// platform teams have: a few controllers, and workers by the thousand in a
// pool or listed one by one. It holds no measurements: those are ratios and
// rates of one run, printed by go test -bench.
package bench

import (
	"fmt"
	"strings"
)

const head = `apiVersion: kthwc.dev/v1alpha1
kind: Cluster
metadata:
  name: large
spec:
  network:
    nodeCIDR: 10.128.0.0/16
    podCIDR: 10.0.0.0/11
    podCIDRMaskSize: 24
    serviceCIDR: 10.96.0.0/16
  api:
    address: 203.0.113.10
  provider:
    gcp:
      project: large
      region: us-west1
      zone: us-west1-c
  access:
    operatorCIDRs: [198.51.100.0/24]
  nodes:
    - {name: controller-0, roles: [controller], address: 10.128.0.10}
    - {name: controller-1, roles: [controller], address: 10.128.0.11}
    - {name: controller-2, roles: [controller], address: 10.128.0.12}
`

// Pool is a cluster.yaml of three controllers and a pool, nodes machines in all.
func Pool(nodes int) []byte {
	return fmt.Appendf(nil, "%s  pools:\n    - {name: worker, count: %d, addresses: 10.128.1.0, roles: [worker]}\n", head, nodes-3)
}

// Listed is the same cluster with every worker listed by name.
func Listed(nodes int) []byte {
	var b strings.Builder
	b.WriteString(head)
	for i := range nodes - 3 {
		fmt.Fprintf(&b, "    - name: worker-%d\n      roles: [worker]\n      address: 10.128.%d.%d\n", i, 1+i/256, i%256)
	}
	return []byte(b.String())
}
