package bench_test

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kthwc/kthwc/internal/bench"
	"github.com/kthwc/kthwc/internal/sshtest"
	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/apply/sshconn"
	"github.com/kthwc/kthwc/pkg/artifact"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/pkg/tree"
)

// crowd is many hosts in this process: each is a directory that its commands start
// in and take for /, behind an SSH server of its own. Everything that shall be
// there is there.
type crowd struct {
	*apply.Wanted
	options sshconn.Options
}

func newCrowd(b *testing.B, hosts int) *crowd {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("files are given to root: run as root")
	}
	dir, err := os.MkdirTemp("/dev/shm", "kthwc-bench-")
	if err != nil {
		dir = b.TempDir()
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	model := compiled(b, hosts)
	issue(b, model, filepath.Join(dir, "store"), everything)
	store, err := pki.Open(filepath.Join(dir, "store"), model.Name.V)
	if err != nil {
		b.Fatal(err)
	}
	c := &crowd{Wanted: &apply.Wanted{Tree: build(b, load(b, bench.Pool(hosts))), Lock: &artifact.Lock{}, Material: store.Material}}
	public := c.keys(b, dir)
	for _, n := range c.Tree.Nodes {
		onlyFiles(n)
		rootsOnly(n)
		home := filepath.Join(dir, n.Name)
		if err := errors.Join(os.MkdirAll(filepath.Join(home, "var/lib"), 0o755), c.fill(home, n)); err != nil {
			b.Fatal(err)
		}
		c.serve(b, home, n, public)
	}
	return c
}

// rootsOnly leaves users out: all hosts have those of this machine.
func rootsOnly(n *tree.Node) {
	n.Users = nil
	for _, f := range n.Files {
		f.Owner, f.Group = "root", "root"
	}
}

func (c *crowd) fill(home string, n *tree.Node) error {
	for _, f := range n.Files {
		at := home + f.Path
		if err := put(at, f, &apply.State{}, c.Wanted); err != nil {
			return err
		}
		if f.Kind == tree.Dir || f.Kind == tree.Regular { // whatever the mask is
			if err := os.Chmod(at, os.FileMode(f.Mode)); err != nil {
				return err
			}
		}
	}
	return nil
}

// keys writes the key that logs in everywhere.
func (c *crowd) keys(b *testing.B, dir string) ssh.PublicKey {
	b.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		b.Fatal(err)
	}
	known, err := ssh.NewPublicKey(public)
	if err != nil {
		b.Fatal(err)
	}
	key := filepath.Join(dir, "id")
	save(b, key, string(pem.EncodeToMemory(block)))
	save(b, filepath.Join(dir, "config"), "IdentityFile "+key+"\nIdentitiesOnly yes\n")
	c.options = sshconn.Options{ConfigFile: filepath.Join(dir, "config"), Home: dir, LocalUser: "root", Parallel: 16}
	return known
}

func (c *crowd) serve(b *testing.B, home string, n *tree.Node, user ssh.PublicKey) {
	b.Helper()
	s := &sshtest.Server{Accept: []ssh.PublicKey{user}}
	s.Shell = func(line string, ch ssh.Channel) (uint32, string) { return s.Run("cd "+home+" && "+line, ch) }
	s.Start(b)
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		b.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		b.Fatal(err)
	}
	n.Connection = tree.Connection{Address: host, Port: number, User: "root", HostKey: string(ssh.MarshalAuthorizedKey(s.HostKey.PublicKey()))}
}

// BenchmarkCrowd measures an apply that finds nothing to do on many hosts, which
// are in this process: their ends of the connections are in its time and memory.
// live is what the heap holds when every connection is open and the plan is made;
// hosts-processor-s is what the hosts' commands took.
func BenchmarkCrowd(b *testing.B) {
	for _, hosts := range []int{100, 500} {
		b.Run(fmt.Sprint(hosts), func(b *testing.B) {
			c := newCrowd(b, hosts)
			var took []time.Duration
			var live, allocated uint64
			ours, commands := processors(syscall.RUSAGE_SELF), processors(syscall.RUSAGE_CHILDREN)
			for b.Loop() {
				empty := heap()
				start := time.Now()
				f := connect(b, c.Wanted, c.options)
				f.Root = "."
				p := c.nothing(b, f)
				took = append(took, time.Since(start))
				full := heap()
				live, allocated = max(live, full.HeapAlloc-empty.HeapAlloc), full.TotalAlloc-empty.TotalAlloc
				disconnect(f)
				runtime.KeepAlive(p)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(took).Seconds(), "s")
			b.ReportMetric((processors(syscall.RUSAGE_SELF)-ours).Seconds()/float64(b.N), "processor-s")
			b.ReportMetric((processors(syscall.RUSAGE_CHILDREN)-commands).Seconds()/float64(b.N), "hosts-processor-s")
			b.ReportMetric(float64(live)/float64(hosts)/1024, "live-KiB/host")
			b.ReportMetric(float64(allocated)/float64(hosts)/1024, "allocated-KiB/host")
		})
	}
}

func (c *crowd) nothing(b *testing.B, f *apply.Fleet) *apply.Plan {
	b.Helper()
	found, err := f.Observe(b.Context(), false)
	if err != nil {
		b.Fatal(err)
	}
	p, err := f.MakePlan(found, apply.Scope{})
	if err != nil {
		b.Fatal(err)
	}
	for _, h := range p.Hosts {
		if h.Unknown != "" || h.Pending() {
			b.Fatalf("%+v", h)
		}
	}
	return p
}

func heap() runtime.MemStats {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools have kept
	runtime.ReadMemStats(&m)
	return m
}

// processors is the time that processors spent on this process, or on those that
// it has started and waited for.
func processors(who int) time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(who, &u) != nil {
		return 0 // on Linux it does not fail
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
