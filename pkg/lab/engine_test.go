package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// world is a machine that can be killed: what is on it, the journal's bytes, and
// how many things may still happen before the kill.
type world struct {
	halves map[string]int // of each step: 1 while half of it is there, 2 when all is
	disk   []byte         // the journal
	left   int
	random *rand.Rand
}

// killed is what a SIGKILL does to a run: nothing more happens.
type killed struct{}

func (w *world) happen() {
	if w.left--; w.left < 0 {
		panic(killed{})
	}
}

// Write appends an entry, or a part of it when the kill comes in between.
func (w *world) Write(line []byte) (int, error) {
	if w.left == 0 {
		w.disk = append(w.disk, line[:w.random.IntN(len(line)+1)]...)
	}
	w.happen()
	w.disk = append(w.disk, line...)
	return len(line), nil
}

func (w *world) Sync() error { return nil }

func (w *world) kind(files bool) kind {
	return kind{
		files: files, keep: files,
		present: func(_ context.Context, s Step) bool { return w.halves[s.String()] == 2 },
		ensure: func(_ context.Context, s Step) error {
			if w.halves[s.String()] != 0 {
				return fmt.Errorf("%s: something of it was there", s)
			}
			for half := range 2 {
				w.happen()
				w.halves[s.String()] = half + 1
			}
			return nil
		},
		undo: func(_ context.Context, s Step) error {
			for w.halves[s.String()] > 0 {
				w.happen()
				if w.halves[s.String()]--; w.halves[s.String()] == 0 {
					delete(w.halves, s.String())
				}
			}
			return nil
		},
	}
}

// run runs something on an engine of this world, and says whether it was killed.
func (w *world) run(kills int, f func(*engine) error) (e *engine, wasKilled bool, err error) {
	if len(w.disk) > 0 && w.disk[len(w.disk)-1] != '\n' {
		w.disk = append(w.disk, '\n') // as openJournal does
	}
	j := readJournal(w.disk)
	j.out = w
	kinds := map[string]kind{keys: w.kind(false), disk: w.kind(true), bridge: w.kind(false), boot: w.kind(false), ready: w.kind(false)}
	e = &engine{kinds: kinds, journal: j, progress: func(Event) {}}
	w.left = kills
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(killed); !ok {
				panic(r)
			}
			wasKilled = true
		}
	}()
	return e, false, f(e)
}

func wanted(machines ...string) []Step {
	out := []Step{{keys, "", nil}}
	for _, m := range machines {
		out = append(out, Step{disk, m, []string{m}})
	}
	out = append(out, Step{bridge, "", []string{"one"}})
	for _, m := range machines {
		out = append(out, Step{boot, m, nil})
	}
	return append(out, Step{ready, "", nil})
}

const enough = 1 << 30

// Killed at any moments, up comes to the same in the end, does nothing when run
// again, and down leaves nothing, killed or not.
func TestKilledAtAnyMoment(t *testing.T) {
	for seed := range uint64(3000) {
		w := &world{halves: map[string]int{}, random: rand.New(rand.NewPCG(seed, 1))}
		steps := wanted("a", "b", "c")[:1+w.random.IntN(9)]
		up := func(e *engine) error { return e.up(t.Context(), steps) }
		down := func(e *engine) error { return e.down(t.Context(), false) }
		for range w.random.IntN(6) {
			f := up
			if w.random.IntN(3) == 0 {
				f = down
			}
			if _, _, err := w.run(w.random.IntN(60), f); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if _, _, err := w.run(enough, up); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, s := range steps {
			if w.halves[s.String()] != 2 {
				t.Fatalf("seed %d: %s is not there", seed, s)
			}
		}
		if len(w.halves) != len(steps) {
			t.Fatalf("seed %d: there is more than the steps: %v", seed, w.halves)
		}
		if e, _, err := w.run(enough, up); err != nil || e.changed {
			t.Fatalf("seed %d: up of what is up did something: %v", seed, err)
		}
		for range w.random.IntN(3) {
			if _, _, err := w.run(w.random.IntN(40), down); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		e, _, err := w.run(enough, down)
		if err != nil || len(w.halves) > 0 || len(e.journal.records) > 0 {
			t.Fatalf("seed %d: down left %v and %v: %v", seed, w.halves, e.journal.records, err)
		}
	}
}

// What goes away by itself is made again, with what depends on it, and nothing else.
func TestOnlyWhatIsMissingIsMade(t *testing.T) {
	for _, c := range []struct {
		lost string
		made []string
	}{
		{"", nil},
		{"a: boot", []string{"a: boot"}}, // ready is the lab's here, not the machine's
		{"bridge", []string{"bridge", "a: boot", "b: boot", "ready"}},
		{"ready", []string{"ready"}},
	} {
		w := &world{halves: map[string]int{}, random: rand.New(rand.NewPCG(1, 1))}
		steps := wanted("a", "b")
		if _, _, err := w.run(enough, func(e *engine) error { return e.up(t.Context(), steps) }); err != nil {
			t.Fatal(err)
		}
		delete(w.halves, c.lost)
		var made []string
		_, _, err := w.run(enough, func(e *engine) error {
			e.progress = func(ev Event) {
				if ev.Doing == Made {
					made = append(made, ev.Step.String())
				}
			}
			return e.up(t.Context(), steps)
		})
		if err != nil || !slices.Equal(made, c.made) {
			t.Errorf("without %q, up made %v, not %v: %v", c.lost, made, c.made, err)
		}
	}
}

// up throws no machine away: neither one that left cluster.yaml nor one that
// would be made from something else. Nothing is done then.
func TestUpDestroysNoDisk(t *testing.T) {
	changed := wanted("a", "b")
	changed[1].With = []string{"other"}
	for name, c := range map[string]struct {
		steps []Step
		lost  string
	}{
		"a machine left":    {wanted("a"), ""},
		"a machine changed": {changed, ""},
		"the keys are lost": {wanted("a", "b"), "keys"},
	} {
		w := &world{halves: map[string]int{}, random: rand.New(rand.NewPCG(1, 1))}
		if _, _, err := w.run(enough, func(e *engine) error { return e.up(t.Context(), wanted("a", "b")) }); err != nil {
			t.Fatal(err)
		}
		delete(w.halves, c.lost)
		_, _, err := w.run(enough, func(e *engine) error { return e.up(t.Context(), c.steps) })
		var refused *Error
		if !errors.As(err, &refused) || refused.Reason != Refused || refused.Help == "" {
			t.Errorf("%s: %v", name, err)
		}
		if w.halves["a: disk"] != 2 || w.halves["b: disk"] != 2 {
			t.Errorf("%s: a disk is gone", name)
		}
	}
}

// down --keep leaves files, and the next up takes them.
func TestDownKeepsFiles(t *testing.T) {
	w := &world{halves: map[string]int{}, random: rand.New(rand.NewPCG(1, 1))}
	up := func(e *engine) error { return e.up(t.Context(), wanted("a")) }
	for _, f := range []func(*engine) error{up, func(e *engine) error { return e.down(t.Context(), true) }} {
		if _, _, err := w.run(enough, f); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.halves) != 1 || w.halves["a: disk"] != 2 {
		t.Errorf("down --keep left %v", w.halves)
	}
}

// A step that another kthwc knows stops up, in words.
func TestUnknownStep(t *testing.T) {
	w := &world{halves: map[string]int{}, disk: []byte(`{"do":"begin","step":{"kind":"teleporter"}}` + "\n")}
	_, _, err := w.run(enough, func(e *engine) error { return e.up(t.Context(), nil) })
	if err == nil || !strings.Contains(err.Error(), "teleporter") {
		t.Error(err)
	}
}

// A failing step says which machine it is about, and keeps its help.
func TestErrorsNameTheirStep(t *testing.T) {
	for _, cause := range []error{errors.New("no room"), &Error{Failed, "no room", "make some"}} {
		e := &engine{journal: &journal{out: &world{left: enough}}, progress: func(Event) {}, kinds: map[string]kind{boot: {ensure: func(context.Context, Step) error { return cause }}}}
		err := e.up(t.Context(), []Step{{boot, "worker-0", nil}})
		if err == nil || err.Error() != "worker-0: boot: no room" {
			t.Error(err)
		}
		var known *Error
		if errors.As(cause, &known) && (!errors.As(err, &known) || known.Help != "make some") {
			t.Error("the help is lost")
		}
	}
}

// A machine that is not wanted any more is thrown away when it is off, and the
// others are left alone.
func TestLeavingOneOut(t *testing.T) {
	w := &world{halves: map[string]int{}, random: rand.New(rand.NewPCG(1, 1))}
	up := func(off string, machines ...string) error {
		_, _, err := w.run(enough, func(e *engine) error {
			e.off = func(machine string) bool { return machine == off }
			return e.up(t.Context(), wanted(machines...))
		})
		return err
	}
	if err := up("", "a", "b"); err != nil {
		t.Fatal(err)
	}
	for _, off := range []string{"", "a"} {
		err := up(off, "a")
		var known *Error
		if !errors.As(err, &known) || known.Reason != Refused || !strings.Contains(known.Help, "kthwc lab off b") || w.halves["b: disk"] != 2 {
			t.Fatalf("with %q off: %v; %v", off, err, w.halves)
		}
	}
	if err := up("b", "a"); err != nil || w.halves["b: disk"] != 0 || w.halves["a: disk"] != 2 {
		t.Fatalf("%v; %v", err, w.halves)
	}
}
