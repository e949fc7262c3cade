package applytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/lab"
	"github.com/kthwc/kthwc/pkg/tree"
)

// at is the number of the n-th element of that name in a trace.
func at(t *testing.T, trace []string, name string, n int) int {
	t.Helper()
	for i, e := range trace {
		if e == name {
			if n--; n == 0 {
				return i + 1
			}
		}
	}
	t.Fatalf("no %s in %q", name, trace)
	return 0
}

// dead leaves a machine with what an operator has left who died there.
func dead(t *testing.T, m *machine, o order, name string, n int) {
	t.Helper()
	o.Die = &death{At: at(t, update, name, n), How: before}
	a, err := o.start(bounded(t, 2*time.Minute))
	if err != nil || !a.killed {
		t.Fatalf("it was not killed: %v %+v", err, a)
	}
}

// An operator who does not come back: the host undoes everything by itself, in
// time, and the units are those of before.
func TestOperatorNeverComesBack(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	quick(1, m).succeed(t)
	was := m.mustPicture(t)
	o := quick(2, m)
	o.Gate, o.Guard = 10*time.Second, 5*time.Second
	dead(t, m, o, "act start rig-new.service", 1)
	armed := time.Now()
	if p := m.mustPicture(t); p.managed["/etc/rig/web.conf"] == was.managed["/etc/rig/web.conf"] {
		t.Fatal("nothing was there to undo")
	}
	healed(t, m, was, 45*time.Second)
	took := time.Since(armed)
	t.Logf("undone %v after the operator died; it was to be after 15s", took.Round(100*time.Millisecond))
	if took < 10*time.Second {
		t.Error("it was undone early")
	}
	answers(t, m, "version 1")
	if word := m.must(t, `cat /var/lib/kthwc/journal/*`); !strings.HasSuffix(word, "rolled-back\n") {
		t.Errorf("the journal says %q", word)
	}
	quick(2, m).succeed(t)
	quick(2, m).nothingToDo(t)
	answers(t, m, "version 2")
}

// answers wants the web unit to say a word within a moment.
func answers(t *testing.T, m *machine, word string) {
	t.Helper()
	m.must(t, `for i in $(seq 100); do
	printf 'GET / HTTP/1.0\r\n\r\n' | socat -t 2 - TCP:127.0.0.1:8081 2>/dev/null | grep -q "^$1\$" && exit 0
	sleep 0.1
done; exit 1`, word)
}

// A host that boots again in the middle of an apply is what it was before, and no
// unit was started with what was not confirmed; what was confirmed stays.
func TestReboot(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		element string
		n       int
		power   bool
		stays   int
	}{
		{"staged, rebooted", "install", 1, false, 1},
		{"installed, power cut", "act restart rig-tick.service", 1, true, 1},
		{"restarted, rebooted", "act start rig-new.service", 1, false, 1},
		{"confirmed, power cut", "release", 1, true, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := take(t, 1)[0]
			p := undisturbed(t, m)
			if err := m.back(t.Context(), "1"); err != nil {
				t.Fatal(err)
			}
			dead(t, m, quick(2, m), c.element, c.n)
			reboot(t, m, c.power)
			healed(t, m, p.of[c.stays], time.Minute)
			answers(t, m, fmt.Sprintf("version %d", c.stays))
			if c.stays == 1 && c.element != "install" {
				undoneFirst(t, m)
			}
			o := quick(2, m)
			o.succeed(t)
			o.nothingToDo(t)
			if wrong := m.mustPicture(t).sameAs(p.of[2]); len(wrong) > 0 {
				t.Errorf("then %q", wrong)
			}
		})
	}
}

func reboot(t *testing.T, m *machine, power bool) {
	t.Helper()
	was := m.must(t, `cat /proc/sys/kernel/random/boot_id; systemctl show -p UserspaceTimestampMonotonic --value`)
	if power {
		off(t, m)
	} else {
		_, _ = m.sh(bounded(t, time.Minute), `systemctl reboot`) // the answer may be lost; whether it boots is seen below
		m.drop()
	}
	ctx := bounded(t, 2*time.Minute)
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		now, err := m.sh(attempt, `[ "$(systemctl is-system-running)" != starting ] || exit 1; cat /proc/sys/kernel/random/boot_id; systemctl show -p UserspaceTimestampMonotonic --value`)
		cancel()
		if err == nil && now != was {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s does not come up again: %v", m.Name, err)
		}
		m.drop()
		time.Sleep(200 * time.Millisecond)
	}
}

// off cuts a machine's power and gives it back.
func off(t *testing.T, m *machine) {
	t.Helper()
	power(t, (*lab.Lab).Off, m)
	m.drop()
	power(t, (*lab.Lab).On, m)
}

// undoneFirst: what undoes at boot has ended before any unit of ours was started.
func undoneFirst(t *testing.T, m *machine) {
	t.Helper()
	said := strings.Fields(m.must(t, `systemctl show -p ConditionResult,Result --value kthwc-recover.service | tr '\n' ' '
		systemctl show -p ExecMainExitTimestampMonotonic --value kthwc-recover.service
		for u in rig-web rig-tick rig-calm rig-gone; do systemctl show -p ExecMainStartTimestampMonotonic --value $u.service; done`))
	if len(said) != 7 || !slices.Contains(said[:2], "yes") || !slices.Contains(said[:2], "success") {
		t.Fatalf("the unit at boot: %q", said)
	}
	ended, _ := strconv.Atoi(said[2])
	for _, s := range said[3:] {
		if started, _ := strconv.Atoi(s); ended == 0 || started < ended {
			t.Errorf("it had ended at %d µs, and a unit was started at %d", ended, started)
		}
	}
}

// The operator lives while the host boots again: he says so, and does not take the
// host of after for that of before.
func TestRebootUnderALivingOperator(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	quick(1, m).succeed(t)
	was := m.mustPicture(t)
	o := quick(2, m)
	p := o.here(world{version: 2}, impatient)
	booted := make(chan bool)
	p.tell = func(name string) {
		if strings.HasSuffix(name, "act start rig-new.service") {
			go func() {
				defer close(booted)
				reboot(t, m, false)
			}()
			time.Sleep(4 * time.Second)
		}
	}
	err := p.apply(bounded(t, 2*time.Minute))
	<-booted
	if err == nil || len(p.outcome.Confirmed) > 0 {
		t.Errorf("%v, %+v", err, p.outcome)
	}
	healed(t, m, was, time.Minute)
	o.succeed(t)
	o.nothingToDo(t)
}

// An operator who is interrupted undoes what he has begun, and gives the host back
// at once.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	quick(1, m).succeed(t)
	was := m.mustPicture(t)
	for _, element := range []string{"stage", "install", "act restart rig-web.service", "forward 127.0.0.1:8081"} {
		ctx, interrupt := context.WithCancel(bounded(t, time.Minute))
		p := quick(2, m).here(world{version: 2})
		p.tell = func(name string) {
			if strings.HasSuffix(name, ": "+element) {
				interrupt()
			}
		}
		err := p.apply(ctx)
		if !errors.Is(err, context.Canceled) || p.outcome == nil || len(p.outcome.Confirmed)+len(p.outcome.Stuck) > 0 || element != "stage" && len(p.outcome.Undone) != 1 {
			t.Errorf("at %s: %v, %+v", element, err, p.outcome)
		}
		healed(t, m, was, 20*time.Second)
		answers(t, m, "version 1")
	}
	quick(2, m).succeed(t)
	quick(2, m).nothingToDo(t)
}

// failures are units that do not come up, each in its own way.
var failures = []struct {
	name   string
	unit   string // of the web server
	conf   string
	expect []string // in the error
}{
	{"fails at once", "", webConf("version 2") + "nonsense on;\n", []string{"rig-web.service on", "systemd says failed (exit-code, status 1)", "its log ends with", `unknown directive "nonsense"`}},
	{"hangs", "[Service]\nType=notify\nExecStart=/usr/bin/sleep 1000000\nTimeoutStartSec=100\n", "", []string{"not within 6s", "systemd says activating"}},
	{"dies again and again", "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=300ms\nExecStart=/bin/sh -c 'sleep 0.1; echo this is why; exit 3'\n", "", []string{"it has ended", "status 3", "this is why"}},
	{"answers, and dies", "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=100ms\nExecStart=/bin/sh -c '/usr/sbin/nginx -c /etc/rig/web.conf & sleep 0.2; kill $!; exit 3'\n", "", []string{"rig-web.service on"}},
	{"does not answer", "[Service]\nExecStart=/usr/bin/sleep 1000000\n", "", []string{"not within 6s", "http://127.0.0.1:8081/ does not answer", "connect failed"}},
	{"answers something else", "", webConf("version 1"), []string{"not within 6s", "does not say version 2"}},
	{"answers with an error", "", strings.Replace(webConf("version 2"), "return 200", "return 503", 1), []string{"not within 6s", "503 Service", "version 2"}},
}

// A unit that does not come to do its work ends the apply, and its host is what it
// was. The error says what was waited for, what was seen last, and has the end of
// the log.
func TestUnitThatDoesNotComeUp(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	quick(1, m).succeed(t)
	was := m.mustPicture(t)
	for _, f := range failures {
		twist := func(n *tree.Node) {
			if f.unit != "" {
				replace(t, n, regular("/etc/systemd/system/"+webUnit, 0o644, f.unit+"[Install]\nWantedBy=multi-user.target\n"))
			}
			if f.conf != "" {
				replace(t, n, regular("/etc/rig/web.conf", 0o644, f.conf, webUnit))
			}
		}
		o := quick(2, m)
		o.Gate = 6 * time.Second
		p := o.here(world{version: 2, twist: twist})
		err := p.apply(bounded(t, time.Minute))
		var gate *apply.GateError
		if !errors.Is(err, apply.ErrUndone) || !errors.As(err, &gate) || !slices.Equal(p.outcome.Undone, []string{m.Name}) || len(p.outcome.Confirmed) > 0 {
			t.Errorf("%s: %v, %+v", f.name, err, p.outcome)
			continue
		}
		for _, want := range f.expect {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: nothing of %q in: %v", f.name, want, err)
			}
		}
		healed(t, m, was, 30*time.Second)
		answers(t, m, "version 1")
	}
	quick(2, m).succeed(t)
	quick(2, m).nothingToDo(t)
}

// leanUnit is a unit that nothing is done to. It ends, again and again, unless a
// condition holds.
const leanUnit = "rig-lean.service"

func leaning(t *testing.T, n *tree.Node, at int, condition, pause, limit string) {
	t.Helper()
	text := "[Unit]\nStartLimitIntervalSec=" + limit + "\n[Service]\nExecStart=/bin/bash -ec 'while " + condition + "; do sleep 0.1; done; exit 3'\nRestart=always\nRestartSec=" + pause + "\n[Install]\nWantedBy=multi-user.target\n"
	if err := n.Put(regular("/etc/systemd/system/"+leanUnit, 0o644, text)); err != nil {
		t.Fatal(err)
	}
	n.Units = slices.Insert(n.Units, at, started(leanUnit))
}

// What leans on the unit that does not come up fails with it, more often than a unit
// that comes up may, or until systemd starts it no more. It is started and waited for
// once all is put back.
func TestWhatLeansOnAUnitComesBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ pause, limit string }{
		"ends again and again": {"2s", "0"},
		"ends for good":        {"100ms", "60"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := take(t, 1)[0]
			const condition = ": </dev/tcp/127.0.0.1/8081"
			first := quick(1, m).here(world{version: 1, twist: func(n *tree.Node) { leaning(t, n, len(n.Units), condition, c.pause, c.limit) }})
			if err := first.apply(bounded(t, time.Minute)); err != nil {
				t.Fatal(err)
			}
			o := quick(2, m)
			o.Gate = 10 * time.Second
			p := o.here(world{version: 2, twist: func(n *tree.Node) {
				leaning(t, n, 0, condition, c.pause, c.limit)
				replace(t, n, regular("/etc/systemd/system/"+webUnit, 0o644, "[Service]\nExecStart=/usr/bin/sleep 1000000\n[Install]\nWantedBy=multi-user.target\n"))
			}})
			err := p.apply(bounded(t, time.Minute))
			if !errors.Is(err, apply.ErrUndone) || !slices.Equal(p.outcome.Undone, []string{m.Name}) {
				t.Errorf("%v, %+v", err, p.outcome)
			}
			answers(t, m, "version 1")
			ended := m.must(t, "journalctl -b -u "+leanUnit+" -o cat | grep -c 'Main process exited'")
			if n, err := strconv.Atoi(strings.TrimSpace(ended)); err != nil || n < 3 {
				t.Errorf("%s has ended %q times, and was to end often enough to be given up", leanUnit, ended)
			}
			m.must(t, "systemctl is-active "+leanUnit)
		})
	}
}

// A change of units that ends one which it does not name is not confirmed.
func TestChangeThatEndsAnotherUnit(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	twist := func(n *tree.Node) {
		leaning(t, n, len(n.Units), `[ "$(stat -c %%a /etc/rig/mode)" = 644 ]`, "100ms", "0")
	}
	if err := quick(1, m).here(world{version: 1, twist: twist}).apply(bounded(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	was := m.mustPicture(t)
	p := quick(2, m).here(world{version: 2, twist: twist})
	err := p.apply(bounded(t, time.Minute))
	var gate *apply.GateError
	if !errors.Is(err, apply.ErrUndone) || !errors.As(err, &gate) || gate.Unit != leanUnit || !slices.Equal(p.outcome.Undone, []string{m.Name}) {
		t.Errorf("%v, %+v", err, p.outcome)
	}
	healed(t, m, was, 30*time.Second)
	m.must(t, "systemctl is-active "+leanUnit)
}

// What somebody stops while other batches are carried out is not put down to the
// batch of its host.
func TestStoppedBeforeItsBatch(t *testing.T) {
	t.Parallel()
	machines := take(t, 2)
	quick(1, machines...).succeed(t)
	o := quick(2, machines...)
	o.Gate = 6 * time.Second
	p := o.here(world{version: 2, twist: func(n *tree.Node) { n.Roles = []string{"controller"} }}) // they go one after the other
	var once sync.Once
	p.tell = func(name string) {
		if strings.HasSuffix(name, "commit") {
			once.Do(func() { machines[1].must(t, "systemctl stop "+calmUnit) })
		}
	}
	if err := p.apply(bounded(t, time.Minute)); err != nil || len(p.outcome.Confirmed) != 2 {
		t.Errorf("%v, %+v", err, p.outcome)
	}
	if is, _ := machines[1].sh(bounded(t, time.Minute), "systemctl is-active "+calmUnit); strings.TrimSpace(is) != "inactive" {
		t.Errorf("what somebody stopped is %s", is)
	}
}

func replace(t *testing.T, n *tree.Node, f *tree.File) {
	t.Helper()
	if err := n.Replace(f); err != nil {
		t.Fatal(err)
	}
}

// Where one of two fails, the other of the same batch is undone too, and a batch
// that was confirmed before stays.
func TestFailureStopsAtItsBatch(t *testing.T) {
	t.Parallel()
	machines := take(t, 2)
	first, second := machines[0], machines[1]
	for _, together := range []bool{true, false} {
		quick(1, machines...).succeed(t)
		was := []*picture{first.mustPicture(t), second.mustPicture(t)}
		o := quick(2, machines...)
		o.Gate = 6 * time.Second
		p := o.here(world{version: 2, twist: func(n *tree.Node) {
			if !together {
				n.Roles = []string{"controller"} // they go one after the other
			}
			if n.Name == second.Name {
				replace(t, n, regular("/etc/rig/web.conf", 0o644, "nonsense on;\n", webUnit))
			}
		}})
		err := p.apply(bounded(t, time.Minute))
		if !errors.Is(err, apply.ErrUndone) || slices.Contains(p.outcome.Confirmed, second.Name) || slices.Contains(p.outcome.Confirmed, first.Name) == together {
			t.Errorf("together %v: %v, %+v", together, err, p.outcome)
		}
		healed(t, second, was[1], 30*time.Second)
		if together {
			healed(t, first, was[0], 30*time.Second)
		} else {
			answers(t, first, "version 2")
		}
		for _, m := range machines {
			if err := m.toBare(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}
