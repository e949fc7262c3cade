// Package durable changes files so that nothing is lost.
//
// It promises that a file which it replaced is the old one or the new one,
// whenever the program or the machine is stopped, and that the new one is on
// the disk when it returns. It refuses nothing but what the file system does.
package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// Replace gives the file other content in one step, and makes it if it is not
// there. The mode is that of the new file; links are followed.
func Replace(path string, content []byte, mode os.FileMode) (err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp.Name()))
		}
	}()
	_, err = temp.Write(content)
	if err := errors.Join(err, temp.Chmod(mode.Perm()), temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes what happened to names in a directory survive a power cut.
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
