package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
	streamspdy "k8s.io/streaming/pkg/httpstream/spdy"
)

// forwarding is the protocol of forwarded ports.
const forwarding = "portforward.k8s.io"

// PortForward opens a connection to a TCP port of a pod. It lives as long as
// the context, or until it is closed. That nothing listens at the port is the
// error of its first Read.
func (c *Client) PortForward(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
	path, err := podPath(namespace, pod, "portforward")
	if err != nil {
		return nil, err
	}
	connection, err := c.forwardWebSocket(ctx, path)
	if errors.Is(err, errNoWebSocket) {
		connection, err = c.forwardSPDY(ctx, path)
	}
	if err != nil {
		return nil, err
	}
	f, err := openPort(connection, fmt.Sprintf("%s/%s:%d", namespace, pod, port), port)
	if err != nil {
		connection.Close()
		return nil, fault(ServerFault, err, "port %d of pod %s/%s cannot be reached", port, namespace, pod)
	}
	f.stop = context.AfterFunc(ctx, func() { connection.Close() })
	return f, nil
}

func (c *Client) forwardWebSocket(ctx context.Context, path string) (httpstream.Connection, error) {
	socket, err := c.webSocket(ctx, path, nil, "SPDY/3.1+"+forwarding)
	if err != nil {
		return nil, err
	}
	connection, err := streamspdy.NewClientConnectionWithPings(portforward.NewTunnelingConnection("", socket), 10*time.Second)
	if err != nil {
		socket.Close()
		return nil, c.lost(ctx, err)
	}
	return connection, nil
}

func (c *Client) forwardSPDY(ctx context.Context, path string) (httpstream.Connection, error) {
	transport, upgrader, err := c.spdy()
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.urlOf(path, nil).String(), nil)
	if err != nil {
		return nil, fault(Invalid, err, "the path %q cannot be asked for", path)
	}
	connection, _, err := spdy.NegotiateStreaming(upgrader, &http.Client{Transport: transport}, request, forwarding)
	if err != nil {
		return nil, c.noStream(ctx, err)
	}
	return connection, nil
}

// openPort opens the two streams of a port: what is said, and what goes wrong.
func openPort(connection httpstream.Connection, name string, port int) (*forward, error) {
	headers := http.Header{}
	headers.Set("port", strconv.Itoa(port))
	headers.Set("requestID", "0")
	headers.Set("streamType", "error")
	trouble, err := connection.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	// Nothing is ever said in this direction.
	if err := trouble.Close(); err != nil {
		return nil, err
	}
	headers.Set("streamType", "data")
	data, err := connection.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	f := &forward{Stream: data, connection: connection, name: name, trouble: make(chan string, 1)}
	go func() {
		text, _ := io.ReadAll(io.LimitReader(trouble, 1<<16))
		f.trouble <- string(text)
	}()
	return f, nil
}

// forward is a connection to a port of a pod.
type forward struct {
	httpstream.Stream
	connection httpstream.Connection
	name       string
	trouble    chan string // what went wrong, empty for nothing, once the stream has ended
	stop       func() bool
	once       sync.Once
}

// Read gives the pod's words, and at their end why there are no more.
func (f *forward) Read(p []byte) (int, error) {
	n, err := f.Stream.Read(p)
	if n > 0 || err == nil {
		return n, err
	}
	select {
	case text := <-f.trouble:
		f.trouble <- text
		if text != "" {
			return 0, fault(Unreachable, nil, "pod %s: %s", f.name, text)
		}
	case <-time.After(time.Second):
	}
	return 0, err
}

// Close ends both directions.
func (f *forward) Close() error {
	f.once.Do(func() { f.stop() })
	return f.connection.Close()
}

// CloseWrite says that nothing more will be sent.
func (f *forward) CloseWrite() error { return f.Stream.Close() }

// address is a pod's port; it has no address that could be dialled.
type address string

func (a address) Network() string { return "kubernetes" }
func (a address) String() string  { return string(a) }

func (f *forward) LocalAddr() net.Addr  { return address("here") }
func (f *forward) RemoteAddr() net.Addr { return address(f.name) }

// Streams know no deadlines: who sets one would wait for ever.
var errNoDeadline = errors.New("a forwarded port has no deadlines: use the context of PortForward")

func (f *forward) SetDeadline(time.Time) error      { return errNoDeadline }
func (f *forward) SetReadDeadline(time.Time) error  { return errNoDeadline }
func (f *forward) SetWriteDeadline(time.Time) error { return errNoDeadline }
