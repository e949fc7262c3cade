package verify

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/kthwc/kthwc/internal/printable"
	"github.com/kthwc/kthwc/pkg/compile"
)

// component is what runs behind a name of the model.
type component struct {
	unit  string
	layer Layer
}

var components = map[string]component{
	"sshd":                    {"ssh.service", LayerHost},
	"etcd":                    {"etcd.service", LayerEtcd},
	"etcd-peer":               {"etcd.service", LayerEtcd},
	"kube-apiserver":          {"kube-apiserver.service", LayerControl},
	"kube-controller-manager": {"kube-controller-manager.service", LayerControl},
	"kube-scheduler":          {"kube-scheduler.service", LayerControl},
	"nginx":                   {"nginx.service", LayerControl},
	"containerd":              {"containerd.service", LayerKubelet},
	"kubelet":                 {"kubelet.service", LayerKubelet},
	"kube-proxy":              {"kube-proxy.service", LayerService},
	"kthwc-api-proxy":         {"kthwc-api-proxy.service", LayerTCP},
	"kthwc-pod-routes":        {"kthwc-pod-routes.service", LayerRoute},
}

// unitLayer is the layer of a unit; host where it is nobody's.
func unitLayer(unit string) Layer {
	if c, ok := components[strings.TrimSuffix(unit, ".service")]; ok {
		return c.layer
	}
	return LayerHost
}

// notRunning blames a component that does not answer because it does not listen.
func notRunning(node, name string, port int) blame {
	c := components[name]
	return broken(c.layer, fmt.Sprintf("nothing listens on port %d of %s: %s does not run there", port, node, c.unit),
		fmt.Sprintf("on %s: systemctl status %s; journalctl -u %s -n 50", node, c.unit, c.unit))
}

// unreached says why a connection did not come about.
func (r *run) unreached(d compile.Dial, err error) blame {
	target, name := r.target(d)
	state := r.states[target]
	var dns *net.DNSError
	switch {
	case errors.Is(err, errNotIssued):
		return broken(LayerTLS, "the store has not what this connection needs: "+err.Error(), "kthwc pki issue, then kthwc apply")
	case errors.As(err, &dns):
		return broken(LayerDNS, fmt.Sprintf("%s has no address here", d.Host.V), "add it to DNS or /etc/hosts")
	case target != "" && state == nil:
		return broken(LayerHost, target+" does not answer at all", "is it powered on, and does it have its address?")
	case target != "" && !state.Ports[d.Port.V]:
		return notRunning(target, name, d.Port.V)
	case target == "":
		return broken(LayerTCP, "the balancer has no API server that passes its health check, or does not run", "look at the balancer's view of its backends, and at the port 80 of each controller")
	}
	return broken(LayerTCP, fmt.Sprintf("%s listens on port %d, and what %s sends does not arrive: a firewall or a route is in the way", target, d.Port.V, orOperator(d.Node)),
		fmt.Sprintf("on %s: nft list ruleset; iptables-save. In a cloud: the firewall's rules for port %d", target, d.Port.V))
}

// target is the node that answers a dial, and its component: of a proxy on the
// dialling node, that proxy; "" behind a balancer.
func (r *run) target(d compile.Dial) (node, name string) {
	switch {
	case d.Via == "kthwc-api-proxy":
		return d.Node, d.Via
	case d.Via == compile.Balancer:
		return "", d.Via
	case d.ToNode == "" && d.To == "kube-apiserver":
		return r.controllers()[0].Name.V, d.To
	}
	return d.ToNode, d.To
}

func orOperator(node string) string {
	if node == "" {
		return "the operator"
	}
	return node
}

// handshakes are the ways in which a handshake fails, the first that applies.
var handshakes = []struct {
	applies func(error) bool
	blame   blame
}{
	{isA[x509.HostnameError], broken(LayerTLS, "the certificate is for other names: it is not the one that was issued for this server, or the server has another address", "kthwc diff --live shows the file; kthwc apply brings the right one")},
	{isA[x509.UnknownAuthorityError], broken(LayerTLS, "the certificate is of another authority: a foreign certificate, or one from before the authority was replaced", "compare the issuer with `kthwc pki inspect`; kthwc apply brings the right certificate")},
	{isA[x509.CertificateInvalidError], broken(LayerTLS, "the certificate is expired, or not for servers", "kthwc pki renew, then kthwc apply; check the clock too")},
	{says("remote error: tls"), broken(LayerAuthn, "the server refuses the client's certificate: it trusts another authority", "compare the server's client CA file with the store: kthwc plan")},
	{says("first record does not look like a TLS handshake"), broken(LayerTLS, "the server speaks without TLS", "something else listens on this port: ss -ltnp")},
	{isTimeout, broken(LayerTCP, "the connection is open and nothing comes back: packets are lost, or the server hangs", "try again; then look at the server's log, and at the MTU on the way")},
	{closedEarly, broken(LayerTCP, "the connection was closed before the server showed a certificate: a proxy on the way has no server behind it", "look at the proxy's or the balancer's view of its servers")},
}

func isA[E error](err error) bool {
	var target E
	return errors.As(err, &target)
}

func says(text string) func(error) bool {
	return func(err error) bool { return strings.Contains(err.Error(), text) }
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

func closedEarly(err error) bool { return says("EOF")(err) || says("reset by peer")(err) }

// handshaken says why a handshake failed.
func handshaken(err error) blame {
	for _, h := range handshakes {
		if h.applies(err) {
			return h.blame
		}
	}
	return broken(LayerTLS, "the handshake failed", "openssl s_client shows what the server offers")
}

// refusals are what components' answers mean.
var refusals = map[int]blame{
	http.StatusUnauthorized: broken(LayerAuthn, "the server does not take the client's certificate for anybody: its client CA file is missing or another authority's", "compare the server's client CA file with the store: kthwc plan"),
	http.StatusForbidden:    broken(LayerAuthz, "the client is known and may not do this: a role or its binding is missing", "kthwc apply brings the manifests of roles; kubectl auth can-i --list --as NAME"),
}

// refused says what an answer that is not the wanted one means. What is neither
// of the client's identity nor of its rights is the component's own matter.
func refused(a *answer, name string) blame {
	if b, ok := refusals[a.status]; ok {
		return b
	}
	c := components[name]
	return broken(c.layer, fmt.Sprintf("%s answers that it does not work", name), fmt.Sprintf("journalctl -u %s -n 50", c.unit))
}

// short is the beginning of a text on one line, for a table.
func short(text string) string {
	text = printable.Text(strings.Join(strings.Fields(text), " "))
	const most = 160
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	if text == "" {
		return "nothing"
	}
	return text
}

// said is an error on one line, without the advice that comes with it.
func said(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n  help: ")
	return short(text)
}
