package apply

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/kthwc/kthwc/pkg/tree"
)

// batch is one batch that is carried out.
type batch struct {
	*Run
	*Batch
	out      *Outcome
	cordoned bool // perhaps some of them

	mu     sync.Mutex
	before map[string]string // node and unit -> invocation
}

// guardTime is what Run.Guard is unless it is set.
const guardTime = 60 * time.Second

// run takes the hosts from one generation to the next, or back.
func (b *batch) run(ctx context.Context) error {
	b.before = map[string]string{}
	for _, before := range []func(context.Context) error{b.look, b.stage, b.margin, b.drain} {
		if err := before(ctx); err != nil {
			return b.leave(ctx, err)
		}
	}
	err := b.change(ctx)
	if err == nil {
		err = b.confirm(ctx)
	}
	if err != nil {
		return b.undo(ctx, err)
	}
	b.out.Confirmed = append(b.out.Confirmed, b.Nodes...)
	return b.uncordon(ctx)
}

// leave takes back what came before any change: generations that arrived, so that
// nothing seems interrupted, and cordons. A generation that stays is told, and undone
// by the next run.
func (b *batch) leave(parent context.Context, why error) error {
	b.out.Skipped = append(b.out.Skipped, b.Nodes...)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), time.Minute)
	defer cancel()
	_ = b.each(ctx, b.Nodes, func(ctx context.Context, node string) error { // why is the error; this is told
		end := b.doing(node, "take back")
		return end(b.named(node, b.transaction(node).Rollback(ctx)))
	})
	if !b.cordoned {
		return why
	}
	return errors.Join(why, b.uncordon(parent))
}

// margin asks, before anything is touched, whether the others do without these
// hosts: every member of etcd answers, every other API server is ready.
func (b *batch) margin(ctx context.Context) error {
	for _, s := range b.Steps {
		if s.Before == "" {
			continue
		}
		if err := b.others(ctx, s); err != nil {
			return fmt.Errorf("%s is not touched: %w", s.Unit, err)
		}
	}
	return nil
}

// others asks the other hosts that have a unit. Of etcd every member must answer,
// these included; of other units, those that are connected, and at least one.
func (b *batch) others(ctx context.Context, s Step) error {
	ask := b.running(s.Unit)
	if s.Unit != etcdUnit {
		ask = slices.DeleteFunc(ask, func(node string) bool { return slices.Contains(s.Nodes, node) || b.Hosts[node] == nil })
	}
	if len(ask) == 0 {
		return fmt.Errorf("%s: no other is connected", s.Before)
	}
	return b.each(ctx, ask, func(ctx context.Context, node string) error {
		g, err := b.gate(node, s.Unit)
		if err != nil {
			return err
		}
		g.unit.Probes = asBefore(g.unit.Probes) // certificates of what is not changed yet are the old ones
		end := b.doing(node, s.Unit+" is asked")
		if err := g.pass(ctx, 30*time.Second); err != nil {
			return end(fmt.Errorf("%s: %w", s.Before, err))
		}
		return end(nil)
	})
}

// running are the nodes of the tree that have a unit.
func (r *Run) running(unit string) []string {
	var out []string
	for _, n := range r.Tree.Nodes {
		if has(n, unit) {
			out = append(out, n.Name)
		}
	}
	return out
}

// gate is the check of a unit on a node. A host that is not connected cannot pass.
func (r *Run) gate(node, unit string) (*gate, error) {
	c := r.Hosts[node]
	if c == nil {
		return nil, fmt.Errorf("%s is not connected", node)
	}
	g := &gate{node: node, conn: c, unit: tree.Unit{Name: unit}, material: r.Material, restarts: math.MaxInt, waiting: func(what string) { r.event(node, unit, Wait, what, 0) }}
	for _, u := range r.Tree.Node(node).Units {
		if u.Name == unit {
			g.unit = u
		}
	}
	return g, nil
}

// stage brings the new generation to the hosts, whole, beside the old one.
func (b *batch) stage(ctx context.Context) error {
	return b.each(ctx, b.Nodes, func(ctx context.Context, node string) error {
		entries, record, err := b.install(node)
		if err != nil {
			return fmt.Errorf("%s: %w", node, err)
		}
		end := b.doing(node, "stage")
		return end(b.named(node, b.transaction(node).Stage(ctx, entries, b.Plan.Host(node).Units, record)))
	})
}

func (b *batch) named(node string, err error) error {
	var gate *GateError // names it
	if err == nil || errors.As(err, &gate) {
		return err
	}
	return fmt.Errorf("%s: %w", node, err)
}

// change installs the files and works through the units.
func (b *batch) change(ctx context.Context) error {
	err := b.each(ctx, b.Nodes, func(ctx context.Context, node string) error {
		end := b.doing(node, "install")
		err := b.transaction(node).Install(ctx, b.Run.Gate+b.Guard)
		if err == nil && b.Plan.Host(node).does(containerdUnit) == "" { // it runs, and lost an image
			err = b.images(ctx, node)
		}
		return end(b.named(node, err))
	})
	for i := range b.Steps {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = b.step(ctx, &b.Steps[i])
		}
	}
	return err
}

// step acts on one unit of every host that has it, and waits until it works. The
// hosts' own time to undo everything begins anew.
func (b *batch) step(ctx context.Context, s *Step) error {
	if s.Do == Stop || s.Do == Enable {
		return nil // install has done so
	}
	return b.together(ctx, s.Nodes, func(ctx context.Context, node string) error {
		end := b.doing(node, s.Unit)
		return end(b.named(node, b.unit(ctx, node, s)))
	})
}

func (b *batch) unit(ctx context.Context, node string, s *Step) error {
	before, err := b.transaction(node).Act(ctx, b.Run.Gate+b.Guard, UnitAction{Unit: s.Unit, Do: s.Do})
	if err != nil {
		return err
	}
	g, err := b.Run.gate(node, s.Unit)
	if err != nil {
		return err
	}
	if g.first = s.First; s.Do == Restart { // one that was coming up already is not begun again
		g.before = before
	}
	if err := g.pass(ctx, b.Run.Gate); err != nil {
		return err
	}
	switch s.Unit {
	case containerdUnit:
		return b.images(ctx, node)
	case settingsUnit:
		return b.settings(ctx, node)
	}
	return nil
}

// images gives the container runtime what kthwc.lock names.
func (b *batch) images(ctx context.Context, node string) error {
	for _, blob := range b.Plan.Host(node).Images {
		b.event(node, containerdUnit, Wait, "import "+blob.Image, 0)
		if err := command(ctx, b.Hosts[node], "import "+blob.Image, "image", blob.Path, blob.Image); err != nil {
			return err
		}
	}
	return nil
}

// confirm commits each host over a connection of its own that is new: what was
// changed may have cut off everybody else.
func (b *batch) confirm(ctx context.Context) error {
	if err := b.ready(ctx); err != nil {
		return err
	}
	if err := b.beside(ctx); err != nil {
		return err
	}
	return b.each(ctx, b.Nodes, func(ctx context.Context, node string) error {
		end := b.doing(node, "confirm")
		again, err := b.commit(ctx, node)
		if again {
			_, err = b.commit(ctx, node)
		}
		return end(err)
	})
}

// commit confirms one host, and removes what nobody goes back to. Where only the
// answer was lost it is asked again: what is committed can be committed twice.
func (b *batch) commit(ctx context.Context, node string) (again bool, err error) {
	fresh, err := b.Redial(ctx, node)
	if err != nil {
		return false, fmt.Errorf("%s cannot be reached any more: %w", node, err)
	}
	defer fresh.Close()
	tx := b.transaction(node)
	tx.Conn = fresh
	if err := tx.Commit(ctx); err != nil {
		return !errors.Is(err, ErrTaken) && ctx.Err() == nil, b.named(node, err)
	}
	if err := b.sweep(ctx, node, fresh); err != nil {
		b.event(node, "confirm", Wait, "programs that are used no more stay: "+err.Error(), 0)
	}
	return false, nil
}

// sweep removes the programs of generations that nobody goes back to, where a
// program or an image has taken the place of another.
func (b *batch) sweep(ctx context.Context, node string, c Conn) error {
	if b.Root != "" || !b.Plan.Host(node).supersedes() {
		return nil
	}
	d, err := desiredOf(b.Tree, b.Tree.Node(node), b.Lock)
	if err != nil {
		return err
	}
	args := []string{"sweep"}
	for _, blob := range slices.Concat(d.programs, d.images) {
		args = append(args, blob.Path)
	}
	err = command(ctx, c, "remove programs that are used no more", args...)
	if err != nil || !has(d.Node, containerdUnit) {
		return err
	}
	args = []string{"unpin"}
	for _, blob := range d.images {
		args = append(args, blob.Image)
	}
	return command(ctx, c, "leave images that are used no more to the kubelet", args...)
}

// supersedes says whether programs or images may be used no more afterwards.
func (h *HostPlan) supersedes() bool {
	return len(h.Programs)+len(h.Images) > 0 || slices.ContainsFunc(h.Changes, func(c Change) bool { return c.Kind == tree.Symlink && c.Do != Add })
}

// ready waits until the cluster says that nodes whose kubelet was touched are Ready.
func (b *batch) ready(ctx context.Context) error {
	at := slices.IndexFunc(b.Steps, func(s Step) bool { return s.Unit == kubeletUnit && s.Do != Enable })
	if at < 0 || b.Cluster == nil {
		return nil
	}
	k, err := b.cluster(ctx)
	if err != nil {
		return err
	}
	if err := b.extend(ctx); err != nil {
		return err
	}
	return b.each(ctx, b.Steps[at].Nodes, func(ctx context.Context, node string) error {
		end := b.doing(node, "node Ready")
		return end(b.awaitReady(ctx, k, node))
	})
}

func (b *batch) awaitReady(ctx context.Context, k Kubernetes, node string) error {
	ctx, cancel := context.WithTimeout(ctx, b.Run.Gate)
	defer cancel()
	last := "nothing was seen yet"
	for {
		ready, why, err := k.NodeReady(ctx, node)
		if err == nil && ready {
			return nil
		}
		if ctx.Err() == nil {
			if last = why; err != nil {
				last = err.Error()
			}
			b.event(node, "node Ready", Wait, last, 0)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not Ready within %v: %s", node, b.Run.Gate, last)
		case <-time.After(2 * pollEvery):
		}
	}
}

func (b *batch) drain(ctx context.Context) error {
	if !b.Drain || b.Cluster == nil {
		return nil
	}
	k, err := b.cluster(ctx)
	if err != nil {
		return fmt.Errorf("the nodes cannot be drained: %w", err)
	}
	b.cordoned = true
	return b.each(ctx, b.Nodes, func(ctx context.Context, node string) error {
		end := b.doing(node, "drain")
		if err := k.Cordon(ctx, node); err != nil {
			return end(err)
		}
		return end(k.Drain(ctx, node, func(what string) { b.event(node, "drain", Wait, what, 0) }))
	})
}

// uncordon gives back the nodes that this program has cordoned, and no others.
func (b *batch) uncordon(ctx context.Context) error {
	if !b.Drain || b.Cluster == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	k, err := b.cluster(ctx)
	if err != nil {
		return fmt.Errorf("the nodes stay cordoned: %w", err)
	}
	return b.each(ctx, b.Nodes, func(ctx context.Context, node string) error { return k.Uncordon(ctx, node) })
}

// undo puts the hosts of the batch back, all of them, whatever the reason was:
// also when this run was interrupted.
func (b *batch) undo(parent context.Context, why error) error {
	if errors.Is(why, ErrTaken) {
		for _, node := range b.Nodes {
			b.out.Stuck[node] = why.Error()
		}
		return why
	}
	err := b.each(parent, b.Nodes, func(parent context.Context, node string) error {
		where, err := b.undoHost(parent, node)
		b.mu.Lock()
		defer b.mu.Unlock()
		if err != nil {
			b.out.Stuck[node] = fmt.Sprintf("%s: %v", where, err)
			return err
		}
		b.out.Undone = append(b.out.Undone, node)
		return nil
	})
	if err != nil {
		return errors.Join(why, err, b.uncordon(parent))
	}
	return errors.Join(fmt.Errorf("%w: %w", ErrUndone, why), b.uncordon(parent))
}

// undoHost puts one host back and waits until it runs as before; an error goes with
// how the host is left. Who is interrupted does not wait.
func (b *batch) undoHost(parent context.Context, node string) (where string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), 2*time.Minute)
	defer cancel()
	end := b.doing(node, "undo")
	tx := b.transaction(node)
	if err = end(tx.back(ctx)); err != nil { // perhaps by a new connection
		if fresh, dialled := b.Redial(ctx, node); dialled == nil {
			defer fresh.Close()
			tx.Conn = fresh
			err = tx.back(ctx)
		}
	}
	if err != nil {
		return fmt.Sprintf("it undoes everything by itself within %v", b.Run.Gate+b.Guard), err
	}
	if parent.Err() == nil {
		err = b.runAgain(parent, node, tx.Conn)
	}
	if parent.Err() != nil {
		return "", nil
	}
	return "everything was put back, and it does not run as before", err
}
