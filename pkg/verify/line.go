package verify

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/secret"
)

// How long one connection, one handshake and one answer may take.
const (
	dialPatience   = 5 * time.Second
	answerPatience = 10 * time.Second
	maxAnswer      = 8 << 20
)

// open connects from a node, or from where the operator is.
func (r *run) open(ctx context.Context, from, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	if from == "" {
		return r.Dial(ctx, "tcp", address)
	}
	host := r.Conns[from]
	if host == nil {
		return nil, fmt.Errorf("%s does not answer over SSH", from)
	}
	return host.Forward(ctx, "tcp", address)
}

// line is an open connection to a component, over which requests go one after
// another.
type line struct {
	conn   net.Conn
	reader *bufio.Reader
	host   string // of requests
	peer   *x509.Certificate
}

func (l *line) Close() error { return l.conn.Close() }

// plainLine speaks without TLS.
func plainLine(conn net.Conn, host string) *line {
	return &line{conn: conn, reader: bufio.NewReader(conn), host: host}
}

// identity is how a client proves who it is: the certificate called cert, and
// the bundle of ca for the server's. Either may be empty.
func (r *run) identity(ca, cert, name string) (*tls.Config, error) {
	config := &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, RootCAs: x509.NewCertPool(), Time: r.Now}
	if ca != "" {
		bundle, err := r.Material(secret.Bundle(ca))
		if err != nil {
			return nil, notIssued(err)
		}
		config.RootCAs.AppendCertsFromPEM(bundle)
	}
	if cert == "" {
		return config, nil
	}
	public, err := r.Material(secret.Cert(cert))
	if err != nil {
		return nil, notIssued(err)
	}
	private, err := r.Material(secret.Key(cert))
	if err != nil {
		return nil, notIssued(err)
	}
	pair, err := tls.X509KeyPair(public, private)
	clear(private)
	if err != nil {
		return nil, notIssued(fmt.Errorf("%s and its key are no pair", cert))
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// errNotIssued says that material is not in the store, or not usable.
var errNotIssued = errors.New("what the store has does not suffice")

func notIssued(err error) error { return fmt.Errorf("%w: %w", errNotIssued, err) }

// secure makes the handshake on a connection, and closes it where that fails.
func secure(ctx context.Context, conn net.Conn, config *tls.Config) (*line, error) {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, ignore(conn.Close()))
	}
	state := secured.ConnectionState()
	return &line{conn: secured, reader: bufio.NewReader(secured), host: config.ServerName, peer: state.PeerCertificates[0]}, nil
}

// ignore is for errors that nobody can act on: of closing what failed before.
func ignore(error) error { return nil }

// answer is what a component said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// ask sends one request and reads the answer. Cancelling ends it.
func (l *line) ask(ctx context.Context, method, path string, body []byte) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ignore(l.conn.SetDeadline(time.Unix(1, 0))) })
	defer stop()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+l.host+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json, text/plain, */*")
	if err := request.Write(l.conn); err != nil {
		return nil, outOfTime(ctx, err)
	}
	response, err := http.ReadResponse(l.reader, request)
	if err != nil {
		return nil, outOfTime(ctx, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return &answer{response.StatusCode, response.Header, text}, outOfTime(ctx, err)
}

// outOfTime tells an answer that did not come in time from other errors.
func outOfTime(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("no answer within %s: %w", answerPatience, ctx.Err())
	}
	return err
}

// address is host and port as they are dialled.
func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// primary is a node's first address.
func primary(n *compile.Node) string { return n.Addresses[0].V.String() }

// server opens a line to the API server of a controller, from that controller,
// as the operator.
func (r *run) server(ctx context.Context, n *compile.Node) (*line, error) {
	return r.serverAs(ctx, n, r.operator().Cert)
}

// serverAs does the same with another client certificate; "" is nobody.
func (r *run) serverAs(ctx context.Context, n *compile.Node, cert string) (*line, error) {
	config, err := r.identity(r.operator().CA, cert, primary(n))
	if err != nil {
		return nil, err
	}
	conn, err := r.open(ctx, n.Name.V, address(primary(n), r.port("kube-apiserver", n.Name.V)))
	if err != nil {
		return nil, err
	}
	return secure(ctx, conn, config)
}

// operator is the operator's own kubeconfig.
func (r *run) operator() compile.Kubeconfig {
	for _, k := range r.Cluster.Kubeconfig {
		if k.Node == "" {
			return *k
		}
	}
	return compile.Kubeconfig{}
}

// port is where a component of a node listens; 0 where it does not.
func (r *run) port(component, node string) int { return r.listener(component, node).Port.V }

// listener is where a component of a node answers.
func (r *run) listener(component, node string) compile.Listener {
	for _, l := range r.Cluster.Listeners {
		if l.Component == component && l.Node == node {
			return l
		}
	}
	return compile.Listener{}
}
