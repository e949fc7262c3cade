package tree

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"
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
func Write(dir string, t *Tree, o WriteOptions) error {
	dir = filepath.Clean(dir)
	if err := mayReplace(dir, o.Force); err != nil {
		return err
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("make the output's parent: %w", err)
	}
	fresh, err := os.MkdirTemp(parent, "."+filepath.Base(dir)+".new-")
	if err != nil {
		return fmt.Errorf("write beside the output: %w", err)
	}
	defer os.RemoveAll(fresh) // after the exchange this is what was there before
	if err := os.Chmod(fresh, 0o755); err != nil {
		return err
	}
	if err := writeFiles(fresh, t); err != nil {
		return err
	}
	return exchange(fresh, dir)
}

// mayReplace refuses whatever is not an unchanged earlier output.
func mayReplace(dir string, force bool) error {
	if dir == "." || dir == "/" || dir == ".." || strings.HasSuffix(dir, "/..") {
		return &RefusedError{dir, "it is the directory that you stand in, or one above it", "name a directory of its own, such as rendered"}
	}
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

// writeFiles writes the manifest, the cluster's files and each node's, on every
// processor: what the disk does meanwhile is its own affair.
func writeFiles(dir string, t *Tree) error {
	jobs := make([]func() error, 0, len(t.Nodes)+2)
	jobs = append(jobs, func() error {
		text, err := t.Manifest().JSON()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, ManifestName), text, 0o644)
	}, func() error { return writeBelow(dir, t.Files) })
	for _, n := range t.Nodes {
		jobs = append(jobs, func() error { return writeBelow(filepath.Join(dir, "nodes", n.Name), n.Files) })
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

func writeBelow(dir string, files []*File) error {
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
	}
	return nil
}
