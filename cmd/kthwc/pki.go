package main

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/internal/durable"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/inventory"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/pkg/secret"
)

func newPKI(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "pki", Short: "Issue, keep and look at certificates and keys"}
	cmd.AddCommand(newPKIInit(s), newPKIPlan(s), newPKIIssue(s), newPKIRenew(s), newPKIRotate(s), newPKIList(s), newPKIInspect(s), newPKIInventory(s), newPKIReseal(s), newPKIImport(s), newPKIMap(s))
	return cmd
}

// stateDir is where what was issued and found out is kept.
func (s *session) stateDir(cluster string) string {
	if s.state != "" {
		return s.state
	}
	return filepath.Join(s.project(), cluster+".kthwc")
}

func (s *session) storeDir(cluster string) string { return filepath.Join(s.stateDir(cluster), "store") }

func (s *session) inventoryFile(cluster string) string {
	return filepath.Join(s.stateDir(cluster), "inventory.yaml")
}

// store opens the cluster's store.
func (s *session) store(b *built) (*pki.Store, error) { return s.open(b.cluster.Name.V) }

func (s *session) open(name string) (*pki.Store, error) {
	store, err := pki.Open(s.storeDir(name), name)
	if err != nil {
		return nil, err
	}
	store.OpenWith(s.identities)
	return store, nil
}

// newest is what inventory.yaml says, or the store where that is as new: a
// command may have been stopped between writing the one and the other.
func (s *session) newest(cluster string) (*inventory.Inventory, *pki.Store, error) {
	store, err := s.open(cluster)
	if err != nil {
		return nil, nil, err
	}
	inv, err := s.published(cluster)
	if err != nil || inv != nil && store.Generation() < inv.Generation {
		return inv, store, err
	}
	inv, err = store.Inventory()
	return inv, store, err
}

// facts are what is known of the cluster beside its file.
func (s *session) facts(cluster string) (compile.Facts, error) {
	inv, _, err := s.newest(cluster)
	return compile.Facts{Inventory: inv}, err
}

// withFacts is what a verb that looks at what was issued begins with.
func (s *session) withFacts() (*built, *inventory.Inventory, *pki.Store, error) {
	b, err := s.compiled()
	if err != nil {
		return nil, nil, nil, err
	}
	inv, store, err := s.newest(b.cluster.Name.V)
	return b, inv, store, err
}

// withKeys is what a verb that changes the store begins with. A store that is
// older than the committed inventory is refused.
func (s *session) withKeys() (*built, *inventory.Inventory, *pki.Store, error) {
	b, inv, store, err := s.withFacts()
	if err == nil && store.Generation() < inv.Generation {
		err = &exitError{exitFailure, fmt.Sprintf("the store is at generation %d, and inventory.yaml at %d", store.Generation(), inv.Generation), "get the store that was issued from last: keys that exist must not be made again"}
	}
	return b, inv, store, err
}

func newPKIPlan(s *session) *cobra.Command {
	var format string
	var exitCode, all bool
	var o pki.Options
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Say what would be issued, and why",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, inv, _, err := s.withFacts()
			if err != nil {
				return err
			}
			o.Now = s.now()
			plan := pki.MakePlan(b.cluster, inv, o)
			if err := s.printPlan(b, plan, format, all); err != nil {
				return err
			}
			if exitCode && plan.Changes() {
				return &exitError{code: exitPending}
			}
			return nil
		},
	}
	addChoice(cmd, cmd.Flags(), &format, "format", "how to print it", "text", "json")
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit 2 if anything would be issued")
	cmd.Flags().BoolVar(&all, "all", false, "list what stays as it is, too")
	addWindow(cmd, &o.Window)
	return cmd
}

func addWindow(cmd *cobra.Command, window *time.Duration) {
	cmd.Flags().DurationVar(window, "window", pki.DefaultWindow, "renew what expires within this time, but nothing before its last third")
}

func (s *session) printPlan(b *built, plan *pki.Plan, format string, all bool) error {
	actions := slices.Clone(plan.Actions)
	if !all {
		actions = plan.Pending()
	}
	if format == "json" {
		return s.document("IssuePlan", map[string]any{"actions": actions})
	}
	counts := map[pki.Verb]int{}
	for _, a := range plan.Actions {
		counts[a.Do]++
	}
	for _, g := range b.alike(actions) {
		fmt.Fprintf(s.out, "%-8s%s %s\n", g.do, g.kind, strings.Join(g.names, ", "))
		for _, r := range g.reasons {
			fmt.Fprintf(s.out, "        %s\n", r)
		}
	}
	fmt.Fprintf(s.err, "%s\n", summaryOf(counts))
	return nil
}

// group is actions that differ in their names alone.
type group struct {
	do             pki.Verb
	kind           string
	names, reasons []string
}

// alike groups the actions, in the order of the first of each group.
func (b *built) alike(actions []pki.Action) []*group {
	var out []*group
	for _, a := range actions {
		var reasons []string
		for _, r := range a.Reasons {
			reasons = append(reasons, r.Text+b.whence(r))
		}
		at := slices.IndexFunc(out, func(g *group) bool { return g.do == a.Do && g.kind == a.Kind && slices.Equal(g.reasons, reasons) })
		if at < 0 {
			at = len(out)
			out = append(out, &group{do: a.Do, kind: a.Kind, reasons: reasons})
		}
		out[at].names = append(out[at].names, a.Name)
	}
	return out
}

// whence is where a reason comes from in cluster.yaml.
func (b *built) whence(r pki.Reason) string {
	for _, source := range r.From.Sources() {
		if b.doc.Written(source) {
			return fmt.Sprintf(", because %s %s", b.doc.Pos(source), source)
		}
	}
	return ""
}

func summaryOf(counts map[pki.Verb]int) string {
	var parts []string
	for _, v := range []pki.Verb{pki.DoIssue, pki.DoReissue, pki.DoRenew, pki.DoWait, pki.DoKeep, pki.DoUnused} {
		if n := counts[v]; n > 0 || v == pki.DoIssue {
			parts = append(parts, fmt.Sprintf("%d %s", n, becomes[v]))
		}
	}
	return strings.Join(parts, ", ")
}

func newPKIIssue(s *session) *cobra.Command {
	var o pki.Options
	cmd := &cobra.Command{
		Use:   "issue",
		Short: "Issue what the cluster wants and does not have",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return s.issue(o) },
	}
	addWindow(cmd, &o.Window)
	return cmd
}

func newPKIRenew(s *session) *cobra.Command {
	var o pki.Options
	cmd := &cobra.Command{
		Use:               "renew [NAME...]",
		Short:             "Issue what is due, and the certificates named, before their time",
		Example:           "  kthwc pki renew\n  kthwc pki renew kubelet-client@worker-0",
		ValidArgsFunction: s.completeUses(pki.Certificate),
		RunE: func(_ *cobra.Command, args []string) error {
			o.Force = map[string]bool{}
			for _, name := range args {
				o.Force[name] = true
			}
			return s.issue(o)
		},
	}
	addWindow(cmd, &o.Window)
	return cmd
}

// issue plans and carries the plan out.
func (s *session) issue(o pki.Options, only ...string) error {
	b, inv, store, err := s.withKeys()
	if err != nil {
		return err
	}
	if err := knownNames(b, o.Force); err != nil {
		return err
	}
	o.Now = s.now()
	plan := pki.MakePlan(b.cluster, inv, o)
	if len(only) > 0 {
		plan = plan.Only(only...)
	}
	if err := s.printPlan(b, plan, "text", false); err != nil {
		return err
	}
	if !plan.Changes() {
		return nil
	}
	err = pki.Issue(store, b.cluster, plan, o, s.counter(plan))
	if errors.Is(err, pki.ErrNotIssued) {
		return &exitError{exitFailure, err.Error(), "`kthwc pki issue` makes the authorities first"}
	}
	if err != nil {
		return err
	}
	return s.writeInventory(b, store)
}

func knownNames(b *built, names map[string]bool) error {
	for name := range names {
		if !slices.ContainsFunc(b.cluster.Certs, func(c *compile.Cert) bool { return c.Name == name }) {
			return &exitError{exitUsage, fmt.Sprintf("no certificate is called %q", name), "`kthwc pki list` lists them; authorities and keys are rotated, not renewed"}
		}
	}
	return nil
}

// counter shows how far issuing is, where people watch.
func (s *session) counter(plan *pki.Plan) func(pki.Action) {
	if !s.onTerminal(s.err) {
		return nil
	}
	total, done := 0, 0
	for _, a := range plan.Actions {
		if a.Do != pki.DoKeep && a.Do != pki.DoWait && a.Do != pki.DoUnused {
			total++
		}
	}
	return func(a pki.Action) {
		done++
		end := "\r"
		if done == total {
			end = "\n"
		}
		fmt.Fprintf(s.err, "\x1b[2Kissued %d of %d: %s%s", done, total, a.Name, end)
	}
}

func (s *session) writeInventory(b *built, store *pki.Store) error {
	inv, err := store.Inventory()
	if err != nil {
		return err
	}
	text, err := inv.YAML()
	if err != nil {
		return err
	}
	file := s.inventoryFile(b.cluster.Name.V)
	if err := durable.Replace(file, text, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(s.err, "generation %d is in %s; %s says what was issued\n", store.Generation(), s.storeDir(b.cluster.Name.V), file)
	return nil
}

func newPKIList(s *session) *cobra.Command {
	var within, format string
	var exitCode bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List what was issued, the next to expire first",
		Example: "  kthwc pki list --within 30d --exit-code",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			limit, err := days(within)
			if err != nil {
				return err
			}
			_, inv, _, err := s.withFacts()
			if err != nil {
				return err
			}
			rows := certificatesOf(inv)
			if within != "" {
				rows = slices.DeleteFunc(rows, func(r issuedRow) bool { return r.NotAfter.Sub(s.now()) > limit })
			}
			if err := s.printList(rows, format); err != nil {
				return err
			}
			if exitCode && len(rows) > 0 {
				return &exitError{code: exitThreshold}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&within, "within", "", "only what expires within this time, such as 30d or 12h")
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit 8 if the list is not empty")
	addChoice(cmd, cmd.Flags(), &format, "format", "how to print it", "text", "json")
	return cmd
}

// issuedRow is one row of the list.
type issuedRow struct {
	Name      string `json:"name"`
	Authority string `json:"authority,omitempty"`
	State     string `json:"state,omitempty"` // of a root, while its key is being replaced
	inventory.Facts
}

func certificatesOf(inv *inventory.Inventory) []issuedRow {
	var rows []issuedRow
	for _, a := range inv.Authorities {
		for _, k := range a.Keyset {
			row := issuedRow{Name: "ca/" + a.Name, Facts: k.Facts}
			if len(a.Keyset) > 1 {
				row.State = k.State
			}
			rows = append(rows, row)
		}
	}
	for _, c := range inv.Certificates {
		rows = append(rows, issuedRow{Name: c.Name, Authority: c.Authority, Facts: c.Facts})
	}
	slices.SortStableFunc(rows, func(a, b issuedRow) int { return a.NotAfter.Compare(b.NotAfter) })
	return rows
}

func (s *session) printList(rows []issuedRow, format string) error {
	if format == "json" {
		return s.document("CertificateList", map[string]any{"certificates": append([]issuedRow{}, rows...)})
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tAUTHORITY\tSUBJECT\tUSAGES\tEXPIRES\tLEFT")
	for _, r := range rows {
		subject := r.CommonName
		if r.Organization != "" {
			subject += ", O=" + r.Organization
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, cmp.Or(r.Authority, r.State), subject, strings.Join(r.Usages, ", "), r.NotAfter.Format("2006-01-02"), pki.Span(r.NotAfter.Sub(s.now())))
	}
	return w.Flush()
}

// days reads a duration that may be in days.
func days(text string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(text, "d"); ok {
		if d, err := time.ParseDuration(n + "h"); err == nil {
			return 24 * d, nil
		}
	} else if d, err := time.ParseDuration(text); err == nil || text == "" {
		return d, nil
	}
	return 0, &exitError{exitUsage, fmt.Sprintf("%q is no time", text), "write 30d or 12h"}
}

func newPKIInspect(s *session) *cobra.Command {
	return &cobra.Command{
		Use:               "inspect NAME",
		Short:             "Print an issued certificate in PEM with what it says, never its key",
		Example:           "  kthwc pki inspect kubelet-client@worker-0\n  kthwc pki inspect ca/etcd",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: s.completeUses(pki.Certificate),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := s.compiled()
			if err != nil {
				return err
			}
			store, err := s.store(b)
			if err != nil {
				return err
			}
			text, err := store.Material(secret.Cert(args[0]))
			if err != nil {
				return &exitError{exitFailure, err.Error(), "`kthwc pki list` lists what was issued"}
			}
			return s.inspect(text)
		},
	}
}

func (s *session) inspect(text []byte) error {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
		for _, row := range pki.Describe(c) {
			fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
		}
		if err := errors.Join(w.Flush(), pem.Encode(s.out, block)); err != nil {
			return err
		}
	}
	return nil
}

func newPKIInventory(s *session) *cobra.Command {
	var write bool
	cmd := &cobra.Command{
		Use:   "inventory",
		Short: "Print the public facts of what was issued, which may be committed",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := s.compiledWith(noFacts) // what is to be written need not be readable
			if err != nil {
				return err
			}
			store, err := s.store(b)
			if err != nil {
				return err
			}
			if write {
				return s.writeInventory(b, store)
			}
			inv, _, err := s.newest(b.cluster.Name.V)
			if err != nil {
				return err
			}
			text, err := inv.YAML()
			if err != nil {
				return err
			}
			_, err = s.out.Write(text)
			return err
		},
	}
	cmd.Flags().BoolVar(&write, "write", false, "write inventory.yaml from the store")
	return cmd
}

// newKubeconfig gives the operator what kubectl needs.
func newKubeconfig(s *session) *cobra.Command {
	var file string
	var inLab bool
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Write your own kubeconfig, with a certificate that is renewed when it is due",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := s.issue(pki.Options{}, "admin"); err != nil {
				return err
			}
			b, err := s.build()
			if err != nil {
				return err
			}
			store, err := s.store(b)
			if err != nil {
				return err
			}
			name := b.cluster.Name.V
			if file == "" {
				file = filepath.Join(s.stateDir(name), "admin.kubeconfig")
				if err := s.ignoreKubeconfig(name); err != nil {
					return err
				}
			}
			content, err := b.tree.File("client/admin.kubeconfig").Body.Materialise(store.Material)
			if err != nil {
				return err
			}
			if inLab {
				if content, err = s.throughLoopback(b, content); err != nil {
					return err
				}
			}
			if err := durable.Replace(file, content, 0o600); err != nil {
				return err
			}
			fmt.Fprintf(s.err, "wrote %s, which holds your key: export KUBECONFIG=%s\n", file, file)
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "output", "o", "", "the file to write, for you alone; admin.kubeconfig beside the store unless set")
	cmd.Flags().BoolVar(&inLab, "lab", false, "reach the API of kthwc lab up from this machine, by the port of its loopback that leads there")
	return cmd
}

// ignoreKubeconfig keeps the default file, which holds a key, out of git. What
// else lies beside it may be committed.
func (s *session) ignoreKubeconfig(cluster string) error {
	file := filepath.Join(s.stateDir(cluster), ".gitignore")
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	return durable.Replace(file, []byte("admin.kubeconfig\nlab/\n"), 0o644)
}

// throughLoopback is a kubeconfig for a lab's API, as this machine reaches it.
// The certificate is judged by the name that it has in the lab.
func (s *session) throughLoopback(b *built, content []byte) ([]byte, error) {
	l, err := s.openLab(&labFlags{})
	if err != nil {
		return nil, err
	}
	address, ok := l.Forwarded()
	if !ok {
		return nil, &exitError{exitFailure, "no port of this machine leads to the lab's API", "kthwc lab up -f " + s.file}
	}
	public := b.cluster.API.Public.V
	server, err := url.Parse(public)
	if err != nil {
		return nil, err
	}
	there := "server: https://" + address + "\n    tls-server-name: " + server.Hostname()
	return bytes.Replace(content, []byte("server: "+public), []byte(there), 1), nil
}
