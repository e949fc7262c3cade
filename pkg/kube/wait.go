package kube

import (
	"context"
	"errors"
	"time"
)

// Progress is told what is awaited and why it is not so yet, each time that
// the reason changes. Nil is told nothing.
type Progress func(awaited, state string)

// Wait tries until it is done, every so often, and ends with the context: the
// error then has what was awaited and the last state (kind TimedOut, or
// Cancelled). An error of try is a state where trying again may help
// ([Kind.Transient], or NotFound), and ends the wait elsewhere.
func Wait(ctx context.Context, awaited string, every time.Duration, progress Progress, try func(context.Context) (done bool, state string, err error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := ""
	for {
		done, state, err := try(ctx)
		switch {
		case err != nil && ctx.Err() != nil && last != "":
			return gaveUp(ctx, awaited, last)
		case err != nil && !worthWaiting(err):
			return unwrap(err)
		case err != nil:
			state = sentence(err)
		case done:
			return nil
		}
		if state != last && progress != nil {
			progress(awaited, state)
		}
		last = state
		select {
		case <-ctx.Done():
			return gaveUp(ctx, awaited, last)
		case <-tick.C:
		}
	}
}

// ending is an error that ends a wait whatever its kind.
type ending struct{ error }

func (e ending) Unwrap() error { return e.error }

func unwrap(err error) error {
	if e, ends := err.(ending); ends {
		return e.error
	}
	return err
}

func final(err error) error {
	if err == nil {
		return nil
	}
	return ending{err}
}

func worthWaiting(err error) bool {
	if _, ends := err.(ending); ends {
		return false
	}
	k := KindOf(err)
	return k.Transient() || k == NotFound
}

func gaveUp(ctx context.Context, awaited, state string) *Error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fault(Cancelled, nil, "waiting for %s was cancelled: %s", awaited, state).because(ctx.Err())
	}
	return fault(TimedOut, nil, "%s did not happen in time: %s", awaited, state).because(ctx.Err())
}

// pollEvery is how often an object is looked at.
const pollEvery = time.Second

// WaitFor looks at an object until is says that it is as awaited; the text is
// why it is not. An object that is not there is given as nil.
func (c *Client) WaitFor(ctx context.Context, r Ref, awaited string, progress Progress, is func(Object) (bool, string)) error {
	return Wait(ctx, awaited, pollEvery, progress, func(ctx context.Context) (bool, string, error) {
		o, err := c.Get(ctx, r)
		if err != nil && KindOf(err) != NotFound {
			return false, "", err
		}
		done, state := is(o)
		return done, state, nil
	})
}
