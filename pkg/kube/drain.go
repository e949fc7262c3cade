package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// evictEvery is how often pods are asked to go.
const evictEvery = 2 * time.Second

// Drain evicts the pods of a cordoned node, as kubectl drain does: disruption
// budgets are waited for, what DaemonSets run stays, data in emptyDir is lost,
// and pods that nobody will make again are evicted too, but named. It ends when
// they are gone, or with the context: the error then names the pods that are
// left and what each waits for. Progress (may be nil) is told each change.
func (c *Client) Drain(ctx context.Context, name string, progress func(string)) error {
	if progress == nil {
		progress = func(string) {}
	}
	node, err := c.Get(ctx, nodeRef(name))
	if err != nil {
		return err
	}
	if !node.Bool("spec", "unschedulable") {
		return fault(Invalid, nil, "node %s is not cordoned: pods would come back while it is drained", name)
	}
	d := &drain{Client: c, node: name, progress: progress, seen: map[string]string{}}
	if d.eviction, err = c.evictionVersion(ctx); err != nil {
		return err
	}
	return d.explain(Wait(ctx, "the end of the pods on node "+name, evictEvery, nil, d.round))
}

// explain adds to an error that pods did not end what may be the reason.
func (d *drain) explain(err error) error {
	var e *Error
	if !errors.As(err, &e) || e.Kind != TimedOut {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if ready, why, err := d.NodeReady(ctx, d.node); err == nil && !ready {
		e.Help = fmt.Sprintf("node %s is not ready, so nothing there ends its pods: %s", d.node, why)
	}
	return e
}

// drain is the state of draining one node.
type drain struct {
	*Client
	node     string
	eviction string // apiVersion of Eviction
	progress func(string)
	seen     map[string]string // what was last said of each pod, by UID
}

// evictionVersion is the version of Eviction that the server takes: v1beta1
// before Kubernetes 1.22.
func (c *Client) evictionVersion(ctx context.Context) (string, error) {
	kinds, err := c.served(ctx, "v1", false)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.resource == "pods/eviction" })
	if i < 0 {
		return "", fault(NotFound, nil, "%s does not serve evictions", c.server())
	}
	return kinds[i].apiVersion, nil
}

// round asks every pod to go that was not asked yet. It is done when none is left.
func (d *drain) round(ctx context.Context) (done bool, state string, err error) {
	pods, err := d.List(ctx, "v1", "Pod", "", Selection{Fields: "spec.nodeName=" + d.node})
	if err != nil {
		return false, "", err
	}
	pods = slices.DeleteFunc(pods, stays)
	var waiting []string
	for _, pod := range pods {
		why, err := d.evict(ctx, pod)
		if err != nil {
			return false, "", err
		}
		if why != "" {
			waiting = append(waiting, podName(pod)+" "+why)
		}
	}
	if len(waiting) == 0 {
		d.say("", fmt.Sprintf("node %s: no pod is left to evict", d.node))
		return true, "", nil
	}
	return false, strings.Join(waiting, "; "), nil
}

// stays is whether a pod is left alone: what a DaemonSet or a file of the node
// runs would come back at once.
func stays(pod Object) bool {
	_, mirror := pod.Map("metadata", "annotations")["kubernetes.io/config.mirror"]
	return mirror || controllerOf(pod) == "DaemonSet"
}

// controllerOf is the kind that would make a pod again, or empty.
func controllerOf(pod Object) string {
	for _, owner := range pod.List("metadata", "ownerReferences") {
		if owner.Bool("controller") {
			return owner.Str("kind")
		}
	}
	return ""
}

func podName(pod Object) string {
	return pod.Str("metadata", "namespace") + "/" + pod.Str("metadata", "name")
}

// evict asks a pod to go; the text is what it waits for, empty if it is gone.
func (d *drain) evict(ctx context.Context, pod Object) (why string, err error) {
	if !pod.Leaving() {
		err = d.ask(ctx, pod)
	}
	switch status := said(err); {
	case err == nil:
		d.say(pod.UID(), podName(pod)+" is evicted"+nobody(pod))
		return "is ending", nil
	case KindOf(err) == NotFound || KindOf(err) == Conflict:
		return "", nil // it is gone, and perhaps another of its name is there
	case KindOf(err) == Busy:
		why = "waits: " + budget(status)
	case hasCause(status, "NamespaceTerminating"):
		why = "waits: its namespace is being deleted"
	case KindOf(err).Transient() && KindOf(err) != ServerFault:
		return "", err
	default:
		return "", final(fault(KindOf(err), err, "%s cannot be evicted", podName(pod)))
	}
	d.say(pod.UID(), podName(pod)+" "+why)
	return why, nil
}

// nobody says of a pod that it will be lost.
func nobody(pod Object) string {
	if controllerOf(pod) == "" {
		return " (nothing will make it again)"
	}
	return ""
}

// ask sends the eviction of exactly this pod.
func (d *drain) ask(ctx context.Context, pod Object) error {
	namespace, name := pod.Str("metadata", "namespace"), pod.Str("metadata", "name")
	path, err := podPath(namespace, name, "eviction")
	if err != nil {
		return err
	}
	_, _, err = d.do(ctx, request{verb: "POST", path: path, once: true, body: Object{
		"apiVersion": d.eviction, "kind": "Eviction",
		"metadata":      map[string]any{"name": name, "namespace": namespace},
		"deleteOptions": map[string]any{"preconditions": map[string]any{"uid": pod.UID()}},
	}})
	return err
}

// budget names the disruption budget that forbids an eviction.
func budget(status metav1.Status) string {
	if status.Details != nil {
		for _, cause := range status.Details.Causes {
			if cause.Type == "DisruptionBudget" {
				return printable(cause.Message)
			}
		}
	}
	return printable(status.Message)
}

func hasCause(status metav1.Status, kind metav1.CauseType) bool {
	return status.Details != nil && slices.ContainsFunc(status.Details.Causes, func(c metav1.StatusCause) bool { return c.Type == kind })
}

// say tells what is new about a pod.
func (d *drain) say(uid, text string) {
	if d.seen[uid] != text {
		d.seen[uid] = text
		d.progress(text)
	}
}
