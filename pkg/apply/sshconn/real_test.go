package sshconn

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kthwc/kthwc/internal/readers"
)

// OpenSSH's own server: commands, words, input, status.
func TestCommands(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	s := startSSHD(t, w, sshdOptions{})
	w.know(t, s.addr, s.public(t, "ed25519"))
	c := w.dial(t, target(t, s.addr))
	t.Run("status and both outputs", func(t *testing.T) {
		r := runs(t, c, Command{Script: "echo out; echo err >&2; exit 7"})
		if string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" || r.Exit != 7 {
			t.Errorf("%q %q %d", r.Stdout, r.Stderr, r.Exit)
		}
	})
	t.Run("input arrives as it is", func(t *testing.T) {
		in := strings.Repeat("\x00\xff\nline", 300000)
		r := runs(t, c, Command{Argv: []string{"cat"}, Stdin: strings.NewReader(in), MaxOutput: 4 << 20})
		if string(r.Stdout) != in {
			t.Errorf("%d bytes became %d", len(in), len(r.Stdout))
		}
	})
	t.Run("the host's language does not matter", func(t *testing.T) {
		if r := runs(t, c, Command{Script: `echo "$LC_ALL"`}); string(r.Stdout) != "C\n" {
			t.Errorf("%q", r.Stdout)
		}
	})
	t.Run("a signal is an error", func(t *testing.T) {
		_, err := c.Run(bound(t), Command{Script: "kill -9 $$"})
		expect(t, err, Killed, "SIGKILL")
	})
	t.Run("words arrive as they are", func(t *testing.T) {
		_ = flag.Set("rapid.checks", "30") // each is two commands on a real server
		rapid.Check(t, func(rt *rapid.T) {
			words := rapid.SliceOfN(rapid.StringMatching(`[^\x00]{0,20}`), 1, 4).Draw(rt, "words")
			for _, cmd := range []Command{
				{Argv: append([]string{"printf", `%s\0`}, words...)},
				{Script: `printf '%s\0' "$@"`, Args: words},
			} {
				r, err := c.Run(bound(t), cmd)
				if err != nil || string(r.Stdout) != strings.Join(words, "\x00")+"\x00" {
					rt.Fatalf("%q became %q, %v", words, r.Stdout, err)
				}
			}
		})
	})
	t.Run("what is no command is refused", func(t *testing.T) {
		for _, cmd := range []Command{{}, {Argv: []string{"a"}, Script: "b"}, {Argv: []string{"a\x00"}}, {Args: []string{"a"}}} {
			_, err := c.Run(bound(t), cmd)
			expect(t, err, BadConfig)
		}
	})
}

// Many commands share a connection, more than sshd has sessions for.
func TestManySessions(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	s := startSSHD(t, w, sshdOptions{config: []string{"MaxSessions 3"}})
	w.know(t, s.addr, s.public(t, "ed25519"))
	c := w.dial(t, target(t, s.addr))
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			r, err := c.Run(bound(t), Command{Argv: []string{"echo", strconv.Itoa(i)}})
			if err != nil || string(r.Stdout) != strconv.Itoa(i)+"\n" {
				t.Errorf("%d: %q, %v", i, r.Stdout, err)
			}
		})
	}
	all.Wait()
}

// A cancelled command is gone from the host, also one that ignores SIGTERM and
// one that writes nothing.
func TestCancelledCommandsEnd(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	w.options.EndTimeout = 5 * time.Second
	s := startSSHD(t, w, sshdOptions{})
	w.know(t, s.addr, s.public(t, "ed25519"))
	c := w.dial(t, target(t, s.addr))
	for name, script := range map[string]Script{
		"one that waits":           `echo $$ >"$1"; sleep 1000`,
		"one that ignores SIGTERM": `trap "" TERM; echo $$ >"$1"; while :; do sleep 0.1; done`,
		"one with children":        `sleep 1000 & echo $! >"$1"; wait`,
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pid")
			ctx, cancel := context.WithCancel(bound(t))
			defer cancel()
			go func() {
				defer cancel()
				for range 1000 {
					if content, _ := os.ReadFile(file); len(content) > 0 {
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			}()
			_, err := c.Run(ctx, Command{Script: script, Args: []string{file}})
			if e := expect(t, err, Cancelled); !e.Begun || e.Runs {
				t.Errorf("begun %v, runs %v", e.Begun, e.Runs)
			}
			content, _ := os.ReadFile(file)
			pid, _ := strconv.Atoi(strings.TrimSpace(string(content)))
			for range 200 {
				if syscall.Kill(pid, 0) != nil || zombie(pid) {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Errorf("process %d still runs", pid)
		})
	}
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// Host keys: what is printed for an unknown host makes it known; everything
// else that does not fit is refused.
func TestHostKeys(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	s := startSSHD(t, w, sshdOptions{types: []string{"rsa", "ecdsa", "ed25519"}})
	to := target(t, s.addr)
	known := w.path(".ssh/known_hosts")

	e := w.refused(t, to, HostKeyUnknown, "SHA256:", known)
	lines := strings.Split(strings.TrimSpace(e.Help), "\n")
	put(t, known, lines[len(lines)-1]+"\n")
	w.dial(t, to)

	tool(t, "ssh-keygen", "-H", "-f", known)
	w.dial(t, to)

	for _, kind := range []string{"rsa", "ecdsa", "ed25519"} {
		t.Run("only "+kind+" is known", func(t *testing.T) {
			put(t, known, "not a line\n@unknown a b c\n")
			w.know(t, s.addr, s.public(t, kind))
			w.dial(t, to)
		})
		t.Run(kind+" is pinned", func(t *testing.T) {
			put(t, known, "")
			pinned := to
			pinned.HostKey = s.public(t, kind).Type() + " " + strings.Fields(string(mustRead(t, filepath.Join(s.dir, "host_"+kind+".pub"))))[1]
			w.dial(t, pinned)
		})
	}
	put(t, known, "")
	w.know(t, s.addr, w.key.PublicKey())
	w.refused(t, to, HostKeyChanged, known+":1", "ssh-keygen -R")
	w.know(t, s.addr, s.public(t, "ed25519")) // a second key of the type: during a rotation
	w.dial(t, to)
	put(t, known, string(mustRead(t, known))+"@revoked * "+strings.Join(strings.Fields(string(mustRead(t, filepath.Join(s.dir, "host_ed25519.pub"))))[:2], " ")+"\n")
	w.refused(t, to, HostKeyRevoked, known+":3")
	put(t, known, "@revoked * ssh-ed25519 nonsense!\n")
	w.refused(t, to, BadConfig, known+":1")

	put(t, known, "")
	w.know(t, s.addr, s.public(t, "ed25519"))
	to.HostKey = "ssh-ed25519 " + strings.Fields(knownLine(w))[1]
	w.refused(t, to, HostKeyNotPinned, "cluster.yaml pins")
	to.HostKey = "rubbish"
	w.refused(t, to, BadConfig, "ssh.hostKey")
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// Keys: plain, encrypted with and without somebody to ask, of the agent, with
// certificates; and what the error lists if none is accepted.
func TestKeys(t *testing.T) {
	noLeaks(t)
	const passphrase = "CANARY-passphrase"
	w := newWorld(t)
	s := startSSHD(t, w, sshdOptions{config: []string{"TrustedUserCAKeys DIR/ca.pub"}})
	w.know(t, s.addr, s.public(t, "ed25519"))
	to := target(t, s.addr)
	os.Remove(w.path(".ssh/id_ed25519"))
	e := w.refused(t, to, NoAcceptedKey, "no key")

	generate := func(t *testing.T, name, kind, passphrase string) string {
		t.Helper()
		file := w.path(".ssh/" + name)
		tool(t, "ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", file)
		return file
	}
	accept := func(t *testing.T, pub string) { put(t, filepath.Join(s.dir, "authorized"), string(mustRead(t, pub))) }
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		t.Run(kind, func(t *testing.T) {
			file := generate(t, "id_"+kind, kind, "")
			defer os.Remove(file)
			w.refused(t, to, NoAcceptedKey, file, "SHA256:")
			accept(t, file+".pub")
			w.dial(t, to)
		})
		t.Run(kind+" encrypted", func(t *testing.T) {
			os.Remove(w.path(".ssh/id_" + kind))
			os.Remove(w.path(".ssh/id_" + kind + ".pub"))
			file := generate(t, "id_"+kind, kind, passphrase)
			defer os.Remove(file)
			accept(t, file+".pub")
			w.refused(t, to, NoAcceptedKey, file, "nobody to ask")
			asked := 0
			w.options.Passphrase = func(context.Context, string) ([]byte, error) { asked++; return []byte(passphrase), nil }
			for _, d := range DialAll(bound(t), []Target{to, to, to}, w.options) {
				if d.Err != nil {
					t.Error(d.Err)
					continue
				}
				d.Conn.Close()
			}
			if asked != 1 {
				t.Errorf("asked %d times", asked)
			}
			w.options.Passphrase = func(context.Context, string) ([]byte, error) { return []byte(passphrase + "!"), nil }
			if e := w.refused(t, to, NoAcceptedKey, "not the right one"); strings.Contains(e.Error(), passphrase) {
				t.Error("the passphrase is in the error")
			}
			w.options.Passphrase = nil
			e = w.refused(t, to, NoAcceptedKey, "ssh-add")
		})
	}
	t.Run("agent", func(t *testing.T) {
		socket := startAgent(t)
		file := generate(t, "in_agent", "ed25519", "")
		add := exec.Command(readers.Path(t, "ssh-add"), "-q", file)
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		os.Remove(file)
		accept(t, file+".pub")
		w.options.Getenv = func(string) string { return socket }
		w.dial(t, to)
		w.write(t, ".ssh/config", "IdentitiesOnly yes\n")
		w.refused(t, to, NoAcceptedKey)
		w.write(t, ".ssh/config", "IdentitiesOnly yes\nIdentityFile ~/.ssh/in_agent\n")
		w.dial(t, to)
		w.options.Getenv = nil
		w.write(t, ".ssh/config", "IdentityAgent "+socket+"\n")
		w.dial(t, to)
		w.write(t, ".ssh/config", "IdentityAgent "+socket+".gone\n")
		w.refused(t, to, NoAcceptedKey, "does not answer")
		w.write(t, ".ssh/config", "")
	})
	t.Run("certificate", func(t *testing.T) {
		ca := filepath.Join(s.dir, "ca")
		tool(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ca)
		file := generate(t, "certified", "ed25519", "")
		tool(t, "ssh-keygen", "-q", "-s", ca, "-I", "operator", "-n", "root", file+".pub")
		put(t, filepath.Join(s.dir, "authorized"), "")
		w.write(t, ".ssh/config", "IdentityFile ~/.ssh/certified\n")
		w.dial(t, to)
		if err := os.Rename(file+"-cert.pub", w.path("elsewhere.pub")); err != nil {
			t.Fatal(err)
		}
		w.refused(t, to, NoAcceptedKey)
		w.write(t, ".ssh/config", "IdentityFile ~/.ssh/certified\nCertificateFile ~/elsewhere.pub\n")
		w.dial(t, to)
	})
	_ = e
}

func startAgent(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent")
	cmd := exec.Command(readers.Path(t, "ssh-agent"), "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 400 {
		if _, err := os.Stat(socket); err == nil {
			return socket
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("ssh-agent does not listen")
	return ""
}

// Certificates of hosts: by an authority that known_hosts names, for the name that was dialled.
func TestHostCertificates(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	ca := w.path("ca")
	tool(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ca)
	s := startSSHD(t, w, sshdOptions{config: []string{"HostCertificate DIR/host_ed25519-cert.pub"}})
	authority := "@cert-authority * " + string(mustRead(t, ca+".pub"))
	put(t, w.path(".ssh/known_hosts"), authority)
	to := target(t, s.addr)
	sign := func(args ...string) {
		args = append([]string{"-q", "-s", ca, "-I", "host"}, append(args, filepath.Join(s.dir, "host_ed25519.pub"))...)
		tool(t, "ssh-keygen", args...)
	}
	certified := func(args ...string) *sshd {
		sign(args...)
		again := startSSHD(t, w, sshdOptions{config: []string{"HostKey " + filepath.Join(s.dir, "host_ed25519"),
			"HostCertificate " + filepath.Join(s.dir, "host_ed25519-cert.pub")}})
		return again
	}
	w.dial(t, target(t, certified("-h", "-n", "127.0.0.1").addr))
	w.refused(t, target(t, certified("-h", "-n", "other").addr), HostCertificate, "principal")
	w.refused(t, target(t, certified("-h").addr), HostCertificate)
	w.refused(t, target(t, certified("-h", "-n", "127.0.0.1", "-V", "20200101:20200102").addr), HostCertificate, "expired")
	put(t, w.path(".ssh/known_hosts"), authority+"@revoked * "+string(mustRead(t, ca+".pub")))
	w.refused(t, target(t, certified("-h", "-n", "127.0.0.1").addr), HostKeyRevoked)
	// The authority's key is nobody's own key.
	put(t, w.path(".ssh/known_hosts"), "@cert-authority * "+string(mustRead(t, filepath.Join(s.dir, "host_ed25519.pub"))))
	w.refused(t, to, HostKeyUnknown)
}

// The ways to a host: bastion, chain, ProxyCommand.
func TestWays(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	var servers []*sshd
	for range 3 {
		s := startSSHD(t, w, sshdOptions{})
		w.know(t, s.addr, s.public(t, "ed25519"))
		servers = append(servers, s)
	}
	closed := startSSHD(t, w, sshdOptions{config: []string{"AllowTcpForwarding no"}})
	w.know(t, closed.addr, closed.public(t, "ed25519"))
	to := target(t, servers[2].addr)
	through := func(c *Conn) string { // the port that the host sees is the last server's
		return strings.TrimSpace(string(runs(t, c, Command{Script: `echo "$SSH_CONNECTION"`}).Stdout))
	}
	bastion := to
	bastion.Bastion = "root@" + servers[0].addr
	if got := through(w.dial(t, bastion)); !strings.HasSuffix(got, " "+strconv.Itoa(to.Port)) {
		t.Error(got)
	}
	w.write(t, ".ssh/config", fmt.Sprintf("Host 127.0.0.1\n ProxyJump root@%s,ssh://root@%s\n", servers[0].addr, servers[1].addr))
	w.refused(t, to, BadConfig, "circle") // 127.0.0.1 is also the bastions' name
	_, first, _ := net.SplitHostPort(servers[0].addr)
	_, second, _ := net.SplitHostPort(servers[1].addr)
	_, last, _ := net.SplitHostPort(servers[2].addr)
	w.write(t, ".ssh/config", fmt.Sprintf(`
Host target
  Port %s
  ProxyJump one,two
Host one
  Port %s
Host two
  Port %s
Host target one two
  HostName 127.0.0.1
  User root
`, last, first, second))
	if got := through(w.dial(t, Target{Address: "target"})); !strings.HasSuffix(got, " "+last) {
		t.Error(got)
	}
	t.Run("a bastion that forwards nothing", func(t *testing.T) {
		w.refused(t, Target{Address: "target", Bastion: "root@" + closed.addr}, Proxy, "AllowTcpForwarding")
	})
	t.Run("a port behind the bastion that is closed", func(t *testing.T) {
		w.refused(t, Target{Address: "target", Port: target(t, freePort(t)).Port, Bastion: "root@" + servers[0].addr}, Refused)
	})
	t.Run("a name that only the bastion could know", func(t *testing.T) {
		w.refused(t, Target{Address: "nowhere.invalid", User: "root", Bastion: "root@" + servers[0].addr}, NameResolution)
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("ProxyCommand", func(t *testing.T) {
		w.write(t, ".ssh/config", "ProxyCommand KTHWC_TEST_PIPE=%h:%p "+self+"\n")
		w.refused(t, to, Proxy) // exec and a variable: sh finds no such program
		w.write(t, ".ssh/config", "ProxyCommand env KTHWC_TEST_PIPE=%h:%p "+self+"\n")
		if got := through(w.dial(t, to)); !strings.HasSuffix(got, " "+last) {
			t.Error(got)
		}
		dead := to
		dead.Port = target(t, freePort(t)).Port
		w.refused(t, dead, Proxy, "the pipe is broken")
		w.write(t, ".ssh/config", "ProxyCommand printf '\\033[2Jno\\n' >&2; exit 1\n")
		if e := w.refused(t, to, Proxy); strings.Contains(e.Error(), "\x1b") {
			t.Error("an escape character is in the error")
		}
	})
}

// Connections through the host, with deadlines.
func TestForward(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	s := startSSHD(t, w, sshdOptions{})
	w.know(t, s.addr, s.public(t, "ed25519"))
	c := w.dial(t, target(t, s.addr))
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "socket")} {
		t.Run(network, func(t *testing.T) {
			l, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				if c, err := l.Accept(); err == nil {
					_, _ = io.Copy(c, c)
					c.Close()
				}
			}()
			far, err := c.Forward(bound(t), network, l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			if _, err := far.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			back := make([]byte, 5)
			if _, err := io.ReadFull(far, back); err != nil || string(back) != "hello" {
				t.Errorf("%q, %v", back, err)
			}
			if err := far.SetReadDeadline(time.Unix(1, 0)); err != nil {
				t.Error(err)
			}
			if _, err := far.Read(back); !os.IsTimeout(err) {
				t.Errorf("no timeout: %v", err)
			}
		})
	}
	_, err := c.Forward(bound(t), "tcp", freePort(t))
	expect(t, err, Refused)
	_, err = c.Forward(bound(t), "udp", "127.0.0.1:1")
	expect(t, err, BadConfig)
}

// What is not a shell is said to be none, and gets nothing.
func TestNotAShell(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	s := startSSHD(t, w, sshdOptions{config: []string{"ForceCommand echo only this; cat"}})
	w.know(t, s.addr, s.public(t, "ed25519"))
	c := w.dial(t, target(t, s.addr))
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := c.Run(ctx, Command{Argv: []string{"true"}, Stdin: strings.NewReader("CANARY")})
	if e := expect(t, err, TimedOut); e.Begun {
		t.Error("it is said to have begun")
	}
	s = startSSHD(t, w, sshdOptions{config: []string{"ForceCommand echo only this"}})
	w.know(t, s.addr, s.public(t, "ed25519"))
	_, err = w.dial(t, target(t, s.addr)).Run(bound(t), Command{Argv: []string{"true"}})
	if e := expect(t, err, NotAShell, "only this"); e.Begun {
		t.Error("it is said to have begun")
	}
}
