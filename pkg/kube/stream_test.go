package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	streamspdy "k8s.io/streaming/pkg/httpstream/spdy"
)

// kubelet is an API server that streams as a kubelet behind one does, by the
// library's own halves of the protocols.
func kubelet(t *testing.T, handle http.HandlerFunc) *Client {
	t.Helper()
	a := accessOf(t, "somebody")
	s := httptest.NewUnstartedServer(handle)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"http/1.1"}}
	s.StartTLS()
	t.Cleanup(s.Close)
	a.Server, a.ServerName, a.CA = s.URL, "example.com", pemOf(s.Certificate().Raw)
	return connect(t, a)
}

const (
	succeeded = `{"kind":"Status","status":"Success"}`
	failed3   = `{"kind":"Status","status":"Failure","reason":"NonZeroExitCode","message":"exit code 3","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}`
	notRun    = `{"kind":"Status","status":"Failure","reason":"InternalError","message":"no such file"}`
)

// shell answers on a WebSocket: it repeats what it is told, then says its status.
func shell(t *testing.T, status string) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		upgrade := websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}
		socket, err := upgrade.Upgrade(w, q, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer socket.Close()
		if q.URL.Query().Get("stdin") == "true" {
			for {
				_, m, err := socket.ReadMessage()
				if err != nil || m[0] == channelClose {
					break
				}
				m[0] = channelStdout
				_ = socket.WriteMessage(websocket.BinaryMessage, m)
			}
		}
		say := func(channel byte, text string) {
			_ = socket.WriteMessage(websocket.BinaryMessage, append([]byte{channel}, text...))
		}
		say(channelStderr, strings.Join(q.URL.Query()["command"], " ")+" in "+q.URL.Query().Get("container"))
		if status != "" {
			say(channelStatus, status)
		}
	}
}

// Output, input and exit codes come as they are.
func TestExec(t *testing.T) {
	ctx := bound(t, time.Minute)
	input := strings.Repeat("line\n", 20000)
	out, errs, exit, err := kubelet(t, shell(t, succeeded)).Exec(ctx, "ns", "pod", "c", []string{"cat", "a b"}, strings.NewReader(input))
	if string(out) != input || string(errs) != "cat a b in c" || exit != 0 || err != nil {
		t.Errorf("%d bytes, %q, %d, %v", len(out), errs, exit, err)
	}
	if _, _, exit, err := kubelet(t, shell(t, failed3)).Exec(ctx, "ns", "pod", "", []string{"false"}, nil); exit != 3 || err != nil {
		t.Error(exit, err)
	}
	_, _, _, err = kubelet(t, shell(t, notRun)).Exec(ctx, "ns", "pod", "", []string{"x"}, nil)
	expect(t, err, ServerFault, "could not be run: no such file")
	_, _, _, err = kubelet(t, shell(t, "")).Exec(ctx, "ns", "pod", "", []string{"x"}, nil)
	expect(t, err, Unreachable, "may still be running")
	_, _, _, err = kubelet(t, shell(t, "")).Exec(ctx, "ns/..", "pod", "", []string{"x"}, nil)
	expect(t, err, Invalid, "cannot be a name")
}

// A command that does not end ends with the context.
func TestExecIsBounded(t *testing.T) {
	c := kubelet(t, shell(t, succeeded))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	never, w := io.Pipe()
	defer w.Close()
	_, _, _, err := c.Exec(ctx, "ns", "pod", "", []string{"cat"}, never)
	expect(t, err, TimedOut, "may still be running")
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	_, _, _, err = c.Exec(ctx, "ns", "pod", "", []string{"cat"}, never)
	expect(t, err, Cancelled)
	flood := kubelet(t, func(w http.ResponseWriter, q *http.Request) {
		upgrade := websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}
		socket, err := upgrade.Upgrade(w, q, nil)
		for err == nil {
			err = socket.WriteMessage(websocket.BinaryMessage, append([]byte{channelStdout}, make([]byte, 1<<20)...))
		}
	})
	out, _, _, err := flood.Exec(bound(t, time.Minute), "ns", "pod", "", []string{"yes"}, nil)
	expect(t, err, Invalid, "more than 16 MiB")
	if len(out) != mostOutput {
		t.Error(len(out))
	}
}

// Where there is no WebSocket, SPDY does.
func TestExecBySPDY(t *testing.T) {
	for status, want := range map[string]int{"": 0, failed3: 3} {
		c := kubelet(t, spdyOnly(t, func(streams map[string]httpstream.Stream) {
			fmt.Fprint(streams["stdout"], "out")
			fmt.Fprint(streams["stderr"], "err")
			fmt.Fprint(streams["error"], status)
		}, 3))
		out, errs, exit, err := c.Exec(bound(t, time.Minute), "ns", "pod", "", []string{"x"}, nil)
		if string(out) != "out" || string(errs) != "err" || exit != want || err != nil {
			t.Errorf("%q %q %d %v", out, errs, exit, err)
		}
	}
}

// spdyOnly refuses WebSockets, takes streams, and closes them when act is done.
func spdyOnly(t *testing.T, act func(map[string]httpstream.Stream), count int) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodGet {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		w.Header().Set("X-Stream-Protocol-Version", q.Header.Get("X-Stream-Protocol-Version"))
		streams := make(chan httpstream.Stream, count)
		connection := streamspdy.NewResponseUpgrader().UpgradeResponse(w, q, func(s httpstream.Stream, _ <-chan struct{}) error {
			streams <- s
			return nil
		})
		if connection == nil {
			t.Error("not upgraded")
			return
		}
		defer connection.Close()
		serveStreams(q.Context(), streams, act, count)
		<-connection.CloseChan()
	}
}

func serveStreams(ctx context.Context, streams <-chan httpstream.Stream, act func(map[string]httpstream.Stream), count int) {
	named := map[string]httpstream.Stream{}
	for len(named) < count {
		select {
		case s := <-streams:
			named[s.Headers().Get("streamType")] = s
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Second):
			return
		}
	}
	act(named)
	for _, s := range named {
		s.Close()
	}
}

// echo is a pod that repeats what it is told, until it is told no more.
func echo(streams map[string]httpstream.Stream) { _, _ = io.Copy(streams["data"], streams["data"]) }

// nobodyListens is a pod without the port.
func nobodyListens(streams map[string]httpstream.Stream) {
	fmt.Fprint(streams["error"], "connection refused")
}

// tunnel takes SPDY inside a WebSocket.
func tunnel(t *testing.T, act func(map[string]httpstream.Stream)) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		upgrade := websocket.Upgrader{Subprotocols: []string{"SPDY/3.1+portforward.k8s.io"}}
		socket, err := upgrade.Upgrade(w, q, nil)
		if err != nil {
			t.Error(err)
			return
		}
		streams := make(chan httpstream.Stream, 2)
		connection, err := streamspdy.NewServerConnection(portforward.NewTunnelingConnection("server", socket), func(s httpstream.Stream, _ <-chan struct{}) error {
			streams <- s
			return nil
		})
		if err != nil {
			t.Error(err)
			return
		}
		defer connection.Close()
		serveStreams(q.Context(), streams, act, 2)
		<-connection.CloseChan()
	}
}

// A forwarded port carries both directions, says why it does not, and ends.
func TestPortForward(t *testing.T) {
	for name, serve := range map[string]func(func(map[string]httpstream.Stream)) http.HandlerFunc{
		"WebSocket": func(act func(map[string]httpstream.Stream)) http.HandlerFunc { return tunnel(t, act) },
		"SPDY":      func(act func(map[string]httpstream.Stream)) http.HandlerFunc { return spdyOnly(t, act, 2) },
	} {
		t.Run(name, func(t *testing.T) {
			conn := must[net.Conn](t)(kubelet(t, serve(echo)).PortForward(bound(t, time.Minute), "ns", "pod", 80))
			text := bytes.Repeat([]byte("0123456789"), 20000)
			go func() {
				_, _ = conn.Write(text)
				_ = conn.(interface{ CloseWrite() error }).CloseWrite()
			}()
			back, err := io.ReadAll(conn)
			if !bytes.Equal(back, text) || err != nil {
				t.Errorf("%d bytes of %d: %v", len(back), len(text), err)
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
			conn = must[net.Conn](t)(kubelet(t, serve(nobodyListens)).PortForward(bound(t, time.Minute), "ns", "pod", 81))
			_, err = io.ReadAll(conn)
			expect(t, err, Unreachable, "pod ns/pod:81: connection refused")
			conn.Close()
			ctx, cancel := context.WithCancel(t.Context())
			conn = must[net.Conn](t)(kubelet(t, serve(echo)).PortForward(ctx, "ns", "pod", 80))
			time.AfterFunc(100*time.Millisecond, cancel)
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("it outlived its context")
			}
		})
	}
}
