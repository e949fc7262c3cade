package kube

import (
	"context"
	"net/url"
	"regexp"
	"slices"
)

// Plan compares manifests with the cluster: the server says what each object
// would become (a dry run), and the inventory which objects no manifest has any
// more. It changes nothing. The changes are in the order of the manifests, then
// what is deleted, in that order. An object that cannot be compared is Unknown;
// an error is what makes all comparison impossible.
func (c *Client) Plan(ctx context.Context, cluster string, manifests []Manifest) ([]Change, error) {
	r, err := c.begin(ctx, cluster, manifests)
	if err != nil {
		return nil, err
	}
	var changes []Change
	for i := range r.wanted {
		change, err := r.compare(ctx, i)
		if err != nil {
			return nil, err
		}
		changes = append(changes, change)
	}
	for _, e := range r.inventory.rest(r.wanted) {
		change, _, err := r.fate(ctx, e)
		if err != nil {
			change = changeOf(e.ref(), "").failed(err)
		}
		if change.Do != "" {
			changes = append(changes, change)
		}
	}
	return changes, nil
}

// run is one comparison or application of manifests.
type run struct {
	*Client
	cluster   string
	wanted    []wanted
	live      []Object // of each wanted, nil where it is not there
	brings    provides
	inventory *inventory
}

// begin reads the manifests, the inventory, and what is there. A namespaced
// object without a namespace is one of the namespace default.
func (c *Client) begin(ctx context.Context, cluster string, manifests []Manifest) (*run, error) {
	all, err := parse(manifests)
	if err != nil {
		return nil, err
	}
	r := &run{Client: c, cluster: cluster, wanted: all, brings: provided(all), live: make([]Object, len(all))}
	if r.inventory, err = c.readInventory(ctx, cluster); err != nil {
		return nil, err
	}
	for i, w := range all {
		if err := r.settle(ctx, w); err != nil {
			return nil, err
		}
		r.live[i], err = c.Get(ctx, w.Ref())
		if err != nil && KindOf(err) != NotFound {
			return nil, err
		}
	}
	return r, check(all)
}

// settle gives an object its namespace.
func (r *run) settle(ctx context.Context, w wanted) error {
	k, err := r.resource(ctx, w.Str("apiVersion"), w.Str("kind"))
	if KindOf(err) == NotFound {
		definition, _ := r.brings.kind(w.Ref())
		k, err = kind{namespaced: definition.Str("spec", "scope") == "Namespaced"}, nil
	}
	if err == nil && k.namespaced && w.Str("metadata", "namespace") == "" {
		w.Object["metadata"].(map[string]any)["namespace"] = "default"
	}
	return err
}

// compare says what would become of one object. An error is that the server
// could not be asked.
func (r *run) compare(ctx context.Context, i int) (Change, error) {
	w, live := r.wanted[i], r.live[i]
	change := changeOf(w.Ref(), w.manifest)
	after, warnings, owners, err := r.foresee(ctx, w)
	change.Warnings, change.Owners = warnings, owners
	switch k := KindOf(err); {
	case k == NotFound && r.awaited(w.Ref()) != "":
		change.Do, change.What = Add, []string{"not compared: it needs what " + r.awaited(w.Ref()) + " brings"}
	case k == Unreachable || k == TimedOut || k == Untrusted || k == Unauthorized || k == Cancelled:
		return change, err
	case err != nil:
		return change.failed(err), nil
	case live == nil:
		change.Do = Add
	case live.Leaving():
		change.Do, change.What = Add, []string{"the one that is there is being deleted"}
	default:
		change.What = differences(live, after)
		change.Do = map[bool]Do{true: Same, false: Alter}[len(change.What) == 0]
	}
	return change, nil
}

// awaited is the manifest that brings what an object needs, or empty.
func (r *run) awaited(ref Ref) string {
	if definition, ok := r.brings.kind(ref); ok {
		return definition.manifest
	}
	return r.brings.namespaces[ref.Namespace]
}

// foresee asks the server what an object would become, and from which other
// managers fields would be taken.
func (r *run) foresee(ctx context.Context, w wanted) (after Object, warnings, owners []string, err error) {
	after, warnings, err = r.patch(ctx, w, true, false)
	if KindOf(err) != Conflict {
		return after, warnings, nil, err
	}
	owners = ownersOf(err)
	after, warnings, err = r.patch(ctx, w, true, true)
	return after, warnings, owners, err
}

// patch is server-side apply.
func (r *run) patch(ctx context.Context, w wanted, dry, force bool) (Object, []string, error) {
	p, err := r.path(ctx, w.Ref())
	if err != nil {
		return nil, nil, err
	}
	query := url.Values{"fieldManager": {Manager}}
	if dry {
		query.Set("dryRun", "All")
	}
	if force {
		query.Set("force", "true")
	}
	return r.do(ctx, request{verb: "PATCH", path: p, query: query, body: w.Object, contentType: applyPatch})
}

// conflictWith is how the server names another manager of a field.
var conflictWith = regexp.MustCompile(`^conflict with "([^"]*)"`)

func ownersOf(err error) []string {
	var owners []string
	if details := said(err).Details; details != nil {
		for _, cause := range details.Causes {
			who := cause.Message
			if m := conflictWith.FindStringSubmatch(who); m != nil {
				who = m[1]
			}
			owners = append(owners, printable(who+": "+cause.Field))
		}
	}
	slices.Sort(owners)
	return slices.Compact(owners)
}

// goesToo: what a deletion takes along.
var goesToo = map[string]string{
	"Namespace":                "everything in it is deleted too",
	"CustomResourceDefinition": "every object of its kind is deleted too",
}

// fate says what becomes of an object that no manifest has any more, and which
// UID it has. No Do is that it is gone already.
func (r *run) fate(ctx context.Context, e entry) (change Change, uid string, err error) {
	change = changeOf(e.ref(), "")
	live, err := r.Get(ctx, e.ref())
	switch {
	case KindOf(err) == NotFound:
		return change, "", nil
	case err != nil:
		return change, "", err
	case live.Leaving() || r.applied(live.UID()):
		return change, "", nil
	case e.Found || !isOurs(e, live):
		change.Do, change.What = Release, []string{"kthwc did not make it"}
		return change, "", nil
	}
	change.Do = Remove
	if more := goesToo[e.Kind]; more != "" {
		change.What = []string{more}
	}
	return change, live.UID(), nil
}

// applied is whether a manifest has the object under another group's name.
func (r *run) applied(uid string) bool {
	return slices.ContainsFunc(r.live, func(o Object) bool { return o.UID() == uid })
}

// isOurs is whether an entry's object is the one that we made. An entry without
// a UID was about to be made: what we did make, we manage.
func isOurs(e entry, live Object) bool {
	if e.UID != "" {
		return e.UID == live.UID()
	}
	return slices.ContainsFunc(live.List("metadata", "managedFields"), func(m Object) bool {
		return m.Str("manager") == Manager && m.Str("operation") == "Apply"
	})
}
