package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/kthwc/kthwc/pkg/tree"
)

// Fleet is the hosts of a tree, as far as they are connected.
type Fleet struct {
	*Wanted
	Conns    map[string]Conn
	Errs     map[string]error // why a host is not connected
	Root     string           // the directory that is taken for / on the hosts; "" on real ones
	Parallel int
}

// Observe looks at every connected host, and gives an answer for each: what was
// found, or why nothing is known.
func (f *Fleet) Observe(ctx context.Context, deep bool) (map[string]Host, error) {
	var mu sync.Mutex
	out := map[string]Host{}
	var nodes []string
	queries := map[string]Query{}
	for _, n := range f.Tree.Nodes {
		q, err := f.QueryOf(n)
		if err != nil {
			return nil, err
		}
		if q.Root = f.Root; deep {
			q.Paths = append(q.Paths, q.Blobs...)
		}
		queries[n.Name] = q
		switch {
		case f.Conns[n.Name] != nil:
			nodes = append(nodes, n.Name)
		case f.Errs[n.Name] != nil:
			out[n.Name] = Host{Err: f.Errs[n.Name]}
		}
	}
	_ = atOnce(ctx, f.Parallel, nodes, func(ctx context.Context, node string) error {
		s, err := Observe(ctx, f.Conns[node], queries[node])
		mu.Lock()
		defer mu.Unlock()
		out[node] = Host{s, err}
		return nil // each host's error is its own
	})
	return out, ctx.Err()
}

// Holds are hosts that are held by this run.
type Holds struct {
	Epoch int
	all   map[string]*Hold
}

// Hold takes hosts, all or none, and begins an epoch that no step of an earlier
// run has. A host that somebody has is a *HeldError.
func (f *Fleet) Hold(ctx context.Context, nodes []string, owner string) (*Holds, error) {
	h := &Holds{all: map[string]*Hold{}}
	var mu sync.Mutex
	take := func(ctx context.Context, node string) error {
		c := f.Conns[node]
		if c == nil {
			return fmt.Errorf("%s is not connected", node)
		}
		hold, err := HoldHost(ctx, node, c, f.Root, owner)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		h.all[node] = hold
		h.Epoch = max(h.Epoch, hold.Epoch)
		return nil
	}
	// The first host decides between operators who come at once: all of them would
	// find one that another has.
	nodes = slices.Sorted(slices.Values(nodes))
	first := nodes[:min(1, len(nodes))]
	err := atOnce(ctx, 1, first, take)
	if err == nil {
		err = atOnce(ctx, len(nodes), nodes[len(first):], take)
	}
	h.Epoch++
	if err == nil {
		err = atOnce(ctx, len(nodes), nodes, func(ctx context.Context, node string) error { return h.all[node].Begin(ctx, h.Epoch) })
	}
	if err != nil {
		h.Release()
		return nil, err
	}
	return h, nil
}

// Untouched says whether nothing that a run does has happened on these hosts since
// they were observed: nobody has held them, and no step of a run that ended was at work.
func (h *Holds) Untouched(found map[string]Host) bool {
	for node, hold := range h.all {
		if s := found[node].State; s == nil || s.Owner != "" || s.Epoch != hold.Epoch || !maps.Equal(s.Journal, hold.Journal) {
			return false
		}
	}
	return true
}

// Release gives every host back.
func (h *Holds) Release() {
	_ = atOnce(context.Background(), len(h.all), slices.Collect(maps.Keys(h.all)), func(_ context.Context, node string) error {
		h.all[node].Release()
		return nil
	})
}

// ErrStale says that a plan is not what would be planned now.
var ErrStale = errors.New("the hosts, or what is wanted of them, are not as they were when this was planned")

// Ready lists why a plan is not carried out: hosts whose state is unknown, or
// that have problems. Unknown hosts may be left out by choice.
func (p *Plan) Ready(partial bool) []string {
	var out []string
	for _, h := range p.Hosts {
		if h.Unknown != "" && !partial {
			out = append(out, h.Node+": "+h.Unknown)
		}
		for _, problem := range h.Problems {
			out = append(out, h.Node+": "+problem)
		}
	}
	return out
}

// States are the states of hosts that answered.
func States(hosts map[string]Host) map[string]*State {
	out := map[string]*State{}
	for node, h := range hosts {
		if h.Err == nil && h.State != nil {
			out[node] = h.State
		}
	}
	return out
}

// Pending are the nodes on which a plan does something.
func (p *Plan) Pending() []string {
	var out []string
	for _, h := range p.Hosts {
		if h.Unknown == "" && h.Pending() {
			out = append(out, h.Node)
		}
	}
	return out
}

// Manifests are the texts of the tree that the Kubernetes API gets, in order.
func Manifests(t *tree.Tree) map[string][]byte {
	out := map[string][]byte{}
	for _, f := range t.Files {
		if f.Body != nil && len(f.Path) > len(manifestDir) && f.Path[:len(manifestDir)] == manifestDir {
			out[f.Path[len(manifestDir):]] = f.Body.Bytes()
		}
	}
	return out
}

const manifestDir = "manifests/"

// SameAs says whether two plans do the same to the same hosts.
func (p *Plan) SameAs(o *Plan) bool {
	a, errA := json.Marshal(p.bare())
	b, errB := json.Marshal(o.bare())
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// Equal says whether a saved plan is what would be planned now: nothing that was
// looked at has changed, whether it matters or not.
func (p *Plan) Equal(o *Plan) bool {
	if !p.SameAs(o) {
		return false
	}
	for i := range p.Hosts {
		if p.Hosts[i].Observed != o.Hosts[i].Observed {
			return false
		}
	}
	return true
}

// bare is a plan without what says nothing of what is done: who holds a host.
func (p *Plan) bare() *Plan {
	out := *p
	out.Warnings, out.Hosts = nil, slices.Clone(p.Hosts)
	for i := range out.Hosts {
		out.Hosts[i].Owner, out.Hosts[i].Observed = "", ""
	}
	return &out
}

// Fresh says whether no host was ever applied to.
func (p *Plan) Fresh() bool {
	return !slices.ContainsFunc(p.Hosts, func(h HostPlan) bool { return h.Generation > 0 })
}
