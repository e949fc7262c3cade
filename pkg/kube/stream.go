package kube

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
	streamspdy "k8s.io/streaming/pkg/httpstream/spdy"
)

// client-go's own WebSockets and SPDY connections dial by themselves, whatever
// its configuration says. Here both go the way that Access gives.

// errNoWebSocket is that the server cannot speak so: something older may do.
var errNoWebSocket = errors.New("no WebSocket")

func (c *Client) urlOf(path string, query url.Values) *url.URL {
	u := *c.base
	u.Path, u.RawQuery = path, query.Encode()
	return &u
}

// webSocket opens one. Where the server refuses it for a reason of its own
// (forbidden, no such pod), that is the error.
func (c *Client) webSocket(ctx context.Context, path string, query url.Values, protocol string) (*websocket.Conn, error) {
	u := c.urlOf(path, query)
	u.Scheme = "wss"
	dialer := websocket.Dialer{
		NetDialContext:   c.access.Dial,
		TLSClientConfig:  c.tls,
		HandshakeTimeout: c.access.Timeout,
		Subprotocols:     []string{protocol},
	}
	socket, answer, err := dialer.DialContext(ctx, u.String(), nil)
	switch {
	case err == nil && socket.Subprotocol() != protocol:
		socket.Close()
		return nil, errNoWebSocket
	case err == nil:
		return socket, nil
	case answer == nil:
		return nil, c.lost(ctx, err)
	}
	return nil, c.noHandshake(answer)
}

// noHandshake reads why the server opened no WebSocket.
func (c *Client) noHandshake(answer *http.Response) error {
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
	if err != nil {
		return errNoWebSocket
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return c.refused(answer.StatusCode, body)
	}
	return errNoWebSocket
}

// spdy is what opens SPDY connections.
func (c *Client) spdy() (http.RoundTripper, spdy.Upgrader, error) {
	upgrade, err := streamspdy.NewRoundTripperWithConfig(streamspdy.RoundTripperConfig{UpgradeTransport: c.transport, PingPeriod: 5 * time.Second})
	if err != nil {
		return nil, nil, fault(Invalid, err, "a stream cannot be opened")
	}
	return upgrade, spdy.NewUpgraderForStreaming(upgrader{upgrade, c}), nil
}

// upgrader keeps the code of a refusal, which the library's forgets.
type upgrader struct {
	*streamspdy.SpdyRoundTripper
	client *Client
}

func (u upgrader) NewConnection(answer *http.Response) (httpstream.Connection, error) {
	if answer.StatusCode == http.StatusSwitchingProtocols {
		return u.SpdyRoundTripper.NewConnection(answer)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
	if err != nil {
		return nil, err
	}
	return nil, u.client.refused(answer.StatusCode, body)
}

// noStream is the error of a stream that was not opened, or did not last.
func (c *Client) noStream(ctx context.Context, err error) error {
	switch {
	case KindOf(err) != Unclassified:
		return err
	case ctx.Err() != nil:
		return c.broken(ctx, err)
	}
	return fault(ServerFault, err, "%s opens no stream", c.server())
}
