package apply

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
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
