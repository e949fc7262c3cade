package tree

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/kthwc/kthwc/internal/durable"
)

// WriteOptions says what [Write] may overwrite.
type WriteOptions struct {
	Force bool // replace hand edits and directories that kthwc did not write
}

// A RefusedError says why a directory was not written, and what to do.
type RefusedError struct{ Dir, Why, Help string }

func (e *RefusedError) Error() string { return fmt.Sprintf("%s is not replaced: %s", e.Dir, e.Why) }

// ManifestName is the file that marks a rendered directory.
const ManifestName = "MANIFEST.json"

// Write writes the tree to dir in one step: everything is written beside it
// first, and then exchanged. Links, directories and modes are in the manifest
// only; files are 0644. A directory that kthwc did not write, or that was
// edited by hand, is a *RefusedError unless o.Force.
//
// Whenever it is stopped, dir is what it was or what it shall be, and the next
// Write puts away what lies beside it. Two at once are one after the other.
// Where a file system cannot exchange two directories, dir is absent for a
// moment; stopped just then, the next Write finds what was there.
func Write(dir string, t *Tree, o WriteOptions) error {
	return newWriter(dir).write(t, o)
}

// writer is one Write: what it changes on the disk is dir and three names
// beside it.
type writer struct {
	dir              string
	fresh, old, lock string
	exchange         func(*writer) error
	step             func() // called between changes of the disk, so that tests can stop there
}

func newWriter(dir string) *writer {
	dir = filepath.Clean(dir)
	beside := func(what string) string {
		return filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".kthwc-"+what)
	}
	return &writer{dir, beside("new"), beside("old"), beside("lock"), exchange, func() {}}
}

func (w *writer) write(t *Tree, o WriteOptions) error {
	if err := ownPlaces(t); err != nil {
		return err
	}
	if err := mayName(w.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(w.dir), 0o755); err != nil {
		return fmt.Errorf("make the output's parent: %w", err)
	}
	unlock, err := durable.Lock(w.lock)
	if err != nil {
		return fmt.Errorf("lock the output: %w", err)
	}
	defer unlock()
	w.step()
	if err := w.settle(); err != nil {
		return fmt.Errorf("put away what an earlier render left: %w", err)
	}
	if err := mayReplace(w.dir, o.Force); err != nil {
		return err
	}
	return w.replace(t)
}

// settle ends what a stopped Write began: the lock says that nobody is at it.
func (w *writer) settle() error {
	_, err := os.Lstat(w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(w.old, w.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	w.step()
	return errors.Join(os.RemoveAll(w.old), os.RemoveAll(w.fresh))
}

// replace writes everything beside dir, exchanges the two, and removes what was
// there before.
func (w *writer) replace(t *Tree) error {
	defer os.RemoveAll(w.fresh)
	if err := os.Mkdir(w.fresh, 0o755); err != nil {
		return fmt.Errorf("write beside the output: %w", err)
	}
	w.step()
	if err := w.files(t); err != nil {
		return err
	}
	if err := w.exchange(w); err != nil {
		return fmt.Errorf("exchange %s with the new output: %w", w.dir, err)
	}
	w.step()
	return errors.Join(os.RemoveAll(w.old), os.RemoveAll(w.fresh))
}

// twoRenames puts fresh where dir is; what was there is at old then. Between
// the two there is no dir.
func twoRenames(w *writer) error {
	if err := os.Rename(w.dir, w.old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w.step()
	err := os.Rename(w.fresh, w.dir)
	if err != nil {
		_ = os.Rename(w.old, w.dir)
	}
	return err
}

// ownPlaces refuses a tree whose names would leave the directory or meet in it.
func ownPlaces(t *Tree) error {
	for _, f := range t.Files {
		if !filepath.IsLocal(f.Path) || f.Path == ManifestName || strings.HasPrefix(f.Path, "nodes/") {
			return fmt.Errorf("%q is no place for a file of the cluster", f.Path)
		}
	}
	seen := map[string]bool{}
	for _, n := range t.Nodes {
		if seen[n.Name] || !filepath.IsLocal(n.Name) || filepath.Base(n.Name) != n.Name || n.Name == "." {
			return fmt.Errorf("%q cannot be a node's directory", n.Name)
		}
		seen[n.Name] = true
		for _, f := range n.Files {
			if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path {
				return fmt.Errorf("%q is no place for a file of %s", f.Path, n.Name)
			}
		}
	}
	return nil
}

// mayName refuses the names that no output may have.
func mayName(dir string) error {
	if dir == "." || dir == "/" || dir == ".." || strings.HasSuffix(dir, "/..") {
		return &RefusedError{dir, "it is the directory that you stand in, or one above it", "name a directory of its own, such as rendered"}
	}
	return nil
}

// mayReplace refuses whatever is not an unchanged earlier output.
func mayReplace(dir string, force bool) error {
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at the output: %w", err)
	case !info.IsDir():
		return &RefusedError{dir, "it is not a directory", "name a directory"}
	case force:
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look at the output: %w", err)
	}
	if len(entries) == 0 {
		return nil
	}
	return unedited(dir)
}

// unedited compares the directory with its own manifest.
func unedited(dir string) error {
	r, err := ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &RefusedError{dir, "it has files and no " + ManifestName + ": kthwc did not write it", "name another directory, or use --force"}
	case err != nil:
		return &RefusedError{dir, err.Error(), "use --force to write it anew"}
	case len(r.Edited) > 0:
		return &RefusedError{dir, r.Edited[0] + " was changed by hand", "put the change into cluster.yaml, then use --force"}
	}
	return nil
}

// ReadManifest reads the manifest of a rendered directory.
func ReadManifest(dir string) (*Manifest, error) {
	text, err := os.ReadFile(filepath.Join(dir, ManifestName))
	if err != nil {
		return nil, err
	}
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", ManifestName, err)
	}
	return &m, nil
}

// files writes the manifest, the cluster's files and each node's, on every
// processor: what the disk does meanwhile is its own affair.
func (w *writer) files(t *Tree) error {
	jobs := make([]func() error, 0, len(t.Nodes)+2)
	jobs = append(jobs, func() error {
		text, err := t.Manifest().JSON()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(w.fresh, ManifestName), text, 0o644)
	}, func() error { return w.below(w.fresh, t.Files) })
	for _, n := range t.Nodes {
		jobs = append(jobs, func() error { return w.below(filepath.Join(w.fresh, "nodes", n.Name), n.Files) })
	}
	var running errgroup.Group
	running.SetLimit(runtime.GOMAXPROCS(0))
	for _, job := range jobs {
		running.Go(job)
	}
	if err := running.Wait(); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

func (w *writer) below(dir string, files []*File) error {
	made := ""
	for _, f := range files {
		if f.Kind != Regular {
			continue
		}
		at := filepath.Join(dir, filepath.FromSlash(f.Path))
		if parent := filepath.Dir(at); parent != made {
			if err := os.MkdirAll(parent, 0o755); err != nil {
				return err
			}
			made = parent
		}
		if err := os.WriteFile(at, f.Body.Bytes(), 0o644); err != nil {
			return err
		}
		w.step()
	}
	return nil
}
