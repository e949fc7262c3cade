package sshconn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kthwc/kthwc/internal/sshtest"
)

// Each way not to reach a host has a kind of its own, and says what to do.
func TestUnreachable(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	w.options.HandshakeTimeout = 300 * time.Millisecond
	w.refused(t, target(t, freePort(t)), Refused, "worker-0", "help:")
	w.refused(t, Target{Name: "x", Address: "nowhere.invalid", User: "root"}, NameResolution)
	w.refused(t, Target{Address: "-oProxyCommand=x", User: "root"}, BadConfig)
	w.refused(t, target(t, sshtest.Serve(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })), TimedOut)
	w.refused(t, target(t, sshtest.Serve(t, func(net.Conn) {})), ConnectionLost)
	w.refused(t, target(t, sshtest.Serve(t, func(c net.Conn) {
		_, _ = c.Write(bytes.Repeat([]byte("HTTP/1.1 400 \x1b[2J"), 100))
		_, _ = io.Copy(io.Discard, c)
	})), Protocol)
	flood := []byte(strings.Repeat("x\n", 4096))
	w.refused(t, target(t, sshtest.Serve(t, func(c net.Conn) {
		for {
			if _, err := c.Write(flood); err != nil {
				return
			}
		}
	})), Protocol)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Dial(ctx, target(t, freePort(t)), w.options)
	if expect(t, err, Cancelled); !errors.Is(err, context.Canceled) {
		t.Error("the cause is hidden")
	}
}

// What may pass is tried again; a refused key is not.
func TestAttempts(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	w.options.Attempts, w.options.Pause = 3, time.Millisecond
	s := w.server(t, &sshtest.Server{})
	var mu sync.Mutex
	tries := 0
	flaky := sshtest.Serve(t, func(c net.Conn) {
		mu.Lock()
		tries++
		fail := tries < 3
		mu.Unlock()
		if fail {
			return
		}
		far, err := net.Dial("tcp", s.Addr)
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(far, c); far.Close() }()
		_, _ = io.Copy(c, far)
	})
	w.know(t, flaky, s.HostKey.PublicKey())
	w.dial(t, target(t, flaky))
	closed := sshtest.Link{}
	other := (&sshtest.Server{}).Start(t)
	closed.Start(t, other.Addr)
	w.know(t, closed.Addr, other.HostKey.PublicKey())
	w.refused(t, target(t, closed.Addr), NoAcceptedKey)
	once := closed.Passed()
	w.options.Attempts = 1
	w.refused(t, target(t, closed.Addr), NoAcceptedKey)
	if twice := closed.Passed(); twice > 2*once+200 || twice < 2*once-200 {
		t.Errorf("%d bytes, then %d: a refused key was tried again", once, twice-once)
	}
}

// Where nobody answers, nobody waits for several attempts to time out; whoever is
// patient does. A connection that ends late, because a person was asked for a
// passphrase, is tried again.
func TestPatience(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	w.options.Attempts, w.options.Pause, w.options.ConnectTimeout = 3, time.Millisecond, 20*time.Millisecond
	attempts := 0
	w.options.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		attempts++
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for patience, want := range map[time.Duration]int{10 * time.Millisecond: 1, time.Minute: 3} {
		attempts, w.options.Patience = 0, patience
		if w.refused(t, target(t, "127.0.0.1:9"), TimedOut); attempts != want {
			t.Errorf("patience for %v: %d attempts", patience, attempts)
		}
	}
	attempts, w.options.Patience, w.options.ConnectTimeout = 0, time.Millisecond, time.Minute
	w.options.Dial = func(context.Context, string, string) (net.Conn, error) {
		attempts++
		here, there := net.Pipe()
		time.AfterFunc(5*time.Millisecond, func() { there.Close() })
		return here, nil
	}
	if w.refused(t, target(t, "127.0.0.1:9"), ConnectionLost); attempts != 3 {
		t.Errorf("%d attempts where the connection ended late", attempts)
	}
}

// Cut at any byte: an error of this package or success, never a hang, a panic
// or half a command.
func TestCuts(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	s := w.server(t, &sshtest.Server{})
	whole := (&sshtest.Link{}).Start(t, s.Addr)
	dir := t.TempDir() // a file for each cut: a command that has lost us may still write
	try := func(l *sshtest.Link, file string) error {
		cmd := Command{Script: "echo half >\"$1\"\necho whole >\"$1\"", Args: []string{file}}
		w.know(t, l.Addr, s.HostKey.PublicKey())
		c, err := Dial(bound(t), target(t, l.Addr), w.options)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Run(bound(t), cmd)
		return err
	}
	if err := try(whole, filepath.Join(dir, "first")); err != nil {
		t.Fatal(err)
	}
	step := int64(17)
	for cut := int64(1); cut <= whole.Passed()+step; cut += step {
		file := filepath.Join(dir, fmt.Sprint(cut))
		err := try((&sshtest.Link{Cut: cut}).Start(t, s.Addr), file)
		var ours *Error
		if err != nil && !errors.As(err, &ours) {
			t.Fatalf("cut at %d: %T %v", cut, err, err)
		}
		if content, _ := os.ReadFile(file); len(content) > 0 && ours != nil && !ours.Begun {
			t.Errorf("cut at %d: it had begun, and the error says it had not: %v", cut, err)
		}
		if err == nil {
			if content, _ := os.ReadFile(file); string(content) != "whole\n" {
				t.Errorf("cut at %d: success, and the host has %q", cut, content)
			}
		}
	}
}

// A program that does not arrive whole runs nothing of it.
func TestHalfAProgramRunsNothing(t *testing.T) {
	dir := t.TempDir()
	program, err := Command{Script: "touch \"$1\"/one; touch \"$1\"/two\n: }\ntouch \"$1\"/three", Args: []string{dir}}.program()
	if err != nil {
		t.Fatal(err)
	}
	shell := func(text string) {
		line := fmt.Sprintf("exec /bin/sh -c '%s' kthwc token %d", boot, len(program))
		_ = bashLine(line, text)
	}
	for n := range len(program) - 2 { // the last two are } and a line break
		shell(program[:n])
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Fatalf("%d of %d bytes made %s", n, len(program), left[0].Name())
		}
	}
	shell(program)
	if left, _ := os.ReadDir(dir); len(left) != 3 {
		t.Errorf("the whole program made %v", left)
	}
}

// A link that is half-open ends the connection, and what ran over it.
func TestHalfOpen(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	w.options.KeepaliveEvery, w.options.KeepaliveMissed = 50*time.Millisecond, 2
	s := w.server(t, &sshtest.Server{})
	l := (&sshtest.Link{}).Start(t, s.Addr)
	w.know(t, l.Addr, s.HostKey.PublicKey())
	c := w.dial(t, target(t, l.Addr))
	started := make(chan struct{})
	go func() {
		<-started
		l.Silence()
	}()
	_, err := c.Run(bound(t), Command{Argv: []string{"cat"}, Stdin: iotestBlock(started, c.dead)})
	if e := expect(t, err, ConnectionLost, "has not answered", "may still be running"); !e.Begun {
		t.Error("it had begun")
	}
	_, err = c.Run(bound(t), Command{Argv: []string{"true"}})
	if e := expect(t, err, ConnectionLost); e.Begun {
		t.Error("it had not begun")
	}
}

// iotestBlock is an input that says when it is read, and ends with the connection.
func iotestBlock(read chan<- struct{}, end <-chan struct{}) io.Reader {
	var once sync.Once
	return readerFunc(func([]byte) (int, error) {
		once.Do(func() { close(read) })
		<-end
		return 0, io.EOF
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A slow link is no fault: nothing bounds the whole, only silence.
func TestSlowLink(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	w.options.KeepaliveEvery = 500 * time.Millisecond
	s := w.server(t, &sshtest.Server{})
	l := (&sshtest.Link{Delay: 2 * time.Millisecond, Piece: 100}).Start(t, s.Addr)
	w.know(t, l.Addr, s.HostKey.PublicKey())
	in := strings.Repeat("0123456789", 3000)
	r := runs(t, w.dial(t, target(t, l.Addr)), Command{Argv: []string{"cat"}, Stdin: strings.NewReader(in)})
	if string(r.Stdout) != in {
		t.Errorf("%d bytes became %d", len(in), len(r.Stdout))
	}
}

// A host whose key changes between two connections is refused at the second.
func TestKeyChangesBetweenConnections(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	s := w.server(t, &sshtest.Server{})
	w.dial(t, target(t, s.Addr)).Close()
	s.ChangeHostKey(sshtest.Key(t))
	w.refused(t, target(t, s.Addr), HostKeyChanged)
	if s.Logins.Load() != 1 {
		t.Error("we logged in at a host that is not the right one")
	}
}

// Fewer sessions than commands: they wait for one another. None at all is an error.
func TestMaxSessions(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	s := w.server(t, &sshtest.Server{MaxSessions: 1})
	c := w.dial(t, target(t, s.Addr))
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if r, err := c.Run(bound(t), Command{Argv: []string{"echo"}}); err != nil || r.Exit != 0 {
				t.Error(err)
			}
		})
	}
	all.Wait()
	s.Sessions.Add(1) // somebody else's, over the same connection
	_, err := c.Run(bound(t), Command{Argv: []string{"true"}})
	expect(t, err, SessionRefused, "MaxSessions")
	s.Sessions.Add(-1)
}

// Output is bounded: on either stream, and before a command begins.
func TestTooMuchOutput(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	s := w.server(t, &sshtest.Server{Banner: strings.Repeat("banner\n", 5000)})
	c := w.dial(t, target(t, s.Addr))
	for _, script := range []Script{"yes", "yes >&2"} {
		r, err := c.Run(bound(t), Command{Script: script, MaxOutput: 100000})
		if e := expect(t, err, TooMuchOutput, "100000"); e.Runs || len(r.Stdout) > 100000 || len(r.Stderr) > 100000 {
			t.Errorf("%d and %d bytes were kept", len(r.Stdout), len(r.Stderr))
		}
	}
	noisy := w.server(t, &sshtest.Server{Shell: func(_ string, ch ssh.Channel) (uint32, string) {
		for {
			if _, err := ch.Stderr().Write(bytes.Repeat([]byte("noise\n"), 1000)); err != nil {
				return 1, ""
			}
		}
	}})
	_, err := w.dial(t, target(t, noisy.Addr)).Run(bound(t), Command{Argv: []string{"true"}})
	if e := expect(t, err, TooMuchOutput); e.Begun {
		t.Error("it had not begun")
	}
}

// What a login shell says is not what the command says.
func TestGreetings(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	s := &sshtest.Server{}
	s.Shell = func(line string, ch ssh.Channel) (uint32, string) {
		fmt.Fprint(ch, "Welcome!\nkthwc-NOT")
		fmt.Fprint(ch.Stderr(), "motd\n")
		return s.Run(line, ch)
	}
	w.server(t, s)
	r := runs(t, w.dial(t, target(t, s.Addr)), Command{Script: "echo out; echo err >&2"})
	if string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" {
		t.Errorf("%q %q", r.Stdout, r.Stderr)
	}
}

// An input that cannot be read must not look like its end.
func TestBrokenInput(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	s := w.server(t, &sshtest.Server{})
	file := filepath.Join(t.TempDir(), "installed")
	in := io.MultiReader(strings.NewReader("half CANARY"), iotest.ErrReader(errors.New("the disk is gone")))
	_, err := w.dial(t, target(t, s.Addr)).Run(bound(t), Command{Script: `cat >/dev/null && echo >"$1"`, Args: []string{file}, Stdin: in})
	if e := expect(t, err, StdinFailed, "the disk is gone"); strings.Contains(e.Error(), "CANARY") || e.Runs {
		t.Error(e)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the command took the break for the end")
	}
}

// Signals of the host's own are errors with their name, escaped.
func TestExitSignal(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	s := &sshtest.Server{}
	s.Shell = func(line string, ch ssh.Channel) (uint32, string) {
		_, _ = s.Run(line, ch)
		return 0, "SEGV\x1b[2J"
	}
	w.server(t, s)
	_, err := w.dial(t, target(t, s.Addr)).Run(bound(t), Command{Argv: []string{"true"}})
	if e := expect(t, err, Killed, "SIGSEGV"); !e.Begun || strings.Contains(e.Error(), "\x1b") {
		t.Error(e)
	}
}

// Every host has its own answer, in order, and no more are opened at once than allowed.
func TestDialAll(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	w.options.Parallel = 2
	var targets []Target
	for i := range 6 {
		address := freePort(t)
		if i != 3 {
			address = w.server(t, &sshtest.Server{}).Addr
		}
		targets = append(targets, target(t, address))
	}
	for i, d := range DialAll(bound(t), targets, w.options) {
		if d.Target != targets[i] || (d.Err == nil) == (i == 3) || (d.Conn == nil) != (i == 3) {
			t.Errorf("%d: %+v", i, d)
		}
		if d.Conn != nil {
			d.Conn.Close()
		}
	}
}

// Every kind has a name, and the names differ.
func TestKinds(t *testing.T) {
	seen := map[string]bool{}
	for k := range kinds {
		if name := Kind(k).String(); name == "" || seen[name] {
			t.Errorf("kind %d: %q", k, name)
		} else {
			seen[name] = true
		}
	}
	if KindOf(fmt.Errorf("wrapped: %w", fault(Refused, "h", "w", nil))) != Refused || KindOf(io.EOF) != Unclassified {
		t.Error("KindOf")
	}
}
