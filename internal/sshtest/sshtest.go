// Package sshtest runs an SSH server in the test process, and a link that
// breaks: what a real sshd does not do on request.
//
// It promises that commands are run by a real /bin/sh, in a process group of
// their own, and that everything has ended when the test has. It is a test helper.
package sshtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Server is a server and what it does wrong. The zero value but for Accept does
// nothing wrong.
type Server struct {
	HostKey     ssh.Signer      // nil: a new one
	Accept      []ssh.PublicKey // the users' keys
	MaxSessions int             // 0: any number
	Banner      string          // before the login
	Shell       func(line string, ch ssh.Channel) (status uint32, signal string)
	Environment []string // of commands; nil is the test's

	Addr     string // where it listens, once started
	Logins   atomic.Int64
	Sessions atomic.Int64 // open ones
	mu       sync.Mutex   // over HostKey, once started
}

// Key is a new key.
func Key(tb testing.TB) ssh.Signer {
	tb.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	return signer
}

// Start makes the server listen on a port of 127.0.0.1 until the test ends.
func (s *Server) Start(tb testing.TB) *Server {
	tb.Helper()
	if s.HostKey == nil {
		s.HostKey = Key(tb)
	}
	s.Addr = Serve(tb, s.serve)
	return s
}

// ChangeHostKey gives later connections another key.
func (s *Server) ChangeHostKey(key ssh.Signer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.HostKey = key
}

// Serve accepts connections on a port of 127.0.0.1 until the test ends, then
// closes them and waits for their handlers.
func Serve(tb testing.TB, handle func(net.Conn)) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var mu sync.Mutex
	var tasks sync.WaitGroup
	open, closed := map[net.Conn]bool{}, false
	tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			if closed {
				c.Close()
			}
			mu.Unlock()
			tasks.Go(func() {
				handle(c)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	tb.Cleanup(func() {
		l.Close()
		mu.Lock()
		closed = true
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		tasks.Wait()
	})
	return l.Addr().String()
}

func (s *Server) config() *ssh.ServerConfig {
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		for _, a := range s.Accept {
			if string(a.Marshal()) == string(key.Marshal()) {
				return nil, nil
			}
		}
		return nil, errors.New("not one of the accepted keys")
	}}
	if s.Banner != "" {
		config.BannerCallback = func(ssh.ConnMetadata) string { return s.Banner }
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	config.AddHostKey(s.HostKey)
	return config
}

func (s *Server) serve(c net.Conn) {
	conn, channels, requests, err := ssh.NewServerConn(c, s.config())
	if err != nil {
		return
	}
	defer conn.Close()
	s.Logins.Add(1)
	var tasks sync.WaitGroup
	tasks.Go(func() { ssh.DiscardRequests(requests) })
	for asked := range channels {
		tasks.Go(func() { s.channel(asked) })
	}
	tasks.Wait()
}

func (s *Server) channel(asked ssh.NewChannel) {
	switch asked.ChannelType() {
	case "direct-tcpip":
		s.forward(asked)
		return
	case "session":
	default:
		_ = asked.Reject(ssh.UnknownChannelType, "not here")
		return
	}
	if n := s.Sessions.Add(1); s.MaxSessions > 0 && n > int64(s.MaxSessions) {
		s.Sessions.Add(-1)
		_ = asked.Reject(ssh.ConnectionFailed, "open failed")
		return
	}
	defer s.Sessions.Add(-1)
	ch, requests, err := asked.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	for r := range requests {
		if r.Type != "exec" {
			_ = r.Reply(false, nil)
			continue
		}
		var line struct{ Line string }
		_ = r.Reply(ssh.Unmarshal(r.Payload, &line) == nil, nil)
		go ssh.DiscardRequests(requests)
		s.exec(line.Line, ch)
		return
	}
}

func (s *Server) exec(line string, ch ssh.Channel) {
	shell := s.Shell
	if shell == nil {
		shell = s.Run
	}
	status, signal := shell(line, ch)
	if signal != "" {
		_, _ = ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Signal        string
			Core          bool
			Message, Lang string
		}{Signal: signal}))
		return
	}
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
}

// Run gives a line to /bin/sh, as a login shell gets it.
func (s *Server) Run(line string, ch ssh.Channel) (uint32, string) {
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Env = s.Environment
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	in, err := cmd.StdinPipe()
	if err != nil || cmd.Start() != nil {
		return 127, ""
	}
	go func() {
		_, _ = io.Copy(in, ch)
		in.Close()
	}()
	_ = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 0, signals[status.Signal()]
	}
	return uint32(cmd.ProcessState.ExitCode()), ""
}

var signals = map[syscall.Signal]string{syscall.SIGTERM: "TERM", syscall.SIGKILL: "KILL", syscall.SIGSEGV: "SEGV", syscall.SIGPIPE: "PIPE"}

func (s *Server) forward(asked ssh.NewChannel) {
	var to struct {
		Host string
		Port uint32
		From string
		Via  uint32
	}
	if ssh.Unmarshal(asked.ExtraData(), &to) != nil {
		_ = asked.Reject(ssh.ConnectionFailed, "what?")
		return
	}
	c, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.ParseIP(to.Host), Port: int(to.Port)})
	if err != nil {
		_ = asked.Reject(ssh.ConnectionFailed, "Connection refused")
		return
	}
	ch, requests, err := asked.Accept()
	if err != nil {
		c.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	both(ch, c)
}

// both copies in both directions until one ends.
func both(a, b io.ReadWriteCloser) {
	var tasks sync.WaitGroup
	for _, way := range [][2]io.ReadWriteCloser{{a, b}, {b, a}} {
		tasks.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			a.Close()
			b.Close()
		})
	}
	tasks.Wait()
}

// Link is a way to a server that breaks on request.
type Link struct {
	Addr   string
	Cut    int64         // bytes from the server until the link is cut; 0: never
	Delay  time.Duration // of each piece
	Piece  int           // bytes at once; 0: 32 KiB
	passed atomic.Int64
	silent atomic.Bool
}

// Start makes a link to an address until the test ends.
func (l *Link) Start(tb testing.TB, to string) *Link {
	tb.Helper()
	l.Addr = Serve(tb, func(near net.Conn) {
		far, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		both(near, &slow{far, l})
	})
	return l
}

// Silence makes the link half-open: nothing passes, and nobody is told.
func (l *Link) Silence() { l.silent.Store(true) }

// Passed is how many bytes came from the server.
func (l *Link) Passed() int64 { return l.passed.Load() }

type slow struct {
	net.Conn
	link *Link
}

func (s *slow) Read(p []byte) (int, error) {
	if s.link.Piece > 0 && len(p) > s.link.Piece {
		p = p[:s.link.Piece]
	}
	n, err := s.Conn.Read(p)
	time.Sleep(s.link.Delay)
	for err == nil && s.link.silent.Load() { // swallow
		n, err = s.Conn.Read(p)
	}
	if total := s.link.passed.Add(int64(n)); s.link.Cut > 0 && total >= s.link.Cut {
		return max(0, n-int(total-s.link.Cut)), io.EOF
	}
	return n, err
}

func (s *slow) Write(p []byte) (int, error) {
	if s.link.silent.Load() {
		return len(p), nil
	}
	return s.Conn.Write(p)
}
