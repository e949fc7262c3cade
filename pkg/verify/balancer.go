package verify

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/kube"
	"github.com/kthwc/kthwc/schema"
)

// The scripts of the disruptive check.
const (
	stopScript  = `systemctl stop kube-apiserver.service`
	startScript = `systemctl start kube-apiserver.service`
)

// How a balancer is watched while one server is away: longer than it may take
// to notice, at intervals as of people.
const (
	noticed     = 30 * time.Second
	steadyRow   = 12
	watched     = 20
	watchEvery  = 250 * time.Millisecond
	stopBounded = 2 * time.Minute // a server waits a minute for whoever watches
)

// balanced stops one API server and asks the balancer: once it has noticed, no
// request may fail. The server is started again whatever happens.
func balanced(ctx context.Context, p *probe) {
	name := "load balancer with one API server stopped"
	var running []*compile.Node
	for _, n := range p.controllers() {
		if p.states[n.Name.V] != nil {
			running = append(running, n)
		}
	}
	switch {
	case len(p.controllers()) == 1:
		p.impossible("", name, "there is one API server: to stop it is an outage")
	case p.Cluster.API.Endpoint.V == compile.None:
		p.impossible("", name, "nothing stands before the API servers")
	case !p.o.Disruptive:
		p.skip("", name, "it stops an API server: kthwc verify --disruptive")
	case len(running) < 2:
		p.skip("", name, "fewer than two controllers answer")
	default:
		p.withoutOne(ctx, name, running[len(running)-1])
	}
}

// withoutOne stops the API server of a controller, and starts it again.
func (p *probe) withoutOne(ctx context.Context, name string, n *compile.Node) {
	defer p.restart(ctx, n)
	var during tally
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for watching.Err() == nil {
			during.count(watching, p.onceMore(watching))
			pause(watching, watchEvery)
		}
	}()
	stopping, cancel := context.WithTimeout(ctx, stopBounded)
	defer cancel()
	_, err := p.lines(stopping, n.Name.V, stopScript)
	stopWatching()
	<-ended
	if err != nil {
		p.skip("", name, "the API server of "+n.Name.V+" could not be stopped: "+said(err))
		return
	}
	p.drained(n, &during)
	p.waiting("the balancer", n.Name.V+" is to be noticed as missing")
	noticing, cancel := context.WithTimeout(ctx, noticed)
	defer cancel()
	p.steady(noticing)
	var after tally
	for range watched {
		after.count(ctx, p.onceMore(ctx))
		pause(ctx, watchEvery)
	}
	p.equal("", name, "no request fails", after.String(), blame{cause: "the balancer still sends requests to " + n.Name.V + " " + after.last(), help: "look at the balancer's health check: it must ask port 80 of each controller"})
}

// drained asserts that nobody noticed while the server was stopping. Without a
// shutdown delay that is luck.
func (p *probe) drained(n *compile.Node, during *tally) {
	name := "requests while an API server stops"
	if p.Cluster.Profile.V != schema.Hardened {
		p.impossible("", name, "without --shutdown-delay-duration a server stops before the balancer can know")
		return
	}
	p.equal("", name, "no request fails", during.String(), blame{cause: "the server ended before the balancer had noticed " + during.last(), help: "--shutdown-delay-duration must exceed the balancer's interval times its threshold"})
}

// tally is how requests went.
type tally struct {
	sent, failed atomic.Int64
	why          atomic.Value
}

// count takes one request's error; requests that we cut off ourselves are none.
func (t *tally) count(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	t.sent.Add(1)
	if err != nil {
		t.failed.Add(1)
		t.why.Store(said(err))
	}
}

func (t *tally) String() string {
	switch n := t.failed.Load(); {
	case t.sent.Load() == 0:
		return "no request was sent"
	case n > 0:
		return fmt.Sprintf("%d of %d requests failed", n, t.sent.Load())
	}
	return "no request fails"
}

// last is why the last one failed.
func (t *tally) last() string {
	why, _ := t.why.Load().(string)
	return why
}

// onceMore asks by a new connection: an old one may be to any server.
func (p *probe) onceMore(ctx context.Context) error {
	client, err := p.connect(nil)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.GetRaw(ctx, "/version")
	return err
}

// steady waits until so many requests in a row succeed, or the context ends.
func (p *probe) steady(ctx context.Context) {
	for row := 0; row < steadyRow && ctx.Err() == nil; pause(ctx, watchEvery) {
		row++
		if p.onceMore(ctx) != nil {
			row = 0
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// restart starts an API server and waits until it is ready, also after the run
// was cancelled.
func (p *probe) restart(ctx context.Context, n *compile.Node) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopBounded)
	defer cancel()
	_, err := p.lines(ctx, n.Name.V, startScript)
	if err == nil {
		err = p.awaitServer(ctx, n)
	}
	if err != nil {
		p.mu.Lock()
		p.report.Leftovers = append(p.report.Leftovers, fmt.Sprintf("the API server of %s was stopped and does not serve again: %s", n.Name.V, said(err)))
		p.mu.Unlock()
		return
	}
	p.ok(n.Name.V, "its API server serves again", "ready")
}

func (p *probe) awaitServer(ctx context.Context, n *compile.Node) error {
	client, err := p.connect(n)
	if err != nil {
		return err
	}
	defer client.Close()
	return kube.Wait(ctx, "the API server of "+n.Name.V, watchEvery, p.waiting, func(ctx context.Context) (bool, string, error) {
		// It refuses the operator, too, until it has read who may do what.
		if err := client.Ready(ctx); err != nil {
			return false, said(err), nil
		}
		return true, "", nil
	})
}
