package apply

import (
	"fmt"
	"slices"

	"github.com/kthwc/kthwc/pkg/tree"
)

// A stageRow is one kind of unit in the order of an apply. Serial ones go host
// by host: of etcd a majority must stay, and the API must answer all the time.
type stageRow struct {
	unit   string
	serial bool
}

// stageRows: what others depend on comes first (the tutorial's own order).
var stageRows = []stageRow{
	{"etcd.service", true},
	{"kube-apiserver.service", true},
	{"kube-controller-manager.service", true},
	{"kube-scheduler.service", true},
	{"nginx.service", true},
	{"kthwc-pod-routes.service", false},
	{"containerd.service", false},
	{"kthwc-api-proxy.service", false},
	{"kubelet.service", false},
	{"kube-proxy.service", false},
}

// MaxUnavailable is how many workers are worked on at once.
const MaxUnavailable = 1

// stages orders the units that are to be started or restarted.
func (p *Plan) stages(t *tree.Tree, hosts map[string]Host) {
	known := map[string]bool{}
	for _, row := range stageRows {
		known[row.unit] = true
		p.stage(t, hosts, row)
	}
	for _, n := range t.Nodes {
		for _, u := range n.Units {
			if !known[u.Name] {
				known[u.Name] = true
				p.stage(t, hosts, stageRow{u.Name, false})
			}
		}
	}
}

func (p *Plan) stage(t *tree.Tree, hosts map[string]Host, row stageRow) {
	var nodes []string
	restart := false
	for i := range p.Hosts {
		for _, u := range p.Hosts[i].Units {
			if u.Unit == row.unit && u.Do != Enable {
				nodes = append(nodes, p.Hosts[i].Node)
				restart = restart || u.Do == Restart
			}
		}
	}
	if len(nodes) == 0 {
		return
	}
	s := Stage{Name: row.unit, Unit: row.unit, Gate: gateOf(t, row.unit)}
	switch members := haveUnit(t, row.unit); {
	case row.unit == "etcd.service" && !restart && len(nodes) == members:
		s.Batches = [][]string{nodes} // the first start: none answers before a majority is there
	case row.serial:
		s.Batches = slices.Collect(slices.Chunk(nodes, 1))
	default:
		s.Batches = slices.Collect(slices.Chunk(nodes, MaxUnavailable))
	}
	p.Stages = append(p.Stages, s)
	p.warn(t, hosts, row, nodes, restart)
}

func gateOf(t *tree.Tree, unit string) string {
	for _, n := range t.Nodes {
		for _, u := range n.Units {
			if u.Name == unit {
				return u.Gate
			}
		}
	}
	return ""
}

func haveUnit(t *tree.Tree, unit string) int {
	count := 0
	for _, n := range t.Nodes {
		if slices.ContainsFunc(n.Units, func(u tree.Unit) bool { return u.Name == unit }) {
			count++
		}
	}
	return count
}

// warn says what an operator must know before.
func (p *Plan) warn(t *tree.Tree, hosts map[string]Host, row stageRow, nodes []string, restart bool) {
	if row.unit != "etcd.service" || !restart {
		return
	}
	members := haveUnit(t, row.unit)
	if members == 1 {
		p.Warnings = append(p.Warnings, "etcd has one member: while it restarts, the API answers nothing")
	}
	for _, n := range t.Nodes {
		h := hosts[n.Name]
		has := slices.ContainsFunc(n.Units, func(u tree.Unit) bool { return u.Name == row.unit })
		if has && (h.Err != nil || h.State == nil || h.State.Units[row.unit].Active != "active") && !slices.Contains(nodes, n.Name) {
			p.Warnings = append(p.Warnings, fmt.Sprintf("etcd on %s does not answer: no other member is restarted before it does", n.Name))
		}
	}
}
