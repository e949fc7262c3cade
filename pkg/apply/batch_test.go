package apply

import (
	"context"
	"slices"
	"testing"
)

// unarmed is a host that cannot arm a timer, and notes which steps it was asked for.
type unarmed struct {
	local
	asked *[]string
}

func (u unarmed) Run(_ context.Context, c Command) (Result, error) {
	*u.asked = append(*u.asked, c.Args[0])
	if c.Args[0] == "arm" {
		return Result{Stderr: []byte("no timer"), Status: 1}, nil
	}
	return Result{}, nil
}

// A host that could not undo a change by itself is not changed.
func TestUnarmedHostIsNotChanged(t *testing.T) {
	var asked []string
	b := &batch{Run: &Run{Hosts: map[string]Conn{"n": unarmed{asked: &asked}}}, Batch: &Batch{Nodes: []string{"n"}}}
	if err := b.change(context.Background()); err == nil || !slices.Equal(asked, []string{"arm"}) {
		t.Errorf("%v; it was asked to %q", err, asked)
	}
}
