package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
)

// mostOutput bounds what a command may say on each stream.
const mostOutput = 16 << 20

// Exec runs a command in a container, and waits for its end. Exit is its exit
// code; an error is that it could not be run, or was lost. Stdin may be nil; an
// empty container is the pod's first. Each output is bounded to 16 MiB.
//
// It asks for a WebSocket, and for SPDY where the server (before 1.30) or
// something on the way has none.
func (c *Client) Exec(ctx context.Context, namespace, pod, container string, command []string, stdin io.Reader) (stdout, stderr []byte, exit int, err error) {
	path, err := podPath(namespace, pod, "exec")
	if err != nil {
		return nil, nil, 0, err
	}
	x := &execution{query: execQuery(container, command, stdin != nil), path: path, stdin: stdin}
	status, err := c.execWebSocket(ctx, x)
	if errors.Is(err, errNoWebSocket) {
		status, err = c.execSPDY(ctx, x)
	}
	if err != nil {
		return x.out.Bytes(), x.err.Bytes(), 0, err
	}
	exit, err = exitOf(status)
	return x.out.Bytes(), x.err.Bytes(), exit, err
}

func execQuery(container string, command []string, stdin bool) url.Values {
	q := url.Values{"command": command, "stdout": {"true"}, "stderr": {"true"}, "stdin": {strconv.FormatBool(stdin)}}
	if container != "" {
		q.Set("container", container)
	}
	return q
}

// execution is a command that is to run, and what it said.
type execution struct {
	path     string
	query    url.Values
	stdin    io.Reader
	out, err output
}

// output keeps what fits.
type output struct{ bytes.Buffer }

func (o *output) Write(p []byte) (int, error) {
	if o.Len()+len(p) > mostOutput {
		return 0, errTooMuch
	}
	return o.Buffer.Write(p)
}

var errTooMuch = fault(Invalid, nil, "the command says more than 16 MiB")

// exitOf reads the status by which a command ends.
func exitOf(s metav1.Status) (int, error) {
	if s.Status == metav1.StatusSuccess {
		return 0, nil
	}
	if s.Reason == "NonZeroExitCode" && s.Details != nil {
		for _, cause := range s.Details.Causes {
			if code, err := strconv.Atoi(cause.Message); err == nil && cause.Type == "ExitCode" {
				return code, nil
			}
		}
	}
	return 0, fault(ServerFault, nil, "the command could not be run: %s", s.Message)
}

// Channels of v5.channel.k8s.io: the first byte of every message.
const (
	channelStdin  = 0
	channelStdout = 1
	channelStderr = 2
	channelStatus = 3
	channelClose  = 255
)

func (c *Client) execWebSocket(ctx context.Context, x *execution) (status metav1.Status, err error) {
	socket, err := c.webSocket(ctx, x.path, x.query, "v5.channel.k8s.io")
	if err != nil {
		return status, err
	}
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	defer stop()
	defer socket.Close()
	if x.stdin != nil {
		go sendStdin(socket, x.stdin)
	}
	status, err = x.receive(socket)
	if ctx.Err() != nil || err != nil {
		return status, c.broken(ctx, err)
	}
	return status, nil
}

// sendStdin sends what there is, then the end. Its reader may outlive the
// command: nobody waits for it.
func sendStdin(socket *websocket.Conn, stdin io.Reader) {
	buffer := make([]byte, 1+32<<10)
	for {
		n, err := stdin.Read(buffer[1:])
		if n > 0 && socket.WriteMessage(websocket.BinaryMessage, buffer[:1+n]) != nil {
			return
		}
		if err != nil {
			_ = socket.WriteMessage(websocket.BinaryMessage, []byte{channelClose, channelStdin})
			return
		}
	}
}

// receive takes what the command says until its status comes.
func (x *execution) receive(socket *websocket.Conn) (status metav1.Status, err error) {
	for {
		_, message, err := socket.ReadMessage()
		if err != nil {
			return status, err
		}
		if len(message) == 0 {
			continue
		}
		switch body := message[1:]; message[0] {
		case channelStdout:
			_, err = x.out.Write(body)
		case channelStderr:
			_, err = x.err.Write(body)
		case channelStatus:
			return status, json.Unmarshal(body, &status)
		}
		if err != nil {
			return status, err
		}
	}
}

// broken is the error of a command whose connection ended before it did.
func (c *Client) broken(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, errTooMuch):
		return err
	case errors.Is(ctx.Err(), context.Canceled):
		return fault(Cancelled, nil, "the command was cancelled; it may still be running in the pod").because(ctx.Err())
	case ctx.Err() != nil:
		return fault(TimedOut, nil, "the command did not end in time; it may still be running in the pod").because(ctx.Err())
	}
	return fault(Unreachable, err, "the connection was lost while the command ran; it may still be running in the pod")
}

func (c *Client) execSPDY(ctx context.Context, x *execution) (status metav1.Status, err error) {
	transport, upgrader, err := c.spdy()
	if err != nil {
		return status, err
	}
	executor, err := remotecommand.NewSPDYExecutorForTransports(transport, upgrader, http.MethodPost, c.urlOf(x.path, x.query))
	if err != nil {
		return status, fault(Invalid, err, "the command cannot be run")
	}
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: x.stdin, Stdout: &x.out, Stderr: &x.err})
	var ended exec.CodeExitError
	switch {
	case errors.As(err, &ended):
		return metav1.Status{Status: metav1.StatusFailure, Reason: "NonZeroExitCode", Details: &metav1.StatusDetails{
			Causes: []metav1.StatusCause{{Type: "ExitCode", Message: strconv.Itoa(ended.Code)}}}}, nil
	case err != nil:
		return status, c.noStream(ctx, err)
	}
	return metav1.Status{Status: metav1.StatusSuccess}, nil
}
