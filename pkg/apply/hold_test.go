package apply

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/pkg/artifact"
	"github.com/kthwc/kthwc/pkg/tree"
)

// A host is held once, by whoever is named; given back, it can be held again, and
// each epoch is later than the one before.
func TestHold(t *testing.T) {
	for _, shell := range []string{"sh", "bash"} {
		dir, ctx := scratch(t), context.Background()
		last := 0
		for range 3 {
			h, err := HoldHost(ctx, "n", local{shell}, dir, "first, since today")
			if err != nil {
				t.Fatal(err)
			}
			var held *HeldError
			if _, err := HoldHost(ctx, "n", local{shell}, dir, "second"); !errors.As(err, &held) || held.Owner != "first, since today" || held.Node != "n" {
				t.Errorf("%s: %v", shell, err)
			}
			if _, err := ReleaseDead(ctx, "n", local{shell}, dir, 3*time.Second); !errors.As(err, &held) || held.Owner != "first, since today" {
				t.Errorf("%s: released from somebody who answers: %v", shell, err)
			}
			if h.Epoch != last {
				t.Errorf("%s: epoch %d comes after %d", shell, h.Epoch, last)
			}
			if last = h.Epoch + 1; h.Begin(ctx, last) != nil {
				t.Errorf("%s: no new epoch", shell)
			}
			select {
			case <-h.Lost():
				t.Errorf("%s: it was lost", shell)
			default:
			}
			h.Release()
			if owner, err := ReleaseDead(ctx, "n", local{shell}, dir, time.Second); err != nil || owner != "" {
				t.Errorf("%s: it was not given back: %q, %v", shell, owner, err)
			}
		}
	}
}

// An epoch begins when the last step of the one before has ended: nobody works on
// a host that is looked at.
func TestEpochWaitsForSteps(t *testing.T) {
	dir, ctx := scratch(t), context.Background()
	h, err := HoldHost(ctx, "n", local{"sh"}, dir, "first")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Release()
	ended := filepath.Join(dir, "ended")
	step := exec.Command("flock", filepath.Join(dir, "var/lib/kthwc/lock"), "sh", "-c", `: >"$1.begun"; sleep 0.7; : >"$1"`, "sh", ended)
	if err := step.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(ended + ".begun"); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := h.Begin(ctx, 1); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(ended); err != nil {
		t.Error("an epoch began while a step was at work")
	}
	if err := step.Wait(); err != nil {
		t.Error(err)
	}
}

// Where runs stand is read before what they change: a run that ends while a host is
// looked at would not be noticed otherwise.
func TestJournalIsObservedFirst(t *testing.T) {
	for section := range strings.SplitSeq(observeScript, "\nsection ") {
		name, _, _ := strings.Cut(section, "\n")
		if name == "journal" {
			return
		}
		if len(name) < 20 && !strings.HasPrefix(name, "#") {
			t.Fatalf("%s is looked at before the journal", name)
		}
	}
	t.Error("the journal is not looked at")
}

// Hosts are untouched unless somebody has held them since they were observed, or a
// step of a run that had ended was still at work.
func TestUntouched(t *testing.T) {
	dir, ctx := root(t), context.Background()
	f := &Fleet{Wanted: &Wanted{Tree: &tree.Tree{Nodes: []*tree.Node{{Name: "n"}}}, Lock: &artifact.Lock{}}, Conns: map[string]Conn{"n": local{"sh"}}, Root: dir, Parallel: 1}
	stage := func(generation int) error {
		return (&Transaction{Conn: local{"sh"}, Root: dir, Generation: generation}).Stage(ctx, nil, nil, Recorded{})
	}
	hold := func() error {
		h, err := f.Hold(ctx, []string{"n"}, "somebody")
		if err == nil {
			h.Release()
		}
		return err
	}
	nothing := func() error { return nil }
	for _, row := range []struct {
		name            string
		before, between func() error
		want            bool
	}{
		{"nothing", nothing, nothing, true},
		{"a generation was there", func() error { return stage(1) }, nothing, true},
		{"a step was at work", nothing, func() error { return stage(2) }, false},
		{"somebody held it", nothing, hold, false},
		{"nothing again", nothing, nothing, true},
	} {
		if err := row.before(); err != nil {
			t.Fatal(err)
		}
		found, err := f.Observe(ctx, false)
		if err := errors.Join(err, row.between()); err != nil {
			t.Fatal(err)
		}
		h, err := f.Hold(ctx, []string{"n"}, "me")
		if err != nil {
			t.Fatal(err)
		}
		if got := h.Untouched(found); got != row.want {
			t.Errorf("%s: untouched is %v: found %+v, then %+v", row.name, got, found["n"].State.Journal, h.all["n"])
		}
		h.Release()
	}
}
