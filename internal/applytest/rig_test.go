package applytest

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
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

// TestMain is four programs: a servant of the lab, an operator, the one who takes
// the lab down, and the tests.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 5 && os.Args[1] == "lab" && os.Args[2] == "serve":
		os.Exit(serve(os.Args[3], os.Args[4]))
	case os.Getenv(operatorVariable) != "":
		os.Exit(operate(os.Getenv(operatorVariable)))
	case os.Getenv(afterwardsVariable) != "":
		os.Exit(afterwards(os.Getenv(afterwardsVariable)))
	}
	code := m.Run()
	if err := down(); err != nil {
		fmt.Fprintln(os.Stderr, "the lab does not go down:", err)
		code = 1
	}
	os.Exit(code)
}

// afterwardsVariable has the state of a lab; the program then waits for the end of
// its input, which is the end of the tests, however they end, and takes it down.
const afterwardsVariable = "KTHWC_TEST_AFTERWARDS"

func afterwards(state string) int {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	_, _ = io.Copy(io.Discard, os.Stdin)
	l, err := lab.Open(lab.Options{State: state, Cache: state, Getenv: os.Getenv})
	if err == nil {
		err = remove(l)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// remove takes a lab down, with everything that it has made.
func remove(l *lab.Lab) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := l.Down(ctx, false); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Dir(l.State))
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
		{Name: "delta", Addresses: []netip.Prefix{netip.MustParsePrefix("10.250.0.14/24")}, User: "root", Port: 22},
		{Name: "epsilon", Addresses: []netip.Prefix{netip.MustParsePrefix("10.250.0.15/24")}, User: "root", Port: 22},
	},
	API: lab.Endpoint{Name: "10.250.0.11", Address: netip.MustParseAddrPort("10.250.0.11:6443")},
}

// rig is the lab of this run of the tests: made when the first test wants it.
var rig struct {
	sync.Mutex
	lab   *lab.Lab
	err   error
	free  chan *machine
	after *exec.Cmd // takes the lab down when feed is closed, by us or by our end
	feed  *os.File
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
	if err := follow(self, l.State); err != nil {
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

// down ends the rig: whoever waits for that takes the lab down.
func down() error {
	rig.Lock()
	defer rig.Unlock()
	if rig.after == nil {
		return nil
	}
	rig.feed.Close()
	return rig.after.Wait()
}

// follow starts the program that takes the lab down afterwards.
func follow(self, state string) error {
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), afterwardsVariable+"="+state)
	cmd.Stdin, cmd.Stderr = out, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	rig.after, rig.feed = cmd, in
	return nil
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
