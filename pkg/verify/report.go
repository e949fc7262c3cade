package verify

import (
	"cmp"
	"slices"
	"time"
)

// Layer is a part of a cluster that others stand on.
type Layer string

// The layers, the lowest first: what is broken in one shows in those after it.
const (
	LayerHost     Layer = "host"
	LayerDNS      Layer = "dns"
	LayerTCP      Layer = "tcp"
	LayerTLS      Layer = "tls"
	LayerAuthn    Layer = "authn"
	LayerAuthz    Layer = "authz"
	LayerEtcd     Layer = "etcd"
	LayerControl  Layer = "controlplane"
	LayerKubelet  Layer = "kubelet"
	LayerCNI      Layer = "cni"
	LayerRoute    Layer = "route"
	LayerService  Layer = "service"
	LayerWorkload Layer = "workload"
)

// layers is their order, with what each is in words.
var layers = []struct {
	layer Layer
	about string
}{
	{LayerHost, "machines, programs and files"},
	{LayerDNS, "names and who answers for them"},
	{LayerTCP, "connections between components"},
	{LayerTLS, "who a server proves to be"},
	{LayerAuthn, "who a client proves to be"},
	{LayerAuthz, "what a client may do"},
	{LayerEtcd, "the cluster's store"},
	{LayerControl, "API servers, controllers, scheduler"},
	{LayerKubelet, "nodes and their runtime"},
	{LayerCNI, "addresses of pods"},
	{LayerRoute, "ways between pods of different nodes"},
	{LayerService, "addresses of Services, and NodePorts"},
	{LayerWorkload, "what people run"},
}

// Layers lists the layers, the lowest first.
func Layers() []string {
	var out []string
	for _, l := range layers {
		out = append(out, string(l.layer))
	}
	return out
}

// rank is where a layer stands; what is no layer stands last.
func rank(l Layer) int {
	for i, row := range layers {
		if row.layer == l {
			return i
		}
	}
	return len(layers)
}

// Status is how a check ended.
type Status string

// How a check ends.
const (
	OK          Status = "ok"
	Failed      Status = "failed"
	NotPossible Status = "not-possible" // the profile or the topology rules it out
	Skipped     Status = "skipped"      // it was not looked at, for a reason
)

// Result is one assertion.
type Result struct {
	Layer    Layer  `json:"layer"`          // that is looked at; of a failure, the one that is broken
	Name     string `json:"name"`           // what is asserted
	Node     string `json:"node,omitempty"` // where; empty for the cluster
	Status   Status `json:"status"`
	Expected string `json:"expected,omitempty"`
	Actual   string `json:"actual,omitempty"`
	Reason   string `json:"reason,omitempty"` // why it was skipped, or is not possible
	Cause    string `json:"cause,omitempty"`  // of a failure: what likely is wrong
	Help     string `json:"help,omitempty"`   // of a failure: what to do
	Took     int64  `json:"tookMilliseconds"`

	after   []Layer  // where a failure may come from
	nodes   []string // that it involves beside Node
	follows bool     // the failure was filed under another one
	order   int      // of the check that it is from
	last    bool     // nothing stands on it: no failure is filed under this one
}

// Report is everything that a run found.
type Report struct {
	Cluster    string
	Profile    string
	Kubernetes string
	Started    time.Time
	Took       time.Duration
	Results    []Result // by layer, then in the order of checks
	Leftovers  []string // what could not be cleaned up
}

// Document is a report as other programs read it.
type Document struct {
	APIVersion  string         `json:"apiVersion"`
	Kind        string         `json:"kind"`
	Cluster     string         `json:"cluster"`
	Profile     string         `json:"profile"`
	Kubernetes  string         `json:"kubernetes"`
	Started     time.Time      `json:"started"`
	Took        int64          `json:"tookMilliseconds"`
	OK          bool           `json:"ok"`                    // nothing failed, and nothing was left behind
	Counts      map[Status]int `json:"counts"`                // of results, by status
	FirstBroken *Result        `json:"firstBroken,omitempty"` // the first failure of the lowest broken layer, which does not follow from another
	Results     []Result       `json:"results"`               // by layer, then in the order of checks
	Leftovers   []string       `json:"leftovers"`             // what could not be cleaned up
}

// Document is the report in its published shape.
func (r *Report) Document() Document {
	return Document{APIVersion: "kthwc.dev/v1alpha1", Kind: "VerifyReport", Cluster: r.Cluster, Profile: r.Profile, Kubernetes: r.Kubernetes, Started: r.Started,
		Took: r.Took.Milliseconds(), OK: r.OK(), Counts: r.Counts(), FirstBroken: r.First(), Results: append([]Result{}, r.Results...), Leftovers: append([]string{}, r.Leftovers...)}
}

// Counts is how many results there are of each status.
func (r *Report) Counts() map[Status]int {
	out := map[Status]int{OK: 0, Failed: 0, NotPossible: 0, Skipped: 0}
	for i := range r.Results {
		out[r.Results[i].Status]++
	}
	return out
}

// OK says whether nothing failed and nothing was left behind.
func (r *Report) OK() bool { return r.Counts()[Failed] == 0 && len(r.Leftovers) == 0 }

// First is the first failure in the lowest broken layer, one that does not
// follow from another; nil if nothing failed.
func (r *Report) First() *Result {
	at := slices.IndexFunc(r.Results, func(x Result) bool { return x.Status == Failed && !x.follows })
	if at < 0 {
		return nil
	}
	return &r.Results[at]
}

// root is a failure that others may follow from.
type root struct {
	layer       Layer
	node, title string
}

// settle files failures under the layers that they come from, and sorts.
func (r *Report) settle() {
	slices.SortStableFunc(r.Results, func(a, b Result) int {
		return cmp.Or(a.order-b.order, cmp.Compare(a.Node, b.Node), cmp.Compare(a.Name, b.Name))
	})
	var roots []root
	for pass := range 3 {
		for i := range r.Results {
			x := &r.Results[i]
			if x.Status == Failed && x.pass() == pass && !x.inherit(roots) && !x.last {
				roots = append(roots, root{x.Layer, x.Node, x.title()})
			}
		}
	}
	slices.SortStableFunc(r.Results, inOrder)
}

// inOrder sorts by layer, then as checks are made; what one check found at once
// on several nodes is in the order of their names.
func inOrder(a, b Result) int {
	return cmp.Or(rank(a.Layer)-rank(b.Layer), a.order-b.order, cmp.Compare(a.Node, b.Node), cmp.Compare(a.Name, b.Name))
}

// pass is when a failure is filed: those first that follow from nothing, and
// those last that nothing follows from.
func (x *Result) pass() int {
	switch {
	case x.last:
		return 2
	case len(x.after) > 0:
		return 1
	}
	return 0
}

// inherit makes a failure one of the lowest layer that it may come from and
// that is broken where it was seen; false if there is none.
func (x *Result) inherit(roots []root) bool {
	at := -1
	for i, from := range roots {
		if slices.Contains(x.after, from.layer) && from.concerns(x) && (at < 0 || rank(from.layer) < rank(roots[at].layer)) {
			at = i
		}
	}
	if at < 0 {
		return false
	}
	x.Layer, x.Cause, x.Help = roots[at].layer, "it follows from: "+roots[at].title, "mend that first"
	x.follows = true
	return true
}

// concerns says whether a failure may be seen where the result was.
func (from root) concerns(x *Result) bool {
	return from.node == "" || len(x.nodes) == 0 && x.Node == "" || from.node == x.Node || slices.Contains(x.nodes, from.node)
}

// title is the result in one phrase.
func (x *Result) title() string {
	if x.Node == "" {
		return x.Name
	}
	return x.Node + ": " + x.Name
}
