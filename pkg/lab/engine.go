package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// kind is how steps of one sort are made and undone.
//
// present looks at the machine, not at the journal. ensure begins where nothing
// of the step is there. undo undoes it whole or in part, and does nothing where
// nothing is there.
type kind struct {
	files   bool // nothing but files: down --keep leaves it
	keep    bool // holds what people made: up never undoes it
	present func(context.Context, Step) bool
	ensure  func(context.Context, Step) error
	undo    func(context.Context, Step) error // nil: nothing is left of it
}

// engine brings what is there and a list of steps together.
type engine struct {
	kinds    map[string]kind
	journal  *journal
	progress func(Event)
	changed  bool
	off      func(machine string) bool // somebody switched it off; nil: nobody did
}

// up undoes what is not wanted any more and makes what is missing, in order.
func (e *engine) up(ctx context.Context, steps []Step) error {
	if err := e.refuse(ctx, steps); err != nil {
		return err
	}
	for _, r := range slices.Backward(slices.Clone(e.journal.records)) {
		if !slices.ContainsFunc(steps, func(s Step) bool { return s.key() == r.Step.key() }) {
			if err := e.undo(ctx, r.Step); err != nil {
				return err
			}
		}
	}
	return e.make(ctx, steps)
}

// make makes what is missing of steps. A step that is made takes those after it
// along: all of them if it is the lab's, those of its machine otherwise.
func (e *engine) make(ctx context.Context, steps []Step) error {
	remade := map[string]bool{}
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		made, err := e.step(ctx, s, remade[""] || remade[s.Of])
		if err != nil {
			return err
		}
		remade[s.Of] = remade[s.Of] || made
	}
	return nil
}

// refuse finds before anything is done whether up would destroy what people made.
func (e *engine) refuse(ctx context.Context, steps []Step) error {
	for _, r := range e.journal.records {
		k, known := e.kinds[r.Step.Kind]
		if !known {
			return &Error{Refused, fmt.Sprintf("the lab has a %q, which this kthwc does not know", r.Step.Kind), "use the kthwc that made it"}
		}
		if !k.keep || !r.Done || slices.ContainsFunc(steps, r.Step.equal) || !k.present(ctx, r.Step) {
			continue
		}
		switch wanted := slices.ContainsFunc(steps, func(s Step) bool { return s.Of == r.Step.Of }); {
		case wanted:
			return wouldDestroy(r.Step)
		case e.off == nil || !e.off(r.Step.Of):
			return leftOut(r.Step.Of)
		}
	}
	return nil
}

// leftOut is about a machine that nobody wants any more: what is on it is thrown
// away when somebody has switched it off, and not because of a slip of the pen.
func leftOut(machine string) error {
	return &Error{Refused, machine + " is a machine of this lab and is not in cluster.yaml", fmt.Sprintf("if it shall go, with all that is on it: `kthwc lab off %s`, then `kthwc lab up`", machine)}
}

func wouldDestroy(s Step) error {
	return &Error{Refused, fmt.Sprintf("%s: the one that is there was made from something else: another cluster.yaml, or another kthwc", s), "up does not throw a machine away; run `kthwc lab down`, then `kthwc lab up`"}
}

// step makes one step, unless it is there as it shall be.
func (e *engine) step(ctx context.Context, s Step, disturbed bool) (made bool, err error) {
	k := e.kinds[s.Kind]
	was, known := e.journal.find(s)
	present := known && was.Done && k.present(ctx, was.Step)
	if present && !disturbed && was.Step.equal(s) {
		return false, nil
	}
	if present && k.keep {
		return false, wouldDestroy(s)
	}
	if known {
		if err := e.undo(ctx, was.Step); err != nil {
			return false, err
		}
	}
	e.changed = true
	e.progress(Event{Step: s, Doing: Making})
	if err := e.journal.write(entry{Do: began, Step: s}); err != nil {
		return false, err
	}
	if err := k.ensure(ctx, s); err != nil {
		return false, explained(s, err)
	}
	if err := e.journal.write(entry{Do: done, Step: s}); err != nil {
		return false, err
	}
	e.progress(Event{Step: s, Doing: Made})
	return true, nil
}

// down undoes everything, the last first.
func (e *engine) down(ctx context.Context, keepFiles bool) error {
	for _, r := range slices.Backward(slices.Clone(e.journal.records)) {
		k, known := e.kinds[r.Step.Kind]
		if !known || keepFiles && k.files {
			continue
		}
		if err := e.undo(ctx, r.Step); err != nil {
			return err
		}
	}
	return nil
}

func (e *engine) undo(ctx context.Context, s Step) error {
	e.changed = true
	undo := e.kinds[s.Kind].undo
	if undo == nil {
		return e.journal.write(entry{Do: undone, Step: s})
	}
	if err := undo(ctx, s); err != nil {
		return explained(s, err)
	}
	if err := e.journal.write(entry{Do: undone, Step: s}); err != nil {
		return err
	}
	e.progress(Event{Step: s, Doing: Undone})
	return nil
}

// explained says which machine and which step an error is about.
func explained(s Step, err error) error {
	var known *Error
	if errors.As(err, &known) {
		return &Error{known.Reason, s.String() + ": " + known.Message, known.Help}
	}
	return fmt.Errorf("%s: %w", s, err)
}
