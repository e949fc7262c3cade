package sshconn

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/internal/sshtest"
)

// TestMain makes the test binary a ProxyCommand too: it connects its standard
// input and output to the address in KTHWC_TEST_PIPE.
func TestMain(m *testing.M) {
	if address := os.Getenv("KTHWC_TEST_PIPE"); address != "" {
		c, err := net.Dial("tcp", address)
		if err != nil {
			fmt.Fprintln(os.Stderr, "the pipe is broken:", err)
			os.Exit(1)
		}
		go func() { _, _ = io.Copy(c, os.Stdin); os.Exit(0) }()
		_, _ = io.Copy(os.Stdout, c)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// bound ends a test that waits for what does not come.
func bound(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// noLeaks fails if goroutines of this package outlive the test.
func noLeaks(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		var stacks string
		for range 200 {
			buffer := make([]byte, 1<<20)
			stacks = string(buffer[:runtime.Stack(buffer, true)])
			if !strings.Contains(stacks, "sshconn.(*Conn") && !strings.Contains(stacks, "sshconn.(*run") && !strings.Contains(stacks, "sshconn.proxied") && !strings.Contains(stacks, "ssh.(*mux)") && !strings.Contains(stacks, "ssh.(*handshake") {
				return
			}
			time.Sleep(25 * time.Millisecond)
		}
		t.Errorf("goroutines are left:\n%s", stacks)
	})
}

// world is a home directory with one key, and what the tests dial with.
type world struct {
	home    string
	key     ssh.Signer
	options Options
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{home: t.TempDir(), key: sshtest.Key(t)}
	w.write(t, ".ssh/known_hosts", "")
	w.write(t, ".ssh/id_ed25519", privatePEM(t, w))
	w.options = Options{Home: w.home, LocalUser: "operator", ConfigFile: filepath.Join(w.home, ".ssh", "config"),
		KnownHosts: []string{filepath.Join(w.home, ".ssh", "known_hosts")}, Attempts: 1}
	return w
}

// privatePEM makes the world's key anew, in a form that can be written.
func privatePEM(t testing.TB, w *world) string {
	t.Helper()
	private, signer := newPair(t)
	w.key = signer
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

func (w *world) path(name string) string { return filepath.Join(w.home, name) }

func (w *world) write(t testing.TB, name, content string) string {
	t.Helper()
	path := w.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (w *world) know(t testing.TB, address string, key ssh.PublicKey) {
	t.Helper()
	f, err := os.OpenFile(w.path(".ssh/known_hosts"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, knownhosts.Line([]string{address}, key)); err != nil {
		t.Fatal(err)
	}
}

// server starts an in-process server that the world may log in to and knows.
func (w *world) server(t testing.TB, s *sshtest.Server) *sshtest.Server {
	t.Helper()
	s.Accept = append(s.Accept, w.key.PublicKey())
	s.Start(t)
	w.know(t, s.Addr, s.HostKey.PublicKey())
	return s
}

func target(t testing.TB, address string) Target {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	number, _ := strconv.Atoi(port)
	return Target{Name: "worker-0", Address: host, Port: number, User: "root"}
}

func (w *world) dial(t testing.TB, target Target) *Conn {
	t.Helper()
	c, err := Dial(bound(t), target, w.options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// refused dials and expects an error of a kind, with words in it.
func (w *world) refused(t *testing.T, target Target, kind Kind, words ...string) *Error {
	t.Helper()
	c, err := Dial(bound(t), target, w.options)
	if err == nil {
		c.Close()
		t.Fatalf("the connection was opened; %v was expected", kind)
	}
	return expect(t, err, kind, words...)
}

func expect(t *testing.T, err error, kind Kind, words ...string) *Error {
	t.Helper()
	e, ok := err.(*Error)
	if !ok || e.Kind != kind {
		t.Fatalf("%v was expected, not %v (%T):\n%v", kind, KindOf(err), err, err)
	}
	for _, w := range words {
		if !strings.Contains(e.Error(), w) {
			t.Errorf("%q is not in the error:\n%v", w, e)
		}
	}
	return e
}

func runs(t testing.TB, c *Conn, cmd Command) Result {
	t.Helper()
	r, err := c.Run(bound(t), cmd)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tool runs a program of OpenSSH.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(readers.Path(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// sshd is a real OpenSSH server.
type sshd struct {
	dir, addr, log string
}

// sshdArgs wraps how sshd is started: in a namespace, for the tests of sudo.
type sshdOptions struct {
	config  []string
	wrapper []string
	types   []string
}

// startSSHD starts sshd on a port of 127.0.0.1 with its own configuration and
// host keys, which the world knows unless they are to be unknown.
func startSSHD(t testing.TB, w *world, o sshdOptions) *sshd {
	t.Helper()
	if os.Getuid() != 0 {
		readers.Missing(t, "sshd is started as root")
	}
	program := readers.Path(t, "sshd")
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	s := &sshd{dir: t.TempDir(), addr: freePort(t)}
	s.log = filepath.Join(s.dir, "log")
	_, port, _ := net.SplitHostPort(s.addr)
	lines := append([]string{"ListenAddress 127.0.0.1", "Port " + port, "PidFile none", "StrictModes no", "UsePAM no",
		"AuthorizedKeysFile " + filepath.Join(s.dir, "authorized"), "PasswordAuthentication no", "PermitRootLogin yes",
		"MaxStartups 100", "LogLevel VERBOSE"}, o.config...)
	if len(o.types) == 0 {
		o.types = []string{"ed25519"}
	}
	for _, kind := range o.types {
		file := filepath.Join(s.dir, "host_"+kind)
		tool(t, "ssh-keygen", "-q", "-t", kind, "-N", "", "-f", file)
		lines = append(lines, "HostKey "+file)
	}
	put(t, filepath.Join(s.dir, "authorized"), string(ssh.MarshalAuthorizedKey(w.key.PublicKey())))
	put(t, filepath.Join(s.dir, "config"), strings.ReplaceAll(strings.Join(lines, "\n"), "DIR", s.dir)+"\n")
	args := append(o.wrapper, program, "-D", "-E", s.log, "-f", filepath.Join(s.dir, "config"))
	cmd := exec.Command(args[0], args[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(s.log)
			t.Logf("sshd said:\n%s", log[max(0, len(log)-1000):])
		}
	})
	for range 400 {
		if c, err := net.Dial("tcp", s.addr); err == nil {
			c.Close()
			return s
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatal("sshd does not listen")
	return nil
}

// public is the host's public key of a type.
func (s *sshd) public(t testing.TB, kind string) ssh.PublicKey {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(s.dir, "host_"+kind+".pub"))
	if err != nil {
		t.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(content)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func put(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// knownLine is the world's own key as a known_hosts line without the name.
func knownLine(w *world) string { return string(ssh.MarshalAuthorizedKey(w.key.PublicKey())) }

// bashLine gives a line to a shell, as sshd does, and an input that ends.
func bashLine(line, input string) error {
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Stdin = strings.NewReader(input)
	return cmd.Run()
}
