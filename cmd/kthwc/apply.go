package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/internal/durable"
	"github.com/kthwc/kthwc/internal/names"
	"github.com/kthwc/kthwc/pkg/apply"
)

// planFlags are those of plan and apply alike.
type planFlags struct {
	*hostFlags
	maxUnavailable int
	deep           bool
	expand         bool
	partial        bool
}

func (s *session) addPlanFlags(cmd *cobra.Command) *planFlags {
	f := &planFlags{hostFlags: s.addHostFlags(cmd)}
	cmd.Flags().IntVar(&f.maxUnavailable, "max-unavailable", apply.MaxUnavailable, "so many workers are drained and restarted at once")
	cmd.Flags().BoolVar(&f.deep, "deep", false, "hash the installed programs, too")
	cmd.Flags().BoolVar(&f.expand, "expand", false, "name every path that comes, also where many come to one directory")
	cmd.Flags().BoolVar(&f.partial, "allow-partial", false, "go on without hosts of which nothing is known")
	return f
}

func newPlan(s *session) *cobra.Command {
	var format, output string
	var exitCode bool
	var f *planFlags
	cmd := &cobra.Command{
		Use:     "plan",
		Short:   "Compare the hosts with what they shall be: drift, changes, order, gates; changes nothing",
		Example: "  kthwc plan\n  kthwc plan --on worker-1 --format json\n  kthwc plan -o change.plan && kthwc apply change.plan",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.onHosts(cmd.Context(), f.hostFlags, func(h *hosts) error {
				p, _, err := h.plan(cmd.Context(), f)
				if err != nil {
					return err
				}
				if err := h.printPlan(p, format); err != nil {
					return err
				}
				if err := h.savePlan(output, p); err != nil {
					return err
				}
				return planEnd(p, exitCode, f.partial)
			})
		},
	}
	f = s.addPlanFlags(cmd)
	addChoice(cmd, cmd.Flags(), &format, "format", "how it is printed", "text", "json")
	cmd.Flags().StringVarP(&output, "output", "o", "", "also save the plan to this file, for kthwc apply")
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit 2 if anything is to be done")
	return cmd
}

// planEnd is how a plan ends: what stands in its way, or whether it is empty.
func planEnd(p *apply.Plan, exitCode, partial bool) error {
	if stops := p.Ready(partial); len(stops) > 0 {
		what := fmt.Sprintf("%d things stand", len(stops))
		if len(stops) == 1 {
			what = "one thing stands"
		}
		return &exitError{exitRefused, what + " in the way of applying this", ""}
	}
	if exitCode && !p.Empty() {
		return &exitError{code: exitPending}
	}
	return nil
}

// savePlan writes a plan to a file, where one is named.
func (h *hosts) savePlan(file string, p *apply.Plan) error {
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.Replace(file, append(text, '\n'), 0o600); err != nil {
		return err
	}
	fmt.Fprintf(h.s.err, "wrote %s; kthwc apply %[1]s carries out exactly this\n", file)
	return nil
}

// plan observes and compares.
func (h *hosts) plan(ctx context.Context, f *planFlags) (*apply.Plan, map[string]apply.Host, error) {
	h.expand = f.expand
	found, err := h.Observe(ctx, f.deep)
	if err != nil {
		return nil, nil, err
	}
	p, err := h.MakePlan(found, h.scope(f))
	if err != nil {
		return nil, nil, &exitError{exitFailure, err.Error(), "kthwc artifacts lock -f " + h.s.file}
	}
	if p.Changes() {
		h.explain(found)
	}
	for _, g := range h.s.pending(h.built).groups {
		p.Warnings = append(p.Warnings, fmt.Sprintf("%s: %d %s: %s: kthwc pki renew", plurals[g.kind], len(g.names), becomes[g.do], names.Ranges(g.names)))
	}
	if h.nodes == nil {
		if p.Manifests, err = h.planned(ctx, p); err != nil {
			p.Manifests = nil
			for _, m := range h.manifests() {
				p.Manifests = append(p.Manifests, apply.ManifestChange{Manifest: m.Name})
			}
			if !p.Fresh() {
				p.Warnings = append(p.Warnings, "the Kubernetes API cannot be asked: "+firstOf(err))
			}
		}
	}
	return p, found, ctx.Err()
}

func (h *hosts) scope(f *planFlags) apply.Scope {
	return apply.Scope{Nodes: h.nodes, MaxUnavailable: f.maxUnavailable, Deep: f.deep}
}

// firstOf is the first line of an error: enough for a warning.
func firstOf(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// applyFlags are those of apply.
type applyFlags struct {
	*planFlags
	approve bool
	gate    time.Duration
	format  string
}

func newApply(s *session) *cobra.Command {
	f := &applyFlags{}
	cmd := &cobra.Command{
		Use:     "apply [PLAN]",
		Short:   "Bring the hosts to what they shall be, safely: in order, gated, journaled, undone on failure",
		Example: "  kthwc apply\n  kthwc apply change.plan --auto-approve",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.onHosts(cmd.Context(), f.hostFlags, func(h *hosts) error { return h.apply(cmd.Context(), f, args) })
		},
	}
	f.planFlags = s.addPlanFlags(cmd)
	cmd.Flags().BoolVar(&f.approve, "auto-approve", false, "do not ask")
	cmd.Flags().DurationVar(&f.gate, "timeout", 90*time.Second, "how long a unit may take to do its work again")
	addChoice(cmd, cmd.Flags(), &f.format, "format", "how what happens is printed: text, or JSON objects, one a line", "text", "json")
	return cmd
}

func (h *hosts) apply(ctx context.Context, f *applyFlags, saved []string) error {
	p, found, err := h.plan(ctx, f.planFlags)
	if err != nil {
		return err
	}
	if len(saved) == 1 {
		if err := same(saved[0], p); err != nil {
			return err
		}
	}
	if p.Empty() {
		fmt.Fprintf(h.s.err, "nothing to do: %d hosts are as they shall be\n", len(p.Hosts))
		return nil
	}
	if err := h.agreed(p, f); err != nil || !p.Changes() {
		return err
	}
	return h.carryOut(ctx, f, p, found, func(now *apply.Plan) error {
		if len(saved) == 1 {
			return &exitError{exitFailure, apply.ErrStale.Error(), "plan again, and read what has changed: kthwc plan -o " + saved[0]}
		}
		return h.agreed(now, f)
	})
}

// agreed shows a plan and asks whether it shall be carried out.
func (h *hosts) agreed(p *apply.Plan, f *applyFlags) error {
	if f.format == "text" {
		if err := h.printPlan(p, "text"); err != nil {
			return err
		}
	}
	if err := planEnd(p, false, f.partial); err != nil {
		return err
	}
	if !p.Changes() || f.approve {
		return nil
	}
	return h.s.confirm("Only 'yes' continues", "yes")
}

// same says whether a saved plan is what would be done now.
func same(file string, p *apply.Plan) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var was apply.Plan
	if err := json.Unmarshal(text, &was); err != nil || was.Kind != p.Kind {
		return &exitError{exitInvalid, file + " is no plan", "kthwc plan -o " + file}
	}
	if !was.Equal(p) {
		return &exitError{exitFailure, apply.ErrStale.Error(), "plan again, and read what has changed: kthwc plan -o " + file}
	}
	return nil
}

// confirm asks a person for a word.
func (s *session) confirm(question, word string) error {
	if !s.onTerminal(s.in) {
		return &exitError{exitFailure, "this wants a confirmation, and there is no terminal to ask on", "--auto-approve does not ask"}
	}
	fmt.Fprintf(s.err, "\n%s: ", question)
	line, err := bufio.NewReader(s.in).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != word {
		return &exitError{exitFailure, "nothing was done", ""}
	}
	return nil
}

// carryOut holds the hosts and works. A plan that is another one by then, because
// somebody was faster, a unit came up by itself, or what an earlier apply left was
// undone, is judged by again before it is carried out.
func (h *hosts) carryOut(ctx context.Context, f *applyFlags, p *apply.Plan, found map[string]apply.Host, again func(*apply.Plan) error) error {
	holds, err := h.Hold(ctx, slices.Sorted(maps.Keys(h.Conns)), h.s.owner("apply"))
	if err != nil {
		return heldError(err)
	}
	defer holds.Release()
	if !f.approve || !holds.Untouched(found) { // a person took time to read, or somebody was faster
		var now *apply.Plan
		if now, found, err = h.plan(ctx, f.planFlags); err != nil {
			return err
		}
		if !p.SameAs(now) {
			fmt.Fprintln(h.s.err, "\nthe hosts are not as they were a moment ago; this is what is to be done now:")
			if err := again(now); err != nil || !now.Changes() {
				return err
			}
			p = now
		}
	}
	events := h.s.watchApply(p, f.format)
	log := h.s.newJournalist("apply", h.tree.Cluster, holds.Epoch, events.out)
	run := &apply.Run{
		Wanted: h.Wanted, Plan: p, Hosts: h.Conns, Redial: h.redial, Open: h.open, Parallel: f.parallel, Gate: f.gate,
		Progress: func(e apply.Event) { events.event(e); log.event(e) },
		Scope:    h.scope(f.planFlags), Replanned: again,
		Cluster: func(ctx context.Context, conns map[string]apply.Conn) (apply.Kubernetes, error) {
			a, err := h.api(ctx, conns)
			if err != nil {
				return nil, err
			}
			return a, nil
		},
	}
	out, err := run.Execute(ctx, holds.Epoch, apply.States(found))
	events.end()
	err = h.ended(ctx, out, err)
	log.end(out.Transaction, err)
	return err
}

func heldError(err error) error {
	var held *apply.HeldError
	if errors.As(err, &held) {
		return &exitError{exitLocked, held.Error(), "wait for it; if whoever that is has gone: kthwc unlock"}
	}
	return err
}

// ended says how a run ended, and what to do next.
func (h *hosts) ended(ctx context.Context, out *apply.Outcome, err error) error {
	if len(out.Confirmed) > 0 {
		fmt.Fprintf(h.s.err, "confirmed: %s\n", names.Ranges(out.Confirmed))
	}
	if err == nil {
		fmt.Fprintf(h.s.err, "done: transaction %d; kthwc rollback %[1]d undoes it\n", out.Transaction)
		return nil
	}
	for _, line := range []struct {
		what  string
		nodes []string
	}{{"undone", out.Undone}, {"not begun", out.Skipped}} {
		if len(line.nodes) > 0 {
			fmt.Fprintf(h.s.err, "%s: %s\n", line.what, names.Ranges(line.nodes))
		}
	}
	for _, node := range slices.Sorted(maps.Keys(out.Stuck)) {
		fmt.Fprintf(h.s.err, "%s: %s\n", node, out.Stuck[node])
	}
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(h.s.err, "interrupted: the next kthwc apply goes on")
		return ctx.Err()
	case len(out.Stuck) > 0:
		return &exitError{exitPartial, err.Error(), "kthwc status says where things stand; the next kthwc apply goes on"}
	case errors.Is(err, apply.ErrUndone):
		return &exitError{exitUndone, err.Error(), "correct the cause; what was confirmed before stays"}
	case len(out.Confirmed) > 0:
		return &exitError{exitPartial, err.Error(), "the next kthwc apply goes on"}
	}
	return &exitError{exitFailure, err.Error(), "nothing that runs was touched"}
}
