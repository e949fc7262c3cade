package lab

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Ports of the loopback address that are forwarded into labs: below those that
// the kernel hands out. Each lab begins at one of its own.
const (
	firstPort = 17000
	manyPorts = 8000
	tryPorts  = 64
)

// Forwarded is the address on this machine's loopback that is forwarded to the
// cluster's API, while it is.
func (l *Lab) Forwarded() (address string, ok bool) { return l.serving(forward) }

// serveForward passes connections to this machine on into the lab.
func (l *Lab) serveForward(ctx context.Context) error {
	f, err := l.Fleet()
	if err != nil {
		return err
	}
	listener, err := l.listenLoopback()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	defer listener.Close()
	if err := l.announce(forward, listener.Addr().String()); err != nil {
		return err
	}
	for {
		c, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return err
		}
		go l.pass(ctx, c, f.API.Address)
	}
}

// listenLoopback takes the port that was this lab's before, or the next that is
// free after the one that its name stands for.
func (l *Lab) listenLoopback() (net.Listener, error) {
	before, _ := l.announced(forward)
	if at, err := netip.ParseAddrPort(before); err == nil && at.Addr().IsLoopback() {
		if listener, err := net.Listen("tcp", before); err == nil {
			return listener, nil
		}
	}
	hash := fnv.New32a()
	_, _ = io.WriteString(hash, l.id) // never fails
	first := int(hash.Sum32() % manyPorts)
	for i := range tryPorts {
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstPort+(first+i)%manyPorts))
		if !errors.Is(err, syscall.EADDRINUSE) {
			return listener, err
		}
	}
	return nil, &Error{Failed, fmt.Sprintf("%d ports from %d on are all taken", tryPorts, firstPort+first), "end what listens there"}
}

// pass joins a connection to one into the lab, until both directions have ended
// or one of them fails.
func (l *Lab) pass(ctx context.Context, near net.Conn, to netip.AddrPort) {
	defer near.Close()
	bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	far, err := l.Dial(bounded, "tcp", to.String())
	if err != nil {
		l.Progress(Event{Step{Kind: forward}, Waiting, err.Error()})
		return
	}
	defer far.Close()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{far, near}, {near, far}} {
		both.Go(func() {
			if passOneWay(way[0], way[1]) != nil {
				near.Close()
				far.Close()
			}
		})
	}
	both.Wait()
}

// passOneWay passes on what comes, and then its end.
func passOneWay(to, from net.Conn) error {
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return to.Close()
}
