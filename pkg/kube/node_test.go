package kube

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// node makes a node, as a kubelet would.
func node(t *testing.T, c *Client, name string) {
	t.Helper()
	must[Object](t)(c.Create(t.Context(), Object{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": name}, "spec": map[string]any{"podCIDRs": []any{"10.200.0.0/24"}}}))
	t.Cleanup(func() { _ = c.DeleteNode(context.Background(), name) })
}

// status writes an object's status, as its controller would.
func status(t *testing.T, c *Client, r Ref, status Object) {
	t.Helper()
	p := must[string](t)(c.path(t.Context(), r))
	if _, _, err := c.do(t.Context(), request{verb: "PATCH", path: p + "/status", contentType: mergePatch, body: Object{"status": status}}); err != nil {
		t.Fatal(err)
	}
}

// Nodes are read as they are.
func TestNodes(t *testing.T) {
	c := super(t)
	node(t, c, "worker-0")
	ready, why, err := c.NodeReady(t.Context(), "worker-0")
	if ready || why != "its kubelet has not reported yet" || err != nil {
		t.Error(ready, why, err)
	}
	status(t, c, nodeRef("worker-0"), Object{
		"conditions": []any{map[string]any{"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "cni plugin not initialized"}},
		"addresses":  []any{map[string]any{"type": "InternalIP", "address": "10.240.0.20"}, map[string]any{"type": "Hostname", "address": "worker-0"}},
		"nodeInfo":   map[string]any{"kubeletVersion": "v1.37.2", "containerRuntimeVersion": "containerd://2.2.1"},
	})
	nodes := must[[]Node](t)(c.Nodes(t.Context()))
	i := slices.IndexFunc(nodes, func(n Node) bool { return n.Name == "worker-0" })
	if n := nodes[i]; n.Ready || n.Reason != "KubeletNotReady: cni plugin not initialized" || n.Kubelet != "v1.37.2" ||
		!slices.Equal(n.InternalIPs, []string{"10.240.0.20"}) || !slices.Equal(n.PodCIDRs, []string{"10.200.0.0/24"}) {
		t.Errorf("%+v", n)
	}
	status(t, c, nodeRef("worker-0"), Object{"conditions": []any{map[string]any{"type": "Ready", "status": "True"}}})
	if ready, why, err := c.NodeReady(t.Context(), "worker-0"); !ready || why != "" || err != nil {
		t.Error(ready, why, err)
	}
	if ready, why, err := c.NodeReady(t.Context(), "worker-9"); ready || !strings.Contains(why, "not registered") || err != nil {
		t.Error(ready, why, err)
	}
	for range 2 {
		if err := c.DeleteNode(t.Context(), "worker-0"); err != nil {
			t.Error(err)
		}
	}
}

// A node that was cordoned before stays so; one of ours is remembered, whoever
// comes back to it.
func TestCordon(t *testing.T) {
	c := super(t)
	node(t, c, "cordoned")
	r := nodeRef("cordoned")
	cordon := func(want bool) {
		t.Helper()
		if already, err := c.Cordon(t.Context(), "cordoned", "an apply"); already != want || err != nil {
			t.Error(already, err)
		}
	}
	uncordon := func(want bool) {
		t.Helper()
		if did, err := c.Uncordon(t.Context(), "cordoned"); did != want || err != nil {
			t.Error(did, err)
		}
	}
	is := func(unschedulable bool, by string) {
		t.Helper()
		n := nodeOf(must[Object](t)(c.Get(t.Context(), r)))
		if n.Unschedulable != unschedulable || n.CordonedBy != by {
			t.Errorf("%+v", n)
		}
	}
	uncordon(false)
	cordon(false)
	is(true, "an apply")
	cordon(false) // an apply that was killed comes back
	uncordon(true)
	is(false, "")
	uncordon(false)
	byHand := func(v any) {
		must[Object](t)(c.Patch(t.Context(), r, Object{"spec": map[string]any{"unschedulable": v}}))
	}
	byHand(true)
	cordon(true)
	uncordon(false)
	is(true, "")
	byHand(nil)
	cordon(false)
	byHand(nil) // somebody was faster
	uncordon(false)
	is(false, "")
	_, err := c.Cordon(t.Context(), "nowhere", "an apply")
	expect(t, err, NotFound, "nowhere")
}

// Somebody cordons the node between our look and our change: it stays theirs.
func TestCordonAtOnce(t *testing.T) {
	c, other := super(t), super(t)
	node(t, other, "contended")
	beforeFirst(t, c, http.MethodPatch, "contended", func() {
		must[Object](t)(other.Patch(t.Context(), nodeRef("contended"), Object{"spec": map[string]any{"unschedulable": true}}))
	})
	already, err := c.Cordon(bound(t, time.Minute), "contended", "an apply")
	if n := nodeOf(must[Object](t)(c.Get(t.Context(), nodeRef("contended")))); !already || err != nil || n.CordonedBy != "" {
		t.Errorf("%v %v %+v", already, err, n)
	}
}

// Somebody writes to the node all the time: kubelets do.
func TestCordonWhileOthersWrite(t *testing.T) {
	c := super(t)
	node(t, c, "busy")
	ctx, cancel := context.WithCancel(t.Context())
	var others, begun sync.WaitGroup
	for i := range 2 {
		begun.Add(1)
		first := sync.OnceFunc(begun.Done)
		others.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				_, _ = c.Patch(ctx, nodeRef("busy"), Object{"metadata": map[string]any{"labels": map[string]any{fmt.Sprint("n", i): fmt.Sprint(n)}}})
				first()
			}
		})
	}
	begun.Wait()
	_, err := c.Cordon(bound(t, time.Minute), "busy", "an apply")
	cancel()
	others.Wait()
	if n := nodeOf(must[Object](t)(c.Get(t.Context(), nodeRef("busy")))); err != nil || !n.Unschedulable || len(n.Labels) != 2 {
		t.Errorf("%+v %v", n, err)
	}
}

// pod makes a pod on a node. Without a kubelet it ends when it is deleted
// without grace.
func pod(t *testing.T, c *Client, ns, name, node string, more Object) Object {
	t.Helper()
	metadata := map[string]any{"name": name, "namespace": ns, "labels": map[string]any{"app": name}}
	for key, value := range more {
		metadata[key] = value
	}
	made := must[Object](t)(c.Create(t.Context(), Object{"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
		"spec": map[string]any{"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": []any{map[string]any{"name": "c", "image": "i"}},
			"volumes": []any{map[string]any{"name": "scratch", "emptyDir": map[string]any{}}}}}))
	status(t, c, made.Ref(), Object{"phase": "Running", "conditions": []any{map[string]any{"type": "Ready", "status": "True"}}})
	return made
}

func owner(kind string) Object {
	return Object{"ownerReferences": []any{map[string]any{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "1", "controller": true}}}
}

// budgetFor is a disruption budget, with what its controller says about it.
func budgetFor(t *testing.T, c *Client, ns, name, app string, allowed int) Ref {
	t.Helper()
	made := must[Object](t)(c.Create(t.Context(), Object{"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": map[string]any{"name": name, "namespace": ns},
		"spec": map[string]any{"minAvailable": 1, "selector": map[string]any{"matchLabels": map[string]any{"app": app}}}}))
	status(t, c, made.Ref(), Object{"observedGeneration": made.Int("metadata", "generation"), "disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1})
	return made.Ref()
}

// Drain evicts what can go, leaves what a DaemonSet or the node runs, waits for
// a budget and says its name.
func TestDrain(t *testing.T) {
	c := super(t)
	ns := namespaced(t, c)
	node(t, c, "drained")
	expect(t, c.Drain(t.Context(), "drained", nil), Invalid, "is not cordoned")
	if _, err := c.Cordon(t.Context(), "drained", "a test"); err != nil {
		t.Fatal(err)
	}
	pod(t, c, ns, "free", "drained", owner("ReplicaSet"))
	pod(t, c, ns, "alone", "drained", nil)
	pod(t, c, ns, "daemon", "drained", owner("DaemonSet"))
	pod(t, c, ns, "guarded", "drained", owner("ReplicaSet"))
	pod(t, c, ns, "elsewhere", "other", nil)
	r := budgetFor(t, c, ns, "keep-one", "guarded", 0)

	short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var said []string
	err := c.Drain(short, "drained", func(s string) { said = append(said, s) })
	expect(t, err, TimedOut, "node drained", ns+"/guarded waits", "keep-one")
	told := strings.Join(said, "\n")
	for _, want := range []string{ns + "/free is evicted", ns + "/alone is evicted (nothing will make it again)", ns + "/guarded waits: The disruption budget keep-one needs 1 healthy pods and has 1 currently"} {
		if strings.Count(told, want) != 1 {
			t.Errorf("it did not say %q once:\n%s", want, told)
		}
	}
	same(t, "left", podsOf(t, c, ns), "daemon", "elsewhere", "guarded")

	time.AfterFunc(time.Second, func() {
		_, _, _ = c.do(context.Background(), request{verb: "PATCH", path: "/apis/policy/v1/namespaces/" + ns + "/poddisruptionbudgets/" + r.Name + "/status",
			contentType: mergePatch, body: Object{"status": map[string]any{"disruptionsAllowed": 1}}})
	})
	if err := c.Drain(bound(t, time.Minute), "drained", nil); err != nil {
		t.Error(err)
	}
	same(t, "left", podsOf(t, c, ns), "daemon", "elsewhere")
}

// A pod that has been made again elsewhere since we looked is not evicted there.
func TestDrainEvictsWhatItSaw(t *testing.T) {
	c, other := super(t), super(t)
	ns := namespaced(t, other)
	node(t, other, "leaving")
	if _, err := c.Cordon(t.Context(), "leaving", "a test"); err != nil {
		t.Fatal(err)
	}
	r := pod(t, other, ns, "moving-0", "leaving", owner("StatefulSet")).Ref()
	beforeFirst(t, c, http.MethodPost, "eviction", func() {
		if err := other.Delete(t.Context(), r); err != nil {
			t.Error(err)
		}
		pod(t, other, ns, "moving-0", "arrived", owner("StatefulSet"))
	})
	if err := c.Drain(bound(t, time.Minute), "leaving", nil); err != nil {
		t.Error(err)
	}
	same(t, "left", podsOf(t, c, ns), "moving-0")
}

func podsOf(t *testing.T, c *Client, ns string) []string {
	t.Helper()
	var list []string
	for _, o := range must[[]Object](t)(c.List(t.Context(), "v1", "Pod", ns, Selection{})) {
		list = append(list, o.Str("metadata", "name"))
	}
	return list
}

// A pod that does not end, and one that two budgets guard, are named.
func TestDrainThatCannot(t *testing.T) {
	c := super(t)
	ns := namespaced(t, c)
	node(t, c, "stuck")
	if _, err := c.Cordon(t.Context(), "stuck", "a test"); err != nil {
		t.Fatal(err)
	}
	stuck := pod(t, c, ns, "held", "stuck", Object{"finalizers": []any{"test.kthwc.dev/held"}})
	t.Cleanup(func() {
		_, _ = c.Patch(context.Background(), stuck.Ref(), Object{"metadata": map[string]any{"finalizers": nil}})
	})
	short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	expect(t, c.Drain(short, "stuck", nil), TimedOut, ns+"/held is ending", "node stuck is not ready")
	pod(t, c, ns, "two", "stuck", owner("ReplicaSet"))
	budgetFor(t, c, ns, "one", "two", 1)
	budgetFor(t, c, ns, "another", "two", 1)
	expect(t, c.Drain(bound(t, time.Minute), "stuck", nil), ServerFault, ns+"/two cannot be evicted", "more than one PodDisruptionBudget")
}
