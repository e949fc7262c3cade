// Package sshconn reaches hosts over SSH: it dials, runs commands and forwards
// connections. It is the only package that speaks SSH.
//
// It promises that a host is who known_hosts or cluster.yaml says, that a
// command is begun only when it has arrived whole, that every error says what
// the user does, and that what is sent to a host is in no error, log, argument
// or environment.
//
// It refuses unknown host keys, always: there is no switch. It does not log in
// by password, and it never asks for anything itself; the caller hands it a
// function that does, or none.
package sshconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Target is a host to reach. What is zero here is taken from ~/.ssh/config;
// what is not wins over it, as ssh's own flags do.
type Target struct {
	Name    string // the node's name, for errors
	Address string // IP or name; Host patterns of ~/.ssh/config see it
	Port    int
	User    string
	HostKey string // "ssh-ed25519 AAAA…": the only key that is accepted
	Bastion string // user@host:port, instead of ProxyJump and ProxyCommand
}

func (t Target) label() string {
	at := t.Address
	if t.Port != 0 {
		at = net.JoinHostPort(t.Address, strconv.Itoa(t.Port))
	}
	if t.User != "" {
		at = t.User + "@" + at
	}
	if t.Name == "" || t.Name == t.Address {
		return at
	}
	return t.Name + " (" + at + ")"
}

// Options are what all hosts have in common. This package reads no environment:
// Home, LocalUser and Getenv say what there is.
type Options struct {
	ConfigFile       string // ~/.ssh/config; "" reads none
	SystemConfigFile string // /etc/ssh/ssh_config; "" reads none
	Home             string
	LocalUser        string
	Getenv           func(string) string // for SSH_AUTH_SOCK and ${…} in the configuration; nil is an empty environment
	KnownHosts       []string            // instead of the configuration's files

	// Dial opens the connection to the first hop; nil is the network as it is.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	Passphrase   PassphraseFunc                                         // nil: encrypted key files are passed over
	SudoPassword func(ctx context.Context, host string) ([]byte, error) // nil: sudo must not ask

	ConnectTimeout   time.Duration // of TCP, 10 s
	HandshakeTimeout time.Duration // of SSH and the login at each hop, 20 s
	KeepaliveEvery   time.Duration // 5 s
	KeepaliveMissed  int           // so many unanswered end the connection, 3
	Attempts         int           // to dial, where nothing was begun and another may help; 3
	Patience         time.Duration // where nobody answered for so long there is no other attempt: TCP itself has tried several times by then; 3 s
	Pause            time.Duration // before the second attempt, doubled before each other; 500 ms
	Parallel         int           // DialAll's connections that are being opened at once; 8, under sshd's MaxStartups of 10
	SudoTimeout      time.Duration // until sudo starts a command, 30 s
	EndTimeout       time.Duration // until a cancelled command has ended, after each signal; 2 s
}

func orDefault[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}

func (o Options) withDefaults() Options {
	orDefault(&o.ConnectTimeout, 10*time.Second)
	orDefault(&o.HandshakeTimeout, 20*time.Second)
	orDefault(&o.KeepaliveEvery, 5*time.Second)
	orDefault(&o.KeepaliveMissed, 3)
	orDefault(&o.Attempts, 3)
	orDefault(&o.Patience, 3*time.Second)
	orDefault(&o.Pause, 500*time.Millisecond)
	orDefault(&o.Parallel, 8)
	orDefault(&o.SudoTimeout, 30*time.Second)
	orDefault(&o.EndTimeout, 2*time.Second)
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if o.Getenv == nil {
		o.Getenv = func(string) string { return "" }
	}
	return o
}

// dialler is what Dial needs for one set of options.
type dialler struct {
	options Options
	env     environment
	shared  *opened
}

// opened are the key files that were decrypted.
type opened struct {
	mu     sync.Mutex
	opened map[string]ssh.AlgorithmSigner
}

func newDialler(o Options) *dialler {
	o = o.withDefaults()
	return &dialler{options: o, shared: &opened{opened: map[string]ssh.AlgorithmSigner{}},
		env: environment{o.ConfigFile, o.SystemConfigFile, o.Home, o.LocalUser, o.Getenv}}
}

// Dial opens a connection. It tries again where another attempt may help and
// nothing was begun: never after a key was refused.
func Dial(ctx context.Context, t Target, o Options) (*Conn, error) {
	return newDialler(o).dial(ctx, t)
}

// Dialled is one answer of DialAll.
type Dialled struct {
	Target Target
	Conn   *Conn // nil if Err is not
	Err    error
}

// DialAll opens a connection to every target, a few at a time, and answers in
// their order. Whoever calls it closes every Conn.
func DialAll(ctx context.Context, targets []Target, o Options) []Dialled {
	d := newDialler(o)
	out := make([]Dialled, len(targets))
	slots := make(chan struct{}, d.options.Parallel)
	var all sync.WaitGroup
	for i, t := range targets {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			c, err := d.dial(ctx, t)
			out[i] = Dialled{t, c, err}
		})
	}
	all.Wait()
	return out
}

func (d *dialler) dial(ctx context.Context, t Target) (*Conn, error) {
	way, err := d.hops(t)
	if err != nil {
		return nil, err
	}
	pause, begun := d.options.Pause, time.Now()
	for attempt := 1; ; attempt++ {
		c, err := d.once(ctx, way)
		silent := KindOf(err) == TimedOut || KindOf(err) == Unreachable
		if err == nil || attempt >= d.options.Attempts || !kinds[KindOf(err)].transient || ctx.Err() != nil || silent && time.Since(begun) > d.options.Patience {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// once goes through every hop.
func (d *dialler) once(ctx context.Context, way []*hop) (*Conn, error) {
	raw, err := d.reach(ctx, way[0])
	if err != nil {
		return nil, err
	}
	closers := []func() error{raw.Close}
	undo := func() {
		for i := len(closers) - 1; i >= 0; i-- {
			_ = closers[i]()
		}
	}
	for i, h := range way {
		client, err := d.handshake(ctx, h, raw)
		if err != nil {
			undo()
			return nil, err
		}
		closers = append(closers, client.Close)
		if i == len(way)-1 {
			return newConn(d, h, client, undo), nil
		}
		if raw, err = d.through(ctx, client, way[i+1]); err != nil {
			undo()
			return nil, err
		}
		closers = append(closers, raw.Close)
	}
	panic("unreachable: a way has at least one hop")
}

// through asks a bastion for the next hop.
func (d *dialler) through(ctx context.Context, client *ssh.Client, next *hop) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.options.ConnectTimeout)
	defer cancel()
	c, err := client.DialContext(ctx, "tcp", next.address())
	if err != nil {
		return nil, dialFault(next.label, err)
	}
	return c, nil
}

// progress is how far a handshake went.
type progress struct {
	ring            *keyring
	hostKey         error // what was wrong with it
	trusted, offers bool
}

// handshake makes an SSH client of a connection, or closes it.
func (d *dialler) handshake(parent context.Context, h *hop, raw net.Conn) (*ssh.Client, error) {
	trust, err := trustOf(h.label, firstOf(h.knownName, h.host), h.knownPort(), h.pin, h.knownHosts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	clock := newStopwatch(d.options.HandshakeTimeout, func() { cancel(context.DeadlineExceeded) })
	defer clock.stop()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	p := &progress{ring: d.keys(ctx, h, clock)}
	defer p.ring.close()
	config := &ssh.ClientConfig{
		User:              h.user,
		HostKeyAlgorithms: trust.algorithms(),
		HostKeyCallback: func(name string, remote net.Addr, key ssh.PublicKey) error {
			p.hostKey = trust.check(name, remote, key)
			p.trusted = p.hostKey == nil
			return p.hostKey
		},
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			p.offers = true
			return p.ring.signers, nil
		})},
	}
	conn, channels, requests, err := ssh.NewClientConn(raw, h.address(), config)
	if !stop() && err == nil {
		conn.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, d.handshakeFault(parent, ctx, h, raw, trust, p, err)
	}
	return ssh.NewClient(conn, channels, requests), nil
}

// stopwatch runs out after a time in which it was not stopped.
type stopwatch struct {
	timer *time.Timer
	whole time.Duration
}

func newStopwatch(whole time.Duration, out func()) *stopwatch {
	return &stopwatch{time.AfterFunc(whole, out), whole}
}

func (s *stopwatch) stop()  { s.timer.Stop() }
func (s *stopwatch) start() { s.timer.Reset(s.whole) }

// knownPort is the port by which known_hosts names the host; an alias has none.
func (h *hop) knownPort() int {
	if h.knownName != "" {
		return 22
	}
	return h.port
}

func (d *dialler) handshakeFault(parent, ctx context.Context, h *hop, raw net.Conn, t *trust, p *progress, err error) error {
	var negotiation *ssh.AlgorithmNegotiationError
	proxy, isProxy := raw.(*proxyConn)
	switch {
	case parent.Err() != nil:
		return dialFault(h.label, parent.Err())
	case p.hostKey != nil:
		return p.hostKey
	case p.offers && ctx.Err() == nil && !isClosed(err):
		e := fault(NoAcceptedKey, h.label, "the host accepts none of our keys for "+h.user+"; "+p.ring.tried(), err)
		if len(p.ring.signers) > 4 {
			e.Help = "hosts stop after a few keys: name the right one by IdentityFile in ~/.ssh/config, and set IdentitiesOnly yes"
		}
		return e
	case ctx.Err() != nil:
		return fault(TimedOut, h.label, "something listens, but there was no login in time", context.Cause(ctx))
	case errors.As(err, &negotiation) && t.pinned != nil:
		return fault(HostKeyNotPinned, h.label, fmt.Sprintf("the host has no %s key, which cluster.yaml pins", t.pinned.Type()), err)
	case errors.As(err, &negotiation):
		return fault(Protocol, h.label, "the host and this program have no algorithm in common", err)
	case isProxy:
		return fault(Proxy, h.label, "the ProxyCommand "+strconv.Quote(proxy.name)+" gives no connection; "+said(proxy.errors.bytes()), err)
	case !isClosed(err):
		return fault(Protocol, h.label, "what answers is not an SSH server", err)
	}
	return fault(ConnectionLost, h.label, "the host closed the connection before the login", err)
}

// asFault keeps an error that is one of ours already.
func asFault(kind Kind, host, what string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return fault(kind, host, what, err)
}
