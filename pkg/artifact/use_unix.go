//go:build unix

package artifact

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// use takes the cache for one run that writes to it. The kernel gives it free
// when the run ends, however it ends.
func (c *Cache) use() (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(c.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}
