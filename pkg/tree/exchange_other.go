//go:build !linux

package tree

import (
	"errors"
	"io/fs"
	"os"
)

// exchange puts fresh where dir is by two renames: between them dir is absent,
// and what was there lies beside it with the suffix .old.
func exchange(fresh, dir string) error {
	old := dir + ".old"
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, dir); err != nil {
		return errors.Join(err, os.Rename(old, dir))
	}
	return os.RemoveAll(old)
}
