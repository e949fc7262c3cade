package applytest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/pkg/apply/sshconn"
	"github.com/kthwc/kthwc/pkg/lab"
)

// TestMain is three programs: a servant of the lab, an operator, and the tests.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 5 && os.Args[1] == "lab" && os.Args[2] == "serve":
		os.Exit(serve(os.Args[3], os.Args[4]))
	case os.Getenv(operatorVariable) != "":
		os.Exit(operate(os.Getenv(operatorVariable)))
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		_ = down()
		os.Exit(130)
	}()
	code := m.Run()
	if err := down(); err != nil {
		fmt.Fprintln(os.Stderr, "the lab does not go down:", err)
		code = 1
	}
	os.Exit(code)
}

func serve(part, state string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	l, err := lab.Open(lab.Options{State: state, Cache: state, Getenv: os.Getenv})
	if err == nil {
		err = l.Serve(ctx, part)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// fleet are the machines. One of them is not logged in to as root.
var fleet = &lab.Fleet{
	Cluster: cluster,
	Gateway: []netip.Prefix{netip.MustParsePrefix("10.250.0.1/24")},
	Machines: []lab.Machine{
		{Name: "alpha", Addresses: []netip.Prefix{netip.MustParsePrefix("10.250.0.11/24")}, User: "root", Port: 22},
		{Name: "beta", Addresses: []netip.Prefix{netip.MustParsePrefix("10.250.0.12/24")}, User: "ops", Port: 2222},
		{Name: "gamma", Addresses: []netip.Prefix{netip.MustParsePrefix("10.250.0.13/24")}, User: "root", Port: 22},
	},
	API: lab.Endpoint{Name: "10.250.0.11", Address: netip.MustParseAddrPort("10.250.0.11:6443")},
}

// rig is the lab of this run of the tests: made when the first test wants it.
var rig struct {
	sync.Mutex
	lab  *lab.Lab
	err  error
	free chan *machine
}

// up makes the lab; a machine that lacks something for it skips the test.
func up(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the lab makes namespaces and mounts, which only root may: run the tests as root to run this one")
	}
	for _, program := range []string{"systemd-nspawn", "mmdebstrap", "ip", "ssh", "ssh-keygen", "unshare", "nsenter", "setpriv"} {
		readers.Path(t, program)
	}
	rig.Lock()
	defer rig.Unlock()
	if rig.lab == nil && rig.err == nil {
		rig.err = begin()
	}
	var lacking *lab.Error
	if asError(rig.err, &lacking) && lacking.Reason == lab.Lacking {
		readers.Missing(t, lacking.Message)
	}
	if rig.err != nil {
		t.Fatal(rig.err)
	}
}

// begin brings the machines up, in memory where there is such a place: they
// wait for their disks all the time.
func begin() error {
	dir, err := os.MkdirTemp("/dev/shm", "kthwc-rig-")
	if err != nil {
		if dir, err = os.MkdirTemp("", "kthwc-rig-"); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return err
		}
		cache = filepath.Join(home, ".cache")
	}
	l, err := lab.Open(lab.Options{State: filepath.Join(dir, "lab"), Cache: filepath.Join(cache, "kthwc", "lab"), Self: self, Getenv: os.Getenv})
	if err != nil {
		return err
	}
	rig.lab = l
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if _, err := l.Up(ctx, fleet); err != nil {
		return err
	}
	rig.free = make(chan *machine, len(fleet.Machines))
	for _, m := range fleet.Machines {
		made := &machine{Machine: m}
		if err := made.park(ctx); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		rig.free <- made
	}
	return nil
}

func down() error {
	rig.Lock()
	defer rig.Unlock()
	if rig.lab == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := rig.lab.Down(ctx, false)
	if err == nil {
		err = os.RemoveAll(filepath.Dir(rig.lab.State))
	}
	return err
}

// take gives a test machines of its own, bare, until it ends.
func take(t *testing.T, n int) []*machine {
	t.Helper()
	up(t)
	taking.Lock() // one test at a time takes: two that wait for each other's machines wait forever
	defer taking.Unlock()
	var out []*machine
	for range n {
		m := <-rig.free
		out = append(out, m)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s: %s", m.Name, m.story())
			}
			if m.lost = m.toBare(context.Background()); m.lost != nil {
				t.Errorf("%s does not become bare again: %v", m.Name, m.lost)
			}
			rig.free <- m
		})
		if m.lost != nil {
			t.Fatalf("%s was lost: %v", m.Name, m.lost)
		}
	}
	return out
}

var taking sync.Mutex

// options are those of a connection to a machine of the lab.
func options(l *lab.Lab) sshconn.Options {
	return sshconn.Options{ConfigFile: l.SSHConfig(), Home: "/nonexistent", LocalUser: "root", Getenv: os.Getenv, Dial: l.Dial}
}

// bounded is a context for one thing that a test does.
func bounded(t *testing.T, most time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	t.Cleanup(cancel)
	return ctx
}

func lines(text string) []string {
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}
