// Package kube is the Kubernetes API as kthwc needs it: manifests by
// server-side apply, nodes that are cordoned and drained, objects to look at
// and to wait for, commands, logs and ports of pods.
//
// It promises that nothing is sent before a method asks for it; that every
// request is bounded in time; that what waits names what it waits for and the
// last reason why not; that [Client.Plan] changes nothing; and that
// [Client.Apply], ended at any moment, is completed by the next one. It deletes
// only what its inventory in the cluster says that it made, with the same UID.
// Objects are plain maps ([Object]): no caller needs a Kubernetes library.
//
// It refuses to speak without TLS or with a certificate that it cannot verify,
// reads neither environment nor kubeconfig nor proxy settings, and never shows
// the values of a Secret. What a server says is escaped before it is an error.
package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// Manager is the field manager of all that Apply writes.
const Manager = "kthwc"

// Dial opens a connection to the API server, wherever we are: directly,
// through SSH, or from inside the lab. It has the form of net.Dialer's method.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Access is how to reach an API server and who to be there.
type Access struct {
	Server        string        // https://host:port
	ServerName    string        // what the server's certificate must say; empty is the host of Server
	CA, Cert, Key []byte        // PEM: the roots of the server's certificate, our certificate and its key
	Dial          Dial          // nil dials directly
	Timeout       time.Duration // of one request, zero is 30 s; what streams (Exec, PortForward) is bounded by its context alone
}

// Client speaks to one API server as one identity. Any number of goroutines
// may use it.
type Client struct {
	access    Access
	base      *url.URL
	leaf      *x509.Certificate
	tls       *tls.Config
	transport *http.Transport
	http      *http.Client
	rest      *rest.RESTClient

	mu    sync.Mutex
	kinds map[string][]kind // by apiVersion, as the server listed them
}

// requestTimeout is the bound of a request where the caller gives none.
const requestTimeout = 30 * time.Second

// Connect makes a client. There is no traffic yet: what fails is what was
// given (kind Invalid).
func Connect(a Access) (*Client, error) {
	quiet()
	if a.Timeout <= 0 {
		a.Timeout = requestTimeout
	}
	if a.Dial == nil {
		a.Dial = (&net.Dialer{Timeout: a.Timeout}).DialContext
	}
	base, err := url.Parse(a.Server)
	if err != nil || base.Scheme != "https" || base.Host == "" {
		return nil, fault(Invalid, nil, "the API server's address %q is not of the form https://host:port", a.Server)
	}
	c := &Client{access: a, base: base, kinds: map[string][]kind{}}
	if err := c.identify(); err != nil {
		return nil, err
	}
	c.transport = newTransport(c.tls, a.Dial)
	// A redirect would take our certificate elsewhere; no API server sends one.
	c.http = &http.Client{Transport: c.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, c.speak(c.http)
}

// identify reads the certificates and the key.
func (c *Client) identify() error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(c.access.CA) {
		return fault(Invalid, nil, "there is no certificate among the authorities of the API server")
	}
	pair, err := tls.X509KeyPair(c.access.Cert, c.access.Key)
	if err != nil {
		return fault(Invalid, err, "the client certificate and its key cannot be used")
	}
	c.leaf = pair.Leaf
	name := c.access.ServerName
	if name == "" {
		name = c.base.Hostname()
	}
	c.tls = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: name, MinVersion: tls.VersionTLS12}
	return nil
}

// newTransport asks a quiet connection for a sign of life: one through SSH may
// end without anybody saying so.
func newTransport(config *tls.Config, dial Dial) *http.Transport {
	return &http.Transport{
		DialContext:         dial,
		TLSClientConfig:     config.Clone(),
		TLSHandshakeTimeout: 15 * time.Second,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		IdleConnTimeout:     90 * time.Second,
		MaxIdleConnsPerHost: 8,
	}
}

// codecs know no types: what we read is JSON, whatever its kind.
var codecs = sync.OnceValue(func() runtime.NegotiatedSerializer {
	return serializer.NewCodecFactory(runtime.NewScheme()).WithoutConversion()
})

// speak makes the REST client: it tries again what the server asks to be tried
// again (Retry-After), and reads that a connection was lost in between.
func (c *Client) speak(over *http.Client) error {
	client, err := rest.UnversionedRESTClientForConfigAndClient(&rest.Config{
		Host:           c.base.String(),
		QPS:            -1, // the server's own fairness decides
		WarningHandler: rest.NoWarnings{},
		ContentConfig:  rest.ContentConfig{NegotiatedSerializer: codecs(), ContentType: "application/json"},
	}, over)
	if err != nil {
		return fault(Invalid, err, "the API server's address %q cannot be used", c.access.Server)
	}
	c.rest = client
	return nil
}

// Close ends the connections that are open and unused.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Who is the common name that we present.
func (c *Client) Who() string { return c.leaf.Subject.CommonName }

// server is how errors name the other side.
func (c *Client) server() string { return "the API server at " + c.base.Host }
