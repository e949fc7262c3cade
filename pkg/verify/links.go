package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/secret"
)

// link is one connection of the model, tried stage by stage as its client
// makes it. The first stage that fails is the last.
type link struct {
	dial    compile.Dial
	results map[Layer][]Result
}

// tried gives all links, and tries them when it is called first.
func (r *run) tried(ctx context.Context) []*link {
	if r.links != nil {
		return r.links
	}
	names := r.resolved(ctx)
	r.links = []*link{}
	for _, d := range r.Cluster.Dials {
		if r.tries(d) {
			r.links = append(r.links, &link{dial: d, results: map[Layer][]Result{}})
		}
	}
	each(r.links, func(l *link) { r.try(ctx, l, names[d2{l.dial.Node, l.dial.Host.V}]) })
	return r.links
}

// d2 is a name as it is looked up on a node.
type d2 struct{ node, name string }

// tries says whether a connection can be made as its client makes it: from a
// machine that answers, or as the operator. SSH is proven by everything else.
func (r *run) tries(d compile.Dial) bool {
	if d.Protocol != "tcp" || d.To == "sshd" || d.Host.V == "" || d.LastPort > 0 {
		return false
	}
	if d.Node == "" {
		return d.Component == compile.Operator
	}
	return r.Conns[d.Node] != nil
}

// emit records what all links gave at a stage.
func emit(stage Layer) func(context.Context, *probe) {
	return func(ctx context.Context, p *probe) {
		for _, l := range p.tried(ctx) {
			for _, x := range l.results[stage] {
				p.put(x)
			}
		}
	}
}

// called is what a link is called in results.
func (l *link) called() string {
	d := l.dial
	name := d.Component
	if d.Node == "" {
		name = "the operator"
	}
	to := d.To
	if d.ToNode != "" && d.ToNode != d.Node {
		to += " of " + d.ToNode
	}
	if d.Via != "" {
		to += " by " + d.Via
	}
	return name + " to " + to
}

// behindProxies are the layers where it may come from that a proxy or a balancer
// does not connect: it has nobody to connect to.
var behindProxies = []Layer{LayerHost, LayerEtcd, LayerControl}

// note records how a stage went; false where the link ends there.
func (l *link) note(stage Layer, want, got string, b *blame) bool {
	x := Result{Layer: stage, Node: l.dial.Node, Name: l.called(), Status: OK, Expected: want, Actual: got}
	if l.dial.ToNode != "" {
		x.nodes = []string{l.dial.ToNode}
	}
	if b != nil {
		x.Status, x.Cause, x.Help, x.after = Failed, b.cause, b.help, b.after
		if l.dial.Via != "" && x.after == nil {
			x.after = behindProxies
		}
		if b.layer != "" {
			x.Layer = b.layer
		}
	}
	l.results[stage] = append(l.results[stage], x)
	return b == nil
}

// try goes through the stages.
func (r *run) try(ctx context.Context, l *link, found *lookup) {
	d := l.dial
	if found != nil && !l.names(r, found) {
		return
	}
	at := address(d.Host.V, d.Port.V)
	conn, err := r.open(ctx, d.Node, at)
	if err != nil {
		b := r.unreached(d, err)
		l.note(LayerTCP, at+" is open", said(err), &b)
		return
	}
	defer conn.Close()
	l.note(LayerTCP, at+" is open", at+" is open", nil)
	if d.ServerCA == "" {
		return // bytes that are passed on, or a client that does not ask who answers
	}
	line := r.handshake(ctx, l, conn)
	if line == nil {
		return
	}
	if ask := questions[d.To]; ask != nil {
		ask(ctx, r, l, line)
	}
}

// handshake proves the server, with the client's certificate shown.
func (r *run) handshake(ctx context.Context, l *link, conn net.Conn) *line {
	d := l.dial
	want := fmt.Sprintf("a certificate of %s for %s", d.ServerCA, d.Name.V)
	config, err := r.identity(d.ServerCA, d.Cert, d.Name.V)
	if err == nil {
		var made *line
		if made, err = secure(ctx, conn, config); err == nil {
			l.note(LayerTLS, want, want, nil)
			return made
		}
	}
	b := handshaken(err)
	if says(errNotIssued.Error())(err) {
		b = r.unreached(d, err)
	}
	l.note(LayerTLS, want, said(err), &b)
	return nil
}

// questions are what clients ask that shows who they are to a component, and
// what they may do.
var questions = map[string]func(context.Context, *run, *link, *line){
	"etcd":           asked("/health", `"health":"true"`),
	"etcd-peer":      asked("/members", `"peerURLs"`),
	"kubelet":        asked("/pods", `"kind":"PodList"`),
	"kube-apiserver": whoAmI,
}

// asked takes an answer of 200 with a text for proof of both.
func asked(path, text string) func(context.Context, *run, *link, *line) {
	return func(ctx context.Context, _ *run, l *link, line *line) {
		want := "GET " + path + ": 200"
		a, err := line.ask(ctx, http.MethodGet, path, nil)
		if err != nil {
			b := handshaken(err)
			l.note(LayerAuthn, want, said(err), &b)
			return
		}
		got := fmt.Sprintf("GET %s: %d", path, a.status)
		switch b := refused(a, l.dial.To); {
		case a.status == http.StatusForbidden:
			l.note(LayerAuthn, "the client is known", "the client is known", nil)
			l.note(LayerAuthz, want, got+": "+short(string(a.body)), &b)
		case a.status != http.StatusOK || !strings.Contains(string(a.body), text):
			l.note(LayerAuthn, want, got+": "+short(string(a.body)), &b)
		default:
			l.note(LayerAuthn, want, got, nil)
			l.note(LayerAuthz, want, got, nil)
		}
	}
}

// selfReview came with Kubernetes 1.28.
const selfReview = "/apis/authentication.k8s.io/v1/selfsubjectreviews"

// whoAmI asks the API server whom it takes the client for, and what that one may do.
func whoAmI(ctx context.Context, r *run, l *link, line *line) {
	want := "user " + r.commonName(l.dial.Cert)
	if l.dial.Cert == "" {
		return
	}
	a, err := line.ask(ctx, http.MethodPost, selfReview, []byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`))
	if err != nil {
		b := handshaken(err)
		l.note(LayerAuthn, want, said(err), &b)
		return
	}
	var review struct {
		Status struct {
			UserInfo struct {
				Username string
			}
		}
	}
	switch b := refused(a, l.dial.To); {
	case a.status == http.StatusNotFound: // the API server is older than the question: being served has to do
		l.note(LayerAuthn, want, want, nil)
	case a.status != http.StatusCreated:
		l.note(LayerAuthn, want, fmt.Sprintf("status %d: %s", a.status, short(string(a.body))), &b)
		return
	case json.Unmarshal(a.body, &review) != nil || "user "+review.Status.UserInfo.Username != want:
		l.note(LayerAuthn, want, "user "+review.Status.UserInfo.Username, &blame{cause: "the API server takes the certificate for somebody else: it is not the one that was issued", help: "kthwc apply brings the right certificate"})
		return
	default:
		l.note(LayerAuthn, want, want, nil)
	}
	for _, right := range rights[l.dial.Component] {
		if !r.may(ctx, l, line, right) {
			return
		}
	}
}

// commonName is the user that a certificate makes of a client.
func (r *run) commonName(cert string) string {
	for _, c := range r.Cluster.Certs {
		if c.Name == cert {
			return c.CommonName.V
		}
	}
	return ""
}

// right is what a client must be allowed, as an access review asks. NODE stands
// for the client's node.
type right struct {
	Verb, Group, Resource, Subresource, Namespace, Name, Path string
}

func (w right) String() string {
	if w.Path != "" {
		return w.Verb + " " + w.Path
	}
	text := w.Verb + " " + w.Resource
	if w.Subresource != "" {
		text += "/" + w.Subresource
	}
	if w.Group != "" && w.Group != "*" {
		text += "." + w.Group
	}
	if w.Name != "" {
		text += " " + w.Name
	}
	if w.Namespace != "" {
		text += " in " + w.Namespace
	}
	return text
}

// rights are what each client cannot work without.
var rights = map[string][]right{
	"kubelet":                 {{Verb: "get", Resource: "nodes", Name: "NODE"}, {Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-node-lease", Name: "NODE"}},
	"kube-proxy":              {{Verb: "list", Resource: "services"}, {Verb: "watch", Group: "discovery.k8s.io", Resource: "endpointslices"}},
	"kube-controller-manager": {{Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-system", Name: "kube-controller-manager"}, {Verb: "create", Resource: "serviceaccounts", Subresource: "token"}},
	"kube-scheduler":          {{Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-system", Name: "kube-scheduler"}, {Verb: "create", Resource: "pods", Subresource: "binding"}},
	"nginx":                   {{Verb: "get", Path: "/readyz"}},
	compile.Operator:          {{Verb: "*", Group: "*", Resource: "*"}},
}

// may asks whether the client has a right.
func (r *run) may(ctx context.Context, l *link, line *line, w right) bool {
	w.Name = strings.ReplaceAll(w.Name, "NODE", l.dial.Node)
	want := "may " + w.String()
	a, err := line.ask(ctx, http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", w.review())
	if err != nil {
		b := handshaken(err)
		return l.note(LayerAuthz, want, said(err), &b)
	}
	var review struct{ Status struct{ Allowed bool } }
	switch b := refused(a, l.dial.To); {
	case a.status != http.StatusCreated:
		return l.note(LayerAuthz, want, fmt.Sprintf("status %d: %s", a.status, short(string(a.body))), &b)
	case json.Unmarshal(a.body, &review) != nil || !review.Status.Allowed:
		b = refusals[http.StatusForbidden]
		return l.note(LayerAuthz, want, "may not "+w.String(), &b)
	}
	return l.note(LayerAuthz, want, want, nil)
}

// review is the question as the API takes it.
func (w right) review() []byte {
	spec := map[string]any{"resourceAttributes": map[string]string{
		"verb": w.Verb, "group": w.Group, "resource": w.Resource, "subresource": w.Subresource, "namespace": w.Namespace, "name": w.Name,
	}}
	if w.Path != "" {
		spec = map[string]any{"nonResourceAttributes": map[string]string{"verb": w.Verb, "path": w.Path}}
	}
	text, err := json.Marshal(map[string]any{"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec})
	if err != nil {
		return nil // strings always have a form in JSON
	}
	return text
}

// lookup is what a node says of a name.
type lookup struct {
	found []string
	err   error
}

// names compares what a name resolves to with the addresses of who is meant.
func (l *link) names(r *run, found *lookup) bool {
	want := r.addressesOf(l.dial)
	wanted := "an address"
	if len(want) > 0 {
		wanted = strings.Join(want, " or ")
	}
	wanted = l.dial.Host.V + " is " + wanted
	help := "look at /etc/hosts and /etc/resolv.conf of " + orOperator(l.dial.Node) + "; kthwc apply writes the block in /etc/hosts"
	switch {
	case found.err != nil:
		return l.note(LayerDNS, wanted, said(found.err), &blame{cause: "the name could not be looked up", help: help})
	case len(found.found) == 0:
		return l.note(LayerDNS, wanted, l.dial.Host.V+" has no address", &blame{cause: "nobody knows the name: it is in no hosts file and in no DNS", help: help})
	case len(want) > 0 && !slices.ContainsFunc(found.found, func(a string) bool { return slices.Contains(want, a) }):
		return l.note(LayerDNS, wanted, l.dial.Host.V+" is "+strings.Join(found.found, " and "), &blame{cause: "the name leads to another machine", help: help})
	}
	return l.note(LayerDNS, wanted, l.dial.Host.V+" is "+strings.Join(found.found, " and "), nil)
}

// addressesOf are the addresses of who is meant, where the model knows them.
func (r *run) addressesOf(d compile.Dial) []string {
	node := r.node(d.ToNode)
	if api := r.Cluster.API; node == nil && d.Host.V == api.Address.V.Name && api.Endpoint.V == compile.None {
		node = r.controllers()[0]
	}
	if node == nil {
		return nil
	}
	var out []string
	for _, a := range node.Addresses {
		out = append(out, a.V.String())
	}
	return out
}

// lookupScript prints the addresses of each name, a line for each.
const lookupScript = `for name; do
	getent ahosts -- "$name" | awk '{ print $1 }' | sort -u | tr '\n' ' '
	echo
done`

// resolved looks up every name that nodes dial, on those nodes.
func (r *run) resolved(ctx context.Context) map[d2]*lookup {
	wanted := map[string][]string{}
	for _, d := range r.Cluster.Dials {
		_, err := netip.ParseAddr(d.Host.V)
		if err != nil && d.Node != "" && r.tries(d) && !slices.Contains(wanted[d.Node], d.Host.V) {
			wanted[d.Node] = append(wanted[d.Node], d.Host.V)
		}
	}
	out := map[d2]*lookup{}
	for node, names := range wanted {
		found, err := r.lines(ctx, node, lookupScript, names...)
		for i, name := range names {
			l := &lookup{err: err}
			if err == nil && i < len(found) {
				l.found = strings.Fields(found[i])
			}
			out[d2{node, name}] = l
		}
	}
	return out
}

// lines runs a script on a node and gives the lines that it printed.
func (r *run) lines(ctx context.Context, node, script string, args ...string) ([]string, error) {
	host := r.Conns[node]
	if host == nil {
		return nil, fmt.Errorf("%s does not answer over SSH", node)
	}
	a, err := host.Run(ctx, apply.Command{Script: script, Args: args})
	if err := ended(a, err); err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(a.Stdout), "\n"), "\n"), nil
}

// material is public material, or what stands for it where there is none.
func (r *run) material(ref secret.Ref) []byte {
	text, err := r.Material(ref)
	if err != nil {
		return nil
	}
	return text
}
