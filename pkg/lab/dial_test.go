package lab

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/kthwc/kthwc/internal/readers"
)

// hollow is a lab of nothing but its namespaces.
func hollow(t *testing.T) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("makes namespaces: needs root")
	}
	for _, program := range []string{"unshare", "ip", "mount"} {
		readers.Path(t, program)
	}
	l, err := Open(Options{State: filepath.Join(t.TempDir(), "lab"), Cache: "/cache"})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.begin(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.end)
	t.Cleanup(func() {
		if err := l.namespaceKind().undo(t.Context(), Step{}); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		_, _ = l.sweep(t.Context())
	})
	if err := l.namespaceKind().ensure(t.Context(), Step{}); err != nil {
		t.Fatal(err)
	}
	return l
}

// Dial reaches what listens in the lab's network and nowhere else; nothing of
// the program stays there, however many dial at once.
func TestDial(t *testing.T) {
	l := hollow(t)
	pid, _ := l.holder()
	listener, err := entered(pid, func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "inside")
			c.Close()
		}
	}()
	address := listener.Addr().String()
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("the listener is in this machine's own network")
	}
	outside, _ := os.Readlink("/proc/self/ns/net")
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			c, err := l.Dial(t.Context(), "tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if said, err := io.ReadAll(c); err != nil || string(said) != "inside" {
				t.Errorf("%q %v", said, err)
			}
		})
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if at, _ := os.Readlink("/proc/thread-self/ns/net"); at != outside {
				t.Errorf("a goroutine that did not dial is in %s, not %s", at, outside)
			}
		})
	}
	all.Wait()
}

// What cannot be dialled is refused with what to write or to run.
func TestDialRefuses(t *testing.T) {
	l := hollow(t)
	for _, c := range []struct{ network, address string }{{"tcp", "worker-0:22"}, {"tcp", "10.240.0.20"}, {"udp", "10.240.0.20:53"}, {"unix", "/run/x"}} {
		_, err := l.Dial(t.Context(), c.network, c.address)
		var known *Error
		if !errors.As(err, &known) || known.Reason != Refused {
			t.Errorf("%s %s: %v", c.network, c.address, err)
		}
	}
	if err := l.namespaceKind().undo(t.Context(), Step{}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Dial(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, errNotUp) {
		t.Errorf("of a lab that is down: %v", err)
	}
}
