package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// serves runs a servant in this process, and gives where it says that it serves.
func serves(t *testing.T, l *Lab, part string) (address string, end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(ctx, part) }()
	err := wait(t.Context(), 5*time.Second, func() error {
		if address, _ = l.announced(part); address == "" {
			return errors.New("nothing is announced")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	end = func() error { cancel(); return <-ended }
	t.Cleanup(cancel)
	return address, end
}

// echo is a server in the lab that sends back what it gets, when it has got all.
func echo(t *testing.T, l *Lab) netip.AddrPort {
	t.Helper()
	pid, _ := l.holder()
	listener, err := entered(pid, func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				text, _ := io.ReadAll(c)
				_, _ = c.Write(text)
			}()
		}
	}()
	return netip.MustParseAddrPort(listener.Addr().String())
}

// What goes to the forwarded port arrives in the lab, to its last byte and both
// ways; the port is the same after a restart, and another where it is taken.
func TestForward(t *testing.T) {
	l := hollow(t)
	for _, part := range []string{forward, resolve} {
		mustMkdir(t, l.path(part))
	}
	f := &Fleet{API: Endpoint{Address: echo(t, l)}}
	if err := l.writeFleet(f); err != nil {
		t.Fatal(err)
	}
	first, end := serves(t, l, forward)
	c, err := net.Dial("tcp", first)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "to the API"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(c); err != nil || string(said) != "to the API" {
		t.Errorf("what came back: %q %v", said, err)
	}
	if err := end(); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	if c, err := net.Dial("tcp", first); err == nil {
		c.Close()
		t.Error("it listens after its end")
	}
	if _, ok := l.Forwarded(); ok {
		t.Error("a servant that has ended is said to serve")
	}
	listener, err := l.listenLoopback()
	if err != nil || listener.Addr().String() != first {
		t.Fatalf("after a restart it is at %v, not %s: %v", listener, first, err)
	}
	defer listener.Close()
	other, err := l.listenLoopback()
	if err != nil || other.Addr().String() == first {
		t.Fatalf("a port that is taken: %v %v", other, err)
	}
	other.Close()
}

// A connection to a cluster that does not answer ends instead of hanging.
func TestForwardToNobody(t *testing.T) {
	l := hollow(t)
	mustMkdir(t, l.path(forward))
	if err := l.writeFleet(&Fleet{API: Endpoint{Address: netip.MustParseAddrPort("127.0.0.1:1")}}); err != nil {
		t.Fatal(err)
	}
	address, _ := serves(t, l, forward)
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) || len(text) > 0 {
		t.Errorf("%q %v", text, err)
	}
}

// The resolver answers in the lab's network, where machines ask it.
func TestResolverIsInTheLab(t *testing.T) {
	l := hollow(t)
	mustMkdir(t, l.path(resolve))
	if err := l.writeFleet(&Fleet{Gateway: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}}); err != nil {
		t.Fatal(err)
	}
	_, end := serves(t, l, resolve)
	pid, _ := l.holder()
	for _, network := range []string{"udp", "tcp"} {
		ask := resolverOf(func(ctx context.Context, _, _ string) (net.Conn, error) {
			return entered(pid, func() (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:53") })
		})
		if got, err := ask.LookupHost(t.Context(), ExternalName+"."); err != nil || len(got) != 1 || got[0] != "127.0.0.1" {
			t.Errorf("over %s: %v %v", network, got, err)
		}
	}
	if err := end(); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}

// A servant that nobody knows is refused.
func TestServeRefuses(t *testing.T) {
	var known *Error
	if err := (&Lab{}).Serve(t.Context(), boot); !errors.As(err, &known) || known.Reason != Refused {
		t.Errorf("%v", err)
	}
}
