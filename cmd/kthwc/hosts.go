package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/apply/sshconn"
	"github.com/kthwc/kthwc/pkg/artifact"
	"github.com/kthwc/kthwc/pkg/diff"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

// hostFlags are the flags of every verb that reaches hosts.
type hostFlags struct {
	sshConfig string
	lab       bool
	on        []string
	parallel  int
	cache     string
	from      string
}

func (s *session) addHostFlags(cmd *cobra.Command) *hostFlags {
	f := &hostFlags{}
	cmd.Flags().StringVar(&f.sshConfig, "ssh-config", "", "settings of ssh to use instead of ~/.ssh/config")
	cmd.Flags().BoolVar(&f.lab, "lab", false, "the hosts are those of kthwc lab up: reach them there, with the lab's overlay")
	cmd.Flags().StringSliceVar(&f.on, "on", nil, "only these nodes, or nodes of a role: worker-1,controller")
	cmd.Flags().StringVar(&f.from, "from", "", "a directory of kthwc render: bring exactly these files, and render nothing")
	complete(cmd, "from", directories)
	cmd.Flags().IntVar(&f.parallel, "parallel", 16, "so many hosts at once, where nothing speaks against it")
	cmd.Flags().StringVar(&f.cache, "cache", "", "the directory of what was downloaded; $XDG_CACHE_HOME/kthwc where empty")
	cmd.MarkFlagsMutuallyExclusive("ssh-config", "lab")
	complete(cmd, "cache", directories)
	return f
}

// hosts is a cluster with its hosts, as far as they are connected.
type hosts struct {
	*apply.Fleet
	*built
	s       *session
	flags   *hostFlags
	cache   *artifact.Cache
	options sshconn.Options
	expand  bool                               // plans name every path
	nodes   map[string]bool                    // that --on names; nil: all
	reasons map[string]map[string]*diff.Change // by node and path: what has changed since the last apply, and why
}

// connect builds the tree, opens what joins it, and dials every host.
func (s *session) connect(ctx context.Context, f *hostFlags) (*hosts, error) {
	h := &hosts{s: s, flags: f}
	if err := h.throughLab(); err != nil {
		return nil, err
	}
	b, err := s.build()
	if err != nil {
		return nil, err
	}
	h.built = b
	if f.from != "" {
		if b.tree, err = s.exactly(f.from, b); err != nil {
			return nil, err
		}
	}
	if err := h.material(); err != nil {
		return nil, err
	}
	if h.nodes, err = selected(b.tree, f.on); err != nil {
		return nil, err
	}
	h.dial(ctx)
	return h, ctx.Err()
}

// onHosts connects, does something, and closes the connections.
func (s *session) onHosts(ctx context.Context, f *hostFlags, do func(*hosts) error) error {
	h, err := s.connect(ctx, f)
	if err != nil {
		return err
	}
	defer h.close()
	return do(h)
}

// exactly is a rendered directory as it was reviewed. One that was edited by hand
// since, or rendered from another cluster.yaml, is refused.
func (s *session) exactly(dir string, b *built) (*tree.Tree, error) {
	r, err := s.readRendered(dir)
	if err != nil {
		return nil, err
	}
	if len(r.Edited) > 0 {
		return nil, &exitError{exitFailure, fmt.Sprintf("%s was edited by hand: %s", dir, strings.Join(r.Edited, ", ")), "render it anew, and write what you want of it in cluster.yaml"}
	}
	was, is := r.Tree.File("input/cluster.yaml"), b.tree.File("input/cluster.yaml")
	if was == nil || !bytes.Equal(was.Body.Bytes(), is.Body.Bytes()) {
		return nil, &exitError{exitFailure, fmt.Sprintf("%s was rendered from another %s", dir, filepath.Base(s.file)), s.renderTo(dir)}
	}
	return r.Tree, nil
}

// throughLab uses the lab's network, keys and overlay.
func (h *hosts) throughLab() error {
	h.options = h.s.sshOptions(h.flags.sshConfig)
	if !h.flags.lab {
		return nil
	}
	l, err := h.s.openLab(&labFlags{})
	if err != nil {
		return err
	}
	if _, err := os.Stat(l.Overlay()); err != nil {
		return &exitError{exitFailure, "there is no lab of this cluster", "kthwc lab up -f " + h.s.file}
	}
	h.options.ConfigFile, h.options.SystemConfigFile, h.options.Dial = l.SSHConfig(), "", l.Dial
	if !slices.Contains(h.s.overlays, l.Overlay()) {
		h.s.overlays = append(h.s.overlays, l.Overlay())
	}
	return nil
}

// material opens the lock and the store.
func (h *hosts) material() error {
	name := h.cluster.Name.V
	lock, err := artifact.ReadLock(filepath.Join(h.s.stateDir(name), artifact.LockName))
	if err != nil {
		return unproven(err)
	}
	if h.cache, err = artifact.OpenCache((&artifacts{session: h.s, cache: h.flags.cache}).cacheDir()); err != nil {
		return err
	}
	store, err := h.s.open(name)
	if err != nil {
		return err
	}
	h.Fleet = &apply.Fleet{Wanted: &apply.Wanted{Tree: h.tree, Lock: lock, Material: store.Material}, Conns: map[string]apply.Conn{}, Errs: map[string]error{}, Parallel: h.flags.parallel}
	return nil
}

// selected are the nodes that names and roles mean; nil means all.
func selected(t *tree.Tree, on []string) (map[string]bool, error) {
	if len(on) == 0 {
		return nil, nil
	}
	out := map[string]bool{}
	for _, word := range on {
		found := false
		for _, n := range t.Nodes {
			if n.Name == word || slices.Contains(n.Roles, word) {
				out[n.Name], found = true, true
			}
		}
		if !found {
			return nil, &exitError{exitUsage, fmt.Sprintf("--on %s names no node and no role", word), "kthwc config view lists the nodes"}
		}
	}
	return out, nil
}

// dial connects to every host, also to those that --on leaves out: their state
// counts for what may be done to the others.
func (h *hosts) dial(ctx context.Context) {
	var targets []sshconn.Target
	for _, n := range h.tree.Nodes {
		targets = append(targets, target(n))
	}
	h.options.Parallel = h.flags.parallel
	for i, d := range sshconn.DialAll(ctx, targets, h.options) {
		n := h.tree.Nodes[i]
		if d.Err != nil {
			h.Errs[n.Name] = d.Err
			continue
		}
		h.Conns[n.Name] = &hostConn{d.Conn, n.Connection.User != "root"}
	}
}

// target is how a node is reached. A port that nobody has written leaves the word
// to the settings of ssh.
func target(n *tree.Node) sshconn.Target {
	c := n.Connection
	t := sshconn.Target{Name: n.Name, Address: c.Address, Port: c.Port, User: c.User, HostKey: c.HostKey, Bastion: c.Bastion}
	if c.From.Has(origin.PrefixDefault + "spec.ssh.port") {
		t.Port = 0
	}
	return t
}

// redial opens another connection to a host.
func (h *hosts) redial(ctx context.Context, node string) (apply.Conn, error) {
	n, patient := h.tree.Node(node), h.options
	patient.Patience = 20 * time.Second // it was there a moment ago
	c, err := sshconn.Dial(ctx, target(n), patient)
	if err != nil {
		return nil, err
	}
	return &hostConn{c, n.Connection.User != "root"}, nil
}

func (h *hosts) close() {
	var all sync.WaitGroup
	for _, c := range h.Conns {
		all.Go(func() { _ = c.Close() })
	}
	all.Wait()
}

// open gives the bytes of what the lock names.
func (h *hosts) open(digest string) (io.ReadCloser, error) { return os.Open(h.cache.Path(digest)) }

// hostConn runs the steps of an apply over SSH, as root.
type hostConn struct {
	*sshconn.Conn
	sudo bool
}

// mostOutput bounds what a host may say: the states of thousands of paths.
const mostOutput = 64 << 20

func (c *hostConn) Run(ctx context.Context, cmd apply.Command) (apply.Result, error) {
	r, err := c.Conn.Run(ctx, sshconn.Command{Script: sshconn.Script(cmd.Script), Args: cmd.Args, Stdin: cmd.Stdin, Watch: cmd.Watch, Sudo: c.sudo, MaxOutput: mostOutput})
	return apply.Result{Stdout: r.Stdout, Stderr: r.Stderr, Status: r.Exit}, err
}

func (c *hostConn) Forward(ctx context.Context, network, address string) (net.Conn, error) {
	return c.Conn.Forward(ctx, network, address)
}

// sshOptions are what ssh would use for this person on this machine.
func (s *session) sshOptions(configFile string) sshconn.Options {
	o := sshconn.Options{ConfigFile: configFile, Home: s.getenv("HOME"), Getenv: s.getenv}
	if u, err := user.Current(); err == nil {
		o.LocalUser = u.Username
	}
	if configFile == "" {
		o.ConfigFile, o.SystemConfigFile = filepath.Join(o.Home, ".ssh/config"), "/etc/ssh/ssh_config"
	}
	if s.onTerminal(s.err) {
		o.Passphrase = func(ctx context.Context, key string) ([]byte, error) { return s.ask(ctx, "the passphrase of "+key) }
		o.SudoPassword = func(ctx context.Context, host string) ([]byte, error) {
			return s.ask(ctx, "the password for sudo on "+host)
		}
	}
	return o
}

var asking sync.Mutex

// ask reads a secret from the terminal, one at a time.
func (s *session) ask(ctx context.Context, what string) ([]byte, error) {
	asking.Lock()
	defer asking.Unlock()
	in, ok := s.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, errors.New("there is no terminal to ask on")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	fmt.Fprintf(s.err, "%s: ", what)
	word, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(s.err)
	return word, err
}

// owner says who this is, for whoever finds a host held.
func (s *session) owner(verb string) string {
	who := "somebody"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return strings.Map(printableOrSpace, fmt.Sprintf("%s@%s, kthwc %s, process %d, since %s", who, host, verb, os.Getpid(), s.now().UTC().Format(time.DateTime+" UTC")))
}

func printableOrSpace(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}
