package apply

import (
	"context"
	"io"
	"net"
)

// A Conn is a way to run commands on one host, as root. It may be used by
// several goroutines at once.
type Conn interface {
	// Run runs a POSIX shell script with arguments. The script is a constant of
	// this program: what varies is in the arguments, and what is secret comes by
	// standard input.
	Run(ctx context.Context, c Command) (Result, error)
	// Forward opens a connection from the host to an address that it reaches.
	Forward(ctx context.Context, network, address string) (net.Conn, error)
	Close() error
}

// Command is one run.
type Command struct {
	Script string
	Args   []string
	Stdin  io.Reader
	Watch  io.Writer // gets standard output as it comes; may be nil, must not block
}

// Result is what a script printed. A script that ended with another status
// than 0 has Status, and no error.
type Result struct {
	Stdout, Stderr []byte
	Status         int
}
