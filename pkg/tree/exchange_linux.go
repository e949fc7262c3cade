package tree

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// exchange puts fresh where dir is in one step, with what was there at fresh
// then; by two renames where the file system knows no exchange.
func exchange(w *writer) error {
	err := unix.Renameat2(unix.AT_FDCWD, w.fresh, unix.AT_FDCWD, w.dir, unix.RENAME_EXCHANGE)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return os.Rename(w.fresh, w.dir)
	case errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EINVAL):
		return twoRenames(w)
	}
	return err
}
