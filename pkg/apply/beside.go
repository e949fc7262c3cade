package apply

import (
	"context"
	"slices"
	"time"
)

// What a batch owes to units that it does nothing to: none may have ended because of
// it when its hosts are confirmed, and all run again when they are put back.

// look asks which units run now, where other batches went before: what has ended
// since the plan was made is not put down to this one.
func (b *batch) look(ctx context.Context) error {
	if len(b.out.Confirmed) == 0 {
		return nil
	}
	return b.each(ctx, b.Nodes, func(ctx context.Context, node string) error {
		touched, others := b.ran(node)
		now, err := b.since(ctx, node, slices.Concat(touched, others))
		for unit, is := range now {
			was := b.states[node].Units[unit]
			was.Active, was.Started = is.Active, is.Started
			b.states[node].Units[unit] = was
		}
		return err
	})
}

// since asks whether units run, and since when.
func (b *batch) since(ctx context.Context, node string, units []string) (map[string]UnitState, error) {
	if len(units) == 0 {
		return nil, nil
	}
	r, err := b.Hosts[node].Run(ctx, Command{Script: unitScript, Args: append([]string{"since"}, units...)})
	if err != nil {
		return nil, b.named(node, err)
	}
	now, err := unitStates(r.Stdout)
	return now, b.named(node, err)
}

// ran are the units of a node that ran before the batch and always shall: those that
// it touches, and others.
func (b *batch) ran(node string) (touched, others []string) {
	if b.states[node] == nil {
		return nil, nil
	}
	for _, u := range b.Tree.Node(node).Units {
		switch {
		case !u.Started || b.states[node].Units[u.Name].Active != "active":
		case b.Plan.Host(node).touches(u.Name):
			touched = append(touched, u.Name)
		default:
			others = append(others, u.Name)
		}
	}
	return touched, others
}

// beside asks hosts of which units were touched for the others that ran before. One
// that has ended meanwhile is waited for: nothing is confirmed without it. Where files
// alone were changed, nothing takes the time in which a unit would end.
func (b *batch) beside(ctx context.Context) error {
	ended := map[string][]string{}
	err := b.each(ctx, b.Nodes, func(ctx context.Context, node string) error {
		if len(b.Plan.Host(node).Units) == 0 {
			return nil
		}
		_, units := b.ran(node)
		now, err := b.since(ctx, node, units)
		units = slices.DeleteFunc(units, func(unit string) bool {
			is := now[unit]
			return is.Active == "active" && is.Started == b.states[node].Units[unit].Started
		})
		b.mu.Lock()
		defer b.mu.Unlock()
		ended[node] = units
		return err
	})
	for _, node := range b.Nodes {
		for _, unit := range ended[node] {
			if err == nil {
				err = b.extend(ctx)
			}
			if err == nil {
				err = b.passes(ctx, node, unit)
			}
		}
	}
	return err
}

func (b *batch) passes(ctx context.Context, node, unit string) error {
	g, err := b.Run.gate(node, unit)
	if err != nil {
		return err
	}
	end := b.doing(node, unit)
	return end(g.pass(ctx, b.Run.Gate))
}

// extend has the hosts' time to undo everything begin anew: something is waited for.
func (b *batch) extend(ctx context.Context) error {
	return b.each(ctx, b.Nodes, func(ctx context.Context, node string) error {
		return b.named(node, b.transaction(node).Extend(ctx, b.Run.Gate+b.Guard))
	})
}

// Bounds of the wait for what was put back: for all units of a host, and for the
// answer of one.
const (
	mostAgain  = 5 * time.Minute
	mostAnswer = time.Minute
)

// runAgain waits until every unit of this tree that ran before the batch does so
// again: first those that were touched, then those that only missed them. Each is
// started before it is waited for, if it has ended for good, and may end meanwhile.
func (b *batch) runAgain(ctx context.Context, node string, c Conn) error {
	ctx, cancel := context.WithTimeout(ctx, mostAgain+b.Run.Gate)
	defer cancel()
	touched, others := b.ran(node)
	if len(touched)+len(others) == 0 {
		return nil
	}
	end := b.doing(node, "run again")
	for _, unit := range touched {
		if err := b.startAgain(ctx, node, c, unit, (*gate).again); err != nil {
			return end(err)
		}
	}
	for _, unit := range others {
		if err := b.startAgain(ctx, node, c, unit, (*gate).pass); err != nil {
			return end(err)
		}
	}
	return end(nil)
}

func (b *batch) startAgain(ctx context.Context, node string, c Conn, unit string, wait func(*gate, context.Context, time.Duration) error) error {
	g, err := b.Run.gate(node, unit)
	if err == nil {
		err = command(ctx, c, "start "+unit, "begin", unit)
	}
	if err != nil {
		return err
	}
	g.conn, g.patient = c, true
	return wait(g, ctx, max(b.Run.Gate, mostAnswer))
}

// again waits until a unit that was touched answers, after all was put back. How it
// was asked before, this tree does not know (it may have had another port): if it does
// not answer as it would now, systemd alone is asked.
func (g *gate) again(ctx context.Context, most time.Duration) error {
	g.unit.Probes = asBefore(g.unit.Probes)
	for i := range g.unit.Probes {
		g.unit.Probes[i].Want = nil
	}
	if g.pass(ctx, mostAnswer) == nil {
		return nil
	}
	g.unit.Probes = nil
	return g.pass(ctx, most)
}
