package kube

import (
	"context"
	"io"
	"net"
)

// Exec runs a command in a container, and waits for its end. Exit is its exit
// code; an error is that it could not be run, or was lost. Stdin may be nil; an
// empty container is the pod's first. Output is bounded to 16 MiB each.
func (c *Client) Exec(ctx context.Context, namespace, pod, container string, command []string, stdin io.Reader) (stdout, stderr []byte, exit int, err error) {
	return nil, nil, 0, fault(Invalid, nil, "commands cannot be run yet")
}

// PortForward opens a connection to a TCP port of a pod. It lives as long as
// the context, or until it is closed.
func (c *Client) PortForward(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
	return nil, fault(Invalid, nil, "ports cannot be forwarded yet")
}
