package apply

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/tree"
)

// MaxUnavailable is how many workers are worked on at once, unless more are asked for.
const MaxUnavailable = 1

// Batch is hosts that are changed together, in one transaction each: all of them
// are confirmed, or all of them are undone. A batch begins when the one before
// it is confirmed.
type Batch struct {
	Nodes      []string `json:"nodes"`
	Drain      bool     `json:"drain,omitempty"` // cordon and drain first, uncordon last
	Steps      []Step   `json:"steps,omitempty"` // in order; each on every host that has it
	Disruption string   `json:"disruption"`      // what stands still meanwhile
}

// Step is one unit of a batch.
type Step struct {
	Unit   string   `json:"unit"`
	Do     string   `json:"do"`
	Nodes  []string `json:"nodes"`
	Before string   `json:"before,omitempty"` // what must be true before
	Gate   string   `json:"gate,omitempty"`   // what must be true after
	First  bool     `json:"first,omitempty"`  // etcd's first start
}

// Units whose order and gates are known.
const (
	etcdUnit       = "etcd.service"
	apiserverUnit  = "kube-apiserver.service"
	containerdUnit = "containerd.service"
	kubeletUnit    = "kubelet.service"
)

// A unitRow is one kind of unit: what others depend on comes first (the
// tutorial's own order). Draining ones take the node's pods along.
type unitRow struct {
	unit       string
	drains     bool
	disruption string
}

var unitRows = []unitRow{
	{"systemd-modules-load.service", false, ""},
	{"systemd-sysctl.service", false, ""},
	{etcdUnit, false, "one etcd member"},
	{apiserverUnit, false, "one API server; the others answer"},
	{"kube-controller-manager.service", false, "leader of the controllers moves"},
	{"kube-scheduler.service", false, "leader of the scheduler moves"},
	{"nginx.service", false, "health check of one API server"},
	{"kthwc-pod-routes.service", false, ""},
	{containerdUnit, true, "pods of the node move"},
	{"kthwc-api-proxy.service", false, "the node's way to the API, for a moment"},
	{kubeletUnit, true, "pods of the node move"},
	{"kube-proxy.service", false, "changes of Services wait a moment"},
}

func rowOf(unit string) int {
	at := slices.IndexFunc(unitRows, func(r unitRow) bool { return r.unit == unit })
	if at < 0 {
		return len(unitRows)
	}
	return at
}

// rollout orders the hosts that have something to do. Of controllers and of workers
// those on which no unit is touched go first and together: nothing stands still on
// them, and others may need what they get, such as names of new workers.
func (p *Plan) rollout(t *tree.Tree, hosts map[string]Host, scope Scope) {
	r := &roller{p: p, t: t, hosts: hosts}
	var controllers, workers, quietControllers, quietWorkers []string
	for i := range p.Hosts {
		h := &p.Hosts[i]
		controls, quiet := slices.Contains(t.Node(h.Node).Roles, "controller"), len(h.Units) == 0 && h.Interrupted == ""
		switch {
		case h.Unknown != "" || !h.Pending():
		case controls && quiet:
			quietControllers = append(quietControllers, h.Node)
		case controls:
			controllers = append(controllers, h.Node)
		case quiet:
			quietWorkers = append(quietWorkers, h.Node)
		default:
			workers = append(workers, h.Node)
		}
	}
	r.batch(quietControllers...)
	if r.first(controllers) {
		r.batch(controllers...)
	} else {
		for _, c := range controllers {
			r.batch(c)
		}
	}
	p.ManifestsAfter = len(p.Rollout)
	r.batch(quietWorkers...)
	r.workers(workers, max(1, scope.MaxUnavailable))
	r.warn()
}

// roller is the state of ordering one plan.
type roller struct {
	p     *Plan
	t     *tree.Tree
	hosts map[string]Host
}

// first says whether so few members of etcd run that no majority answers: then
// nothing is lost by starting them together, and none would answer alone.
func (r *roller) first(controllers []string) bool {
	members, running := 0, 0
	for _, n := range r.t.Nodes {
		if !has(n, etcdUnit) {
			continue
		}
		members++
		if r.active(n.Name, etcdUnit) {
			running++
		}
	}
	starting := slices.ContainsFunc(controllers, func(name string) bool { return r.p.Host(name).does(etcdUnit) == Start })
	return starting && running < members/2+1
}

func has(n *tree.Node, unit string) bool {
	return slices.ContainsFunc(n.Units, func(u tree.Unit) bool { return u.Name == unit })
}

func (r *roller) active(node, unit string) bool {
	h := r.hosts[node]
	return h.Err == nil && h.State != nil && h.State.Units[unit].Active == "active"
}

// does is what becomes of a unit; "" is nothing.
func (h *HostPlan) does(unit string) string {
	for _, u := range h.Units {
		if u.Unit == unit {
			return u.Do
		}
	}
	return ""
}

// touches says whether a unit is started, restarted or stopped.
func (h *HostPlan) touches(unit string) bool {
	do := h.does(unit)
	return do != "" && do != Enable
}

// workers go a few at a time where pods may run; those on which none do yet go
// together.
func (r *roller) workers(names []string, atOnce int) {
	var fresh, serving []string
	for _, name := range names {
		if r.active(name, kubeletUnit) {
			serving = append(serving, name)
		} else {
			fresh = append(fresh, name)
		}
	}
	r.batch(fresh...)
	for chunk := range slices.Chunk(serving, atOnce) {
		r.batch(chunk...)
	}
}

func (r *roller) batch(nodes ...string) {
	if len(nodes) == 0 {
		return
	}
	b := Batch{Nodes: nodes}
	fresh := !slices.ContainsFunc(nodes, func(name string) bool { return r.active(name, apiserverUnit) || r.active(name, kubeletUnit) })
	var disruptions []string
	for _, u := range r.units(nodes) {
		s := Step{Unit: u.Unit, Do: u.Do}
		for _, name := range nodes {
			if r.p.Host(name).does(u.Unit) == u.Do {
				s.Nodes = append(s.Nodes, name)
			}
		}
		r.guard(&s)
		b.Steps = append(b.Steps, s)
		if row := rowOf(u.Unit); row < len(unitRows) && u.Do == Restart && !fresh {
			b.Drain = b.Drain || unitRows[row].drains
			if what := unitRows[row].disruption; what != "" && !slices.Contains(disruptions, what) {
				disruptions = append(disruptions, what)
			}
		}
	}
	b.Disruption = strings.Join(disruptions, "; ")
	r.p.Rollout = append(r.p.Rollout, b)
}

// units are the distinct actions of some hosts, in the order of the rows.
func (r *roller) units(nodes []string) []UnitAction {
	var out []UnitAction
	for _, name := range nodes {
		for _, u := range r.p.Host(name).Units {
			if !slices.ContainsFunc(out, func(o UnitAction) bool { return o.Unit == u.Unit && o.Do == u.Do }) {
				out = append(out, UnitAction{Unit: u.Unit, Do: u.Do})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b UnitAction) int { return rowOf(a.Unit) - rowOf(b.Unit) })
	return out
}

// guard says what must be true around a step.
func (r *roller) guard(s *Step) {
	for _, u := range r.t.Node(s.Nodes[0]).Units {
		if u.Name == s.Unit && s.Do != Enable && s.Do != Stop {
			s.Gate = gateWords(u)
		}
	}
	members := 0
	for _, n := range r.t.Nodes {
		if has(n, s.Unit) {
			members++
		}
	}
	switch {
	case s.Unit == etcdUnit && s.Do == Restart && members > 1:
		s.Before = fmt.Sprintf("all %d members answer a linearizable read", members)
	case s.Unit == etcdUnit && s.Do == Start:
		s.First = !slices.ContainsFunc(r.t.Nodes, func(n *tree.Node) bool { return r.hasData(n) })
	case s.Unit == apiserverUnit && s.Do == Restart && members > 1:
		s.Before = "every other API server is ready"
	}
}

// gateWords is what is asked of a unit afterwards.
func gateWords(u tree.Unit) string {
	words := "active"
	for _, p := range u.Probes {
		if !p.First {
			words += ", " + p.URL[strings.LastIndex(p.URL, "/"):] + " answers"
		}
		if !p.Serves.IsZero() {
			words += ", serves " + p.Serves.Name()
		}
	}
	if u.Name == kubeletUnit {
		words += ", node Ready"
	}
	return words
}

// hasData says whether a member of etcd was ever started on a node.
func (r *roller) hasData(n *tree.Node) bool {
	dir := (&desired{Node: n}).etcdData()
	h := r.hosts[n.Name]
	if dir == "" || h.State == nil {
		return false
	}
	_, there := h.State.Entries[path.Join(dir, "member")]
	return there
}

// warn says what an operator must know before, and stops what must not be done.
func (r *roller) warn() {
	members, restarts := 0, false
	var silent, fresh, old []string
	for _, n := range r.t.Nodes {
		if !has(n, etcdUnit) {
			continue
		}
		members++
		h := r.p.Host(n.Name)
		if h != nil && h.does(etcdUnit) == Restart {
			restarts = true
		}
		switch {
		case r.hosts[n.Name].State == nil:
			silent = append(silent, n.Name)
		case r.hasData(n):
			old = append(old, n.Name)
			if !r.active(n.Name, etcdUnit) {
				silent = append(silent, n.Name)
			}
		case h != nil:
			fresh = append(fresh, n.Name)
		}
	}
	if restarts && members == 1 {
		r.p.Warnings = append(r.p.Warnings, "etcd has one member: while it restarts, the API answers nothing")
	}
	for _, name := range silent {
		if restarts && members > 1 {
			r.p.Warnings = append(r.p.Warnings, fmt.Sprintf("etcd on %s does not answer: no other member is restarted before it does", name))
		}
	}
	r.members(fresh, old)
	for _, h := range r.p.Hosts {
		if s := r.hosts[h.Node].State; s != nil && s.Facts.Skew.Abs() > someSkew {
			r.p.Warnings = append(r.p.Warnings, fmt.Sprintf("the clock of %s is more than %v %s", h.Node, someSkew, away(s.Facts.Skew)))
		}
	}
}

// members refuses to start a member without data beside one that was confirmed
// with data: it is a member that was lost, or one that was never added, and a
// first start would make a second cluster of it.
func (r *roller) members(fresh, old []string) {
	for _, name := range old {
		if h := r.hosts[name]; h.State == nil || h.State.Confirmed == nil {
			continue
		}
		for _, lost := range fresh {
			if h := r.p.Host(lost); h.does(etcdUnit) == Start {
				h.Problems = append(h.Problems, fmt.Sprintf("etcd has no data here, and %s has: a new member is added by etcdctl member add, a lost one is removed first; nothing is initialised again", name))
			}
		}
		return
	}
}
