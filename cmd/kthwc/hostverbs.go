package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/internal/names"
	"github.com/kthwc/kthwc/pkg/apply"
)

// newPreflight looks at hosts and says what stands in the way, and nothing else.
func newPreflight(s *session) *cobra.Command {
	var f *planFlags
	var format string
	cmd := &cobra.Command{
		Use:   "preflight",
		Short: "Say what stands in the way on each host; changes nothing; exit 4 if anything does",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.onHosts(cmd.Context(), f.hostFlags, func(h *hosts) error { return h.preflight(cmd.Context(), f.partial, format) })
		},
	}
	f = s.addPlanFlags(cmd)
	addChoice(cmd, cmd.Flags(), &format, "format", "how it is printed", "text", "json")
	return cmd
}

func (h *hosts) preflight(ctx context.Context, partial bool, format string) error {
	found, err := h.Observe(ctx, false)
	if err != nil {
		return err
	}
	p, err := h.MakePlan(found, apply.Scope{Nodes: h.nodes})
	if err != nil {
		return err
	}
	if err := h.s.preflightTable(p, found, format); err != nil {
		return err
	}
	return planEnd(p, false, partial)
}

// preflightRow is what is known of one host.
type preflightRow struct {
	Node     string       `json:"node"`
	Unknown  string       `json:"unknown,omitempty"`
	Facts    *apply.Facts `json:"facts,omitempty"`
	Problems []string     `json:"problems"`
}

func (s *session) preflightTable(p *apply.Plan, found map[string]apply.Host, format string) error {
	var rows []preflightRow
	for _, h := range p.Hosts {
		row := preflightRow{Node: h.Node, Unknown: h.Unknown, Problems: append([]string{}, h.Problems...)}
		if state := found[h.Node].State; state != nil {
			row.Facts = &state.Facts
		}
		rows = append(rows, row)
	}
	if format == "json" {
		return s.document("Preflight", map[string]any{"hosts": rows})
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tSYSTEM\tKERNEL\tARCH\tFREE\tCGROUPS\tRESULT")
	for _, r := range rows {
		if r.Facts == nil {
			fmt.Fprintf(w, "%s\t-\t-\t-\t-\t-\t%s\n", r.Node, firstOf(fmt.Errorf("%s", r.Unknown)))
			continue
		}
		fmt.Fprintf(w, "%s\t%s %s\t%s\t%s\t%.1f GB\tv%d\t%s\n", r.Node, r.Facts.OS, r.Facts.OSVersion, r.Facts.Kernel, r.Facts.Arch, float64(r.Facts.FreeBytes)/1e9, r.Facts.Cgroups, cmp.Or(strings.Join(r.Problems, "; "), "ok"))
	}
	return w.Flush()
}

// newStatus says where things stand on each host.
func newStatus(s *session) *cobra.Command {
	var f *hostFlags
	var format string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say where each host stands: last transaction, what was interrupted, who holds it, units; exit 6 unless all is well",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.onHosts(cmd.Context(), f, func(h *hosts) error { return h.status(cmd.Context(), format) })
		},
	}
	f = s.addHostFlags(cmd)
	addChoice(cmd, cmd.Flags(), &format, "format", "how it is printed", "text", "json")
	return cmd
}

func (h *hosts) status(ctx context.Context, format string) error {
	found, err := h.Observe(ctx, false)
	if err != nil {
		return err
	}
	var all []apply.Standing
	unwell := 0
	for _, n := range h.tree.Nodes {
		if h.nodes != nil && !h.nodes[n.Name] {
			continue
		}
		st := apply.StandingOf(n.Name, found[n.Name])
		all = append(all, st)
		if st.Unknown != "" || st.Interrupted != "" || slices.ContainsFunc(slices.Collect(maps.Values(st.Units)), func(a string) bool { return a != "active" }) {
			unwell++
		}
	}
	err = h.printStatus(all, format)
	if unwell > 0 && err == nil {
		return &exitError{exitPartial, fmt.Sprintf("%d hosts are not as an apply leaves them", unwell), "kthwc plan says what is to be done; kthwc apply does it"}
	}
	return err
}

func (h *hosts) printStatus(all []apply.Standing, format string) error {
	if format == "json" {
		return h.s.document("Status", map[string]any{"hosts": all})
	}
	w := tabwriter.NewWriter(h.s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tTRANSACTION\tUNITS\tSTATE")
	for _, st := range all {
		if st.Unknown != "" {
			fmt.Fprintf(w, "%s\t?\t?\tunknown: %s\n", st.Node, firstOf(fmt.Errorf("%s", st.Unknown)))
			continue
		}
		active := 0
		var not []string
		for _, unit := range slices.Sorted(maps.Keys(st.Units)) {
			if st.Units[unit] == "active" {
				active++
				continue
			}
			not = append(not, fmt.Sprintf("%s is %s", unit, cmp.Or(st.Units[unit], "not there")))
		}
		state := not
		if st.Interrupted != "" {
			state = append([]string{"interrupted: " + st.Interrupted}, state...)
		}
		if st.Owner != "" {
			state = append(state, "held by "+st.Owner)
		}
		fmt.Fprintf(w, "%s\t%s\t%d of %d\t%s\n", st.Node, cmp.Or(strconv.Itoa(st.Transaction), "-"), active, len(st.Units), cmp.Or(strings.Join(state, "; "), "ok"))
	}
	return w.Flush()
}

func newRollback(s *session) *cobra.Command {
	var f *hostFlags
	var approve bool
	var gate time.Duration
	cmd := &cobra.Command{
		Use:   "rollback [TRANSACTION]",
		Short: "Put the hosts back to what they were before the last transaction, and undo what was interrupted",
		Long: `Put the hosts back to what they were before the last transaction, and undo what
was interrupted.

Files, links, units and programs go back, host by host, controllers first. Objects
of the Kubernetes API do not: apply the older cluster.yaml for these. A host
keeps one transaction; what was before it is not on the host any more.`,
		Example: "  kthwc rollback\n  kthwc rollback 7",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			transaction := 0
			if len(args) == 1 {
				var err error
				if transaction, err = strconv.Atoi(args[0]); err != nil || transaction < 1 {
					return &exitError{exitUsage, args[0] + " is no transaction", "kthwc status lists them"}
				}
			}
			return s.onHosts(cmd.Context(), f, func(h *hosts) error { return h.rollback(cmd.Context(), transaction, approve, gate) })
		},
	}
	f = s.addHostFlags(cmd)
	cmd.Flags().BoolVar(&approve, "auto-approve", false, "do not ask")
	cmd.Flags().DurationVar(&gate, "timeout", 90*time.Second, "how long a unit may take to do its work again")
	return cmd
}

func (h *hosts) rollback(ctx context.Context, transaction int, approve bool, gate time.Duration) error {
	found, err := h.Observe(ctx, false)
	if err != nil {
		return err
	}
	var interrupted []string
	for _, n := range h.tree.Nodes {
		if st := apply.StandingOf(n.Name, found[n.Name]); st.Interrupted != "" {
			interrupted = append(interrupted, n.Name)
		}
	}
	var nodes []string
	switch {
	case len(interrupted) > 0 && transaction == 0:
		fmt.Fprintf(h.s.err, "what was interrupted is undone on %s\n", names.Ranges(interrupted))
	default:
		if transaction, nodes = apply.Last(found, transaction); len(nodes) == 0 {
			return &exitError{exitFailure, "no host has that transaction as its last", "kthwc status lists them"}
		}
		fmt.Fprintf(h.s.err, "transaction %d is undone on %s\n", transaction, names.Ranges(names.Sorted(nodes)))
	}
	if !approve {
		if err := h.s.confirm("Only 'yes' continues", "yes"); err != nil {
			return err
		}
	}
	return h.putBack(ctx, transaction, nodes, interrupted, gate)
}

func (h *hosts) putBack(ctx context.Context, transaction int, nodes, interrupted []string, gate time.Duration) error {
	holds, err := h.Hold(ctx, slices.Sorted(maps.Keys(h.Conns)), h.s.owner("rollback"))
	if err != nil {
		return heldError(err)
	}
	defer holds.Release()
	for _, node := range interrupted {
		tx := &apply.Transaction{Conn: h.Conns[node], Generation: holds.Epoch, Epoch: holds.Epoch}
		if err := tx.Recover(ctx); err != nil {
			return &exitError{exitPartial, fmt.Sprintf("%s: %v", node, err), "run it again"}
		}
	}
	view := h.s.newProgress(&apply.Plan{Hosts: []apply.HostPlan{}})
	run := &apply.Run{Wanted: h.Wanted, Hosts: h.Conns, Progress: view.event, Gate: gate}
	out, err := run.Revert(ctx, transaction, holds.Epoch, nodes)
	view.end()
	if err != nil {
		return &exitError{exitPartial, err.Error(), "kthwc status says where things stand; kthwc apply brings the hosts to what cluster.yaml says"}
	}
	fmt.Fprintf(h.s.err, "done: %d hosts are as they were before\n", len(out.Undone)+len(interrupted))
	return nil
}

func newUnlock(s *session) *cobra.Command {
	var f *hostFlags
	cmd := &cobra.Command{
		Use:   "unlock",
		Short: "Take the hosts from an owner who is gone; one who answers keeps them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.onHosts(cmd.Context(), f, func(h *hosts) error { return h.unlock(cmd.Context()) })
		},
	}
	f = s.addHostFlags(cmd)
	return cmd
}

func (h *hosts) unlock(ctx context.Context) error {
	freed := 0
	for _, n := range h.tree.Nodes {
		c := h.Conns[n.Name]
		if c == nil {
			fmt.Fprintf(h.s.err, "%s: not connected\n", n.Name)
			continue
		}
		owner, err := apply.ReleaseDead(ctx, n.Name, c, "", 10*time.Second)
		if err != nil {
			return heldError(err)
		}
		if owner != "" {
			freed++
			fmt.Fprintf(h.s.err, "%s: taken from %s, who did not answer\n", n.Name, owner)
		}
	}
	if freed == 0 {
		fmt.Fprintln(h.s.err, "nobody holds a host")
	}
	return nil
}

func newReset(s *session) *cobra.Command {
	var f *hostFlags
	var confirm string
	var etcd bool
	cmd := &cobra.Command{
		Use:     "reset",
		Short:   "Make hosts bare again; etcd's data only when it is named",
		Example: "  kthwc reset --on worker-2\n  kthwc reset --etcd-data",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.onHosts(cmd.Context(), f, func(h *hosts) error { return h.reset(cmd.Context(), confirm, etcd) })
		},
	}
	f = s.addHostFlags(cmd)
	cmd.Flags().StringVar(&confirm, "confirm", "", "the name of the cluster, instead of typing it when asked")
	cmd.Flags().BoolVar(&etcd, "etcd-data", false, "etcd's data goes too: everything that the cluster knows")
	return cmd
}

func (h *hosts) reset(ctx context.Context, confirm string, etcd bool) error {
	var nodes []string
	for _, n := range h.tree.Nodes {
		if h.nodes == nil || h.nodes[n.Name] {
			nodes = append(nodes, n.Name)
		}
	}
	what := "everything that an apply has put there"
	if etcd {
		what += ", and the data of etcd, which nothing brings back"
	}
	fmt.Fprintf(h.s.err, "on %s: %s\n", names.Ranges(nodes), what)
	if confirm != h.tree.Cluster {
		if err := h.s.confirm(fmt.Sprintf("Only the name of the cluster, %s, continues", h.tree.Cluster), h.tree.Cluster); err != nil {
			return err
		}
	}
	found, err := h.Observe(ctx, false)
	if err != nil {
		return err
	}
	holds, err := h.Hold(ctx, nodes, h.s.owner("reset"))
	if err != nil {
		return heldError(err)
	}
	defer holds.Release()
	for _, node := range slices.Backward(nodes) {
		state := found[node].State
		if state == nil {
			return &exitError{exitPartial, fmt.Sprintf("%s: %v", node, found[node].Err), "run it again when the host answers"}
		}
		if err := h.Reset(ctx, node, holds.Epoch, state, etcd); err != nil {
			return &exitError{exitPartial, fmt.Sprintf("%s: %v", node, err), "run it again"}
		}
		fmt.Fprintf(h.s.err, "%s is bare\n", node)
	}
	return nil
}
