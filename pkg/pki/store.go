package pki

import (
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kthwc/kthwc/internal/durable"
	"github.com/kthwc/kthwc/pkg/inventory"
	"github.com/kthwc/kthwc/pkg/secret"
)

// A Store is a directory of generations. What was read stays what it was when
// the store was opened.
type Store struct {
	dir     string
	cluster string
	last    *generation        // nil of an empty store
	entries map[string][]kept  // by name, oldest first
	keysets map[string][]state // by name: "ca/etcd", "service-account"
	sealing
	locks func(path string) (func(), error)
	step  func() // called between changes of the disk, so that tests can stop there
}

// kept is one version of one piece of material.
type kept struct {
	entry
	generation int // in which it was made
	file       int // the generation whose file holds it
}

// state is what becomes of one version in a keyset.
type state struct {
	Name       string `json:"name,omitempty"` // where versions have names of their own: encryption keys
	Generation int    `json:"generation"`
	State      string `json:"state"`
}

func keysetEntry(name string, states []state) entry {
	data, _ := json.Marshal(states) // numbers and words
	return entry{name: name, kind: keysetType, data: data}
}

// A StoreError says which file of the store is wrong, why, and what to do.
type StoreError struct{ Path, Why, Help string }

func (e *StoreError) Error() string { return e.Path + ": " + e.Why }

// Create makes an empty store, or does nothing where there is one.
func Create(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the store: %w", err)
	}
	ignore := filepath.Join(dir, ".gitignore")
	if _, err := os.Lstat(ignore); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := narrow(dir); err != nil {
		return err
	}
	if err := errors.Join(durable.SyncDir(filepath.Dir(dir)), durable.SyncDir(filepath.Dir(filepath.Dir(dir)))); err != nil {
		return fmt.Errorf("make the store: %w", err)
	}
	return durable.Replace(ignore, []byte(ignoreAll), 0o600)
}

// Open reads the store of a cluster. A store that is not there is an empty one.
func Open(dir, cluster string) (*Store, error) {
	s := &Store{dir: dir, cluster: cluster, entries: map[string][]kept{}, keysets: map[string][]state{}, sealing: newSealing(), locks: durable.Lock, step: func() {}}
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the store: %w", err)
	}
	for _, f := range files {
		if generationName.MatchString(f.Name()) {
			if err := s.read(f.Name()); err != nil {
				return nil, err
			}
		}
	}
	if s.last != nil && len(s.open) == 0 {
		return s, nil // others may look into a store without open keys
	}
	return s, narrow(dir)
}

var generationName = regexp.MustCompile(`^[0-9]{6}$`)

func nameOf(number int) string { return fmt.Sprintf("%06d", number) }

// plain refuses what is neither a file nor a directory.
func plain(path string) error {
	info, err := os.Lstat(path)
	if err == nil && info.Mode().Type() != fs.ModeDir && !info.Mode().IsRegular() {
		return &StoreError{path, "it is neither a file nor a directory", "move it away: the store keeps keys in plain files"}
	}
	return err
}

// narrow refuses what others than the owner may look into.
func narrow(path string) error {
	if err := plain(path); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		return &StoreError{path, fmt.Sprintf("others may read it (mode %04o)", info.Mode().Perm()), "chmod go= " + path + ", and think of who has read it"}
	}
	return err
}

// read adds one generation to what is known. They are read in their order.
func (s *Store) read(name string) error {
	path := filepath.Join(s.dir, name)
	if err := plain(path); err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the store: %w", err)
	}
	g, err := decode(text)
	if err != nil {
		return &StoreError{path, err.Error(), "restore the file from a backup; nothing of it is used"}
	}
	if err := s.follows(g, name); err != nil {
		return &StoreError{path, err.Error(), "restore the store as a whole from a backup"}
	}
	if g.open() {
		if err := narrow(path); err != nil {
			return err
		}
		s.open = append(s.open, g.number)
	}
	if g.whole {
		s.wholes = append(s.wholes, g.number)
	}
	for _, e := range g.entries {
		if err := s.take(e, g); err != nil {
			return &StoreError{path, err.Error(), "restore the file from a backup"}
		}
	}
	s.last = g
	return nil
}

// take adds one entry of a generation to what is known.
func (s *Store) take(e entry, g *generation) error {
	switch e.kind {
	case keysetType:
		var states []state
		if err := json.Unmarshal(e.data, &states); err != nil {
			return errors.New("the keyset " + e.name + " cannot be read")
		}
		s.keysets[e.name] = states
	case recipientsType:
		s.known = append(s.known, string(e.data))
	case batchType:
		s.batches[g.number] = batch{g, e.data}
	default:
		s.keep(kept{e, cmp.Or(e.made, g.number), g.number})
	}
	return nil
}

// keep adds a version, or puts it in the place of the same one, sealed again.
func (s *Store) keep(k kept) {
	versions := s.entries[k.name]
	if at := slices.IndexFunc(versions, func(v kept) bool { return v.generation == k.generation }); at >= 0 {
		versions[at] = k
		return
	}
	s.entries[k.name] = append(versions, k)
}

// follows says whether a generation is the next one of this store.
func (s *Store) follows(g *generation, name string) error {
	want, previous := 1, ""
	switch {
	case s.last != nil:
		want, previous = s.last.number+1, s.last.sum
	case g.whole:
		want, previous = g.number, g.previous
	}
	switch number, _ := strconv.Atoi(name); {
	case g.number != number:
		return fmt.Errorf("it is generation %d under another name", g.number)
	case g.number != want:
		return fmt.Errorf("generation %d is missing before it", want)
	case g.previous != previous:
		return errors.New("it does not follow the generation before it: the two are of different stores")
	case g.cluster != s.cluster:
		return fmt.Errorf("it belongs to the cluster %s", g.cluster)
	}
	return nil
}

// Generation is the number of the newest generation; 0 of an empty store.
func (s *Store) Generation() int {
	if s.last == nil {
		return 0
	}
	return s.last.number
}

// ErrChanged says that somebody else has added a generation meanwhile.
var ErrChanged = errors.New("the store was changed by somebody else meanwhile; run the command again")

// commit publishes entries as one new generation: they are on the disk, all of
// them, or nothing is.
func (s *Store) commit(entries []entry) error {
	return s.publish(&generation{entries: entries})
}

// publish writes the next generation. Its keys are sealed where there are
// recipients.
func (s *Store) publish(g *generation) error {
	if err := Create(s.dir); err != nil {
		return err
	}
	unlock, err := s.locks(filepath.Join(s.dir, "lock"))
	if err != nil {
		return fmt.Errorf("lock the store: %w", err)
	}
	defer unlock()
	if err := sweep(s.dir); err != nil {
		return err
	}
	now, err := Open(s.dir, s.cluster)
	if err != nil {
		return err
	}
	if now.Generation() != s.Generation() {
		return ErrChanged
	}
	g.number, g.cluster = s.Generation()+1, s.cluster
	if s.last != nil {
		g.previous = s.last.sum
	}
	if err := s.seal(g); err != nil {
		return err
	}
	s.step()
	if err := durable.Replace(filepath.Join(s.dir, nameOf(g.number)), g.encode(), 0o600); err != nil {
		return fmt.Errorf("write the store: %w", err)
	}
	s.step()
	if err := s.read(nameOf(g.number)); err != nil {
		return err
	}
	return s.writePublic()
}

var halfWritten = regexp.MustCompile(`^\.([0-9]{6}|\.gitignore|recipients)\.[0-9]+$`)

// sweep removes what a writer that was stopped left half written. The lock says
// that nobody is at it.
func sweep(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the store: %w", err)
	}
	for _, f := range files {
		if halfWritten.MatchString(f.Name()) {
			err = errors.Join(err, os.Remove(filepath.Join(dir, f.Name())))
		}
	}
	return err
}

// ErrNotIssued says that material was asked for which has never been made.
var ErrNotIssued = errors.New("has not been issued yet")

// Material is what stands on a host where the name stands in a rendered file:
// PEM, or the bytes of a symmetric key, in the encoding of the name.
func (s *Store) Material(ref secret.Ref) ([]byte, error) {
	if ref.Version() != 0 {
		e, ok := s.version(ref.Name(), ref.Version())
		if !ok {
			return nil, fmt.Errorf("%s %w", ref.Versioned(), ErrNotIssued)
		}
		return e.plain(), nil
	}
	if ca, ok := strings.CutPrefix(ref.Name(), "pki/ca/"); ok && strings.HasSuffix(ca, ".crt") {
		return s.bundle(strings.TrimSuffix(ca, ".crt"))
	}
	e, ok := s.current(ref.Name())
	if !ok {
		return nil, fmt.Errorf("%s %w", ref.Name(), ErrNotIssued)
	}
	open, err := s.opened(e)
	if err != nil {
		return nil, err
	}
	return open.plain(), nil
}

// plain is the material as it is used: a symmetric key as it is, all else as PEM.
func (e entry) plain() []byte {
	if e.kind == symmetricType {
		return e.data
	}
	return pem.EncodeToMemory(&pem.Block{Type: e.kind, Bytes: e.data})
}

// bundle is every certificate of an authority that is trusted, the primary first.
func (s *Store) bundle(ca string) ([]byte, error) {
	var b bytes.Buffer
	for _, k := range s.keyset("ca/"+ca, "pki/ca/"+ca+".crt") {
		if k.State != inventory.Distrusted {
			e, _ := s.version("pki/ca/"+ca+".crt", k.Generation)
			b.Write(e.plain())
		}
	}
	if b.Len() == 0 {
		return nil, fmt.Errorf("the authority %s %w", ca, ErrNotIssued)
	}
	return b.Bytes(), nil
}

// keyset is the states of the versions of a name: as they were set, or the
// newest alone. The primary is first.
func (s *Store) keyset(name, material string) []state {
	states := slices.Clone(s.keysets[name])
	if versions := s.entries[material]; len(states) == 0 && len(versions) > 0 {
		return []state{{Generation: versions[len(versions)-1].generation, State: inventory.Primary}}
	}
	slices.SortStableFunc(states, func(a, b state) int { return rank(a.State) - rank(b.State) })
	return states
}

func rank(s string) int {
	return slices.Index([]string{inventory.Primary, inventory.Trusted, inventory.Distrusted}, s)
}

// current is the version of a name that is in use: the primary of its keyset,
// or the newest.
func (s *Store) current(name string) (kept, bool) {
	for _, k := range s.keysets[setOf(name)] {
		if k.State == inventory.Primary {
			return s.version(name, k.Generation)
		}
	}
	versions := s.entries[name]
	if len(versions) == 0 {
		return kept{}, false
	}
	return versions[len(versions)-1], true
}

// setOf is the keyset that the versions of a name are in, if there is one.
func setOf(name string) string {
	return strings.TrimPrefix(strings.TrimSuffix(name, path.Ext(name)), "pki/")
}

func (s *Store) version(name string, generation int) (kept, bool) {
	for _, k := range s.entries[name] {
		if k.generation == generation {
			return k, true
		}
	}
	return kept{}, false
}
