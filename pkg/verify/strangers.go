package verify

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/kthwc/kthwc/pkg/compile"
)

// A strangerRow is a component that is asked by somebody without a certificate.
type strangerRow struct {
	component, path string
	want            func(r *run, n *compile.Node) int // the status; 0: the connection is refused
}

var strangerRows = []strangerRow{
	{"kube-apiserver", "/api/v1/namespaces", func(r *run, n *compile.Node) int {
		if r.anonymous(n) {
			return http.StatusForbidden
		}
		return http.StatusUnauthorized
	}},
	{"kubelet", "/pods", func(*run, *compile.Node) int { return http.StatusUnauthorized }},
	{"etcd", "/version", func(*run, *compile.Node) int { return 0 }},
	{"etcd-peer", "/members", func(*run, *compile.Node) int { return 0 }},
}

// anonymous says whether an API server has a name for people without any.
func (r *run) anonymous(n *compile.Node) bool {
	return !slices.ContainsFunc(r.Cluster.Component("kube-apiserver", n).Flags, func(f compile.Flag) bool {
		return f.Name == "anonymous-auth" && f.Value.V == "false"
	})
}

// strangers asserts that nobody is served who does not prove who he is.
func strangers(ctx context.Context, p *probe) {
	type asked struct {
		row strangerRow
		n   *compile.Node
	}
	var list []asked
	for _, row := range strangerRows {
		for _, n := range p.Cluster.Nodes {
			if p.listener(row.component, n.Name.V).Cert != "" && p.Conns[n.Name.V] != nil {
				list = append(list, asked{row, n})
			}
		}
	}
	each(list, func(a asked) { p.at().stranger(ctx, a.row, a.n) })
}

func (p *probe) stranger(ctx context.Context, row strangerRow, n *compile.Node) {
	l := p.listener(row.component, n.Name.V)
	name, want := row.component+" refuses strangers", answered(row.want(p.run, n))
	conn, err := p.open(ctx, n.Name.V, p.dialled(l))
	if err != nil {
		p.fail(n.Name.V, name, want, said(err), p.componentFault(l, err))
		return
	}
	defer conn.Close()
	config, err := p.identity("", "", "")
	if err != nil {
		p.fail(n.Name.V, name, want, said(err), blame{})
		return
	}
	config.InsecureSkipVerify = true // whoever answers, it must not serve us
	got := answered(0)
	if spoken, err := secure(ctx, conn, config); err == nil {
		if a, err := spoken.ask(ctx, http.MethodGet, row.path, nil); err == nil {
			got = answered(a.status)
		}
	}
	p.equal(n.Name.V, name, want, got, broken(LayerAuthn, row.component+" serves clients without a certificate", "kthwc plan shows whether its configuration is the rendered one; extraArgs and configPatches may say so too"))
}

// answered is a status in words.
func answered(status int) string {
	if status == 0 {
		return "the connection is refused"
	}
	return fmt.Sprintf("%d %s", status, http.StatusText(status))
}
