package applytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/apply/sshconn"
	"github.com/kthwc/kthwc/pkg/lab"
)

// operatorVariable has an order; the program is then an operator.
const operatorVariable = "KTHWC_TEST_OPERATOR"

// An order is what one operator does.
type order struct {
	Lab     string
	Nodes   []string
	Version int
	Gate    time.Duration
	Guard   time.Duration
	Die     *death
	Check   bool // plan once more at the end
	Partial bool // go on without hosts that are not reached
}

// A death comes at the n-th element of the trace, counted from 1.
type death struct {
	At  int
	How string
	In  time.Duration // that a command has been under way
}

// How operators die. A command has its input in the middle of it only where it
// has one.
const (
	before = "before it is sent"
	during = "after it was sent, before its answer"
	within = "in the middle of its input"
)

// A report is what an operator has to say at its end.
type report struct {
	Err     string // "" where all went well
	Held    bool
	Stale   bool
	Undone  bool
	Outcome *apply.Outcome
	Empty   bool // nothing was left to do
	Plan    *apply.Plan
}

// operate is the life of an operator: what `kthwc apply` does, with every remote
// command told on standard output.
func operate(text string) int {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	p := &operator{order: o, w: world{version: o.Version}, tell: func(name string) { fmt.Println("trace " + name) }}
	l, err := lab.Open(lab.Options{State: o.Lab, Cache: o.Lab, Getenv: os.Getenv})
	if err == nil {
		p.options = options(l)
		err = p.apply(ctx)
	}
	if o.Die != nil {
		time.Sleep(time.Second) // it may die yet, of what it did last
	}
	r := p.report(err)
	out, err := json.Marshal(r)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Printf("report %s\n", out)
	return 0
}

type operator struct {
	order
	w        world
	options  sshconn.Options
	tell     func(name string)
	progress func(apply.Event)

	empty   bool
	outcome *apply.Outcome
	plan    *apply.Plan
	first   *apply.Plan // before anything was done

	mu    sync.Mutex
	count int
	asked map[string]bool // questions since the last element that is none
}

func (p *operator) report(err error) report {
	r := report{Outcome: p.outcome, Empty: p.empty, Plan: p.plan}
	if err != nil {
		var held *apply.HeldError
		r.Err, r.Held, r.Stale, r.Undone = err.Error(), errors.As(err, &held), errors.Is(err, apply.ErrStale), errors.Is(err, apply.ErrUndone)
	}
	return r
}

// apply connects to the hosts, as far as they can be reached, and carries out
// what is planned.
func (p *operator) apply(ctx context.Context) error {
	f, err := p.fleet(ctx)
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range f.Conns {
			c.Close()
		}
	}()
	return p.carryOut(ctx, f)
}

func (p *operator) fleet(ctx context.Context) (*apply.Fleet, error) {
	wanted, err := p.w.wanted(p.Nodes...)
	if err != nil {
		return nil, err
	}
	f := &apply.Fleet{Wanted: wanted, Conns: map[string]apply.Conn{}, Errs: map[string]error{}, Parallel: 16}
	for _, node := range p.Nodes {
		if c, err := p.dial(ctx, node); err != nil {
			f.Errs[node] = err
		} else {
			f.Conns[node] = c
		}
	}
	return f, nil
}

// carryOut is what `kthwc apply` does with the pieces of pkg/apply.
func (p *operator) carryOut(ctx context.Context, f *apply.Fleet) error {
	plan, found, err := planOf(ctx, f)
	if err != nil {
		return err
	}
	if p.first, p.plan = plan, plan; plan.Empty() {
		p.empty = true
		return nil
	}
	if stops := plan.Ready(p.Partial); len(stops) > 0 {
		return errors.New(strings.Join(stops, "; "))
	}
	holds, err := f.Hold(ctx, sortedKeys(f.Conns), fmt.Sprintf("the rig, process %d", os.Getpid()))
	if err != nil {
		return err
	}
	defer holds.Release()
	if !holds.Untouched(found) {
		return apply.ErrStale
	}
	run := &apply.Run{Wanted: f.Wanted, Plan: plan, Hosts: f.Conns, Redial: p.dial, Open: p.w.open, Progress: p.progress, Parallel: 16, Gate: p.Gate, Guard: p.Guard, Scope: apply.Scope{Deep: true}}
	p.outcome, err = run.Execute(ctx, holds.Epoch, apply.States(found))
	if err == nil && p.Check {
		p.plan, _, err = planOf(ctx, f)
		p.empty = err == nil && p.plan.Empty()
	}
	return err
}

func planOf(ctx context.Context, f *apply.Fleet) (*apply.Plan, map[string]apply.Host, error) {
	found, err := f.Observe(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	p, err := f.MakePlan(found, apply.Scope{Deep: true})
	return p, found, err
}

func (p *operator) dial(ctx context.Context, node string) (apply.Conn, error) {
	e := p.element(node, "dial")
	m, err := fleet.Machine(node)
	if err != nil {
		return nil, err
	}
	e.die(before)
	if e.how() == during {
		time.AfterFunc(e.order.Die.In, e.kill)
	}
	c, err := sshconn.Dial(ctx, (&machine{Machine: m}).target(), p.options)
	if err != nil {
		return nil, err
	}
	return &traced{hostConn{c, m.User != "root"}, p, node}, nil
}

// element is one thing that the operator does to a host.
type element struct {
	*operator
	mine bool // it dies here
}

// element tells of something that is done. What is asked again and again, until
// the answer is good, counts once.
func (p *operator) element(node, name string) element {
	p.mu.Lock()
	defer p.mu.Unlock()
	full := node + ": " + name
	if question(name) {
		if p.asked[full] {
			return element{p, false}
		}
		p.asked[full] = true
	} else {
		p.asked = map[string]bool{}
	}
	p.count++
	if p.tell != nil {
		p.tell(full)
	}
	return element{p, p.Die != nil && p.Die.At == p.count}
}

func question(name string) bool {
	return strings.HasPrefix(name, "show ") || strings.HasPrefix(name, "forward ")
}

func (e element) how() string {
	if !e.mine {
		return ""
	}
	return e.Die.How
}

func (e element) die(how string) {
	if e.how() == how {
		e.kill()
	}
}

// kill is the end of this process: no deferred call, no last word.
func (element) kill() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// hostConn runs the steps of an apply over SSH, as root.
type hostConn struct {
	*sshconn.Conn
	sudo bool
}

func (c hostConn) Run(ctx context.Context, cmd apply.Command) (apply.Result, error) {
	r, err := c.Conn.Run(ctx, sshconn.Command{Script: sshconn.Script(cmd.Script), Args: cmd.Args, Stdin: cmd.Stdin, Watch: cmd.Watch, Sudo: c.sudo, MaxOutput: 64 << 20})
	return apply.Result{Stdout: r.Stdout, Stderr: r.Stderr, Status: r.Exit}, err
}

func (c hostConn) Forward(ctx context.Context, network, address string) (net.Conn, error) {
	return c.Conn.Forward(ctx, network, address)
}

// traced tells of everything that is done over a connection.
type traced struct {
	hostConn
	op   *operator
	node string
}

// commandNames say by its first words which script is which.
var commandNames = []struct {
	begins string
	name   func(args []string) string
}{
	{"# One transaction on one host.", func(a []string) string { // the time is the test's
		return strings.Join(append([]string{a[0]}, a[min(5, len(a)):]...), " ")
	}},
	{"# Says what a host is,", func([]string) string { return "observe" }},
	{"# Holds a host", func([]string) string { return "hold" }},
	{"# Brings one file", func(a []string) string { return "blob " + a[1][:strings.LastIndex(path.Dir(a[1]), "-")] }},
	{"# What a unit is,", func(a []string) string {
		if a[0] == "sweep" {
			return a[0]
		}
		return strings.Join(a[:2], " ")
	}},
}

func commandName(c apply.Command) string {
	for _, row := range commandNames {
		if strings.HasPrefix(c.Script, row.begins) {
			return row.name(c.Args)
		}
	}
	return fmt.Sprintf("a script that the rig does not know: %.60q", c.Script)
}

func (c *traced) Run(ctx context.Context, cmd apply.Command) (apply.Result, error) {
	name := commandName(cmd)
	e := c.op.element(c.node, name)
	e.die(before)
	if cmd.Stdin == nil {
		cmd.Stdin = bytes.NewReader(nil)
	}
	if name == "hold" {
		cmd.Stdin = &orders{conn: c, from: cmd.Stdin}
	}
	switch e.how() {
	case during:
		cmd.Stdin = &ending{cmd.Stdin, e}
		if name == "hold" { // its input does not end
			time.AfterFunc(50*time.Millisecond+e.Die.In, e.kill)
		}
	case within:
		text, err := io.ReadAll(cmd.Stdin)
		if err != nil {
			return apply.Result{}, err
		}
		cmd.Stdin = &half{text: text[:len(text)/2], e: e}
	}
	return c.hostConn.Run(ctx, cmd)
}

// Forward dies in the middle of what is said over the new connection.
func (c *traced) Forward(ctx context.Context, network, address string) (net.Conn, error) {
	e := c.op.element(c.node, "forward "+address)
	e.die(before)
	conn, err := c.hostConn.Forward(ctx, network, address)
	if e.how() == during {
		time.AfterFunc(e.Die.In, e.kill)
	}
	return conn, err
}

// ending dies a little after the last of a command's input was taken.
type ending struct {
	io.Reader
	e element
}

func (r *ending) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil {
		time.AfterFunc(r.e.Die.In, r.e.kill)
	}
	return n, err
}

// half gives half of an input, lets it arrive, and dies.
type half struct {
	text []byte
	e    element
}

func (r *half) Read(p []byte) (int, error) {
	if len(r.text) == 0 {
		time.Sleep(r.e.Die.In)
		r.e.kill()
	}
	n := copy(p, r.text)
	r.text = r.text[n:]
	return n, nil
}

// orders are the lines that the holder of a host gets, each an element of its own,
// and their end, which gives the host back.
type orders struct {
	conn *traced
	from io.Reader
}

func (r *orders) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	name := "release"
	if err == nil {
		name = "hold, " + strings.Fields(string(p[:n]) + " ?")[0]
	}
	e := r.conn.op.element(r.conn.node, name)
	e.die(before)
	switch e.how() {
	case during:
		time.AfterFunc(e.Die.In, e.kill)
	case within:
		time.AfterFunc(e.Die.In, e.kill)
		return n / 2, err
	}
	return n, err
}

// An attempt is what became of an operator.
type attempt struct {
	trace  []string
	killed bool
	report
}

// start runs an operator to its end.
func (o order) start(ctx context.Context) (*attempt, error) {
	o.Lab = rig.lab.State
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, operatorVariable) }), operatorVariable+"="+string(text))
	var said, complained bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &complained
	err = cmd.Run()
	a := &attempt{}
	for line := range strings.Lines(said.String()) {
		if text, ok := strings.CutPrefix(line, "trace "); ok {
			a.trace = append(a.trace, strings.TrimSuffix(text, "\n"))
		}
		if text, ok := strings.CutPrefix(line, "report "); ok {
			if err := json.Unmarshal([]byte(text), &a.report); err != nil {
				return nil, err
			}
		}
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if a.killed = ok && status.Signaled() && status.Signal() == syscall.SIGKILL && ctx.Err() == nil; a.killed {
		return a, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the operator ended with %w: %s", err, complained.String())
	}
	return a, nil
}

// succeed runs operators until one has done all, as a person would who is told
// that somebody holds the host still, or that it has changed since it was looked at.
func (o order) succeed(t *testing.T) *attempt {
	t.Helper()
	ctx := bounded(t, 2*time.Minute)
	for tries := 1; ; tries++ {
		a, err := o.start(ctx)
		switch {
		case err != nil:
			t.Fatal(err)
		case a.Err == "":
			return a
		case !a.Held && !a.Stale || tries > 20:
			t.Fatalf("apply, the %d. time: %s", tries, a.Err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// nothingToDo plans, and wants an empty plan.
func (o order) nothingToDo(t *testing.T) {
	t.Helper()
	o.Die = nil
	a, err := o.start(bounded(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if !a.Empty || a.Err != "" {
		text, _ := json.MarshalIndent(a.report, "", " ")
		t.Errorf("after the apply, the plan is not empty: %.3000s", text)
	}
}

// here is an operator within the test, which lives.
func (o order) here(w world, set ...func(*sshconn.Options)) *operator {
	o.Version = w.version
	p := &operator{order: o, w: w, options: options(rig.lab)}
	for _, s := range set {
		s(&p.options)
	}
	return p
}

// quick is an order with gates that are as short as they can be.
func quick(version int, machines ...*machine) order {
	o := order{Version: version, Gate: 20 * time.Second, Guard: 2 * time.Minute}
	for _, m := range machines {
		o.Nodes = append(o.Nodes, m.Name)
	}
	return o
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
