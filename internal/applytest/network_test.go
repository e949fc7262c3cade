package applytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/apply/sshconn"
	"github.com/kthwc/kthwc/pkg/lab"
	"github.com/kthwc/kthwc/pkg/tree"
)

func impatient(o *sshconn.Options) {
	o.ConnectTimeout, o.Attempts, o.KeepaliveEvery, o.KeepaliveMissed = 2*time.Second, 1, 500*time.Millisecond, 2
}

// One host that is not reached stops everything before anything is written; left
// out by choice, it is brought along by the next run.
func TestUnreachableHost(t *testing.T) {
	t.Parallel()
	machines := take(t, 2)
	near, far := machines[0], machines[1]
	bare := near.mustPicture(t)
	both := quick(1, near, far)
	for name, fault := range map[string]struct{ begin, end func() }{
		"refused": {func() { far.must(t, `systemctl stop ssh`) }, func() { far.must(t, `systemctl start ssh`) }},
		"silent":  {func() { power(t, (*lab.Lab).Cut, far) }, func() { power(t, (*lab.Lab).Join, far) }},
	} {
		fault.begin()
		began := time.Now()
		p := both.here(world{version: 1}, impatient)
		err := p.apply(bounded(t, time.Minute))
		took := time.Since(began)
		if name == "silent" {
			far.drop()
		}
		if err == nil || !strings.Contains(err.Error(), far.Name) || p.plan.Host(far.Name).Unknown == "" || p.outcome != nil {
			t.Errorf("%s: %v, %+v", name, err, p.plan.Host(far.Name))
		}
		if took > 20*time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
		if wrong := near.mustPicture(t).sameAs(bare); len(wrong) > 0 {
			t.Errorf("%s: something was done to %s: %q", name, near.Name, wrong)
		}
		if left := near.must(t, `ls -A /var/lib/kthwc 2>/dev/null; :`); left != "" {
			t.Errorf("%s: %s has %q", name, near.Name, left)
		}
		if name == "silent" {
			part := both
			part.Partial = true
			p := part.here(world{version: 1}, impatient)
			if err := p.apply(bounded(t, time.Minute)); err != nil || len(p.outcome.Confirmed) != 1 || p.outcome.Confirmed[0] != near.Name {
				t.Errorf("without %s: %v, %+v", far.Name, err, p.outcome)
			}
		}
		fault.end()
		if name == "refused" {
			continue
		}
		both.succeed(t)
		both.nothingToDo(t)
		for _, m := range machines {
			if err := m.toBare(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// power is something that befalls a machine; one at a time, since each holds the
// lab's lock, and by a handle of its own, since others dial by theirs.
func power(t *testing.T, do func(*lab.Lab, context.Context, string) (bool, error), m *machine) {
	t.Helper()
	powering.Lock()
	defer powering.Unlock()
	l, err := lab.Open(lab.Options{State: rig.lab.State, Cache: rig.lab.Cache, Self: rig.lab.Self, Getenv: os.Getenv})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := do(l, bounded(t, time.Minute), m.Name); err != nil {
		t.Fatal(err)
	}
}

var powering sync.Mutex

// scissors cut a connection after so many bytes to the host; Silence lets nothing
// pass any more, in either direction, and tells nobody.
type scissors struct {
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	after  int64 // 0: never
	sent   atomic.Int64
	silent atomic.Bool

	mu   sync.Mutex
	open []net.Conn
}

func (s *scissors) set(o *sshconn.Options) {
	s.dial = o.Dial
	o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := s.dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open = append(s.open, c)
		return &cutConn{c, s}, nil
	}
}

// cut ends every connection that there is.
func (s *scissors) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.open {
		c.Close()
	}
}

type cutConn struct {
	net.Conn
	s *scissors
}

func (c *cutConn) Write(p []byte) (int, error) {
	if c.s.silent.Load() {
		return len(p), nil
	}
	if left := c.s.after - c.s.sent.Load(); c.s.after > 0 && left < int64(len(p)) {
		n, _ := c.Conn.Write(p[:max(0, left)])
		c.Conn.Close()
		return n, errors.New("the rig has cut the connection")
	}
	n, err := c.Conn.Write(p)
	c.s.sent.Add(int64(n))
	return n, err
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for err == nil && c.s.silent.Load() {
		time.Sleep(20 * time.Millisecond)
	}
	return n, err
}

// A generation or a program that is cut at any byte is never there, and never in
// the place of another.
func TestTransferCutAnywhere(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	quick(1, m).succeed(t)
	was := m.mustPicture(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("where it is cut comes from seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	big := apply.Install{RecordedEntry: apply.RecordedEntry{Path: "/etc/rig/same", Kind: tree.Regular, Mode: 0o640, Owner: "root", Group: "root"}, Content: bytes.Repeat([]byte("new\n"), 50_000)}
	const program = "/opt/kthwc/rig-tick/9.9.9/rig-tick"
	for i := range 40 {
		s := &scissors{}
		p := quick(2, m).here(world{version: 2}, impatient, s.set)
		c, err := p.dial(bounded(t, 10*time.Second), m.Name)
		if err != nil {
			t.Fatal(err)
		}
		// The length of the script is sent, too: what is cut is often the input.
		s.after = s.sent.Load() + random.Int64N(int64(len(big.Content)))
		tx := &apply.Transaction{Conn: c, Generation: 100 + i}
		if i%2 == 0 {
			err = tx.Stage(bounded(t, 20*time.Second), []apply.Install{big}, nil, apply.Recorded{})
		} else {
			err = tx.Blob(bounded(t, 20*time.Second), program, tree.Digest(big.Content), 0o755, bytes.NewReader(big.Content))
		}
		c.Close()
		var cut *sshconn.Error
		if err == nil || !errors.As(err, &cut) || cut.Kind != sshconn.ConnectionLost {
			t.Fatalf("cut after %d bytes: %v", s.sent.Load(), err)
		}
	}
	m.must(t, `exec 9>>/var/lib/kthwc/lock; flock -w 60 9`) // whatever was cut has ended
	if wrong := m.mustPicture(t).between(was, was); len(wrong) > 0 {
		t.Errorf("then %q", wrong)
	}
	if there := m.must(t, `ls /var/lib/kthwc/gen | grep '^1[0-9][0-9]$'; ls -A /opt/kthwc/rig-tick/9.9.9 2>/dev/null | grep -v '^\.kthwc-'; :`); there != "" {
		t.Errorf("there is %q", there)
	}
	o := quick(2, m)
	o.succeed(t)
	o.nothingToDo(t)
}

// everyStep are the steps of a transaction, by what they are called on the host.
func everyStep(ctx context.Context, x *apply.Transaction, entries []apply.Install) map[string]func() error {
	return map[string]func() error{
		"stage":   func() error { return x.Stage(ctx, entries, nil, apply.Recorded{}) },
		"install": func() error { return x.Install(ctx, time.Minute) },
		"act": func() error {
			_, err := x.Act(ctx, time.Minute, apply.UnitAction{Unit: webUnit, Do: apply.Start})
			return err
		},
		"extend":   func() error { return x.Extend(ctx, time.Minute) },
		"commit":   func() error { return x.Commit(ctx) },
		"revert":   func() error { _, err := x.Revert(ctx); return err },
		"rollback": func() error { return x.Rollback(ctx) },
		"recover":  func() error { return x.Recover(ctx) },
	}
}

// An operator whose link is half open holds the host, and one who asks is told
// who that is. One who answers keeps it; from one who does not it can be taken, and
// when he is back, he is refused.
func TestHalfOpenOperator(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	ctx := bounded(t, 2*time.Minute)
	s := &scissors{}
	patient := func(o *sshconn.Options) { o.KeepaliveEvery = time.Minute } // so that he does not notice himself
	first, second := quick(1, m).here(world{version: 1}, patient, s.set), quick(2, m).here(world{version: 2})
	mine, err := first.fleet(ctx)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := second.fleet(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const owner = "somebody@elsewhere, kthwc apply, process 7, since 2024-02-29 10:00:00 UTC"
	held, err := mine.Hold(ctx, []string{m.Name}, owner)
	if err != nil {
		t.Fatal(err)
	}
	var who *apply.HeldError
	if _, err := theirs.Hold(ctx, []string{m.Name}, "second"); !errors.As(err, &who) || who.Node != m.Name || who.Owner != owner {
		t.Errorf("a second operator: %v", err)
	}
	if _, err := apply.ReleaseDead(ctx, m.Name, theirs.Conns[m.Name], "", 3*time.Second); !errors.As(err, &who) || who.Owner != owner {
		t.Errorf("taken from somebody who answers: %v", err)
	}
	entries := []apply.Install{{RecordedEntry: apply.RecordedEntry{Path: "/etc/rig/first", Kind: tree.Regular, Mode: 0o644}, Content: []byte("first\n")}}
	old := &apply.Transaction{Conn: mine.Conns[m.Name], Generation: held.Epoch, Epoch: held.Epoch}
	if err := old.Stage(ctx, entries, nil, apply.Recorded{}); err != nil {
		t.Fatal(err)
	}

	s.silent.Store(true)
	if from, err := apply.ReleaseDead(ctx, m.Name, theirs.Conns[m.Name], "", 2*time.Second); err != nil || from != owner {
		t.Errorf("taken from somebody who does not answer: %q, %v", from, err)
	}
	next, err := theirs.Hold(ctx, []string{m.Name}, "second")
	if err != nil {
		t.Fatal(err)
	}
	defer next.Release()
	if next.Epoch <= held.Epoch {
		t.Errorf("epoch %d comes after %d", next.Epoch, held.Epoch)
	}

	s.silent.Store(false)
	for what, step := range everyStep(ctx, old, entries) {
		if err := step(); !errors.Is(err, apply.ErrTaken) {
			t.Errorf("%s of the first operator: %v", what, err)
		}
	}
	if err := mine.Reset(ctx, m.Name, held.Epoch, &apply.State{}, false); !errors.Is(err, apply.ErrTaken) {
		t.Errorf("reset of the first operator: %v", err)
	}
	if there := m.must(t, `ls /etc/rig 2>/dev/null; :`); there != "" {
		t.Errorf("the first operator has written %q", there)
	}
}

// Of operators who come at once, one gets the hosts, and the others are told who
// that is; there is never nobody.
func TestOperatorsAtOnce(t *testing.T) {
	t.Parallel()
	machines := take(t, 2)
	ctx := bounded(t, 3*time.Minute)
	const operators, rounds = 8, 12
	var fleets []*apply.Fleet
	for range operators {
		f, err := quick(1, machines...).here(world{version: 1}).fleet(ctx)
		if err != nil {
			t.Fatal(err)
		}
		fleets = append(fleets, f)
	}
	nodes := sortedKeys(fleets[0].Conns)
	last, nobody := 0, 0
	for round := range rounds {
		won := make([]*apply.Holds, operators)
		var all sync.WaitGroup
		for i, f := range fleets {
			all.Go(func() {
				h, err := f.Hold(ctx, nodes, fmt.Sprintf("operator %d of round %d", i, round))
				var held *apply.HeldError
				switch {
				case err == nil:
					won[i] = h
				case !errors.As(err, &held):
					t.Errorf("operator %d: %v", i, err)
				case !strings.HasPrefix(held.Owner, "operator ") || !strings.HasSuffix(held.Owner, fmt.Sprintf(" of round %d", round)):
					t.Errorf("operator %d is told of %q", i, held.Owner)
				}
			})
		}
		all.Wait()
		winners := 0
		for _, h := range won {
			if h == nil {
				continue
			}
			winners++
			if h.Epoch <= last {
				t.Errorf("epoch %d comes after %d", h.Epoch, last)
			}
			last = h.Epoch
			h.Release()
		}
		if winners > 1 {
			t.Errorf("round %d: %d operators have the hosts", round, winners)
		}
		if winners == 0 {
			nobody++
		}
	}
	if nobody > 0 {
		t.Errorf("in %d of %d rounds nobody got the hosts", nobody, rounds)
	}
}

// Whole applies that come at once do what one does.
func TestAppliesAtOnce(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	o := quick(1, m)
	ctx := bounded(t, 2*time.Minute)
	attempts := make([]*attempt, 4)
	var all sync.WaitGroup
	for i := range attempts {
		all.Go(func() {
			a, err := o.start(ctx)
			if err != nil {
				t.Error(err)
				a = &attempt{}
			}
			attempts[i] = a
		})
	}
	all.Wait()
	confirmed := 0
	for _, a := range attempts {
		switch {
		case a.Outcome != nil && len(a.Outcome.Confirmed) == 1 && a.Err == "":
			confirmed++
		case a.Held && strings.Contains(a.Err, m.Name+" is held by the rig, process "), a.Stale, a.Empty:
		default:
			t.Errorf("%+v", a.report)
		}
	}
	if confirmed != 1 {
		t.Errorf("%d applies did it", confirmed)
	}
	o.nothingToDo(t)
}

// A change that locks us out is undone: by the connection that was there before
// where it lives, by the host itself where nothing does.
func TestChangeThatCutsSSH(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		twist func(n *tree.Node)
		stuck bool
	}{
		"new connections": {twist: func(n *tree.Node) {
			_ = n.Put(regular("/etc/ssh/sshd_config.d/rig.conf", 0o644, "ListenAddress 127.0.0.1\n", "ssh.service"))
		}},
		"all connections": {stuck: true, twist: func(n *tree.Node) {
			wall := regular("/etc/systemd/system/rig-wall.service", 0o644, fmt.Sprintf("[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/sbin/nft add table inet rig\nExecStart=/usr/sbin/nft add chain inet rig in { type filter hook input priority 0 \\; }\nExecStart=/usr/sbin/nft add rule inet rig in tcp dport %d drop\nExecStop=/usr/sbin/nft delete table inet rig\n", n.Connection.Port))
			_ = n.Put(wall)
			n.Units = append(n.Units, tree.Unit{Name: "rig-wall.service", Started: true, From: why})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := take(t, 1)[0]
			quick(1, m).succeed(t)
			was := m.mustPicture(t)
			o := quick(2, m)
			o.Gate, o.Guard = 5*time.Second, 10*time.Second
			p := o.here(world{version: 2, twist: c.twist}, impatient)
			began := time.Now()
			err := p.apply(bounded(t, 2*time.Minute))
			m.drop()
			if c.stuck {
				if err == nil || errors.Is(err, apply.ErrUndone) || !strings.Contains(p.outcome.Stuck[m.Name], "undoes everything by itself within 15s") {
					t.Errorf("%v, %+v", err, p.outcome)
				}
			} else if !errors.Is(err, apply.ErrUndone) || !strings.Contains(err.Error(), "cannot be reached any more") {
				t.Errorf("%v, %+v", err, p.outcome)
			}
			healed(t, m, was, time.Minute)
			t.Logf("healed after %v", time.Since(began).Round(100*time.Millisecond))
			again := quick(2, m)
			again.succeed(t)
			again.nothingToDo(t)
		})
	}
}

// What is confirmed, and the answer is lost, is confirmed, and is not said to be
// anything else.
func TestAnswerOfCommitIsLost(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	quick(1, m).succeed(t)
	s := &scissors{}
	p := quick(2, m).here(world{version: 2}, impatient, s.set)
	p.tell = func(name string) {
		if strings.HasSuffix(name, ": commit") {
			p.tell = nil
			// Whoever waits for the lock of the steps is under way.
			m.must(t, `flock -x /var/lib/kthwc/lock sleep 1 >/dev/null 2>&1 &`)
			time.AfterFunc(400*time.Millisecond, s.cut)
		}
	}
	err := p.apply(bounded(t, time.Minute))
	if err != nil || len(p.outcome.Confirmed) != 1 || len(p.outcome.Stuck)+len(p.outcome.Undone) > 0 {
		t.Errorf("%v, %+v", err, p.outcome)
	}
	quick(2, m).nothingToDo(t)
}

// Of two that are changed together one is lost when both are to be confirmed: both
// are what they were, the one at once, the other by itself.
func TestOneOfTwoIsLostAtTheEnd(t *testing.T) {
	t.Parallel()
	machines := take(t, 2)
	stays, goes := machines[0], machines[1]
	quick(1, machines...).succeed(t)
	was := []*picture{stays.mustPicture(t), goes.mustPicture(t)}
	o := quick(2, machines...)
	o.Gate, o.Guard = 10*time.Second, 2*time.Second
	p := o.here(world{version: 2}, impatient)
	dials := 0
	p.tell = func(name string) {
		if name == goes.Name+": dial" {
			if dials++; dials == 2 {
				power(t, (*lab.Lab).Cut, goes)
				time.Sleep(2 * time.Second) // the other is confirmed meanwhile
			}
		}
	}
	err := p.apply(bounded(t, 2*time.Minute))
	power(t, (*lab.Lab).Join, goes)
	goes.drop()
	if err == nil || !strings.Contains(err.Error(), goes.Name+" cannot be reached any more") || len(p.outcome.Confirmed) > 0 || p.outcome.Stuck[goes.Name] == "" || len(p.outcome.Undone) != 1 {
		t.Errorf("%v, %+v", err, p.outcome)
	}
	healed(t, stays, was[0], 30*time.Second)
	healed(t, goes, was[1], time.Minute)
	o.Gate, o.Guard = 20*time.Second, time.Minute
	o.succeed(t)
	o.nothingToDo(t)
}

// healed waits until a machine is what it was, and its units work.
func healed(t *testing.T, m *machine, was *picture, most time.Duration) {
	t.Helper()
	ctx := bounded(t, most)
	last := "nobody could look at it"
	for {
		p, err := m.picture(ctx)
		if err == nil {
			wrong := p.sameAs(was)
			if len(wrong) == 0 {
				return
			}
			last = fmt.Sprintf("%q", wrong)
		}
		if ctx.Err() != nil {
			t.Fatalf("within %v, %s is not what it was: %s", most, m.Name, last)
		}
		time.Sleep(200 * time.Millisecond)
	}
}
