package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kthwc/kthwc/internal/printable"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

// Kubernetes is what an apply needs of the cluster's own API.
type Kubernetes interface {
	// Manifests applies the tree's manifests, and deletes what it no longer has.
	Manifests(ctx context.Context, done func(ManifestChange)) error
	NodeReady(ctx context.Context, node string) (ready bool, why string, err error)
	Cordon(ctx context.Context, node string) error
	Drain(ctx context.Context, node string, progress func(string)) error
	Uncordon(ctx context.Context, node string) error
}

// Run carries a plan out.
type Run struct {
	*Wanted
	Plan     *Plan
	Hosts    map[string]Conn
	Redial   func(ctx context.Context, node string) (Conn, error)                 // a new connection: the old one may outlive what broke the network
	Open     func(digest string) (io.ReadCloser, error)                           // what kthwc.lock names
	Cluster  func(ctx context.Context, conns map[string]Conn) (Kubernetes, error) // nil: no API is asked
	Progress func(Event)
	Scope    Scope         // what the plan was made with
	Owner    string        // who this is, for others to read
	Root     string        // the directory that is taken for / on the hosts; "" on real ones
	Parallel int           // hosts that are worked on at once, where nothing speaks against it
	Gate     time.Duration // how long a unit may take to come up
	Guard    time.Duration // how much longer than that a host waits for us before it undoes everything by itself; 0: a minute
	epoch    int
	states   map[string]*State

	// Replanned gets the plan that is made after what an earlier run left was
	// undone; an error ends the run. nil: it is carried out.
	Replanned func(*Plan) error
}

// Event is something that a run does.
type Event struct {
	Node   string // "" for the cluster
	Step   string // "upload", "install", a unit, …
	Doing  string // Begin, Wait, Done, Failed or Undone
	Detail string
	Took   time.Duration
}

// What an Event says.
const (
	Begin  = "begin"
	Wait   = "wait"
	Done   = "done"
	Failed = "failed"
	Undone = "undone"
)

// Outcome is how a run ended.
type Outcome struct {
	Transaction int               // what rollback names it by
	Confirmed   []string          // hosts that are as they shall be
	Undone      []string          // hosts that were put back
	Stuck       map[string]string // hosts that are neither, and why
	Skipped     []string          // hosts that were not begun
	Manifests   int               // objects of the API that were changed
}

// ErrUndone is in the error of a run that put its last batch back.
var ErrUndone = errors.New("what was begun was undone")

func (r *Run) event(node, step, doing, detail string, took time.Duration) {
	if r.Progress != nil {
		r.Progress(Event{node, step, doing, detail, took})
	}
}

// doing tells that something begins, and gives the function that tells how it ended.
func (r *Run) doing(node, step string) func(error) error {
	start := time.Now()
	r.event(node, step, Begin, "", 0)
	return func(err error) error {
		if err != nil {
			r.event(node, step, Failed, err.Error(), time.Since(start))
			return err
		}
		r.event(node, step, Done, "", time.Since(start))
		return nil
	}
}

// Execute carries the plan out on hosts that are held by it. It ends at the
// first failure, after the batch that failed was undone.
func (r *Run) Execute(ctx context.Context, epoch int, states map[string]*State) (*Outcome, error) {
	r.epoch, r.states = epoch, states
	if r.Guard == 0 {
		r.Guard = guardTime
	}
	out := &Outcome{Transaction: epoch, Stuck: map[string]string{}}
	err := r.recover(ctx)
	if err == nil {
		err = r.prepare(ctx)
	}
	for i := range r.Plan.Rollout {
		if err == nil && i == r.Plan.ManifestsAfter {
			err = r.manifests(ctx, out)
		}
		b := &r.Plan.Rollout[i]
		if err == nil && ctx.Err() != nil {
			err = ctx.Err()
		}
		if err != nil {
			out.Skipped = append(out.Skipped, b.Nodes...)
			continue
		}
		err = (&batch{Run: r, Batch: b, out: out}).run(ctx)
	}
	if err == nil && len(r.Plan.Rollout) <= r.Plan.ManifestsAfter {
		err = r.manifests(ctx, out)
	}
	return out, err
}

// recover undoes what an earlier run left. What those hosts are is seen only then,
// so that the plan is made anew: files that were in their places already are not
// any more.
func (r *Run) recover(ctx context.Context) error {
	var nodes []string
	for _, h := range r.Plan.Hosts {
		if h.Interrupted != "" {
			nodes = append(nodes, h.Node)
		}
	}
	if len(nodes) == 0 {
		return nil
	}
	err := r.each(ctx, nodes, func(ctx context.Context, node string) error {
		if err := r.doing(node, "recover")(r.transaction(node).Recover(ctx)); err != nil {
			return fmt.Errorf("%s: undo what was interrupted: %w", node, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.again(ctx, nodes)
}

// again observes and plans anew, when units that were started again have come to
// rest on some hosts. Whatever stands in the way now ends the run.
func (r *Run) again(ctx context.Context, nodes []string) error {
	f := &Fleet{Wanted: r.Wanted, Conns: r.Hosts, Root: r.Root, Parallel: r.Parallel}
	found, err := f.Observe(ctx, r.Scope.Deep)
	for start := time.Now(); err == nil && restless(found, nodes) && time.Since(start) < r.Gate; {
		time.Sleep(2 * pollEvery)
		found, err = f.Observe(ctx, r.Scope.Deep)
	}
	if err != nil {
		return err
	}
	p, err := r.MakePlan(found, r.Scope)
	if err != nil {
		return err
	}
	for _, h := range p.Hosts {
		if h.Unknown != "" && r.Plan.Host(h.Node).Unknown == "" {
			return fmt.Errorf("%s: %s", h.Node, h.Unknown)
		}
	}
	if stops := p.Ready(true); len(stops) > 0 {
		return errors.New(strings.Join(stops, "; "))
	}
	p.Manifests = r.Plan.Manifests
	if r.Replanned != nil {
		if err := r.Replanned(p); err != nil {
			return err
		}
	}
	r.Plan, r.states = p, States(found)
	return nil
}

// restless says whether units of some hosts are on their way up or down.
func restless(found map[string]Host, nodes []string) bool {
	for _, node := range nodes {
		s := found[node].State
		if s == nil {
			continue
		}
		for _, u := range s.Units {
			if u.moving() {
				return true
			}
		}
	}
	return false
}

// prepare does what harms nothing, everywhere at once: it brings programs,
// packages and users.
func (r *Run) prepare(ctx context.Context) error {
	return r.each(ctx, r.Plan.Pending(), func(ctx context.Context, node string) error {
		h, c := r.Plan.Host(node), r.Hosts[node]
		tx := r.transaction(node)
		if err := r.packages(ctx, h, c); err != nil {
			return fmt.Errorf("%s: %w", node, err)
		}
		if err := r.blobs(ctx, h, tx); err != nil {
			return fmt.Errorf("%s: %w", node, err)
		}
		return nil
	})
}

func (r *Run) transaction(node string) *Transaction {
	return &Transaction{Conn: r.Hosts[node], Root: r.Root, Generation: r.epoch, Epoch: r.epoch}
}

func (r *Run) packages(ctx context.Context, h *HostPlan, c Conn) error {
	homes := map[string]string{}
	for _, u := range r.Tree.Node(h.Node).Users {
		homes[u.Name] = u.Home
	}
	for _, name := range h.Users {
		if err := command(ctx, c, "make the user "+name, "user", name, homes[name]); err != nil {
			return err
		}
	}
	if len(h.Packages) == 0 {
		return nil
	}
	end := r.doing(h.Node, "packages")
	return end(command(ctx, c, "install packages", append([]string{"packages"}, h.Packages...)...))
}

// command runs one row of unit.sh.
func command(ctx context.Context, c Conn, what string, args ...string) error {
	result, err := c.Run(ctx, Command{Script: unitScript, Args: args})
	if err == nil && result.Status != 0 {
		err = fmt.Errorf("%s (status %d): %s", what, result.Status, printable.Text(lastLine(result.Stderr)))
	}
	return err
}

func (r *Run) blobs(ctx context.Context, h *HostPlan, tx *Transaction) error {
	all := slices.Concat(h.Programs, h.Images)
	total, sent := int64(0), int64(0)
	for _, b := range all {
		total += b.Size
	}
	if total == 0 {
		return nil
	}
	end := r.doing(h.Node, "programs")
	for _, b := range all {
		err := r.blob(ctx, tx, b, func(n int64) {
			r.event(h.Node, "programs", Wait, fmt.Sprintf("%s, %d of %d MiB", b.Name, (sent+n)>>20, total>>20), 0)
		})
		if err != nil {
			return end(fmt.Errorf("%s: %w", b.Name, err))
		}
		sent += b.Size
	}
	return end(nil)
}

// blob brings one file, and tells now and then how much of it was sent.
func (r *Run) blob(ctx context.Context, tx *Transaction, b Blob, sent func(int64)) error {
	content, err := r.Open(b.Digest)
	if err != nil {
		return fmt.Errorf("it is not in the cache (kthwc artifacts fetch): %w", err)
	}
	defer content.Close()
	return tx.Blob(ctx, b.Path, b.Digest, b.mode(), &counter{Reader: content, told: sent})
}

// counter tells how much was read, each few MiB.
type counter struct {
	io.Reader
	told func(int64)
	n    int64
}

const tellEvery = 4 << 20

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if before := c.n / tellEvery; c.n == 0 || (c.n+int64(n))/tellEvery != before {
		c.told(c.n)
	}
	c.n += int64(n)
	return n, err
}

// each runs something on hosts, a few at a time, and gives every error.
func (r *Run) each(ctx context.Context, nodes []string, f func(ctx context.Context, node string) error) error {
	return atOnce(ctx, r.Parallel, nodes, f)
}

// together runs something on all hosts at the same time: members of etcd answer
// only when a majority of them runs.
func (r *Run) together(ctx context.Context, nodes []string, f func(ctx context.Context, node string) error) error {
	return atOnce(ctx, len(nodes), nodes, f)
}

func atOnce(ctx context.Context, most int, nodes []string, f func(ctx context.Context, node string) error) error {
	slots := make(chan struct{}, max(1, most))
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, node := range nodes {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = f(ctx, node)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// cluster is the API, by whichever API server answers.
func (r *Run) cluster(ctx context.Context) (Kubernetes, error) {
	if r.Cluster == nil {
		return nil, errors.New("no API server is asked")
	}
	return r.Cluster(ctx, r.Hosts)
}

func (r *Run) manifests(ctx context.Context, out *Outcome) error {
	if len(r.Plan.Manifests) == 0 || r.Cluster == nil {
		return nil
	}
	end := r.doing("", "manifests")
	k, err := r.cluster(ctx)
	if err != nil {
		return end(fmt.Errorf("manifests: %w", err))
	}
	return end(k.Manifests(ctx, func(c ManifestChange) {
		if c.Do != "same" {
			out.Manifests++
			r.event("", "manifests", Wait, fmt.Sprintf("%s %s %s", c.Do, c.Kind, c.Name), 0)
		}
	}))
}

// install is what becomes of one host, and the record of it.
func (r *Run) install(node string) ([]Install, Recorded, error) {
	d, err := desiredOf(r.Tree, r.Tree.Node(node), r.Lock)
	if err != nil {
		return nil, Recorded{}, err
	}
	h := r.Plan.Host(node)
	record := Recorded{Generation: r.epoch, Cluster: r.Tree.Cluster, Node: node}
	if f := r.Tree.File("input/cluster.yaml"); f != nil {
		if text := f.Body.Bytes(); len(text) <= maxInput {
			record.Input = string(text)
		}
	}
	changed := map[string]Change{}
	for _, c := range h.Changes {
		changed[c.Path] = c
	}
	var out []Install
	for _, f := range d.files() {
		i, err := r.entry(f, r.states[node])
		if err != nil {
			return nil, Recorded{}, err
		}
		if _, is := changed[f.Path]; is {
			out = append(out, i)
			delete(changed, f.Path)
		}
		if f.Kind != tree.Absent {
			record.Entries = append(record.Entries, i.RecordedEntry)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(changed)) {
		out = append(out, Install{RecordedEntry: RecordedEntry{Path: path, Kind: tree.Absent}})
	}
	return out, record, nil
}

func (r *Run) entry(f *tree.File, s *State) (Install, error) {
	i := Install{RecordedEntry: RecordedEntry{Path: f.Path, Kind: f.Kind, Mode: f.Mode, Owner: f.Owner, Group: f.Group, Target: f.Target, Block: f.Block}}
	if f.Kind != tree.Regular {
		return i, nil
	}
	content, err := content(f, s, r.Material)
	if err != nil {
		return i, err
	}
	i.Content, i.Digest = content, tree.Digest(content)
	return i, nil
}

// content is what a file is on its host.
func content(f *tree.File, s *State, material secret.Source) ([]byte, error) {
	text, err := f.Body.Materialise(material)
	if err == nil && f.Block {
		text = []byte(WithBlock(s.Contents[f.Path], string(text)))
	}
	return text, err
}
