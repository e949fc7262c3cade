package verify

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/kube"
)

// webhooks asserts that API servers reach a webhook's server by its Service.
// The server speaks without TLS; that the API server complains about just that
// proves that it was reached.
func webhooks(ctx context.Context, p *probe) {
	var able []*compile.Node
	for _, n := range p.controllers() {
		if p.routed(n) || n.Worker {
			able = append(able, n)
			continue
		}
		p.impossible(n.Name.V, "webhooks", "the API server dials Services by their own address (no --enable-aggregator-routing), and no kube-proxy runs on controllers: webhooks and aggregated APIs do not work in the tutorial's layout")
	}
	if len(able) == 0 || len(p.running()) == 0 {
		return
	}
	if _, err := p.space.client.Create(ctx, p.webhook()); err != nil {
		p.fail("", "webhooks", "can be registered", said(err), apiFault(err))
		return
	}
	each(able, func(n *compile.Node) { p.at().calls(ctx, n) })
	ref := kube.Ref{APIVersion: swept[0].version, Kind: swept[0].kind, Name: p.space.name}
	if err := p.space.client.Delete(ctx, ref); err != nil {
		p.fail("", "webhooks", "can be removed", said(err), apiFault(err))
	}
}

// routed says whether an API server goes to the pods behind a Service itself.
func (r *run) routed(n *compile.Node) bool {
	return slices.ContainsFunc(r.Cluster.Component("kube-apiserver", n).Flags, func(f compile.Flag) bool {
		return f.Name == "enable-aggregator-routing" && f.Value.V == "true"
	})
}

// webhook is asked about ConfigMaps of our namespace only.
func (p *probe) webhook() kube.Object {
	o := object(swept[0].version, swept[0].kind, "", p.space.name, nil)
	o["webhooks"] = []any{map[string]any{
		"name": "echo.verify.kthwc.dev", "admissionReviewVersions": []any{"v1"}, "sideEffects": "None", "failurePolicy": "Fail", "timeoutSeconds": int64(5),
		"clientConfig":      map[string]any{"service": map[string]any{"namespace": p.space.name, "name": "echo", "path": "/webhook", "port": int64(80)}},
		"namespaceSelector": map[string]any{"matchLabels": map[string]any{"kubernetes.io/metadata.name": p.space.name}},
		"rules":             []any{map[string]any{"apiGroups": []any{""}, "apiVersions": []any{"v1"}, "operations": []any{"CREATE"}, "resources": []any{"configmaps"}}},
	}}
	return o
}

// calls makes an API server call the webhook. It learns of a new webhook a
// moment after another server was told.
func (p *probe) calls(ctx context.Context, n *compile.Node) {
	name, want := "webhooks", "the webhook's server is reached"
	client, err := p.connect(n)
	if err != nil {
		p.skip(n.Name.V, name, said(err))
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*answerPatience)
	defer cancel()
	got := "the API server does not call it"
	for i := 0; ctx.Err() == nil; i++ {
		_, err := client.Create(ctx, object("v1", "ConfigMap", p.space.name, fmt.Sprintf("called-%s-%d", n.Name.V, i), nil))
		if err != nil {
			got = err.Error()
			break
		}
		pause(ctx, 300*time.Millisecond)
	}
	p.answered(n.Name.V, name, want, got, "HTTP response to HTTPS client", blame{cause: "the API server does not reach the pods behind a Service", help: "on " + n.Name.V + ": ip route; journalctl -u kube-apiserver -n 50"})
}
