package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/kthwc/kthwc/pkg/apply"
)

// progress shows what an apply does. In a terminal the last rows are what each
// node is at; elsewhere there is one line for an event, and one every ten
// seconds for what takes longer.
type progress struct {
	s     *session
	live  bool
	start time.Time

	mu    sync.Mutex
	nodes []string // in the order of the plan; "" is the cluster
	at    map[string]apply.Event
	since map[string]time.Time
	said  map[string]time.Time
	drawn int // rows below the text
	stop  chan struct{}
	done  sync.WaitGroup
}

// tick is how often what takes longer is named where nobody watches.
const tick = 10 * time.Second

func (s *session) newProgress(p *apply.Plan) *progress {
	v := &progress{s: s, live: s.onTerminal(s.err), start: time.Now(), at: map[string]apply.Event{}, since: map[string]time.Time{}, said: map[string]time.Time{}, stop: make(chan struct{})}
	for _, h := range p.Hosts {
		v.nodes = append(v.nodes, h.Node)
	}
	v.nodes = append(v.nodes, "")
	if v.live {
		v.done.Go(v.animate)
	}
	return v
}

// animate draws the footer anew: the time goes on also when nothing happens.
func (v *progress) animate() {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-v.stop:
			return
		case <-ticker.C:
			v.mu.Lock()
			v.draw()
			v.mu.Unlock()
		}
	}
}

func (v *progress) event(e apply.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := e.Node + " " + e.Step
	switch e.Doing {
	case apply.Begin:
		v.at[e.Node], v.since[e.Node], v.said[key] = e, time.Now(), time.Now()
	case apply.Wait:
		if now := v.at[e.Node]; now.Step == e.Step {
			v.at[e.Node] = e
		}
		if !v.live && time.Since(v.said[key]) >= tick {
			v.said[key] = time.Now()
			v.line(e, "...", e.Detail)
		}
	default:
		if now := v.at[e.Node]; now.Step == e.Step {
			delete(v.at, e.Node)
		}
		mark := map[string]string{apply.Done: "ok", apply.Failed: "FAILED", apply.Undone: "undone"}[e.Doing]
		v.line(e, mark, e.Detail)
	}
	v.draw()
}

// line is one event that stays.
func (v *progress) line(e apply.Event, mark, detail string) {
	v.clear()
	node := e.Node
	if node == "" {
		node = "cluster"
	}
	took := ""
	if e.Took > 0 {
		took = fmt.Sprintf("%.1fs", e.Took.Seconds())
	}
	detail, _, _ = strings.Cut(detail, "\n") // the rest is said at the end
	text := fmt.Sprintf("%-14s %-34s %-6s %6s  %s", node, e.Step, mark, took, detail)
	fmt.Fprintln(v.s.err, strings.TrimRight(text, " "))
}

func (v *progress) clear() {
	if v.drawn > 0 {
		fmt.Fprintf(v.s.err, "\x1b[%dA\x1b[J", v.drawn)
		v.drawn = 0
	}
}

// draw writes what each node is at.
func (v *progress) draw() {
	if !v.live {
		return
	}
	v.clear()
	for _, node := range v.nodes {
		e, busy := v.at[node]
		if !busy {
			continue
		}
		name := node
		if name == "" {
			name = "cluster"
		}
		row := fmt.Sprintf("  %-12s %-32s %3.0fs  %s", name, e.Step, time.Since(v.since[node]).Seconds(), e.Detail)
		row, _, _ = strings.Cut(row, "\n")
		fmt.Fprintf(v.s.err, "%s\n", cut(row, 110))
		v.drawn++
	}
	if v.drawn > 0 {
		fmt.Fprintf(v.s.err, "  %.0fs\n", time.Since(v.start).Seconds())
		v.drawn++
	}
}

// cut shortens a row: one that wraps could not be taken back.
func cut(row string, most int) string {
	if r := []rune(row); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return row
}

func (v *progress) end() {
	close(v.stop)
	v.done.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clear()
}
