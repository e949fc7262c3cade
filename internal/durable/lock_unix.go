//go:build unix

package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Lock waits until nobody else holds the file, and makes it. The kernel gives
// it free when its holder dies; whoever has it removes it at the end.
func Lock(path string) (unlock func(), err error) {
	for range 1000 {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		err = flock(f)
		if err == nil && isAt(f, path) {
			return func() { _ = os.Remove(path); _ = f.Close() }, nil
		}
		_ = f.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, errors.New("others take " + path + " all the time")
}

func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// isAt says whether the path still is the file that was opened: its last
// holder may have removed it meanwhile.
func isAt(f *os.File, path string) bool {
	opened, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(opened, there)
}
