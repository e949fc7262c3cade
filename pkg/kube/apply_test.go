package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const minutes = 2 * time.Minute

// apply applies, and gives what became of each object.
func apply(t *testing.T, c *Client, manifests ...Manifest) []string {
	t.Helper()
	var changes []Change
	if err := c.Apply(bound(t, minutes), "test", manifests, func(change Change) { changes = append(changes, change) }); err != nil {
		t.Fatal(err)
	}
	return brief(changes)
}

func plan(t *testing.T, c *Client, manifests ...Manifest) []Change {
	t.Helper()
	return must[[]Change](t)(c.Plan(bound(t, minutes), "test", manifests))
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s", what, cmp.Diff(want, got))
	}
}

// snapshot is all that could change in a namespace and the inventory, by
// resourceVersion.
func snapshot(t *testing.T, c *Client, ns string) map[string]string {
	t.Helper()
	versions := map[string]string{}
	for _, r := range []Ref{{"v1", "ConfigMap", ns, ""}, {"v1", "ConfigMap", "kube-system", ""}, {"v1", "Secret", ns, ""}, {"apps/v1", "Deployment", ns, ""}} {
		for _, o := range must[[]Object](t)(c.List(t.Context(), r.APIVersion, r.Kind, r.Namespace, Selection{})) {
			versions[o.Ref().String()] = o.Str("metadata", "resourceVersion")
		}
	}
	return versions
}

// The life of manifests: planned, applied, changed, taken away.
func TestApply(t *testing.T) {
	c := super(t)
	forgetInventory(t, c)
	ns := namespaced(t, c)
	a, b := configMap(ns, "a", "1"), configMap(ns, "b", "1")
	before := snapshot(t, c, ns)
	same(t, "plan", brief(plan(t, c, manifest("1.yaml", a, b))), "add ConfigMap "+ns+"/a", "add ConfigMap "+ns+"/b")
	if after := snapshot(t, c, ns); !cmp.Equal(before, after) {
		t.Errorf("Plan changed something: %s", cmp.Diff(before, after))
	}
	same(t, "apply", apply(t, c, manifest("1.yaml", a, b)), "add ConfigMap "+ns+"/a", "add ConfigMap "+ns+"/b")
	before = snapshot(t, c, ns)
	same(t, "again", apply(t, c, manifest("1.yaml", a, b)), "same ConfigMap "+ns+"/a", "same ConfigMap "+ns+"/b")
	if after := snapshot(t, c, ns); !cmp.Equal(before, after) {
		t.Errorf("the second Apply changed something: %s", cmp.Diff(before, after))
	}
	next := manifest("1.yaml", configMap(ns, "a", "2"))
	changes := plan(t, c, next)
	same(t, "plan of a change", brief(changes), "change ConfigMap "+ns+"/a", "delete ConfigMap "+ns+"/b")
	same(t, "what", changes[0].What, `data.key "1" → "2"`)
	same(t, "change", apply(t, c, next), "change ConfigMap "+ns+"/a", "delete ConfigMap "+ns+"/b")
	same(t, "nothing", apply(t, c), "delete ConfigMap "+ns+"/a")
	same(t, "nothing again", apply(t, c))
}

// What the compiler renders is applied: by the super-admin, whom the first
// manifest makes unnecessary.
func TestRenderedManifests(t *testing.T) {
	c := super(t)
	forgetInventory(t, c)
	files, err := filepath.Glob("../../golden/examples/lab/manifests/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no rendered manifests", err)
	}
	var manifests []Manifest
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		manifests = append(manifests, Manifest{"manifests/" + filepath.Base(file), text})
	}
	admin := connect(t, accessOf(t, "kthwc-admin", "kthwc:cluster-admins"))
	_, err = admin.Plan(bound(t, minutes), "test", manifests)
	expect(t, err, Forbidden, "user kthwc-admin may not")
	apply(t, c, manifests[:1]...)
	eventually(t, "the binding", func() error { _, err := admin.Nodes(t.Context()); return err })
	all := apply(t, admin, manifests...)
	if all[0] != "same ClusterRoleBinding kthwc:cluster-admins" || len(all) < 8 {
		t.Errorf("%q", all)
	}
	for _, change := range plan(t, admin, manifests...) {
		if change.Do != Same || len(change.Warnings) > 0 {
			t.Errorf("after Apply there is still to %s %s: %q %q", change.Do, change.Ref(), change.What, change.Warnings)
		}
	}
	apply(t, c) // leaves nothing
	if _, err := c.Get(t.Context(), Ref{"apps/v1", "Deployment", "kube-system", "coredns"}); KindOf(err) != NotFound {
		t.Error("coredns is still there:", err)
	}
}

// eventually: RBAC is told of bindings a moment later.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	err := Wait(bound(t, 30*time.Second), what, 50*time.Millisecond, nil, func(context.Context) (bool, string, error) {
		err := try()
		return err == nil, fmt.Sprint(err), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Apply is ended at each of its requests, before and after it reaches the
// server. The next one converges, deletes what it must and nothing else.
func TestApplyIsCutAnywhere(t *testing.T) {
	c := super(t)
	ns := namespaced(t, c)
	foreign := must[Object](t)(c.Create(t.Context(), Object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "foreign", "namespace": ns}}))
	old := []Manifest{manifest("1.yaml", configMap(ns, "stays", "1"), configMap(ns, "goes", "1"), configMap(ns, "foreign", "1"))}
	wanted := []Manifest{manifest("1.yaml", configMap(ns, "stays", "2"), configMap(ns, "comes", "1"), configMap(ns, "comes-too", "1"))}
	access := accessOf(t, "kthwc-super-admin", "system:masters")
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			forgetInventory(t, c)
			for _, name := range []string{"stays", "goes", "comes", "comes-too"} {
				if err := c.Delete(t.Context(), Ref{"v1", "ConfigMap", ns, name}); err != nil {
					t.Fatal(err)
				}
			}
			apply(t, c, old...)
			k := connect(t, access)
			limited := &cut{next: k.http.Transport, left: n, after: after}
			err := through(t, k, limited).Apply(bound(t, minutes), "test", wanted, nil)
			if err == nil {
				if n < 12 {
					t.Errorf("only %d requests were cut", n)
				}
				break
			}
			if !errors.Is(err, errCut) {
				t.Fatalf("cut at request %d: %v", n, err)
			}
			// The manifests may have changed meanwhile: what was made for those
			// that are gone must not be forgotten.
			if n%2 == 0 {
				apply(t, c, wanted...)
				same(t, fmt.Sprintf("cut at %d", n), names(t, c, ns), "comes", "comes-too", "foreign", "stays")
			}
			apply(t, c)
			same(t, fmt.Sprintf("cut at %d, then nothing", n), names(t, c, ns), "foreign")
			if t.Failed() {
				t.FailNow()
			}
		}
	}
	if now := must[Object](t)(c.Get(t.Context(), foreign.Ref())); now.UID() != foreign.UID() {
		t.Error("somebody else's object was replaced")
	}
}

func names(t *testing.T, c *Client, ns string) []string {
	t.Helper()
	var list []string
	for _, o := range must[[]Object](t)(c.List(t.Context(), "v1", "ConfigMap", ns, Selection{})) {
		list = append(list, o.Str("metadata", "name"))
	}
	return list
}

// What we did not make is applied to, and never deleted: neither what was there
// before, nor what somebody made in place of ours.
func TestApplyDeletesOnlyItsOwn(t *testing.T) {
	c := super(t)
	forgetInventory(t, c)
	ns := namespaced(t, c)
	create := func(name string) {
		t.Helper()
		must[Object](t)(c.Create(t.Context(), Object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name, "namespace": ns}}))
	}
	create("found")
	m := manifest("1.yaml", configMap(ns, "found", "1"), configMap(ns, "ours", "1"), configMap(ns, "gone", "1"), configMap(ns, "remade", "1"))
	apply(t, c, m)
	apply(t, c, m) // a second Apply does not make it ours
	for _, name := range []string{"gone", "remade"} {
		if err := c.Delete(t.Context(), Ref{"v1", "ConfigMap", ns, name}); err != nil {
			t.Fatal(err)
		}
	}
	create("remade")
	same(t, "plan", brief(plan(t, c)), "release ConfigMap "+ns+"/remade", "delete ConfigMap "+ns+"/ours", "release ConfigMap "+ns+"/found")
	same(t, "apply", apply(t, c), "release ConfigMap "+ns+"/remade", "delete ConfigMap "+ns+"/ours", "release ConfigMap "+ns+"/found")
	same(t, "left", names(t, c, ns), "found", "remade")
	same(t, "again", apply(t, c))
}

// An object that manifests have under another group's name is not deleted.
func TestApplyMovesBetweenGroups(t *testing.T) {
	c := super(t)
	forgetInventory(t, c)
	ns := namespaced(t, c)
	const rest = "action: a\nreason: r\ntype: Normal\nreportingInstance: i\neventTime: \"2026-01-01T00:00:00.000000Z\"\n"
	metadata := "kind: Event\nmetadata: {name: e, namespace: " + ns + "}\n"
	apply(t, c, manifest("1.yaml", "apiVersion: v1\n"+metadata+"involvedObject: {kind: Pod, name: p, namespace: "+ns+"}\nreportingComponent: kthwc.dev/test\n"+rest))
	moved := manifest("1.yaml", "apiVersion: events.k8s.io/v1\n"+metadata+"regarding: {kind: Pod, name: p, namespace: "+ns+"}\nreportingController: kthwc.dev/test\n"+rest)
	for _, change := range append(plan(t, c, moved), plan(t, c, moved)...) {
		if change.Do == Remove || change.Do == Unknown {
			t.Errorf("%+v", change)
		}
	}
	apply(t, c, moved)
	must[Object](t)(c.Get(t.Context(), Ref{"v1", "Event", ns, "e"}))
	same(t, "again", apply(t, c, moved), "same Event "+ns+"/e")
}

// An inventory that was lost makes nothing ours.
func TestInventoryLost(t *testing.T) {
	c := super(t)
	forgetInventory(t, c)
	ns := namespaced(t, c)
	apply(t, c, manifest("1.yaml", configMap(ns, "a", "1")))
	if err := c.Delete(t.Context(), inventoryRef); err != nil {
		t.Fatal(err)
	}
	apply(t, c, manifest("1.yaml", configMap(ns, "a", "1")))
	same(t, "plan", brief(plan(t, c)), "release ConfigMap "+ns+"/a")
}

// Another cluster's manifests, and an inventory that cannot be read, are refused.
func TestInventoryRefuses(t *testing.T) {
	c := super(t)
	forgetInventory(t, c)
	ns := namespaced(t, c)
	m := []Manifest{manifest("1.yaml", configMap(ns, "a", "1"))}
	apply(t, c, m...)
	expect(t, c.Apply(t.Context(), "other", m, nil), Invalid, `is the cluster "test"`, `"other" was meant`)
	_, err := c.Plan(t.Context(), "other", m)
	expect(t, err, Invalid)
	must[Object](t)(c.Patch(t.Context(), inventoryRef, Object{"data": map[string]any{"objects": "nonsense"}}))
	expect(t, c.Apply(t.Context(), "test", m, nil), Invalid, "the inventory cannot be read")
}

// Two at once: one of them is told, whether there was an inventory before or not.
func TestApplyAtOnce(t *testing.T) {
	for method, there := range map[string]bool{http.MethodPost: false, http.MethodPut: true} {
		t.Run(method, func(t *testing.T) {
			c := super(t)
			forgetInventory(t, c)
			ns := namespaced(t, c)
			if there {
				apply(t, c, manifest("0.yaml", configMap(ns, "before", "1")))
			}
			other := connect(t, accessOf(t, "kthwc-super-admin", "system:masters"))
			beforeFirst(t, c, method, "/kube-system/configmaps", func() { apply(t, other, manifest("2.yaml", configMap(ns, "b", "1"))) })
			err := c.Apply(bound(t, minutes), "test", []Manifest{manifest("1.yaml", configMap(ns, "a", "1"))}, nil)
			expect(t, err, Conflict, "somebody else applies manifests")
			same(t, "there is", names(t, c, ns), "b")
		})
	}
}

// beforeFirst does something before the first request of a method to a path
// that contains a text.
func beforeFirst(t *testing.T, c *Client, method, path string, act func()) {
	t.Helper()
	done, next := false, c.http.Transport
	through(t, c, roundTripper(func(q *http.Request) (*http.Response, error) {
		if !done && q.Method == method && strings.Contains(q.URL.Path, path) {
			done = true
			act()
		}
		return next.RoundTrip(q)
	}))
	t.Cleanup(func() {
		if !done {
			t.Errorf("there was no %s of %s", method, path)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

// Fields of other managers are taken, and Plan says whose.
func TestOwners(t *testing.T) {
	c := super(t)
	forgetInventory(t, c)
	ns := namespaced(t, c)
	m := manifest("1.yaml", configMap(ns, "a", "1"))
	apply(t, c, m)
	must[Object](t)(c.Patch(t.Context(), Ref{"v1", "ConfigMap", ns, "a"}, Object{"data": map[string]any{"key": "by hand"}}))
	changes := plan(t, c, m)
	if len(changes) != 1 || len(changes[0].Owners) != 1 || !strings.HasSuffix(changes[0].Owners[0], ": .data.key") {
		t.Errorf("%+v", changes)
	}
	same(t, "what", changes[0].What, `data.key "by hand" → "1"`)
	same(t, "apply", apply(t, c, m), "change ConfigMap "+ns+"/a")
}

// A definition, its kind's objects, a namespace and what is in it come and go
// together.
func TestApplyDefinitions(t *testing.T) {
	c := super(t)
	forgetInventory(t, c)
	definition := `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.test.kthwc.dev}
spec:
  group: test.kthwc.dev
  names: {kind: Thing, plural: things}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]`
	thing := "apiVersion: test.kthwc.dev/v1\nkind: Thing\nmetadata: {name: one}\nspec: {a: 1}"
	space := "apiVersion: v1\nkind: Namespace\nmetadata: {name: test-brought}"
	m := []Manifest{manifest("1.yaml", definition, thing, space), manifest("2.yaml", configMap("test-brought", "in", "1"))}
	changes := plan(t, c, m...)
	want := []string{"add CustomResourceDefinition things.test.kthwc.dev", "add Thing default/one", "add Namespace test-brought", "add ConfigMap test-brought/in"}
	same(t, "plan", brief(changes), want...)
	if !strings.Contains(strings.Join(changes[1].What, ""), "not compared") || !strings.Contains(strings.Join(changes[3].What, ""), "manifests/1.yaml") {
		t.Errorf("%+v", changes)
	}
	same(t, "apply", apply(t, c, m...), want...)
	for _, change := range plan(t, c, m...) {
		if change.Do != Same {
			t.Errorf("%+v", change)
		}
	}
	gone := plan(t, c)
	same(t, "gone", brief(gone), "delete ConfigMap test-brought/in", "delete Namespace test-brought", "delete Thing default/one", "delete CustomResourceDefinition things.test.kthwc.dev")
	if !strings.Contains(strings.Join(gone[1].What, ""), "everything in it") {
		t.Errorf("%+v", gone[1])
	}
	apply(t, c)
	same(t, "again", apply(t, c))
}

// What cannot be is said of the object, and Apply ends there.
func TestApplyInvalid(t *testing.T) {
	c := super(t)
	forgetInventory(t, c)
	ns := namespaced(t, c)
	m := []Manifest{manifest("1.yaml", configMap(ns, "a", "1"), "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: "+ns+"}\nspec: {ports: [{port: 99999}]}", configMap(ns, "z", "1"))}
	changes := plan(t, c, m...)
	if changes[1].Do != Unknown || !strings.Contains(changes[1].Error, "spec.ports[0].port") || changes[2].Do != Add {
		t.Errorf("%+v", changes)
	}
	var did []Change
	err := c.Apply(bound(t, minutes), "test", m, func(change Change) { did = append(did, change) })
	expect(t, err, Invalid, "manifests/1.yaml: Service "+ns+"/bad could not be applied", "spec.ports[0].port")
	same(t, "did", brief(did), "add ConfigMap "+ns+"/a", "unknown Service "+ns+"/bad")
	same(t, "there is", names(t, c, ns), "a")
	same(t, "then", apply(t, c), "delete ConfigMap "+ns+"/a")
}

// An object that is being deleted is waited for, and made again.
func TestApplyWhileLeaving(t *testing.T) {
	c := super(t)
	forgetInventory(t, c)
	ns := namespaced(t, c)
	m := manifest("1.yaml", configMap(ns, "a", "1"))
	apply(t, c, m)
	r := Ref{"v1", "ConfigMap", ns, "a"}
	held := must[Object](t)(c.Patch(t.Context(), r, Object{"metadata": map[string]any{"finalizers": []any{"test.kthwc.dev/held"}}}))
	if err := c.Delete(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	changes := plan(t, c, m)
	same(t, "plan", append(brief(changes), changes[0].What...), "add ConfigMap "+ns+"/a", "the one that is there is being deleted")
	time.AfterFunc(300*time.Millisecond, func() {
		_, _ = c.Patch(context.Background(), r, Object{"metadata": map[string]any{"finalizers": nil}})
	})
	same(t, "apply", apply(t, c, m), "add ConfigMap "+ns+"/a")
	if now := must[Object](t)(c.Get(t.Context(), r)); now.UID() == held.UID() {
		t.Error("it is the old one")
	}
	same(t, "ours", brief(plan(t, c)), "delete ConfigMap "+ns+"/a")
}

// Secrets are compared, and never shown.
func TestPlanHidesSecrets(t *testing.T) {
	c := super(t)
	forgetInventory(t, c)
	ns := namespaced(t, c)
	secret := func(value string) Manifest {
		return manifest("1.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: "+ns+", annotations: {a: "+value+"}}\nstringData: {password: "+value+"}\n")
	}
	apply(t, c, secret("hunter2"))
	changes := plan(t, c, secret("hunter3"))
	same(t, "what", changes[0].What, "data.password differs", "metadata.annotations.a differs")
	for _, data := range []string{"data: {password: hunter2}", "stringData: {password: 4711}", "type: [4711]"} {
		broken := manifest("1.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: "+ns+"}\n"+data)
		changes := plan(t, c, broken)
		if text := fmt.Sprintf("%+v", changes); strings.Contains(text, "hunter") || strings.Contains(text, "4711") || changes[0].Error == "" {
			t.Error(text)
		}
		err := c.Apply(bound(t, minutes), "test", []Manifest{broken}, nil)
		expect(t, err, Invalid, "not shown")
		if err != nil && strings.Contains(fmt.Sprint(err, errors.Unwrap(err)), "4711") {
			t.Error(err)
		}
	}
}

// Manifests that cannot be read say where.
func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"a: [":                       "manifests/1.yaml: document 1 cannot be read",
		"a: 1\na: 2":                 "already set",
		"- a":                        "cannot be read",
		"apiVersion: v1\nkind: Node": "needs apiVersion, kind and metadata.name",
		configMap("x", "a", "1") + "\n---\n" + configMap("x", "a", "1"): "ConfigMap x/a is in manifests/1.yaml and again in manifests/1.yaml",
		configMap("kube-system", "kthwc-inventory", "1"):                "a manifest cannot have it",
	} {
		_, err := parse([]Manifest{manifest("1.yaml", text)})
		expect(t, err, Invalid, want)
	}
	all, err := parse([]Manifest{manifest("1.yaml", "# nothing", "", "kind: List\nitems:\n- "+strings.ReplaceAll(configMap("x", "a", "1"), "\n", "\n  "), configMap("x", "b", "1")), manifest("2.yaml", "\n")})
	if err != nil || len(all) != 2 {
		t.Error(all, err)
	}
}

// Differences name paths as people write them.
func TestDifferences(t *testing.T) {
	decoded := func(text string) Object { return must[Object](t)(decode([]byte(text))) }
	before := decoded("metadata: {uid: a, annotations: {kthwc.dev/x: a}}\nstatus: {a: 1}\nspec: {replicas: 2, gone: [1], list: [{name: a, v: 1}, {name: b, v: 1}], plain: [1, 2]}\ndata: {text: \"a\\nb\\nc\"}")
	after := decoded("metadata: {uid: b, annotations: {kthwc.dev/x: b}}\nstatus: {a: 2}\nspec: {replicas: 3, list: [{name: b, v: 2}, {name: a, v: 1}, {name: c}], plain: [1, 3]}\ndata: {text: \"a\\nB\\nc\"}")
	same(t, "differences", differences(before, after),
		`data.text line 2 "b" → "B"`,
		`metadata.annotations[kthwc.dev/x] "a" → "b"`,
		`spec.gone is removed: [1]`,
		`spec.list[b].v 1 → 2`,
		`spec.list[c] is new: {"name":"c"}`,
		`spec.plain[1] 2 → 3`,
		`spec.replicas 2 → 3`)
	same(t, "none", differences(before, before))
}
