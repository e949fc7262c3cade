package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

// A Plan is everything that an apply would do, as a value: nothing in it
// reaches a host. Hosts are in the tree's order, entries in the order of paths.
type Plan struct {
	Cluster  string     `json:"cluster"`
	Hosts    []HostPlan `json:"hosts"`
	Stages   []Stage    `json:"stages,omitempty"`
	Warnings []string   `json:"warnings,omitempty"`
}

// HostPlan is what would happen on one host.
type HostPlan struct {
	Node     string       `json:"node"`
	Unknown  string       `json:"unknown,omitempty"` // why nothing is planned for it
	Machine  string       `json:"machine,omitempty"`
	Boot     string       `json:"boot,omitempty"`
	Problems []string     `json:"problems,omitempty"` // what preflight found; nothing is done while there are any
	Drift    []Change     `json:"drift,omitempty"`    // what others changed since the last apply
	Changes  []Change     `json:"changes,omitempty"`
	Users    []string     `json:"users,omitempty"`    // to make
	Packages []string     `json:"packages,omitempty"` // to install
	Units    []UnitAction `json:"units,omitempty"`
	Same     int          `json:"same"` // entries that are as they shall be
}

// What becomes of a path.
const (
	Add    = "add"
	Modify = "change"
	Delete = "delete"
)

// Change is what becomes of one path. Digests of what is secret are left out.
type Change struct {
	Do        string    `json:"do"`
	Path      string    `json:"path"`
	Kind      tree.Kind `json:"kind"`
	What      []string  `json:"what,omitempty"` // "content", "mode 0644 → 0600", …
	Secret    bool      `json:"secret,omitempty"`
	Readers   []string  `json:"readers,omitempty"`
	Before    string    `json:"before,omitempty"` // digest
	After     string    `json:"after,omitempty"`
	From      []string  `json:"from,omitempty"` // sources, as in package origin
	NotIssued string    `json:"notIssued,omitempty"`
}

// What is done to a unit.
const (
	Start   = "start"
	Restart = "restart"
	Enable  = "enable"
)

// UnitAction is what is done to one unit, and the paths that are the reason.
type UnitAction struct {
	Unit    string   `json:"unit"`
	Do      string   `json:"do"`
	Because []string `json:"because,omitempty"`
}

// Stage is units of one kind, host by host: a batch is begun when the one
// before it has passed the gate.
type Stage struct {
	Name    string     `json:"name"`
	Unit    string     `json:"unit"`
	Gate    string     `json:"gate,omitempty"`
	Batches [][]string `json:"batches"` // of nodes
}

// Empty says whether there is nothing to do, and nothing unknown.
func (p *Plan) Empty() bool {
	return !slices.ContainsFunc(p.Hosts, func(h HostPlan) bool {
		return h.Unknown != "" || len(h.Problems)+len(h.Drift)+len(h.Changes)+len(h.Users)+len(h.Packages)+len(h.Units) > 0
	})
}

// Host is what observing one host gave.
type Host struct {
	State *State
	Err   error
}

// Recorded is what was last confirmed on a host: /var/lib/kthwc/confirmed.
type Recorded struct {
	Generation int             `json:"generation"`
	Cluster    string          `json:"cluster"`
	Node       string          `json:"node"`
	Entries    []RecordedEntry `json:"entries"`
}

// RecordedEntry is one path as it was left.
type RecordedEntry struct {
	Path   string    `json:"path"`
	Kind   tree.Kind `json:"kind"`
	Mode   uint32    `json:"mode"`
	Owner  string    `json:"owner"`
	Group  string    `json:"group"`
	Target string    `json:"target,omitempty"`
	Digest string    `json:"digest,omitempty"`
}

// QueryOf is what must be known of a node's host to plan for it.
func QueryOf(n *tree.Node) Query {
	var q Query
	for _, f := range n.Files {
		q.Paths = append(q.Paths, f.Path)
		if f.Block {
			q.Contents = append(q.Contents, f.Path)
		}
	}
	for _, u := range n.Units {
		q.Units = append(q.Units, u.Name)
	}
	for _, p := range n.Packages {
		q.Packages = append(q.Packages, p.Name)
	}
	return q
}

// MakePlan compares a tree with its hosts as they were observed. Material comes
// from the source only to be compared.
func MakePlan(t *tree.Tree, hosts map[string]Host, material secret.Source) *Plan {
	p := &Plan{Cluster: t.Cluster}
	for _, n := range t.Nodes {
		p.Hosts = append(p.Hosts, hostPlan(t, n, hosts[n.Name], material))
	}
	p.stages(t, hosts)
	return p
}

func hostPlan(t *tree.Tree, n *tree.Node, h Host, material secret.Source) HostPlan {
	out := HostPlan{Node: n.Name}
	switch {
	case h.Err != nil:
		out.Unknown = h.Err.Error()
	case h.State == nil:
		out.Unknown = "it was not looked at"
	case len(h.State.Unknown) > 0:
		out.Unknown = unknownPaths(h.State.Unknown)
	}
	if out.Unknown != "" {
		return out
	}
	out.Machine, out.Boot = h.State.Facts.Machine, h.State.Facts.Boot
	out.Problems = preflight(n, h.State)
	c := &comparison{out: &out, node: n, state: h.State, material: material, changed: map[string][]string{}}
	if err := c.record(t.Cluster); err != nil {
		out.Unknown = err.Error()
		return out
	}
	for _, f := range n.Files {
		c.file(f)
	}
	c.deletions()
	c.rest()
	return out
}

func unknownPaths(unknown map[string]string) string {
	var paths []string
	for p, why := range unknown {
		paths = append(paths, p+": "+why)
	}
	slices.Sort(paths)
	return strings.Join(paths, "; ")
}

// comparison is the state of comparing one node with its host.
type comparison struct {
	out      *HostPlan
	node     *tree.Node
	state    *State
	material secret.Source
	recorded map[string]RecordedEntry
	changed  map[string][]string // unit -> paths
}

func (c *comparison) record(cluster string) error {
	c.recorded = map[string]RecordedEntry{}
	if c.state.Confirmed == nil {
		return nil
	}
	var r Recorded
	if err := json.Unmarshal(c.state.Confirmed, &r); err != nil {
		return fmt.Errorf("its record of the last apply cannot be read: %w", err)
	}
	if r.Cluster != cluster || r.Node != c.node.Name {
		return fmt.Errorf("it is the node %s of the cluster %s: is the address right?", r.Node, r.Cluster)
	}
	for _, e := range r.Entries {
		c.recorded[e.Path] = e
	}
	return nil
}

// file compares one path: with what it shall be, and with what it was left as.
func (c *comparison) file(f *tree.File) {
	want, change := c.wanted(f)
	is, there := c.state.Entries[f.Path]
	c.drift(f.Path, is, there)
	switch {
	case f.Kind == tree.Absent && !there, there && change.NotIssued == "" && len(differences(want, is)) == 0:
		c.out.Same++
		return
	case f.Kind == tree.Absent:
		change.Do, change.Kind = Delete, is.Kind
	case !there:
		change.Do = Add
	default:
		change.Do, change.What = Modify, differences(want, is)
	}
	if !change.Secret {
		change.Before, change.After = is.Digest, want.Digest
	}
	c.add(change)
}

func (c *comparison) add(change Change) {
	c.out.Changes = append(c.out.Changes, change)
	for _, u := range change.Readers {
		c.changed[u] = append(c.changed[u], change.Path)
	}
}

// wanted is what a path shall be.
func (c *comparison) wanted(f *tree.File) (Observed, Change) {
	change := Change{Path: f.Path, Kind: f.Kind, Readers: unitsReading(f), From: f.From.Sources()}
	want := Observed{Kind: f.Kind, Mode: f.Mode, Owner: f.Owner, Group: f.Group, Target: f.Target}
	if f.Kind != tree.Regular {
		return want, change
	}
	change.Secret = slices.ContainsFunc(f.Body.Refs(), secret.Ref.Sensitive)
	content, err := f.Body.Materialise(c.material)
	if err != nil {
		change.NotIssued = err.Error()
		return want, change
	}
	if f.Block {
		content = []byte(WithBlock(c.state.Contents[f.Path], string(content)))
	}
	sum := sha256.Sum256(content)
	want.Digest, want.Size = hex.EncodeToString(sum[:]), int64(len(content))
	return want, change
}

// unitsReading are the units that a change of the file concerns; a unit's own
// file concerns the unit.
func unitsReading(f *tree.File) []string {
	if name, ok := strings.CutPrefix(f.Path, "/etc/systemd/system/"); ok && !strings.Contains(name, "/") {
		return []string{name}
	}
	return f.Readers
}

// differences are what is not as it shall be, in words.
func differences(want, is Observed) []string {
	if want.Kind != is.Kind {
		return []string{fmt.Sprintf("%s instead of %s", orOther(want.Kind), orOther(is.Kind))}
	}
	var out []string
	if want.Digest != is.Digest {
		out = append(out, "content")
	}
	if want.Target != is.Target {
		out = append(out, fmt.Sprintf("target %s → %s", is.Target, want.Target))
	}
	if want.Mode != is.Mode && want.Kind != tree.Symlink {
		out = append(out, fmt.Sprintf("mode %04o → %04o", is.Mode, want.Mode))
	}
	if want.Owner != is.Owner || want.Group != is.Group {
		out = append(out, fmt.Sprintf("owner %s:%s → %s:%s", is.Owner, is.Group, want.Owner, want.Group))
	}
	return out
}

func orOther(k tree.Kind) string {
	if k == "" {
		return "something else"
	}
	return string(k)
}

// drift compares a path with what the last apply left.
func (c *comparison) drift(path string, is Observed, there bool) {
	was, known := c.recorded[path]
	if !known {
		return
	}
	left := Observed{Kind: was.Kind, Mode: was.Mode, Owner: was.Owner, Group: was.Group, Target: was.Target, Digest: was.Digest}
	switch what := differences(left, is); {
	case !there:
		c.out.Drift = append(c.out.Drift, Change{Do: Delete, Path: path, Kind: was.Kind})
	case len(what) > 0:
		c.out.Drift = append(c.out.Drift, Change{Do: Modify, Path: path, Kind: is.Kind, What: what})
	}
}

// deletions are the paths that the last apply left and that are wanted no
// more. A directory stays: others may have put something there.
func (c *comparison) deletions() {
	for _, path := range slices.Sorted(maps.Keys(c.recorded)) {
		was := c.recorded[path]
		if c.node.File(path) == nil && was.Kind != tree.Dir {
			c.add(Change{Do: Delete, Path: path, Kind: was.Kind})
		}
	}
}

// rest is users, packages and units.
func (c *comparison) rest() {
	for _, u := range c.node.Users {
		c.out.Users = append(c.out.Users, u.Name)
	}
	c.out.Users = slices.DeleteFunc(c.out.Users, func(name string) bool { return c.state.Users[name] })
	for _, p := range c.node.Packages {
		if !c.state.Packages[p.Name] {
			c.out.Packages = append(c.out.Packages, p.Name)
		}
	}
	for _, u := range c.node.Units {
		c.unit(u)
	}
}

func (c *comparison) unit(u tree.Unit) {
	is := c.state.Units[u.Name]
	because := c.changed[u.Name]
	switch {
	case u.Started && is.Active != "active":
		c.out.Units = append(c.out.Units, UnitAction{u.Name, Start, because})
	case len(because) > 0 && u.Started:
		c.out.Units = append(c.out.Units, UnitAction{u.Name, Restart, because})
	case u.Enabled && is.File != "enabled":
		c.out.Units = append(c.out.Units, UnitAction{u.Name, Enable, nil})
	}
}

// The lines around our part of a file that others write too.
const (
	blockBegin = "# kthwc: begin. What is between these two lines is replaced."
	blockEnd   = "# kthwc: end."
)

// WithBlock is the text of a file with our block replaced, or appended.
func WithBlock(text, block string) string {
	ours := blockBegin + "\n" + block + blockEnd + "\n"
	before, rest, found := strings.Cut(text, blockBegin+"\n")
	if !found {
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		return text + ours
	}
	_, after, closed := strings.Cut(rest, blockEnd+"\n")
	if !closed {
		return before + ours
	}
	return before + ours + after
}
