package apply

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
)

// local runs scripts on this machine.
type local struct{ shell string }

func (l local) Run(ctx context.Context, c Command) (Result, error) {
	cmd := exec.CommandContext(ctx, l.shell, append([]string{"-c", c.Script, "kthwc"}, c.Args...)...)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, &out, &said
	if c.Watch != nil {
		cmd.Stdout = io.MultiWriter(&out, c.Watch)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return Result{out.Bytes(), said.Bytes(), cmd.ProcessState.ExitCode()}, err
}

func (local) Forward(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

func (local) Close() error { return nil }
