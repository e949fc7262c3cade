package kube

import (
	"context"
	"time"
)

// Apply makes the cluster have what the manifests say, by server-side apply
// with field manager [Manager], and deletes what the inventory has and no
// manifest. It ends with the first object that fails; nothing is deleted then.
// Each object that was dealt with is given to done (may be nil), in order, also
// the one that failed. Fields of other managers are taken; Plan says whose.
//
// The inventory is written before an object is made and after it is deleted:
// ended at any moment, the next Apply completes what this one began.
func (c *Client) Apply(ctx context.Context, cluster string, manifests []Manifest, done func(Change)) error {
	if done == nil {
		done = func(Change) {}
	}
	r, err := c.begin(ctx, cluster, manifests)
	if err != nil {
		return err
	}
	left := r.inventory.rest(r.wanted)
	r.intend(left)
	if err := c.save(ctx, cluster, r.inventory); err != nil {
		return err
	}
	err = r.applyAll(ctx, done)
	if err == nil {
		err = r.prune(ctx, left, done)
	}
	// What was learned is kept whatever happened.
	if saved := c.save(ctx, cluster, r.inventory); err == nil {
		err = saved
	}
	return err
}

// intend notes in the inventory what is about to be applied: first what is
// left over from before, then the manifests' objects in their order.
func (r *run) intend(left []entry) {
	var entries []entry
	for i := range left {
		entries = append(entries, left[len(left)-1-i])
	}
	for i, w := range r.wanted {
		entries = append(entries, intention(w.Ref(), r.inventory.find(w.Ref()), r.live[i]))
	}
	r.inventory.entries = entries
}

// intention is the entry of an object before it is applied. What is there and
// is in no inventory was made by somebody else.
func intention(ref Ref, before *entry, live Object) entry {
	e := entry{APIVersion: ref.APIVersion, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
	switch {
	case live == nil || live.Leaving():
		return e
	case before != nil && before.UID == live.UID():
		e.Found = before.Found
	case before == nil || !isOurs(*before, live):
		e.Found = true
	}
	e.UID = live.UID()
	return e
}

func (r *run) applyAll(ctx context.Context, done func(Change)) error {
	for i, w := range r.wanted {
		change, err := r.applyOne(ctx, i)
		if err != nil {
			done(change.failed(err))
			return fault(KindOf(err), err, "%s: %s could not be applied", w.manifest, w.Ref())
		}
		done(change)
	}
	return nil
}

// applyOne applies an object and notes its UID.
func (r *run) applyOne(ctx context.Context, i int) (Change, error) {
	w, live := r.wanted[i], r.live[i]
	change := changeOf(w.Ref(), w.manifest)
	if live != nil && live.Leaving() {
		if err := r.gone(ctx, w.Ref(), live.UID()); err != nil {
			return change, err
		}
		live = nil
	}
	after, warnings, err := r.patchSoon(ctx, w)
	change.Warnings = warnings
	if err != nil {
		return change, err
	}
	r.live[i] = after
	if e := r.inventory.find(w.Ref()); e != nil {
		e.UID = after.UID()
	}
	change.Do = Add
	if live != nil {
		change.What = differences(live, after)
		change.Do = map[bool]Do{true: Same, false: Alter}[len(change.What) == 0]
	}
	return change, nil
}

// soon is how long a kind may take to be served after its definition, or an
// object to go that is being deleted.
const soon = time.Minute

// patchSoon applies an object, and waits for its kind or namespace where a
// manifest brings it.
func (r *run) patchSoon(ctx context.Context, w wanted) (after Object, warnings []string, err error) {
	after, warnings, err = r.patch(ctx, w, false, true)
	if KindOf(err) != NotFound || r.awaited(w.Ref()) == "" {
		return after, warnings, err
	}
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	err = Wait(ctx, "the kind of "+w.Ref().String(), pollEvery/4, nil, func(ctx context.Context) (bool, string, error) {
		after, warnings, err = r.patch(ctx, w, false, true)
		return err == nil, "", err
	})
	return after, warnings, err
}

// gone waits until an object that is being deleted is no more.
func (r *run) gone(ctx context.Context, ref Ref, uid string) error {
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	return r.WaitFor(ctx, ref, "the end of the old "+ref.String(), nil, func(o Object) (bool, string) {
		if o == nil || o.UID() != uid {
			return true, ""
		}
		return false, "its finalizers are still there"
	})
}

// prune deletes what no manifest has, the last applied first.
func (r *run) prune(ctx context.Context, left []entry, done func(Change)) error {
	for _, e := range left {
		change, uid, err := r.fate(ctx, e)
		if err == nil && change.Do == Remove {
			err = r.remove(ctx, e.ref(), uid)
		}
		if err != nil {
			done(changeOf(e.ref(), "").failed(err))
			return fault(KindOf(err), err, "%s could not be deleted", e.ref())
		}
		r.inventory.forget(e.ref())
		if change.Do != "" {
			done(change)
		}
	}
	return nil
}
