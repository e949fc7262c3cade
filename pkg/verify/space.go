package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/kube"
)

// Names of what a run makes. Whatever has the label is of a run, and removed by
// the next one where a run could not do so itself.
const (
	spacePrefix  = "kthwc-verify-"
	label        = "kthwc.dev/verify"
	serverPort   = 8080
	replicas     = 2 // of the Deployment
	DefaultImage = "kthwc.dev/lab/toolbox:1"
)

// cleanPatience is how long the cluster may take to forget a run; tests have
// less.
var cleanPatience = 90 * time.Second

// space is the namespace where a run's workloads are.
type space struct {
	client *kube.Client
	name   string
	image  string
	pods   map[string]*pod   // one on each node that can have it
	second *pod              // on a node that has another one
	web    []*pod            // of the Deployment
	why    map[string]string // nodes that have no pod, and why not
	wanted int               // pods
}

// pod is a running pod of ours.
type pod struct{ name, node, ip string }

// reach is a URL of a pod's server.
func (p *pod) reach() string { return "http://" + address(p.ip, serverPort) + "/" }

// smoke makes the namespace, runs the checks that need it, and removes it
// whatever happens. Cancelling does not keep it from being removed.
func (r *run) smoke(ctx context.Context) {
	p := r.probe(check{name: "workloads", layer: LayerWorkload, after: foundations})
	client, err := r.connect(nil)
	if err != nil {
		p.fail("", "workloads", "the API answers", said(err), apiFault(err))
		return
	}
	defer client.Close()
	r.space = &space{client: client, name: spacePrefix + r.o.Suffix, image: r.o.Image, pods: map[string]*pod{}, why: map[string]string{}}
	defer r.clean(ctx)
	if err := r.prepare(ctx); err != nil {
		if ctx.Err() == nil {
			p.fail("", "namespace "+r.space.name, "can be made and used", said(err), apiFault(err))
		}
		return
	}
	for _, c := range smokeChecks {
		if ctx.Err() == nil && (r.wanted(c) || c.name == "pods") {
			r.tell(Event{Layer: c.layer, Check: c.name, Doing: Begin})
			p := r.probe(c)
			if c.pods && len(r.running()) == 0 {
				p.skip("", c.name, "no pod runs that it could be tried with")
				continue
			}
			c.run(ctx, p)
		}
	}
}

// foundations are the layers that every workload stands on.
var foundations = []Layer{LayerHost, LayerDNS, LayerTCP, LayerTLS, LayerAuthn, LayerAuthz, LayerEtcd, LayerControl, LayerKubelet, LayerCNI}

// smokes says whether any check that needs workloads is wanted.
func (r *run) smokes() bool {
	for _, c := range smokeChecks {
		if r.wanted(c) {
			return true
		}
	}
	return false
}

// prepare removes what an earlier run left, and makes the namespace with what
// runs in it.
func (r *run) prepare(ctx context.Context) error {
	if err := r.sweep(ctx); err != nil {
		return err
	}
	s := r.space
	if _, err := s.client.Create(ctx, object("v1", "Namespace", "", s.name, nil)); err != nil {
		return err
	}
	account := kube.Ref{APIVersion: "v1", Kind: "ServiceAccount", Namespace: s.name, Name: "default"}
	waiting, cancel := context.WithTimeout(ctx, r.o.Patience)
	defer cancel()
	err := s.client.WaitFor(waiting, account, "the service account of "+s.name, r.waiting, func(o kube.Object) (bool, string) {
		return o != nil, "the controller manager has not made it yet"
	})
	if err != nil {
		return err
	}
	return r.populate(ctx)
}

// waiting tells the progress what is awaited.
func (r *run) waiting(awaited, state string) {
	r.tell(Event{Layer: LayerWorkload, Check: "workloads", Doing: "waits for " + awaited + ": " + state})
}

// populate makes the workloads. A node that is not ready gets none: nothing
// would become of it.
func (r *run) populate(ctx context.Context) error {
	s := r.space
	s.wanted = replicas
	if err := r.bring(ctx); err != nil {
		return err
	}
	ready, err := r.ready(ctx)
	if err != nil {
		return err
	}
	var objects []kube.Object
	for _, w := range r.workers() {
		if why := ready[w.Name.V]; why != "" {
			s.why[w.Name.V] = why
			continue
		}
		if len(objects) == 0 {
			objects = append(objects, s.pod("second", w, "second"))
		}
		objects = append(objects, s.pod("echo-"+w.Name.V, w, "echo"))
	}
	objects = append(objects, s.deployment(), s.service("echo", "echo", "ClusterIP"), s.service("second", "second", "ClusterIP"), s.service("web", "web", "NodePort"), s.secret())
	for _, o := range objects {
		if o.Str("kind") == "Pod" {
			s.wanted++
		}
		if _, err := s.client.Create(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// running are the pinned pods that run, in the order of nodes.
func (r *run) running() []*pod {
	var out []*pod
	for _, w := range r.workers() {
		if made := r.space.pods[w.Name.V]; made != nil {
			out = append(out, made)
		}
	}
	return out
}

// ready says of each worker why no pod can run there; "" where one can.
func (r *run) ready(ctx context.Context) (map[string]string, error) {
	list, err := r.space.client.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, w := range r.workers() {
		out[w.Name.V] = "it has not registered"
	}
	for _, n := range list {
		if _, ours := out[n.Name]; ours {
			out[n.Name] = n.Reason
		}
	}
	return out, nil
}

// object is an object with the label, so that it is found again.
func object(version, kind, namespace, name string, spec map[string]any) kube.Object {
	meta := map[string]any{"name": name, "labels": map[string]any{label: "true"}}
	if namespace != "" {
		meta["namespace"] = namespace
	}
	o := kube.Object{"apiVersion": version, "kind": kind, "metadata": meta}
	if spec != nil {
		o["spec"] = spec
	}
	return o
}

// podSpec is a server that the strictest policy of pods allows.
func (s *space) podSpec() map[string]any {
	return map[string]any{
		"automountServiceAccountToken":  false,
		"terminationGracePeriodSeconds": int64(1),
		"securityContext":               map[string]any{"runAsNonRoot": true, "runAsUser": int64(65534), "seccompProfile": map[string]any{"type": "RuntimeDefault"}},
		"containers": []any{map[string]any{
			"name": "toolbox", "image": s.image, "imagePullPolicy": "IfNotPresent", "args": []any{"serve", fmt.Sprintf(":%d", serverPort)},
			"ports":           []any{map[string]any{"containerPort": int64(serverPort)}},
			"readinessProbe":  map[string]any{"httpGet": map[string]any{"path": "/ready", "port": int64(serverPort)}, "periodSeconds": int64(1)},
			"resources":       map[string]any{"requests": map[string]any{"cpu": "10m", "memory": "16Mi"}},
			"securityContext": map[string]any{"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": map[string]any{"drop": []any{"ALL"}}},
		}},
	}
}

// pod is a server on a node, whatever its taints.
func (s *space) pod(name string, on *compile.Node, app string) kube.Object {
	spec := s.podSpec()
	spec["nodeName"] = on.Name.V
	spec["tolerations"] = []any{map[string]any{"operator": "Exists"}}
	o := object("v1", "Pod", s.name, name, spec)
	o["metadata"].(map[string]any)["labels"].(map[string]any)["app"] = app
	return o
}

// deployment is two servers wherever the scheduler puts them.
func (s *space) deployment() kube.Object {
	labels := map[string]any{"app": "web"}
	return object("apps/v1", "Deployment", s.name, "web", map[string]any{
		"replicas": int64(replicas), "selector": map[string]any{"matchLabels": labels},
		"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": s.podSpec()},
	})
}

func (s *space) service(name, app, kind string) kube.Object {
	return object("v1", "Service", s.name, name, map[string]any{
		"type": kind, "selector": map[string]any{"app": app}, "ports": []any{map[string]any{"port": int64(80), "targetPort": int64(serverPort)}},
	})
}

// secretValue is what the Secret holds: known, so that reading it back proves something.
const secretValue = "bXlkYXRh" // mydata

func (s *space) secret() kube.Object {
	o := object("v1", "Secret", s.name, "canary", nil)
	o["data"] = map[string]any{"mykey": secretValue}
	return o
}

// swept are the kinds that a run makes outside its namespace, and namespaces.
var swept = []struct{ version, kind string }{
	{"admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"},
	{"v1", "Namespace"},
}

// sweep removes whatever has the label, and waits until it is gone.
func (r *run) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cleanPatience)
	defer cancel()
	for _, k := range swept {
		list, err := r.space.client.List(ctx, k.version, k.kind, "", kube.Selection{Labels: label})
		if err != nil {
			return err
		}
		for _, o := range list {
			if err := r.remove(ctx, o.Ref()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) remove(ctx context.Context, ref kube.Ref) error {
	if err := r.space.client.Delete(ctx, ref); err != nil {
		return err
	}
	return r.space.client.WaitFor(ctx, ref, "the end of "+ref.String(), r.waiting, func(o kube.Object) (bool, string) {
		if o == nil {
			return true, ""
		}
		_, _, message := o.Condition("NamespaceContentRemaining")
		return false, strings.TrimSpace("it is being deleted " + message)
	})
}

// clean removes what this run made, also after it was cancelled.
func (r *run) clean(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanPatience)
	defer cancel()
	var failed error
	for _, ref := range []kube.Ref{{APIVersion: swept[0].version, Kind: swept[0].kind, Name: r.space.name}, {APIVersion: "v1", Kind: "Namespace", Name: r.space.name}} {
		failed = errors.Join(failed, r.remove(ctx, ref))
	}
	r.takeAway(ctx)
	if failed != nil {
		r.report.Leftovers = append(r.report.Leftovers, fmt.Sprintf("namespace %s: %s", r.space.name, said(failed)))
	}
}
