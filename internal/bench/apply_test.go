package bench_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/apply/sshconn"
	"github.com/kthwc/kthwc/pkg/artifact"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/tree"
)

// The hosts of these benchmarks are the lab's, made from examples/lab.yaml, and
// the benchmarks run in the lab's network: so this program and ssh have the same
// way to them. apply.sh sees to both, and names ssh's settings in this variable.
const labVariable = "KTHWC_BENCH_SSH_CONFIG"

// site is six hosts, and what they shall be: the files of examples/lab.yaml with
// real certificates and keys, and nothing that would have to be started.
type site struct {
	*apply.Wanted
	source  []byte
	config  string // of ssh
	options sshconn.Options
	store   string
}

func newSite(b *testing.B) *site {
	b.Helper()
	s := &site{config: os.Getenv(labVariable), store: filepath.Join(b.TempDir(), "store")}
	if s.config == "" {
		b.Skip("it needs hosts: make bench-apply brings them up")
	}
	var err error
	if s.source, err = os.ReadFile("../../examples/lab.yaml"); err != nil {
		b.Fatal(err)
	}
	c, faults := compile.Compile(load(b, s.source), compile.Facts{})
	if err := faults.Err(); err != nil {
		b.Fatal(err)
	}
	issue(b, c, s.store, everything)
	s.options = sshconn.Options{ConfigFile: s.config, Home: "/nonexistent", LocalUser: "root", Getenv: os.Getenv, Parallel: 16}
	s.Wanted = s.build(b)
	return s
}

// build is what every command does first: read, compile, render, open the store.
func (s *site) build(b *testing.B) *apply.Wanted {
	b.Helper()
	doc := load(b, s.source)
	store, err := pki.Open(s.store, doc.Cluster.Metadata.Name)
	if err != nil {
		b.Fatal(err)
	}
	known, err := store.Inventory()
	if err != nil {
		b.Fatal(err)
	}
	c, faults := compile.Compile(doc, compile.Facts{Inventory: known})
	if err := faults.Err(); err != nil {
		b.Fatal(err)
	}
	t, faults := render.Render(c, render.Input{Source: s.source})
	if err := faults.Err(); err != nil {
		b.Fatal(err)
	}
	for _, n := range t.Nodes {
		onlyFiles(n)
	}
	return &apply.Wanted{Tree: t, Lock: &artifact.Lock{}, Material: store.Material}
}

// onlyFiles takes from a node what is not a file: its programs, packages and
// units. What systemd would do something with lies elsewhere. Controllers
// would wait for each other's units: without any, all hosts are alike.
func onlyFiles(n *tree.Node) {
	n.Binaries, n.Packages, n.Units, n.Swap, n.Roles = nil, nil, nil, "any", []string{"worker"}
	for i, f := range n.Files {
		moved := *f
		moved.Readers = nil
		for _, dir := range []string{"/etc/systemd/system", "/etc/sysctl.d", "/etc/modules-load.d"} {
			if name, ok := strings.CutPrefix(f.Path, dir+"/"); ok {
				moved.Path = dir + ".bench/" + name
			}
		}
		n.Files[i] = &moved
	}
	slices.SortFunc(n.Files, func(a, b *tree.File) int { return strings.Compare(a.Path, b.Path) })
}

// rootConn runs the steps of an apply as root, which is who logs in to the lab.
type rootConn struct{ *sshconn.Conn }

func (c rootConn) Run(ctx context.Context, cmd apply.Command) (apply.Result, error) {
	r, err := c.Conn.Run(ctx, sshconn.Command{Script: sshconn.Script(cmd.Script), Args: cmd.Args, Stdin: cmd.Stdin, Watch: cmd.Watch, MaxOutput: 64 << 20})
	return apply.Result{Stdout: r.Stdout, Stderr: r.Stderr, Status: r.Exit}, err
}

func (c rootConn) Forward(ctx context.Context, network, address string) (net.Conn, error) {
	return c.Conn.Forward(ctx, network, address)
}

func target(n *tree.Node) sshconn.Target {
	c := n.Connection
	return sshconn.Target{Name: n.Name, Address: c.Address, Port: c.Port, User: c.User, HostKey: c.HostKey, Bastion: c.Bastion}
}

// connect opens a connection to every host of a tree.
func connect(b *testing.B, w *apply.Wanted, o sshconn.Options) *apply.Fleet {
	b.Helper()
	f := &apply.Fleet{Wanted: w, Conns: map[string]apply.Conn{}, Parallel: o.Parallel}
	var targets []sshconn.Target
	for _, n := range w.Tree.Nodes {
		targets = append(targets, target(n))
	}
	for i, d := range sshconn.DialAll(b.Context(), targets, o) {
		if d.Err != nil {
			b.Fatal(d.Err)
		}
		f.Conns[w.Tree.Nodes[i].Name] = rootConn{d.Conn}
	}
	return f
}

func disconnect(f *apply.Fleet) {
	var all sync.WaitGroup
	for _, c := range f.Conns {
		all.Go(func() { _ = c.Close() })
	}
	all.Wait()
}

// plan observes the hosts and compares.
func plan(b *testing.B, f *apply.Fleet) (*apply.Plan, map[string]apply.Host) {
	b.Helper()
	found, err := f.Observe(b.Context(), false)
	if err != nil {
		b.Fatal(err)
	}
	p, err := f.MakePlan(found, apply.Scope{MaxUnavailable: 1})
	if err != nil {
		b.Fatal(err)
	}
	if stops := p.Ready(false); len(stops) > 0 {
		b.Fatal(stops)
	}
	return p, found
}

// nothing is an apply that finds nothing to do.
func (s *site) nothing(b *testing.B) {
	b.Helper()
	f := connect(b, s.build(b), s.options)
	defer disconnect(f)
	if p, _ := plan(b, f); p.Changes() {
		b.Fatalf("%+v", p.Hosts)
	}
}

// first is an apply to hosts that have nothing yet, as the command does it where
// nobody is asked: plan, hold the hosts, carry out.
func (s *site) first(b *testing.B) {
	b.Helper()
	f := connect(b, s.build(b), s.options)
	defer disconnect(f)
	p, found := plan(b, f)
	var nodes []string
	for _, n := range f.Tree.Nodes {
		nodes = append(nodes, n.Name)
	}
	holds, err := f.Hold(b.Context(), nodes, "a benchmark")
	if err != nil {
		b.Fatal(err)
	}
	defer holds.Release()
	if !holds.Untouched(found) || len(p.Pending()) != len(nodes) {
		b.Fatalf("%+v", p.Hosts)
	}
	run := &apply.Run{Wanted: f.Wanted, Plan: p, Hosts: f.Conns, Parallel: f.Parallel, Gate: time.Minute,
		Redial: func(ctx context.Context, node string) (apply.Conn, error) {
			c, err := sshconn.Dial(ctx, target(f.Tree.Node(node)), s.options)
			return rootConn{c}, err
		}}
	out, err := run.Execute(b.Context(), holds.Epoch, apply.States(found))
	if err != nil || len(out.Confirmed) != len(nodes) {
		b.Fatalf("%+v: %v", out, err)
	}
}

// sameExchange has ssh agree on keys as this program does. What it chooses by
// itself, sntrup761 where both ends have it, takes 75 ms of a processor at each end:
// against that much looks fast, so both are measured.
var sameExchange = []string{"-o", "KexAlgorithms=curve25519-sha256"}

// ssh runs one command on every host at once, each with its standard input.
func (s *site) ssh(b *testing.B, settings []string, command string, input func(node string) *exec.Cmd) {
	b.Helper()
	program := readers.Path(b, "ssh")
	var all sync.WaitGroup
	for _, n := range s.Tree.Nodes {
		all.Go(func() {
			cmd := exec.Command(program, slices.Concat([]string{"-F", s.config}, settings, []string{n.Name, command})...)
			var said bytes.Buffer
			cmd.Stderr = &said
			if err := piped(input, n.Name, cmd); err != nil {
				b.Errorf("%s: %s: %v: %s", n.Name, command, err, said.String())
			}
		})
	}
	all.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// piped runs a command with what another one prints.
func piped(input func(node string) *exec.Cmd, node string, cmd *exec.Cmd) error {
	if input == nil {
		return cmd.Run()
	}
	from := input(node)
	out, err := from.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stdin = out
	if err := from.Start(); err != nil {
		return err
	}
	err = cmd.Run()
	if ended := from.Wait(); err == nil {
		err = ended
	}
	return err
}

// bare makes the hosts what they were before any apply.
func (s *site) bare(b *testing.B) {
	b.Helper()
	s.ssh(b, sameExchange, "cp -a -T /root/hosts.bench /etc/hosts 2>/dev/null || cp -a -T /etc/hosts /root/hosts.bench; "+
		"getent passwd etcd >/dev/null || useradd --system --user-group --no-create-home etcd; "+
		"rm -rf /etc/etcd /etc/kubernetes /etc/nginx /etc/haproxy /etc/containerd /etc/cni /etc/crictl.yaml /etc/kthwc /etc/systemd/system.bench /var/lib/kthwc /var/lib/etcd /var/lib/kubelet/* /var/lib/kube-proxy /etc/modules-load.d/k* /etc/sysctl.d/*k* ; sync", nil)
}

// stage writes what the hosts shall have to a directory, one below it for each.
func (s *site) stage(b *testing.B) string {
	b.Helper()
	f := connect(b, s.Wanted, s.options)
	defer disconnect(f)
	_, found := plan(b, f)
	dir := b.TempDir()
	for _, n := range s.Tree.Nodes {
		for _, f := range n.Files {
			if err := put(filepath.Join(dir, n.Name+f.Path), f, found[n.Name].State, s.Wanted); err != nil {
				b.Fatal(err)
			}
		}
	}
	return dir
}

func put(at string, f *tree.File, s *apply.State, w *apply.Wanted) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	switch f.Kind {
	case tree.Dir:
		return os.MkdirAll(at, os.FileMode(f.Mode))
	case tree.Symlink:
		return os.Symlink(f.Target, at)
	case tree.Absent:
		return nil
	}
	text, err := f.Body.Materialise(w.Material)
	if err != nil {
		return err
	}
	if f.Block {
		text = []byte(apply.WithBlock(s.Contents[f.Path], string(text)))
	}
	return os.WriteFile(at, text, os.FileMode(f.Mode))
}

// A runner is one of those that are compared.
type runner struct {
	name   string
	before func(*testing.B) // not measured
	run    func(*testing.B)
}

// race runs all in turn, as often as the benchmark is asked to, and reports how many
// times as long the first takes as each other: ratios of medians.
func race(b *testing.B, ours runner, theirs ...runner) {
	b.Helper()
	took := map[string][]time.Duration{}
	for b.Loop() {
		for _, r := range append([]runner{ours}, theirs...) {
			if r.before != nil {
				r.before(b)
			}
			start := time.Now()
			r.run(b)
			took[r.name] = append(took[r.name], time.Since(start))
		}
	}
	b.ReportMetric(0, "ns/op") // of all together: it says nothing
	mine := median(took[ours.name])
	b.ReportMetric(float64(mine.Milliseconds()), ours.name+"-ms")
	for _, r := range theirs {
		other := median(took[r.name])
		b.ReportMetric(float64(other.Milliseconds()), r.name+"-ms")
		b.ReportMetric(float64(mine)/float64(other), ours.name+"/"+r.name)
	}
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkLabNothing measures an apply that finds nothing to do, against ssh
// that opens the same connections at once and runs `true`: as it is installed, and
// (same) with the key exchange that the apply has.
func BenchmarkLabNothing(b *testing.B) {
	s := newSite(b)
	s.bare(b)
	s.first(b)
	race(b,
		runner{name: "apply", run: s.nothing},
		runner{name: "ssh", run: func(b *testing.B) { s.ssh(b, nil, "true", nil) }},
		runner{name: "ssh-same", run: func(b *testing.B) { s.ssh(b, sameExchange, "true", nil) }})
}

// BenchmarkLabFirst measures the first apply of the files, against tar over ssh
// (same: with the key exchange that the apply has).
func BenchmarkLabFirst(b *testing.B) {
	s := newSite(b)
	s.bare(b)
	staged := s.stage(b)
	pack := func(node string) *exec.Cmd {
		return exec.Command("tar", "-c", "-C", filepath.Join(staged, node), "etc", "var")
	}
	race(b,
		runner{name: "apply", before: s.bare, run: s.first},
		runner{name: "tar", before: s.bare, run: func(b *testing.B) { s.ssh(b, nil, "tar -x -C /", pack) }},
		runner{name: "tar-same", before: s.bare, run: func(b *testing.B) { s.ssh(b, sameExchange, "tar -x -C /", pack) }})
}

// BenchmarkLabAnsible measures Ansible that copies the same files to the same
// hosts and finds nothing to do, against an apply that does so.
func BenchmarkLabAnsible(b *testing.B) {
	s := newSite(b)
	program := readers.Path(b, "ansible-playbook")
	s.bare(b)
	dir := s.stage(b)
	s.playbook(b, dir)
	s.first(b)
	race(b,
		runner{name: "ansible", run: func(b *testing.B) { s.ansible(b, program, dir) }},
		runner{name: "apply", run: s.nothing})
}

// ansible runs the playbook, which must change nothing.
func (s *site) ansible(b *testing.B, program, dir string) {
	b.Helper()
	cmd := exec.Command(program, "-i", "hosts", "play.yml")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "ANSIBLE_CONFIG="+filepath.Join(dir, "ansible.cfg"))
	out, err := cmd.CombinedOutput()
	if unchanged := bytes.Count(out, []byte("changed=0")); err != nil || unchanged != len(s.Tree.Nodes) {
		b.Fatalf("%v, %d hosts unchanged: %s", err, unchanged, out)
	}
}

// playbook copies every file of a host, as one writes it by hand: a task for all
// files, with Ansible's own settings. Gathering facts is left out.
func (s *site) playbook(b *testing.B, dir string) {
	b.Helper()
	var hosts strings.Builder
	for _, n := range s.Tree.Nodes {
		fmt.Fprintf(&hosts, "%s ansible_user=root\n", n.Name)
		var vars strings.Builder
		vars.WriteString("dirs:\n")
		write(&vars, n, tree.Dir)
		vars.WriteString("files:\n")
		write(&vars, n, tree.Regular)
		save(b, filepath.Join(dir, "host_vars", n.Name+".yml"), vars.String())
	}
	save(b, filepath.Join(dir, "hosts"), hosts.String())
	save(b, filepath.Join(dir, "ansible.cfg"), "[ssh_connection]\nssh_args = -F "+s.config+" "+strings.Join(sameExchange, " ")+" -C -o ControlMaster=auto -o ControlPersist=60s\n")
	save(b, filepath.Join(dir, "play.yml"), `- hosts: all
  gather_facts: false
  tasks:
    - file: {state: directory, path: "{{ item.path }}", mode: "{{ item.mode }}", owner: "{{ item.owner }}", group: "{{ item.group }}"}
      loop: "{{ dirs }}"
    - copy: {src: "{{ inventory_hostname }}{{ item.path }}", dest: "{{ item.path }}", mode: "{{ item.mode }}", owner: "{{ item.owner }}", group: "{{ item.group }}"}
      loop: "{{ files }}"
      no_log: true
`)
}

func write(to *strings.Builder, n *tree.Node, kind tree.Kind) {
	for _, f := range n.Files {
		if f.Kind == kind {
			fmt.Fprintf(to, "  - {path: %s, mode: \"%04o\", owner: %s, group: %s}\n", path.Clean(f.Path), f.Mode, f.Owner, f.Group)
		}
	}
}

func save(b *testing.B, at, text string) {
	b.Helper()
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
}
