// Package powercut takes pictures of a disk as it would be after a power cut.
//
// A copy of a mounted disk's image is that disk after a power cut: what the file
// system had not yet sent to it is not there. The file system is ext4 without its
// own repair of programs that do not sync, and its journal is committed by
// somebody else's sync just before, with the names that others changed. It is a
// test helper; a machine on which nothing can be mounted skips the test.
package powercut

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kthwc/kthwc/internal/readers"
)

// Disk is a file system in a file. It is mounted until the test ends.
type Disk struct {
	testing.TB
	Image   string // the file
	Mounted string // where it is mounted
}

// careless is ext4 without its own repair of programs that do not sync.
const careless = "loop,noauto_da_alloc,commit=300"

// New makes a disk of a size that mkfs.ext4 knows ("64M").
func New(tb testing.TB, size string) *Disk {
	tb.Helper()
	return begin(tb, size, careless)
}

// Tiny makes a disk that need not be large enough for a journal, with flags of
// mkfs.ext4: its power is not cut, but it is soon full.
func Tiny(tb testing.TB, size string, flags ...string) *Disk {
	tb.Helper()
	return begin(tb, size, "loop", flags...)
}

func begin(tb testing.TB, size, options string, flags ...string) *Disk {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("only root may mount the disk whose power is cut")
	}
	d := &Disk{TB: tb, Image: filepath.Join(Memory(tb), "disk"), Mounted: tb.TempDir()}
	mkfs := readers.Path(tb, "mkfs.ext4")
	if err := os.WriteFile(d.Image, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if out, err := exec.Command(mkfs, append(flags, "-q", d.Image, size)...).CombinedOutput(); err != nil {
		tb.Fatalf("%v\n%s", err, out)
	}
	if err := mount(d.Image, d.Mounted, options); err != nil {
		readers.Missing(tb, fmt.Sprintf("a loop device cannot be mounted here: %v", err))
	}
	tb.Cleanup(func() { unmount(tb, d.Mounted) })
	return d
}

// Memory is a directory in memory where there is such a place.
func Memory(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "kthwc-test-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func mount(image, at, options string) error {
	out, err := exec.Command("mount", "-t", "ext4", "-o", options, image, at).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func unmount(tb testing.TB, at string) {
	tb.Helper()
	if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
		tb.Errorf("%v: %s", err, out)
	}
}

// Copy puts a directory on the disk, synced.
func (d *Disk) Copy(from, to string) {
	d.Helper()
	if err := errors.Join(exec.Command("cp", "-a", from, to).Run(), exec.Command("sync", "-f", to).Run()); err != nil {
		d.Fatal(err)
	}
}

// other is the file that nobody cares for.
func (d *Disk) other() string { return filepath.Join(d.Mounted, "other") }

// CommitJournal syncs a file that nobody cares for, which sends the journal,
// with the names that others changed, to the disk.
func (d *Disk) CommitJournal() {
	d.Helper()
	f, err := os.Create(d.other())
	if err != nil {
		d.Fatal(err)
	}
	_, err = f.WriteString("x")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		d.Fatal(err)
	}
}

// Shell is a line of shell that does what CommitJournal does, and keeps the disk
// as it is after a power cut then in a file that the line names.
func (d *Disk) Shell(file string) string {
	return fmt.Sprintf("echo x >%s; command sync %[1]s; command cp --sparse=always %s %s", d.other(), d.Image, file)
}

// After looks at the disk as it is after a power cut now.
func (d *Disk) After(look func(mounted string)) {
	d.Helper()
	copied := filepath.Join(filepath.Dir(d.Image), "cut")
	if out, err := exec.Command("cp", "--sparse=always", d.Image, copied).CombinedOutput(); err != nil {
		d.Fatalf("%v: %s", err, out)
	}
	d.Look(copied, look)
}

// Look mounts what Shell has kept, and removes it.
func (d *Disk) Look(file string, look func(mounted string)) {
	d.Helper()
	at := filepath.Join(filepath.Dir(d.Image), "at")
	if err := errors.Join(os.MkdirAll(at, 0o700), mount(file, at, careless)); err != nil {
		d.Fatal(err)
	}
	defer unmount(d, at)
	look(at)
	if err := os.Remove(file); err != nil {
		d.Fatal(err)
	}
}
