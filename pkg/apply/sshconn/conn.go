package sshconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// Conn is an open connection to one host. Any number of goroutines may use it.
type Conn struct {
	client  *ssh.Client
	label   string
	options Options
	undo    func()        // closes the connection and the bastions'
	dead    chan struct{} // closed when the connection has ended
	tasks   sync.WaitGroup

	mu       sync.Mutex
	why      error         // why it ended
	running  int           // sessions that are open
	released chan struct{} // closed, and made again, when a session ends

	asking   sync.Mutex
	password []byte // for sudo, once it was asked for
}

func newConn(d *dialler, h *hop, client *ssh.Client, undo func()) *Conn {
	c := &Conn{client: client, label: h.label, options: d.options, undo: sync.OnceFunc(undo),
		dead: make(chan struct{}), released: make(chan struct{})}
	c.tasks.Go(func() {
		c.end(client.Wait())
		close(c.dead)
	})
	c.tasks.Go(c.keepAlive)
	return c
}

// end notes why the connection ended, the first reason being the true one, and
// closes everything.
func (c *Conn) end(why error) {
	c.mu.Lock()
	if c.why == nil {
		c.why = why
	}
	c.mu.Unlock()
	c.undo()
}

var errClosed = errors.New("the connection was closed here")

// Close ends the connection, and with it what runs over it.
func (c *Conn) Close() error {
	c.end(errClosed)
	c.tasks.Wait()
	c.forget()
	return nil
}

// keepAlive asks the host for a sign of life, and ends the connection when
// several questions in a row have no answer.
func (c *Conn) keepAlive() {
	tick := time.NewTicker(c.options.KeepaliveEvery)
	defer tick.Stop()
	answered := make(chan struct{}, 1)
	missed, waiting := 0, false
	for {
		select {
		case <-c.dead:
			return
		case <-answered:
			missed, waiting = 0, false
		case <-tick.C:
			if missed++; waiting && missed > c.options.KeepaliveMissed {
				c.end(fmt.Errorf("the host has not answered for %v", time.Duration(missed)*c.options.KeepaliveEvery))
				return
			}
			if waiting {
				continue
			}
			waiting = true
			c.tasks.Go(func() {
				// Any answer will do: hosts that do not know the question refuse it.
				if _, _, err := c.client.SendRequest("keepalive@openssh.com", true, nil); err == nil {
					answered <- struct{}{}
				}
			})
		}
	}
}

// lost is the error for what needed the connection.
func (c *Conn) lost(begun bool, err error) *Error {
	c.mu.Lock()
	why := c.why
	c.mu.Unlock()
	if why != nil && !errors.Is(why, io.EOF) {
		err = why
	}
	e := fault(ConnectionLost, c.label, "the connection was lost", err)
	e.Begun, e.Runs = begun, begun
	return e
}

// isClosed is whether an error says only that the other side is gone.
func isClosed(err error) bool {
	for _, closed := range []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, os.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, closed) {
			return true
		}
	}
	return false
}

// Forward opens a connection from the host to an address that the host reaches:
// "tcp" and host:port, or "unix" and a path. Deadlines work on it.
func (c *Conn) Forward(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "tcp" && network != "unix" {
		return nil, fault(BadConfig, c.label, fmt.Sprintf("%q cannot be forwarded, tcp and unix can", network), nil)
	}
	far, err := c.client.DialContext(ctx, network, address)
	if err != nil {
		return nil, c.forwardFault(ctx, network+" "+address, err)
	}
	return withDeadlines(far), nil
}

func (c *Conn) forwardFault(ctx context.Context, to string, err error) error {
	var refused *ssh.OpenChannelError
	switch {
	case ctx.Err() != nil:
		return dialFault(c.label, ctx.Err())
	case errors.As(err, &refused) && refused.Reason == ssh.Prohibited:
		return fault(SessionRefused, c.label, "the host's sshd does not forward to "+to, err)
	case errors.As(err, &refused):
		e := channelFault(c.label, refused)
		e.What, e.Help = "the host does not reach "+to, "check that something listens there"
		return e
	}
	return c.lost(false, err)
}

// withDeadlines gives a forwarded connection the deadlines that ssh's lack:
// HTTP clients rely on them.
func withDeadlines(far net.Conn) net.Conn {
	near, inner := net.Pipe()
	both := sync.OnceFunc(func() {
		inner.Close()
		far.Close()
	})
	for _, way := range [][2]net.Conn{{inner, far}, {far, inner}} {
		go func() {
			_, _ = io.Copy(way[0], way[1]) // the end of one direction is the end of both
			both()
		}()
	}
	return near
}

// sessionPause and sessionTries: a host that refuses a session although none of
// ours runs may still be closing one; so many times in a row it is meant.
const (
	sessionPause = 50 * time.Millisecond
	sessionTries = 60
)

// open opens a session. A host that has as many as it allows (MaxSessions)
// refuses; then one of ours must end first. Nothing was begun, so it may wait.
func (c *Conn) open(ctx context.Context) (*ssh.Session, error) {
	for alone := 0; ; {
		c.mu.Lock()
		released, running := c.released, c.running
		c.mu.Unlock()
		s, err := c.newSession(ctx)
		var refused *ssh.OpenChannelError
		switch {
		case err == nil:
			return s, nil
		case ctx.Err() != nil:
			return nil, fault(Cancelled, c.label, "cancelled before the command began", context.Cause(ctx))
		case !errors.As(err, &refused):
			return nil, c.lost(false, err)
		}
		if alone++; running > 0 {
			alone = 0
		}
		if alone == sessionTries {
			return nil, fault(SessionRefused, c.label, "the host opens no session", err)
		}
		c.await(ctx, running, released)
	}
}

// await is until another session may be opened: one of ours ends, or, if there
// was none, a moment has passed.
func (c *Conn) await(ctx context.Context, running int, released <-chan struct{}) {
	var moment <-chan time.Time
	if running == 0 {
		moment = time.After(sessionPause)
	}
	select {
	case <-ctx.Done():
	case <-c.dead:
	case <-released:
	case <-moment:
	}
}

// newSession is ssh's, which knows no context.
func (c *Conn) newSession(ctx context.Context) (*ssh.Session, error) {
	type answer struct {
		s   *ssh.Session
		err error
	}
	opened := make(chan answer, 1)
	go func() {
		s, err := c.client.NewSession()
		opened <- answer{s, err}
	}()
	select {
	case a := <-opened:
		if a.err == nil {
			c.count(+1)
		}
		return a.s, a.err
	case <-ctx.Done():
		go func() {
			if a := <-opened; a.err == nil {
				a.s.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

func (c *Conn) count(change int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running += change
	if change < 0 {
		close(c.released)
		c.released = make(chan struct{})
	}
}
