package applytest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Everything that an operator does to a host, in order: of a first apply, and of
// an update. What is not here has no test of what its operator's death does, so it
// fails.
var (
	firstApply = []string{
		"dial", "observe", "hold", "hold, epoch",
		"user rigger", "blob /opt/kthwc/rig-tick/0.1.0",
		"stage", "install",
		"act start rig-tick.service", "show rig-tick.service",
		"act start rig-web.service", "show rig-web.service", "forward 127.0.0.1:8081",
		"act start rig-calm.service", "show rig-calm.service",
		"act start rig-gone.service", "show rig-gone.service",
		"dial", "commit", "sweep", "release",
	}
	update = []string{
		"dial", "observe", "hold", "hold, epoch",
		"blob /opt/kthwc/rig-tick/0.2.0",
		"stage", "install",
		"act restart rig-tick.service", "show rig-tick.service",
		"act restart rig-web.service", "show rig-web.service", "forward 127.0.0.1:8081",
		"act start rig-new.service", "show rig-new.service", "since rig-calm.service",
		"dial", "commit", "sweep", "release",
	}
)

// Those of them that have an input.
var fed = []string{"observe", "hold, epoch", "blob ", "stage"}

// A crash is one death of one operator.
type crash struct {
	version int
	death
	name string
}

func crashes(random *rand.Rand) []crash {
	var out []crash
	for version, trace := range map[int][]string{1: firstApply, 2: update} {
		for i, name := range trace {
			for _, how := range []string{before, during, within} {
				if how == within && !slices.ContainsFunc(fed, func(f string) bool { return strings.HasPrefix(name, f) }) {
					continue
				}
				in := time.Duration(random.Int64N(int64(40 * time.Millisecond)))
				out = append(out, crash{version, death{i + 1, how, in}, name})
			}
		}
	}
	slices.SortFunc(out, func(a, b crash) int { return strings.Compare(a.String(), b.String()) })
	return out
}

func (c crash) String() string {
	return fmt.Sprintf("%s, command %02d (%s) %s", map[int]string{1: "first apply", 2: "update"}[c.version], c.At, c.name, c.How)
}

// The operator dies before every remote command, while it is under way, and in the
// middle of its input. Nothing is ever half done, and the next apply makes the host
// what an undisturbed one would have made it.
func TestOperatorDiesAnywhere(t *testing.T) {
	t.Parallel()
	machines := take(t, len(fleet.Machines))
	seed := uint64(time.Now().UnixNano())
	t.Logf("how long a command is under way comes from seed %d", seed)
	todo := crashes(rand.New(rand.NewPCG(seed, 0)))
	work := make(chan crash, len(todo))
	for _, c := range todo {
		work <- c
	}
	close(work)
	var done sync.WaitGroup
	for _, m := range machines {
		done.Go(func() {
			t.Run(m.Name, func(t *testing.T) {
				p := undisturbed(t, m)
				for c := range work {
					t.Run(c.String(), func(t *testing.T) { p.crash(t, c) })
				}
			})
		})
	}
	done.Wait()
}

// pictures of a machine after undisturbed applies: of version 0, 1 and 2.
type pictures struct {
	m  *machine
	of [3]*picture
}

// undisturbed applies both versions and keeps what they make; the machine is left
// with the last.
func undisturbed(t *testing.T, m *machine) *pictures {
	t.Helper()
	if err := managedIsWhole(); err != nil {
		t.Fatal(err)
	}
	p := &pictures{m: m}
	p.of[0] = m.mustPicture(t)
	for i, trace := range [][]string{firstApply, update} {
		version := i + 1
		a := quick(version, m).succeed(t)
		if diff := cmp.Diff(trace, plain(m, a.trace)); diff != "" {
			t.Fatalf("what version %d does to a host is not what is tested (-tested +done):\n%s", version, diff)
		}
		quick(version, m).nothingToDo(t)
		p.of[version] = m.mustPicture(t)
		if len(p.of[version].left) > 0 {
			t.Errorf("version %d leaves %q", version, p.of[version].left)
		}
		if err := m.parkAs(t.Context(), fmt.Sprint(version)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// plain is a trace of one machine as it is written above.
func plain(m *machine, trace []string) []string {
	var out []string
	for _, line := range trace {
		name := strings.TrimPrefix(line, m.Name+": ")
		out = append(out, name)
	}
	return out
}

func (p *pictures) crash(t *testing.T, c crash) {
	t.Helper()
	was, is := p.of[c.version-1], p.of[c.version]
	if err := p.m.back(t.Context(), map[int]string{1: "bare", 2: "1"}[c.version]); err != nil {
		t.Fatal(err)
	}
	end := p.m.watch(t, was, is)
	defer end()
	o := quick(c.version, p.m)
	o.Die = &c.death
	a, err := o.start(bounded(t, 2*time.Minute))
	if err != nil || !a.killed {
		t.Fatalf("it was not killed: %v %+v", err, a)
	}
	if done := plain(p.m, a.trace); len(done) < c.At || done[c.At-1] != c.name || c.How == before && len(done) > c.At {
		t.Fatalf("it was killed after %q", done)
	}
	if wrong := p.m.mustPicture(t).between(was, is); len(wrong) > 0 {
		t.Errorf("then %q", wrong)
	}
	o.Die, o.Check = nil, true
	a = o.succeed(t)
	if !a.Empty {
		text, _ := json.MarshalIndent(a.Plan, "", " ")
		t.Errorf("the next apply leaves something to do: %.2000s", text)
	}
	if wrong := p.m.mustPicture(t).sameAs(is); len(wrong) > 0 {
		t.Errorf("the next apply does not make what an undisturbed one does: %q", wrong)
	}
}
