package verify

import (
	"cmp"
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/compile"
)

// Subject is the cluster that is looked at. The fleet's tree was rendered from
// the cluster, with every overlay that was applied.
type Subject struct {
	*apply.Fleet
	Cluster *compile.Cluster
	Dial    func(ctx context.Context, network, address string) (net.Conn, error) // from where the operator is
	Now     func() time.Time
}

// Options is what a run does beside comparing facts.
type Options struct {
	Only       []Layer                       // nothing but checks of these layers; empty: all
	Smoke      bool                          // run workloads
	Disruptive bool                          // stop one API server for a moment, where there are others
	Image      string                        // of the workloads; it has the toolbox's commands
	External   string                        // a name outside the cluster that its DNS shall resolve; empty: none is tried
	Archive    func() (io.ReadCloser, error) // of Image as an OCI archive, for nodes that do not have it; nil: they pull it
	Suffix     string                        // of the namespace's name, different in each run
	Patience   time.Duration                 // for one thing that shall happen; 0: DefaultPatience
}

// DefaultPatience is how long one thing may take to happen, such as a pod to run.
const DefaultPatience = 90 * time.Second

// Event is what a run is at. Several goroutines may report at once; progress
// is called by one at a time.
type Event struct {
	Layer Layer
	Check string
	Doing string  // Begin, or what is waited for; "" with Done
	Done  *Result // an assertion that was made
}

// Begin is what an event is doing when a check begins.
const Begin = "begin"

// check is one row: what is asserted, and of which layer.
type check struct {
	name  string
	layer Layer
	pods  bool    // it needs a pod that runs
	last  bool    // nothing but workloads stands on it, whatever its layer
	after []Layer // where a failure may come from as well
	run   func(ctx context.Context, p *probe)
}

// Run asserts everything, in the order of the table. It returns when the
// cluster is as it was. A run that was cancelled has the context's error.
func Run(ctx context.Context, s *Subject, o Options, progress func(Event)) (*Report, error) {
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	if progress == nil {
		progress = func(Event) {}
	}
	r := &run{Subject: s, o: o, progress: progress, report: &Report{
		Cluster: s.Cluster.Name.V, Profile: s.Cluster.Profile.V, Kubernetes: s.Cluster.Kubernetes.V, Started: s.Now().UTC(),
	}}
	if err := r.observe(ctx); err != nil {
		return nil, err
	}
	for _, c := range checks {
		if r.wanted(c) && ctx.Err() == nil {
			r.tell(Event{Layer: c.layer, Check: c.name, Doing: Begin})
			c.run(ctx, r.probe(c))
		}
	}
	if o.Smoke && r.smokes() {
		r.smoke(ctx)
	}
	r.report.settle()
	r.report.Took = s.Now().Sub(r.report.Started)
	return r.report, ctx.Err()
}

// run is the state of one run.
type run struct {
	*Subject
	o        Options
	progress func(Event)
	hosts    map[string]apply.Host   // as they were found
	states   map[string]*apply.State // of those that answered
	begun    int                     // checks
	space    *space                  // where workloads run
	links    []*link                 // nil until they are tried

	mu      sync.Mutex
	report  *Report
	telling sync.Mutex
}

// tell reports one event at a time.
func (r *run) tell(e Event) {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.progress(e)
}

func (r *run) wanted(c check) bool {
	return len(r.o.Only) == 0 || slices.Contains(r.o.Only, c.layer)
}

// node finds a node of the model.
func (r *run) node(name string) *compile.Node {
	for _, n := range r.Cluster.Nodes {
		if n.Name.V == name {
			return n
		}
	}
	return nil
}

// workers are the nodes that run pods.
func (r *run) workers() []*compile.Node {
	return slices.DeleteFunc(slices.Clone(r.Cluster.Nodes), func(n *compile.Node) bool { return !n.Worker })
}

// controllers are the nodes that run etcd and the control plane.
func (r *run) controllers() []*compile.Node {
	return slices.DeleteFunc(slices.Clone(r.Cluster.Nodes), func(n *compile.Node) bool { return !n.Controller })
}

// probe is one check while it runs. Its methods may be called by several
// goroutines at once.
type probe struct {
	*run
	check
	begun time.Time
	order int
}

// probe begins a check.
func (r *run) probe(c check) *probe {
	r.begun++
	return &probe{r, c, r.Now(), r.begun}
}

// waiting tells the progress what the check waits for.
func (p *probe) waiting(awaited, state string) {
	p.tell(Event{Layer: p.layer, Check: p.name, Doing: "waits for " + awaited + ": " + state})
}

// at is the same check, with a clock of its own: for one of several things.
func (p *probe) at() *probe { return &probe{p.run, p.check, p.Now(), p.order} }

// blame is where a failure comes from, and what to do.
type blame struct {
	layer       Layer // "": the check's own
	cause, help string
	after       []Layer // layers where the failure may come from; nil: the check's
}

// broken blames a layer.
func broken(layer Layer, cause, help string) blame {
	return blame{layer: layer, cause: cause, help: help}
}

// put records a result.
func (p *probe) put(x Result) {
	x.Layer = cmp.Or(x.Layer, p.layer)
	x.Took = p.Now().Sub(p.begun).Milliseconds()
	x.order, x.last = p.order, p.last
	if x.after == nil {
		x.after = p.after
	}
	p.mu.Lock()
	p.report.Results = append(p.report.Results, x)
	p.mu.Unlock()
	p.tell(Event{Layer: x.Layer, Check: p.name, Done: &x})
}

// equal asserts that two texts are the same.
func (p *probe) equal(node, name, want, got string, b blame) {
	x := Result{Node: node, Name: name, Status: OK, Expected: want, Actual: got}
	if want != got {
		x.Status, x.Layer, x.Cause, x.Help, x.after = Failed, b.layer, b.cause, b.help, b.after
	}
	p.put(x)
}

// fail records that something is not as expected.
func (p *probe) fail(node, name, want, got string, b blame, involved ...string) {
	p.put(Result{Node: node, Name: name, Status: Failed, Expected: want, Actual: got, Layer: b.layer, Cause: b.cause, Help: b.help, after: b.after, nodes: involved})
}

func (p *probe) ok(node, name, what string) {
	p.put(Result{Node: node, Name: name, Status: OK, Expected: what, Actual: what})
}

func (p *probe) skip(node, name, reason string) {
	p.put(Result{Node: node, Name: name, Status: Skipped, Reason: reason})
}

func (p *probe) impossible(node, name, reason string) {
	p.put(Result{Node: node, Name: name, Status: NotPossible, Reason: reason})
}

// atOnce is how many connections are tried at a time.
const atOnce = 12

// each calls f for every element, several at a time, and waits.
func each[T any](list []T, f func(T)) {
	var all sync.WaitGroup
	free := make(chan struct{}, atOnce)
	for _, x := range list {
		free <- struct{}{}
		all.Go(func() {
			defer func() { <-free }()
			f(x)
		})
	}
	all.Wait()
}

// belowDNS are the layers that the cluster's DNS stands on: it is a workload
// among others, though names come before connections for everybody else.
var belowDNS = []Layer{LayerHost, LayerTCP, LayerTLS, LayerAuthn, LayerAuthz, LayerEtcd, LayerControl, LayerKubelet, LayerCNI, LayerRoute, LayerService}

// checks is what is asserted, in the order in which it is looked at.
var checks = []check{
	{name: "machines", layer: LayerHost, run: machines},
	{name: "units", layer: LayerHost, run: units},
	{name: "files", layer: LayerHost, run: files},
	{name: "programs", layer: LayerHost, run: programs},
	{name: "names", layer: LayerDNS, run: emit(LayerDNS)},
	{name: "connections", layer: LayerTCP, run: emit(LayerTCP)},
	{name: "proofs of servers", layer: LayerTLS, run: emit(LayerTLS)},
	{name: "served certificates", layer: LayerTLS, run: served},
	{name: "proofs of clients", layer: LayerAuthn, run: emit(LayerAuthn)},
	{name: "strangers", layer: LayerAuthn, run: strangers},
	{name: "rights", layer: LayerAuthz, run: emit(LayerAuthz)},
	{name: "etcd IDs", layer: LayerEtcd, run: etcdIDs},
	{name: "etcd health", layer: LayerEtcd, run: etcdHealth},
	{name: "API servers", layer: LayerControl, run: apiServers},
	{name: "health", layer: LayerControl, run: health},
	{name: "leaders", layer: LayerControl, run: leases},
	{name: "nodes", layer: LayerKubelet, run: asking("nodes", nodes)},
	{name: "ranges of pods", layer: LayerCNI, run: podRanges},
	{name: "addresses of pods", layer: LayerCNI, run: asking("addresses of pods", podAddresses)},
	{name: "routes", layer: LayerRoute, run: routes},
	{name: "the API's Service", layer: LayerService, run: asking("the API's Service", apiService)},
	{name: "the DNS Service", layer: LayerDNS, last: true, after: belowDNS, run: asking("the DNS Service", dnsService)},
	{name: "manifests", layer: LayerAuthz, run: asking("manifests", manifests)},
}
