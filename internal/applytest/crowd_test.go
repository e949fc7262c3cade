package applytest

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kthwc/kthwc/internal/sshtest"
	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/apply/sshconn"
	"github.com/kthwc/kthwc/pkg/artifact"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

// A crowd is many hosts in this process: each is a directory that commands start
// in and take for /, behind an SSH server of its own.
type crowd struct {
	*testing.T
	dir     string
	servers map[string]*sshtest.Server
	targets []sshconn.Target
	options sshconn.Options
	key     ssh.PublicKey
}

const crowdSize = 100

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("files are given to root: run as root")
	}
	dir, err := os.MkdirTemp("/dev/shm", "kthwc-crowd-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &crowd{T: t, dir: dir, servers: map[string]*sshtest.Server{}}
	private, public := keyPair(t, filepath.Join(dir, "id"))
	c.key = public
	var known strings.Builder
	for i := range crowdSize {
		name := fmt.Sprintf("host-%02d", i)
		home := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Join(home, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(home, "var/lib"), 0o755); err != nil {
			t.Fatal(err)
		}
		s := &sshtest.Server{Accept: []ssh.PublicKey{public}}
		s.Shell = func(line string, ch ssh.Channel) (uint32, string) { return s.Run("cd "+home+" && "+line, ch) }
		s.Start(t)
		c.servers[name] = s
		host, port, err := net.SplitHostPort(s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		number, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&known, "[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(s.HostKey.PublicKey()))
		c.targets = append(c.targets, sshconn.Target{Name: name, Address: host, Port: number, User: "root"})
	}
	file := filepath.Join(dir, "known_hosts")
	config := filepath.Join(dir, "config")
	if err := errors.Join(os.WriteFile(file, []byte(known.String()), 0o600), os.WriteFile(config, []byte("IdentityFile "+private+"\nIdentitiesOnly yes\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	c.options = sshconn.Options{ConfigFile: config, Home: dir, LocalUser: "root", KnownHosts: []string{file}, Parallel: 16, Attempts: 1, ConnectTimeout: 5 * time.Second}
	return c
}

// crowdTree gives each host a file that is its own, a secret, and a link.
func (c *crowd) tree(word string) *tree.Tree {
	out := &tree.Tree{Cluster: "crowd"}
	for _, target := range c.targets {
		n := &tree.Node{Name: target.Name, Roles: []string{"worker"}, Swap: "any", From: why, SwapFrom: why}
		key := regular("/etc/crowd/key", 0o600, "")
		key.Body.AddParts(why, tree.Part{Text: "key: "}, tree.Part{Ref: secret.Symmetric(target.Name)})
		for _, f := range []*tree.File{
			directory("/etc/crowd", 0o755), key, regular("/etc/crowd/name", 0o644, target.Name+" "+word+"\n"),
			{Path: "/etc/crowd/link", Kind: tree.Symlink, Mode: 0o777, Owner: "root", Group: "root", Target: "name", From: why},
		} {
			if err := n.Put(f); err != nil {
				c.Fatal(err)
			}
		}
		out.Nodes = append(out.Nodes, n)
	}
	return out
}

func (c *crowd) fleet(word string) *apply.Fleet {
	c.Helper()
	material := func(r secret.Ref) ([]byte, error) { return []byte(canary + " of " + r.Name()), nil }
	f := &apply.Fleet{Wanted: &apply.Wanted{Tree: c.tree(word), Lock: &artifact.Lock{}, Material: material}, Conns: map[string]apply.Conn{}, Errs: map[string]error{}, Root: ".", Parallel: 16}
	for i, d := range sshconn.DialAll(c.Context(), c.targets, c.options) {
		name := c.targets[i].Name
		if d.Err != nil {
			f.Errs[name] = d.Err
			continue
		}
		f.Conns[name] = hostConn{d.Conn, false}
	}
	return f
}

func (c *crowd) close(f *apply.Fleet) {
	for _, conn := range f.Conns {
		conn.Close()
	}
}

// A hundred hosts are applied to at once, each gets what is its own and nothing of
// another, and one that fails is named; a second apply finds nothing to do.
func TestHundredHosts(t *testing.T) {
	c := newCrowd(t)
	before := runtime.NumGoroutine()
	f := c.fleet("one")
	if len(f.Errs) > 0 {
		t.Fatal(f.Errs)
	}
	began := time.Now()
	if out, err := c.apply(f, apply.Scope{}); err != nil || len(out.Confirmed) != crowdSize {
		t.Fatalf("%v, %+v", err, out)
	}
	t.Logf("%d hosts, first apply: %v", crowdSize, time.Since(began).Round(10*time.Millisecond))
	began = time.Now()
	plan, _, err := planOf(c.Context(), f)
	if err != nil || plan.Changes() {
		t.Errorf("then there is something to do: %v", err)
	}
	t.Logf("%d hosts, nothing to do: %v", crowdSize, time.Since(began).Round(10*time.Millisecond))
	c.close(f)
	c.own("one")

	broken := []string{"host-07", "host-42"}
	for _, name := range broken {
		c.servers[name].ChangeHostKey(sshtest.Key(t))
	}
	f = c.fleet("two")
	defer c.close(f)
	if plan, _, err = planOf(c.Context(), f); err != nil {
		t.Fatal(err)
	}
	var unknown []string
	for _, h := range plan.Hosts {
		if h.Unknown != "" {
			unknown = append(unknown, h.Node)
		}
	}
	if !slices.Equal(unknown, broken) {
		t.Errorf("unknown are %q", unknown)
	}
	for _, stop := range plan.Ready(false)[:1] {
		if !strings.Contains(stop, "host-") {
			t.Errorf("%q", stop)
		}
	}
	few := apply.Scope{Nodes: map[string]bool{"host-06": true, "host-07": true, "host-08": true}}
	if out, err := c.apply(f, few); err != nil || !slices.Equal(out.Confirmed, []string{"host-06", "host-08"}) {
		t.Errorf("of three, without one that is broken: %v, %+v", err, out)
	}
	c.close(f)
	for range 100 {
		if runtime.NumGoroutine() <= before+crowdSize {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left, of %d before", runtime.NumGoroutine(), before)
}

// apply carries out what is planned, whatever the hosts are called: this machine
// has one name.
func (c *crowd) apply(f *apply.Fleet, scope apply.Scope) (*apply.Outcome, error) {
	ctx, cancel := context.WithTimeout(c.Context(), 4*time.Minute)
	defer cancel()
	holds, err := f.Hold(ctx, sortedKeys(f.Conns), "the crowd")
	if err != nil {
		return nil, err
	}
	defer holds.Release()
	found, err := f.Observe(ctx, false)
	if err != nil {
		return nil, err
	}
	plan, err := f.MakePlan(found, scope)
	if err != nil {
		return nil, err
	}
	redial := func(ctx context.Context, node string) (apply.Conn, error) {
		at := slices.IndexFunc(c.targets, func(t sshconn.Target) bool { return t.Name == node })
		conn, err := sshconn.Dial(ctx, c.targets[at], c.options)
		if err != nil {
			return nil, err
		}
		return hostConn{conn, false}, nil
	}
	run := &apply.Run{Wanted: f.Wanted, Plan: plan, Hosts: f.Conns, Redial: redial, Root: ".", Parallel: 16, Gate: time.Second}
	return run.Execute(ctx, holds.Epoch, apply.States(found))
}

// own: each host has its own name and key, and no other's.
func (c *crowd) own(word string) {
	c.Helper()
	for _, target := range c.targets {
		name, err := os.ReadFile(filepath.Join(c.dir, target.Name, "etc/crowd/link"))
		key, errKey := os.ReadFile(filepath.Join(c.dir, target.Name, "etc/crowd/key"))
		if errors.Join(err, errKey) != nil || string(name) != target.Name+" "+word+"\n" || string(key) != "key: "+canary+" of keys/"+target.Name+"\n" {
			c.Errorf("%s has %q and %q: %v", target.Name, name, key, errors.Join(err, errKey))
		}
	}
}

// keyPair writes a private key and gives its public half.
func keyPair(t *testing.T, file string) (string, ssh.PublicKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	known, err := ssh.NewPublicKey(public)
	if err := errors.Join(err, os.WriteFile(file, pem.EncodeToMemory(block), 0o600)); err != nil {
		t.Fatal(err)
	}
	return file, known
}
