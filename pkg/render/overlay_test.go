package render

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kthwc/kthwc/pkg/tree"
)

func TestACallHasBounds(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	forever := func() (string, error) { <-stop; return "", nil }
	if _, err := bounded(time.Millisecond, 1<<40, forever); err == nil || !strings.Contains(err.Error(), "does it loop") {
		t.Errorf("a call without end: %v", err)
	}
	var held []byte
	greedy := func() (string, error) { held = make([]byte, 64<<20); held[0] = 1; <-stop; return string(held), nil }
	if _, err := bounded(time.Minute, 32<<20, greedy); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("a call that takes all memory: %v", err)
	}
	if text, err := bounded(time.Minute, 1<<30, func() (string, error) { return "{}", nil }); text != "{}" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

// Lines that are paired say the same, in order; of a text with one line
// changed, all others are paired.
func TestUnchangedLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.SampledFrom([]string{"a", "b", "c", ""})
		was, now := rapid.SliceOfN(line, 0, 12).Draw(t, "was"), rapid.SliceOfN(line, 0, 12).Draw(t, "now")
		old := make([]tree.Line, len(was))
		for i := range was {
			old[i] = tree.Line{Text: was[i]}
		}
		kept, last := unchanged(old, now), -1
		for i := range now {
			at, ok := kept[i]
			if ok && (was[at] != now[i] || at <= last) {
				t.Fatalf("%q and %q: line %d is paired with %d", was, now, i, at)
			}
			if ok {
				last = at
			}
		}
		if len(was) == 0 {
			return
		}
		changed := append([]string{}, was...)
		changed[rapid.IntRange(0, len(was)-1).Draw(t, "at")] = "new"
		if kept := unchanged(old, changed); len(kept) != len(was)-1 {
			t.Fatalf("%q to %q: %d lines are paired", was, changed, len(kept))
		}
	})
}
