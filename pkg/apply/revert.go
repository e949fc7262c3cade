package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

// Last are the hosts on which a transaction is the one that was confirmed last;
// 0 stands for whichever transaction is the last of all.
func Last(hosts map[string]Host, transaction int) (int, []string) {
	last := map[string]int{}
	newest := 0
	for node, h := range hosts {
		if h.State == nil || h.State.Confirmed == nil {
			continue
		}
		if r, err := recordOf(h.State.Confirmed); err == nil {
			last[node] = r.Generation
			newest = max(newest, r.Generation)
		}
	}
	if transaction == 0 {
		transaction = newest
	}
	var out []string
	for node, generation := range last {
		if generation == transaction {
			out = append(out, node)
		}
	}
	slices.Sort(out)
	return transaction, out
}

// Revert puts hosts back to what they were before a transaction: controllers one
// at a time, then workers, each until what runs again works. It ends at the first
// failure.
func (r *Run) Revert(ctx context.Context, transaction, epoch int, nodes []string) (*Outcome, error) {
	r.epoch = epoch
	out := &Outcome{Transaction: transaction, Stuck: map[string]string{}}
	for _, n := range r.Tree.Nodes { // controllers come first in a tree as in cluster.yaml
		if !slices.Contains(nodes, n.Name) {
			continue
		}
		if err := ctx.Err(); err != nil {
			out.Skipped = append(out.Skipped, n.Name)
			continue
		}
		if err := r.revert(ctx, n, transaction); err != nil {
			out.Stuck[n.Name] = err.Error()
			return out, fmt.Errorf("%s: %w", n.Name, err)
		}
		out.Undone = append(out.Undone, n.Name)
	}
	return out, ctx.Err()
}

func (r *Run) revert(ctx context.Context, n *tree.Node, transaction int) error {
	c := r.Hosts[n.Name]
	if c == nil {
		return errors.New("it is not connected")
	}
	if err := r.withoutOne(ctx, n); err != nil {
		return fmt.Errorf("nothing was touched: %w", err)
	}
	tx := &Transaction{Conn: c, Root: r.Root, Generation: transaction, Epoch: r.epoch}
	end := r.doing(n.Name, "put back")
	running, err := tx.Revert(ctx)
	if end(err) != nil {
		return err
	}
	for _, unit := range slices.SortedFunc(maps.Keys(running), func(a, b string) int { return rowOf(a) - rowOf(b) }) {
		g, err := r.gate(n.Name, unit)
		if err != nil {
			return err
		}
		g.unit.Probes, g.before = asBefore(g.unit.Probes), running[unit]
		end := r.doing(n.Name, unit)
		if err := end(g.pass(ctx, r.Gate)); err != nil {
			return err
		}
	}
	return nil
}

// withoutOne says whether the cluster does without a node for a moment: every
// other member of etcd and every other API server answers.
func (r *Run) withoutOne(ctx context.Context, n *tree.Node) error {
	for _, unit := range []string{etcdUnit, apiserverUnit} {
		others := slices.DeleteFunc(r.running(unit), func(node string) bool { return node == n.Name })
		if !has(n, unit) {
			continue
		}
		err := r.each(ctx, others, func(ctx context.Context, node string) error {
			g, err := r.gate(node, unit)
			if err != nil {
				return err
			}
			g.unit.Probes = asBefore(g.unit.Probes)
			return g.pass(ctx, 30*time.Second)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// asBefore are probes without what this tree knows and the one before may not
// have had: which certificate is served.
func asBefore(probes []tree.Probe) []tree.Probe {
	out := slices.Clone(probes)
	for i := range out {
		out[i].Serves = secret.Ref{}
	}
	return out
}

// Standing is how a host stands, for a person.
type Standing struct {
	Node        string            `json:"node"`
	Unknown     string            `json:"unknown,omitempty"`
	Transaction int               `json:"transaction"` // confirmed last; 0: none
	Interrupted string            `json:"interrupted,omitempty"`
	Owner       string            `json:"owner,omitempty"`
	Units       map[string]string `json:"units,omitempty"`
	Boot        string            `json:"boot,omitempty"`
	Clock       time.Time         `json:"clock"`
}

// StandingOf sums up what was observed of a host.
func StandingOf(node string, h Host) Standing {
	out := Standing{Node: node}
	if h.Err != nil || h.State == nil {
		out.Unknown = "it was not looked at"
		if h.Err != nil {
			out.Unknown = h.Err.Error()
		}
		return out
	}
	out.Interrupted, out.Owner, out.Boot, out.Clock = h.State.interrupted(), h.State.Owner, h.State.Facts.Boot, h.State.Facts.Clock
	if h.State.Confirmed != nil {
		if r, err := recordOf(h.State.Confirmed); err == nil {
			out.Transaction = r.Generation
		}
	}
	out.Units = map[string]string{}
	for name, u := range h.State.Units {
		out.Units[name] = u.Active
	}
	return out
}
