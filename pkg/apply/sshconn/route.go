package sshconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// hop is one SSH server on the way to a host, the last being the host itself.
type hop struct {
	label           string // for errors: "worker-0 (admin@10.0.0.1:22)"
	name, host      string // as it was asked for, and as it is dialled
	port            int
	user            string
	proxyCommand    string // how the first hop is reached, "" for TCP
	knownName       string // HostKeyAlias
	knownHosts      []string
	agentSocket     string
	identities      []string
	identitiesNamed bool // by the configuration, not by ssh's default list
	identitiesOnly  bool
	certificates    []string
	pin             string
}

// jumpsMost bounds a chain of bastions; a longer one jumps in a circle.
const jumpsMost = 8

// hops is the way to a target: bastions first.
func (d *dialler) hops(t Target) ([]*hop, error) {
	var jumps []string
	if t.Bastion != "" {
		jumps = []string{t.Bastion}
	}
	way, err := d.way(t, jumps, 0)
	if err != nil {
		return nil, asFault(BadConfig, t.label(), "the way to the host cannot be found", err)
	}
	return way, nil
}

// way resolves a target. Jumps are the bastions to go through, instead of what
// the configuration says about the target; as with ssh -J, the way to the first
// of them is its own configuration's.
func (d *dialler) way(t Target, jumps []string, depth int) ([]*hop, error) {
	if depth > jumpsMost {
		return nil, errors.New("more than " + strconv.Itoa(jumpsMost) + " bastions: ProxyJump goes in a circle")
	}
	said, err := configOf(d.env, t.Address, t.User)
	if err != nil {
		return nil, err
	}
	h, err := d.hop(t, said)
	if err != nil {
		return nil, err
	}
	if jump := said.first("proxyjump"); len(jumps) == 0 && jump != "" && !strings.EqualFold(jump, "none") {
		jumps = strings.Split(jump, ",")
	}
	if len(jumps) == 0 {
		if command := said.first("proxycommand"); command != "" && !strings.EqualFold(command, "none") {
			h.proxyCommand, err = d.env.expand(command, h.tokens(d.env))
		}
		return []*hop{h}, err
	}
	last, err := ParseJump(jumps[len(jumps)-1])
	if err != nil {
		return nil, err
	}
	before, err := d.way(last, jumps[:len(jumps)-1], depth+1)
	return append(before, h), err
}

// ParseJump reads a bastion: [user@]host[:port] or ssh://[user@]host[:port].
// An IPv6 address with a port is in brackets.
func ParseJump(s string) (Target, error) {
	s = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "ssh://"), "/")
	t := Target{Address: s}
	if at := strings.LastIndexByte(s, '@'); at >= 0 {
		t.User, t.Address = s[:at], s[at+1:]
	}
	if host, port, err := net.SplitHostPort(t.Address); err == nil {
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil || number == 0 {
			return Target{}, fmt.Errorf("bastion %q: the port is not a number from 1 to 65535", s)
		}
		t.Address, t.Port = host, int(number)
	}
	t.Address = strings.Trim(t.Address, "[]")
	if t.Address == "" || strings.HasPrefix(t.Address, "-") || strings.ContainsAny(t.Address, " \t/@") {
		return Target{}, fmt.Errorf("bastion %q is not user@host:port", s)
	}
	t.Name = "bastion " + t.Address
	return t, nil
}

// hop fills in one server: what the caller says, else the configuration, else ssh's defaults.
func (d *dialler) hop(t Target, said settings) (*hop, error) {
	h := &hop{name: t.Address, host: t.Address, port: t.Port, pin: t.HostKey,
		user: firstOf(t.User, said.first("user"), d.env.localUser)}
	if name := said.first("hostname"); name != "" {
		h.host = strings.NewReplacer("%%", "%", "%h", t.Address).Replace(name)
	}
	if h.port == 0 {
		port, err := strconv.ParseUint(firstOf(said.first("port"), "22"), 10, 16)
		if err != nil || port == 0 {
			return nil, fmt.Errorf("port %q is not a number from 1 to 65535", said.first("port"))
		}
		h.port = int(port)
	}
	if h.host == "" || h.user == "" || strings.HasPrefix(h.host, "-") || strings.HasPrefix(h.user, "-") {
		return nil, fmt.Errorf("user %q at %q cannot be dialled", h.user, h.host)
	}
	h.label = Target{Name: t.Name, Address: h.host, Port: h.port, User: h.user}.label()
	h.knownName = said.first("hostkeyalias")
	h.identitiesOnly = said.first("identitiesonly") == "yes"
	return h, d.files(h, said)
}

// files expands the paths of a hop.
func (d *dialler) files(h *hop, said settings) error {
	tokens := h.tokens(d.env)
	var err error
	expand := func(values []string) (out []string) {
		for _, v := range values {
			path, failed := d.env.expand(v, tokens)
			if err == nil {
				err = failed
			}
			if v != "none" {
				out = append(out, path)
			}
		}
		return out
	}
	h.identitiesNamed = len(said["identityfile"]) > 0
	h.identities = expand(or(said["identityfile"], []string{"~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519"}))
	h.certificates = expand(said["certificatefile"])
	h.knownHosts = append(expand(or(said["userknownhostsfile"], []string{"~/.ssh/known_hosts", "~/.ssh/known_hosts2"})),
		expand(or(said["globalknownhostsfile"], []string{"/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"}))...)
	if len(d.options.KnownHosts) > 0 {
		h.knownHosts = d.options.KnownHosts
	}
	switch socket := firstOf(said.first("identityagent"), "SSH_AUTH_SOCK"); {
	case socket == "SSH_AUTH_SOCK":
		h.agentSocket = d.env.getenv("SSH_AUTH_SOCK")
	case strings.HasPrefix(socket, "$") && !strings.HasPrefix(socket, "${"):
		h.agentSocket = d.env.getenv(socket[1:])
	default:
		h.agentSocket = strings.Join(expand([]string{socket}), "")
	}
	return err
}

func or(values, otherwise []string) []string {
	if len(values) > 0 {
		return values
	}
	return otherwise
}

// tokens are what stands for %h and the like.
func (h *hop) tokens(env environment) map[byte]string {
	return map[byte]string{'%': "%", 'h': h.host, 'n': h.name, 'p': strconv.Itoa(h.port), 'r': h.user,
		'u': env.localUser, 'd': env.home, 'k': firstOf(h.knownName, h.name)}
}

// address is the hop's own host and port.
func (h *hop) address() string { return net.JoinHostPort(h.host, strconv.Itoa(h.port)) }

// proxied starts a ProxyCommand and gives its standard input and output as a connection.
func proxied(h *hop) (*proxyConn, error) {
	cmd := exec.Command("/bin/sh", "-c", "exec "+h.proxyCommand)
	cmd.WaitDelay = time.Second
	errors := &tail{}
	cmd.Stderr = errors
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// A pipe of our own: Wait would close one of cmd's while it is being read.
	out, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = theirs
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		out.Close()
		return nil, err
	}
	c := &proxyConn{Reader: out, Writer: in, errors: errors, done: make(chan struct{}), name: filepath.Base(strings.Fields(h.proxyCommand)[0])}
	c.stop = sync.OnceFunc(func() {
		in.Close()
		_ = cmd.Process.Kill()
		<-c.done
		out.Close()
	})
	go func() {
		_ = cmd.Wait() // what it said is in errors
		close(c.done)
	}()
	return c, nil
}

// proxyConn is a ProxyCommand as a net.Conn without deadlines: who needs one closes it.
type proxyConn struct {
	io.Reader
	io.Writer
	errors *tail
	done   chan struct{}
	stop   func()
	name   string
}

// Close ends the program and waits for it.
func (c *proxyConn) Close() error { c.stop(); return nil }

// LocalAddr is of no use; ssh wants one.
func (c *proxyConn) LocalAddr() net.Addr { return proxyAddr(c.name) }

// RemoteAddr names the program.
func (c *proxyConn) RemoteAddr() net.Addr { return proxyAddr(c.name) }

// SetDeadline is not for pipes.
func (c *proxyConn) SetDeadline(time.Time) error { return os.ErrNoDeadline }

// SetReadDeadline is not for pipes.
func (c *proxyConn) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// SetWriteDeadline is not for pipes.
func (c *proxyConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

type proxyAddr string

func (a proxyAddr) Network() string { return "proxy" }
func (a proxyAddr) String() string  { return string(a) }

// tail keeps the last words of a program.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 1000

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if extra := len(t.text) - tailBytes; extra > 0 {
		t.text = append([]byte(nil), t.text[extra:]...)
	}
	return len(p), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]byte(nil), t.text...)
}

// reach opens the connection to the first hop.
func (d *dialler) reach(ctx context.Context, h *hop) (net.Conn, error) {
	if h.proxyCommand != "" {
		c, err := proxied(h)
		if err != nil {
			return nil, fault(Proxy, h.label, "the ProxyCommand does not start", err)
		}
		return c, nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.options.ConnectTimeout)
	defer cancel()
	c, err := d.options.Dial(ctx, "tcp", h.address())
	if err != nil {
		return nil, dialFault(h.label, err)
	}
	return c, nil
}
