package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/artifact"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

// A Plan is everything that an apply would do, as a value: nothing in it
// reaches a host. Hosts are in the tree's order, entries in the order of paths.
// Two plans that are equal do the same to hosts that are the same.
type Plan struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"`
	Cluster    string           `json:"cluster"`
	Tree       string           `json:"tree"` // digest of what is wanted, secrets included
	Hosts      []HostPlan       `json:"hosts"`
	Rollout    []Batch          `json:"rollout,omitempty"`
	Manifests  []ManifestChange `json:"manifests,omitempty"`
	Warnings   []string         `json:"warnings,omitempty"`

	ManifestsAfter int `json:"manifestsAfter"` // so many batches come before the manifests
}

// ManifestChange is what becomes of one object of the Kubernetes API.
type ManifestChange struct {
	Do        string   `json:"do"` // "" is unknown: the API did not answer
	Manifest  string   `json:"manifest"`
	Kind      string   `json:"kind"`
	Namespace string   `json:"namespace,omitempty"`
	Name      string   `json:"name"`
	What      []string `json:"what,omitempty"`
}

// HostPlan is what would happen on one host.
type HostPlan struct {
	Node        string       `json:"node"`
	Unknown     string       `json:"unknown,omitempty"` // why nothing is planned for it
	Machine     string       `json:"machine,omitempty"`
	Boot        string       `json:"boot,omitempty"`
	Observed    string       `json:"observed,omitempty"`    // digest of what was found
	Generation  int          `json:"generation,omitempty"`  // that was confirmed last
	Interrupted string       `json:"interrupted,omitempty"` // what an earlier apply left unfinished: it is undone first
	Owner       string       `json:"owner,omitempty"`       // who holds the host
	Problems    []string     `json:"problems,omitempty"`    // what preflight found; nothing is done while there are any
	Drift       []Change     `json:"drift,omitempty"`       // what others changed since the last apply
	Changes     []Change     `json:"changes,omitempty"`
	Users       []string     `json:"users,omitempty"`    // to make
	Packages    []string     `json:"packages,omitempty"` // to install
	Programs    []Blob       `json:"programs,omitempty"` // to bring
	Images      []Blob       `json:"images,omitempty"`   // to bring to the container runtime
	Units       []UnitAction `json:"units,omitempty"`
	Same        int          `json:"same"` // entries that are as they shall be
}

// Pending says whether anything is to be done on the host.
func (h *HostPlan) Pending() bool {
	return h.Interrupted != "" || len(h.Changes)+len(h.Users)+len(h.Packages)+len(h.Programs)+len(h.Images)+len(h.Units) > 0
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
	Stop    = "stop" // and disable: it is rendered no more
)

// UnitAction is what is done to one unit, and the paths that are the reason.
type UnitAction struct {
	Unit    string   `json:"unit"`
	Do      string   `json:"do"`
	Because []string `json:"because,omitempty"`
}

// Empty says whether there is nothing to do, and nothing unknown.
func (p *Plan) Empty() bool {
	return !p.Changes() && !slices.ContainsFunc(p.Hosts, func(h HostPlan) bool { return h.Unknown != "" || len(h.Problems)+len(h.Drift) > 0 })
}

// Changes says whether an apply would do anything.
func (p *Plan) Changes() bool {
	return len(p.Manifests) > 0 || slices.ContainsFunc(p.Hosts, func(h HostPlan) bool { return h.Pending() })
}

// Host finds a host's plan by its node; nil if there is none.
func (p *Plan) Host(node string) *HostPlan {
	for i := range p.Hosts {
		if p.Hosts[i].Node == node {
			return &p.Hosts[i]
		}
	}
	return nil
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
	Input      string          `json:"input,omitempty"` // the cluster.yaml, so that a later plan can say what has changed in it
	Entries    []RecordedEntry `json:"entries"`
}

// maxInput is the longest cluster.yaml that is recorded on every host.
const maxInput = 128 << 10

// Applied is the cluster.yaml that was applied to the host last; "" if that is
// not known.
func (s *State) Applied() string {
	if s == nil || s.Confirmed == nil {
		return ""
	}
	r, err := recordOf(s.Confirmed)
	if err != nil {
		return ""
	}
	return r.Input
}

func recordOf(text []byte) (*Recorded, error) {
	r := &Recorded{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("its record of the last apply cannot be read: %w", err)
	}
	return r, nil
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
	Block  bool      `json:"block,omitempty"` // ours is a part of it
}

// Wanted is what hosts shall be: a tree, the lock of its programs and images,
// and the material that joins it. Material comes from the source only to be
// compared and to be installed.
type Wanted struct {
	Tree     *tree.Tree
	Lock     *artifact.Lock
	Material secret.Source
}

// QueryOf is what must be known of a node's host to plan for it.
func (w *Wanted) QueryOf(n *tree.Node) (Query, error) {
	d, err := desiredOf(w.Tree, n, w.Lock)
	if err != nil {
		return Query{}, err
	}
	return d.query(), nil
}

// Scope narrows a plan.
type Scope struct {
	Nodes          map[string]bool // nil: all
	MaxUnavailable int             // workers that are worked on at once; 0: one
	Deep           bool            // compare the content of programs, too
}

// MakePlan compares what is wanted with the hosts as they were observed.
func (w *Wanted) MakePlan(hosts map[string]Host, scope Scope) (*Plan, error) {
	p := &Plan{APIVersion: "kthwc.dev/v1alpha1", Kind: "Plan", Cluster: w.Tree.Cluster}
	hash := sha256.New()
	for _, n := range w.Tree.Nodes {
		d, err := desiredOf(w.Tree, n, w.Lock)
		if err != nil {
			return nil, err
		}
		if scope.Nodes != nil && !scope.Nodes[n.Name] {
			continue
		}
		p.Hosts = append(p.Hosts, hostPlan(w.Tree.Cluster, d, hosts[n.Name], w.Material, hash))
	}
	p.Tree = hex.EncodeToString(hash.Sum(nil))
	p.rollout(w.Tree, hosts, scope)
	return p, nil
}

func hostPlan(cluster string, d *desired, h Host, material secret.Source, sum io.Writer) HostPlan {
	out := HostPlan{Node: d.Name}
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
	out.Machine, out.Boot, out.Owner, out.Observed = h.State.Facts.Machine, h.State.Facts.Boot, h.State.Owner, h.State.digest()
	out.Interrupted = h.State.interrupted()
	c := &comparison{out: &out, node: d, state: h.State, material: material, changed: map[string][]string{}}
	if err := c.record(cluster); err != nil {
		out.Unknown = err.Error()
		return out
	}
	for _, f := range d.files() {
		c.file(f, sum)
	}
	c.deletions()
	c.settings()
	c.rest()
	out.Problems = preflight(d, h.State, &out)
	return out
}

// interrupted is what an earlier apply has begun and not committed.
func (s *State) interrupted() string {
	for _, n := range slices.Sorted(maps.Keys(s.Journal)) {
		if word := s.Journal[n]; word != "committed" && word != "rolled-back" {
			return fmt.Sprintf("generation %s is %s", n, word)
		}
	}
	return ""
}

// digest is what a saved plan is compared by: everything that was found but the
// time and what changes by itself.
func (s *State) digest() string {
	h := sha256.New()
	text, err := json.Marshal([]any{s.Entries, s.Packages, s.Blobs, s.Journal, s.Confirmed, s.Epoch})
	if err != nil {
		return err.Error() // maps of plain values can be written
	}
	h.Write(text)
	return hex.EncodeToString(h.Sum(nil))
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
	node     *desired
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
	r, err := recordOf(c.state.Confirmed)
	if err != nil {
		return err
	}
	if r.Cluster != cluster || r.Node != c.node.Name {
		return fmt.Errorf("it is the node %s of the cluster %s: is the address right?", r.Node, r.Cluster)
	}
	c.out.Generation = r.Generation
	for _, e := range r.Entries {
		c.recorded[e.Path] = e
	}
	return nil
}

// file compares one path: with what it shall be, and with what it was left as.
func (c *comparison) file(f *tree.File, sum io.Writer) {
	want, change := c.wanted(f)
	fmt.Fprintf(sum, "%q %v\n", f.Path, want)
	is, there := c.state.Entries[f.Path]
	if !f.Block || !there || len(differences(want, is)) > 0 { // the rest of it is others'
		c.drift(f.Path, is, there)
	}
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
	if change.Do == Modify && onlyAccess(change.What) {
		return // what is read is the same
	}
	for _, u := range change.Readers {
		c.changed[u] = append(c.changed[u], change.Path)
	}
}

// onlyAccess says whether nothing but mode and owner differ.
func onlyAccess(what []string) bool {
	return !slices.ContainsFunc(what, func(w string) bool { return !strings.HasPrefix(w, "mode ") && !strings.HasPrefix(w, "owner ") })
}

// wanted is what a path shall be.
func (c *comparison) wanted(f *tree.File) (Observed, Change) {
	change := Change{Path: f.Path, Kind: f.Kind, Readers: f.Units(), From: causes(f)}
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
	switch what := differences(is, left); {
	case !there:
		c.out.Drift = append(c.out.Drift, Change{Do: Delete, Path: path, Kind: was.Kind})
	case len(what) > 0:
		c.out.Drift = append(c.out.Drift, Change{Do: Modify, Path: path, Kind: is.Kind, What: what})
	}
}

// deletions are the paths that the last apply left and that are wanted no
// more. A directory stays, and a file that others write too: something of
// theirs may be in it.
func (c *comparison) deletions() {
	for _, path := range slices.Sorted(maps.Keys(c.recorded)) {
		was := c.recorded[path]
		if c.node.find(path) != nil || was.Kind == tree.Dir || was.Block {
			continue
		}
		c.add(Change{Do: Delete, Path: path, Kind: was.Kind})
		if unit, ok := strings.CutPrefix(path, unitDir); ok && !strings.Contains(unit, "/") {
			c.out.Units = append(c.out.Units, UnitAction{unit, Stop, []string{path}})
		}
	}
}

// rest is users, packages, programs, images and units.
func (c *comparison) rest() {
	for _, u := range c.node.Users {
		if !c.state.Users[u.Name] {
			c.out.Users = append(c.out.Users, u.Name)
		}
	}
	for _, p := range c.node.Packages {
		if !c.state.Packages[p.Name] {
			c.out.Packages = append(c.out.Packages, p.Name)
		}
	}
	for _, b := range c.node.programs {
		is, hashed := c.state.Entries[b.Path]
		switch {
		case hashed && is.Digest != b.Digest:
			c.damaged(b)
		case c.state.Blobs[b.Path] != b.Size:
			c.out.Programs = append(c.out.Programs, b)
		}
	}
	for _, b := range c.node.images {
		if !c.state.Images[b.Image] {
			c.out.Images = append(c.out.Images, b)
		}
	}
	c.others()
	for _, u := range c.node.Units {
		c.unit(u)
	}
}

// damaged is a program whose bytes are others than those that were installed.
func (c *comparison) damaged(b Blob) {
	c.out.Programs = append(c.out.Programs, b)
	c.out.Drift = append(c.out.Drift, Change{Do: Modify, Path: b.Path, Kind: tree.Regular, What: []string{"content"}})
	for _, link := range c.node.links {
		if link.Target == b.Path {
			for _, unit := range link.Readers {
				c.changed[unit] = append(c.changed[unit], b.Path)
			}
		}
	}
}

// others are units of the system that read what has changed: those that load
// kernel modules and settings.
func (c *comparison) others() {
	for _, name := range slices.Sorted(maps.Keys(c.changed)) {
		ours := slices.ContainsFunc(c.node.Units, func(u tree.Unit) bool { return u.Name == name }) ||
			slices.ContainsFunc(c.out.Units, func(a UnitAction) bool { return a.Unit == name })
		if !ours {
			c.out.Units = append(c.out.Units, UnitAction{name, Restart, c.changed[name]})
		}
	}
}

func (c *comparison) unit(u tree.Unit) {
	is := c.state.Units[u.Name]
	because := c.changed[u.Name]
	c.unitDrift(u, is)
	switch {
	case u.Started && is.Active != "active" && (len(because) == 0 || !is.moving()):
		c.out.Units = append(c.out.Units, UnitAction{u.Name, Start, because})
	case len(because) > 0 && u.Started:
		c.out.Units = append(c.out.Units, UnitAction{u.Name, Restart, because})
	case u.Enabled && is.File != "enabled":
		c.out.Units = append(c.out.Units, UnitAction{u.Name, Enable, nil})
	}
}

// unitDrift says which units of the last apply others have stopped or disabled.
// Where that apply was interrupted, it was the apply.
func (c *comparison) unitDrift(u tree.Unit, is UnitState) {
	if _, applied := c.recorded[unitDir+u.Name]; !applied || c.out.Interrupted != "" {
		return
	}
	var what []string
	if u.Started && (is.Active == "inactive" || is.Active == "failed") {
		what = append(what, "the unit is "+is.Active)
	}
	if u.Enabled && is.File == "disabled" {
		what = append(what, "the unit is disabled")
	}
	if len(what) > 0 {
		c.out.Drift = append(c.out.Drift, Change{Do: Modify, Path: unitDir + u.Name, Kind: tree.Regular, What: what})
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
