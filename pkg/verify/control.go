package verify

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/kube"
	"github.com/kthwc/kthwc/pkg/secret"
)

// connect makes a client of the Kubernetes API as the operator: by the public
// address, or to the API server of one controller, from that controller.
func (r *run) connect(controller *compile.Node) (*kube.Client, error) {
	k := r.operator()
	a := kube.Access{Server: k.Server.V, Dial: r.Dial, Timeout: 20 * time.Second}
	if controller != nil {
		a.Server = "https://" + address(primary(controller), r.port("kube-apiserver", controller.Name.V))
		host := r.Conns[controller.Name.V]
		if host == nil {
			return nil, fmt.Errorf("%s does not answer over SSH", controller.Name.V)
		}
		a.Dial = host.Forward
	}
	for _, m := range []struct {
		into *[]byte
		ref  secret.Ref
	}{{&a.CA, secret.Bundle(k.CA)}, {&a.Cert, secret.Cert(k.Cert)}, {&a.Key, secret.Key(k.Cert)}} {
		text, err := r.Material(m.ref)
		if err != nil {
			return nil, notIssued(err)
		}
		*m.into = text
	}
	return kube.Connect(a)
}

// kindLayers are the layers of what the API client's errors say.
var kindLayers = map[kube.Kind]Layer{
	kube.Unreachable: LayerTCP, kube.TimedOut: LayerTCP, kube.Untrusted: LayerTLS, kube.Unauthorized: LayerAuthn,
	kube.Forbidden: LayerAuthz, kube.ServerFault: LayerControl, kube.NotReady: LayerControl, kube.Busy: LayerControl,
}

// belowAPI are the layers that the API stands on, and its own.
var belowAPI = []Layer{LayerHost, LayerDNS, LayerTCP, LayerTLS, LayerAuthn, LayerAuthz, LayerEtcd, LayerControl}

// apiFault says why the API did not answer as it should.
func apiFault(err error) blame {
	return blame{after: belowAPI, layer: kindLayers[kube.KindOf(err)], cause: "the Kubernetes API did not do what was asked", help: "the checks of the layers below say where it is stuck; then journalctl -u kube-apiserver on the controllers"}
}

// apiServers asserts of each API server that all its own checks pass, and that
// it is of the version that was asked for.
func apiServers(ctx context.Context, p *probe) {
	each(p.controllers(), func(n *compile.Node) {
		p := p.at()
		if p.Conns[n.Name.V] == nil {
			p.skip(n.Name.V, "readyz", "the machine does not answer")
			return
		}
		line, err := p.server(ctx, n)
		if err != nil {
			p.fail(n.Name.V, "readyz", "every check ok", said(err), p.componentFault(p.listener("kube-apiserver", n.Name.V), err))
			return
		}
		defer line.Close()
		p.readyz(ctx, n, line)
		p.serverVersion(ctx, n, line)
	})
}

func (p *probe) readyz(ctx context.Context, n *compile.Node, line *line) {
	for _, path := range []string{"/livez", "/readyz"} {
		name, want := strings.TrimPrefix(path, "/"), "every check ok"
		a, err := line.ask(ctx, http.MethodGet, path+"?verbose", nil)
		if err != nil {
			p.fail(n.Name.V, name, want, said(err), handshaken(err))
			return
		}
		if failed := failedChecks(string(a.body)); len(failed) > 0 {
			p.fail(n.Name.V, name, want, "failed: "+strings.Join(failed, ", "), broken(blamed(failed), "the API server says itself what it lacks", "on "+n.Name.V+": journalctl -u kube-apiserver -n 50"))
			continue
		}
		if a.status != http.StatusOK {
			p.fail(n.Name.V, name, want, fmt.Sprintf("status %d: %s", a.status, short(string(a.body))), refused(a, "kube-apiserver"))
			continue
		}
		p.ok(n.Name.V, name, want)
	}
}

// failedChecks reads lines such as "[-]etcd failed: reason withheld".
func failedChecks(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "[-]"); ok {
			name, _, _ := strings.Cut(rest, " ")
			out = append(out, name)
		}
	}
	return out
}

// blamed is the layer of what an API server lacks.
func blamed(checks []string) Layer {
	if slices.ContainsFunc(checks, func(c string) bool { return strings.HasPrefix(c, "etcd") }) {
		return LayerEtcd
	}
	return LayerControl
}

func (p *probe) serverVersion(ctx context.Context, n *compile.Node, line *line) {
	got := "no answer"
	if a, err := line.ask(ctx, http.MethodGet, "/version", nil); err == nil {
		got = versionIn(a.body)
	}
	p.equal(n.Name.V, "kube-apiserver version", "v"+n.Version.V, got, blame{cause: "another program runs than the one that is installed", help: "on " + n.Name.V + ": systemctl restart kube-apiserver"})
}

// versionIn reads gitVersion of an answer to /version.
func versionIn(body []byte) string {
	_, rest, _ := strings.Cut(string(body), `"gitVersion":`)
	word, _, _ := strings.Cut(strings.TrimLeft(rest, ` "`), `"`)
	return word
}

// A healthRow is a component that says itself how it is. All of these answer
// anybody who asks at this path.
type healthRow struct {
	component, path, want string
	tls                   bool
}

var healthRows = []healthRow{
	{"kube-controller-manager", "/healthz", "ok", true},
	{"kube-scheduler", "/healthz", "ok", true},
	{"nginx", "/healthz", "ok", false}, // what the balancer asks
	{"kubelet", "/healthz", "ok", false},
	{"kube-proxy", "/healthz", "", false},
}

// health asserts what the rest of the components say of themselves.
func health(ctx context.Context, p *probe) {
	type asked struct {
		row healthRow
		l   compile.Listener
	}
	var list []asked
	for _, row := range healthRows {
		for _, l := range p.Cluster.Listeners {
			if l.Component == row.component && (l.Cert != "") == row.tls && p.Conns[l.Node] != nil && (row.component != "kube-proxy" || l.Port.V == proxyHealthPort) {
				list = append(list, asked{row, l})
			}
		}
	}
	each(list, func(a asked) { p.at().healthOf(ctx, a.row, a.l) })
}

// proxyHealthPort is where kube-proxy says how it is; at its other port are metrics.
const proxyHealthPort = 10256

func (p *probe) healthOf(ctx context.Context, row healthRow, l compile.Listener) {
	name := row.component + " health"
	want := "200"
	a, err := p.askHealth(ctx, row, l)
	if err != nil {
		p.fail(l.Node, name, want, said(err), p.componentFault(l, err))
		return
	}
	got := fmt.Sprint(a.status)
	if a.status != http.StatusOK || !strings.Contains(string(a.body), row.want) {
		got = fmt.Sprintf("%d: %s", a.status, short(string(a.body)))
	}
	c := components[row.component]
	p.equal(l.Node, name, want, got, broken(c.layer, row.component+" says that it does not work", fmt.Sprintf("on %s: journalctl -u %s -n 50", l.Node, c.unit)))
}

func (p *probe) askHealth(ctx context.Context, row healthRow, l compile.Listener) (*answer, error) {
	conn, err := p.open(ctx, l.Node, p.dialled(l))
	if err != nil {
		return nil, err
	}
	host := "127.0.0.1"
	if row.component == "nginx" {
		host = p.Cluster.API.HealthHost.V
	}
	spoken := plainLine(conn, host)
	if row.tls {
		config, err := p.identity("", "", host)
		if err != nil {
			return nil, err
		}
		config.InsecureSkipVerify = true // it made its certificate itself, and nothing secret is said
		if spoken, err = secure(ctx, conn, config); err != nil {
			return nil, err
		}
	}
	defer spoken.Close()
	return spoken.ask(ctx, http.MethodGet, row.path, nil)
}

// leases asserts that one controller manager and one scheduler lead, and are
// at work: they renew their leases every few seconds.
func leases(ctx context.Context, p *probe) {
	client, err := p.connect(nil)
	if err != nil {
		p.fail("", "leaders", "leases are held", said(err), apiFault(err))
		return
	}
	defer client.Close()
	for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
		p.lease(ctx, client, name)
	}
}

// leaseFresh is how old a lease may be: twice the default of its duration.
const leaseFresh = 30 * time.Second

func (p *probe) lease(ctx context.Context, client *kube.Client, name string) {
	want := "a controller leads"
	o, err := client.Get(ctx, kube.Ref{APIVersion: "coordination.k8s.io/v1", Kind: "Lease", Namespace: "kube-system", Name: name})
	idle := blame{cause: "no " + name + " works, or clocks differ", help: "on the controllers: journalctl -u " + name + " -n 50; timedatectl"}
	switch {
	case kube.KindOf(err) == kube.NotFound:
		p.fail("", name+" leader", want, "nobody ever led", idle)
		return
	case err != nil:
		p.fail("", name+" leader", want, said(err), apiFault(err))
		return
	}
	holder, _, _ := strings.Cut(o.Str("spec", "holderIdentity"), "_")
	got := holder + " leads"
	if slices.ContainsFunc(p.controllers(), func(n *compile.Node) bool { return n.Name.V == holder }) {
		got = want
	}
	renewed, err := time.Parse(time.RFC3339Nano, o.Str("spec", "renewTime"))
	if age := p.Now().Sub(renewed); err != nil || age > leaseFresh {
		got = fmt.Sprintf("%s led until %s", holder, o.Str("spec", "renewTime"))
	}
	p.equal("", name+" leader", want, got, idle)
}
