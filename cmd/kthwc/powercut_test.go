package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/kthwc/kthwc/internal/readers"
)

// A copy of a mounted disk's image is that disk after a power cut: what the
// file system had not yet sent to it is not there. Whenever it is taken, it
// holds every generation that was there before; when the command has returned,
// all that it wrote.
func TestPowerCuts(t *testing.T) {
	k := newKiller(t)
	d := newDisk(t)
	recipients := []string{"pki", "init", "--recipient", k.identity.Recipient().String()}
	project := d.project(k)
	d.cuts(k, project, "pki", "issue")
	d.cuts(k, project, "pki", "renew", "admin")
	d.cuts(k, project, recipients...)
	d.cuts(k, project, "pki", "reseal")
	sealed := d.project(k)
	d.cuts(k, sealed, recipients...)
	d.cuts(k, sealed, "pki", "import", "--from", k.material())
	d.cuts(k, sealed, "pki", "issue")
}

// disk is a file system in a file.
type disk struct {
	*testing.T
	image, mounted string
	count          int
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount the disk whose power is cut")
	}
	d := &disk{T: t, image: filepath.Join(t.TempDir(), "disk"), mounted: t.TempDir()}
	mkfs := readers.Path(t, "mkfs.ext4")
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", d.image, "64M").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := mount(d.image, d.mounted); err != nil {
		t.Skipf("a loop device cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { unmount(t, d.mounted) })
	return d
}

// mount does without ext4's own repair of programs that do not sync.
func mount(image, at string) error {
	out, err := exec.Command("mount", "-t", "ext4", "-o", "loop,noauto_da_alloc,commit=300", image, at).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func unmount(t *testing.T, at string) {
	t.Helper()
	if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// project is a directory on the disk with a cluster.yaml, synced.
func (d *disk) project(k *killer) string {
	d.Helper()
	d.count++
	dir := filepath.Join(d.mounted, fmt.Sprint(d.count))
	d.copyTree(k.project(), dir)
	return dir
}

func (d *disk) copyTree(from, to string) {
	d.Helper()
	if err := errors.Join(exec.Command("cp", "-a", from, to).Run(), exec.Command("sync", "-f", to).Run()); err != nil {
		d.Fatal(err)
	}
}

// cuts runs the command: killed at each call that changes names or syncs, with
// the power cut then, on copies of the project, and at last to its end.
func (d *disk) cuts(k *killer, project string, args ...string) {
	d.Helper()
	before := k.copyOf(project)
	for _, call := range []string{"fsync", "renameat", "write", "mkdirat"} {
		for n := 1; n < 30; n++ {
			d.count++
			dir := filepath.Join(d.mounted, fmt.Sprint(d.count))
			d.copyTree(before, dir)
			killed := k.killed(dir, call, n, args)
			d.commitJournal()
			d.after(func(disk string) {
				k.kept(fmt.Sprintf("%v, cut at %s number %d", args, call, n), before, filepath.Join(disk, filepath.Base(dir)))
				k.readable(filepath.Join(disk, filepath.Base(dir)))
			})
			if err := os.RemoveAll(dir); err != nil {
				d.Fatal(err)
			}
			if !killed {
				break
			}
		}
	}
	k.must(project, args...)
	done := generations(project)
	d.after(func(disk string) {
		if out, err := exec.Command("diff", "-r", "-x", "lock", project, filepath.Join(disk, filepath.Base(project))).CombinedOutput(); err != nil {
			d.Errorf("%v had returned, and the power was cut: %v\n%s", args, err, out)
		}
	})
	if len(done) != len(generations(before))+1 {
		d.Errorf("%v left the generations %v", args, done)
	}
}

// readable proves that the store of a project can be used.
func (k *killer) readable(dir string) {
	k.Helper()
	if err := k.run(dir, k.program, "pki", "list"); err != nil {
		k.Error(err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*.kthwc/store/[0-9]*"))
	if slices.ContainsFunc(left, func(f string) bool { return !generation.MatchString(f) }) {
		k.Errorf("%v", left)
	}
}

// commitJournal syncs a file that nobody cares for, which sends the journal,
// with the names that others changed, to the disk.
func (d *disk) commitJournal() {
	d.Helper()
	f, err := os.Create(filepath.Join(d.mounted, "other"))
	if err != nil {
		d.Fatal(err)
	}
	_, err = f.WriteString("x")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		d.Fatal(err)
	}
}

// after looks at the disk as it is after a power cut now.
func (d *disk) after(look func(mounted string)) {
	d.Helper()
	copied, at := filepath.Join(d.TempDir(), "cut"), d.TempDir()
	if out, err := exec.Command("cp", "--sparse=always", d.image, copied).CombinedOutput(); err != nil {
		d.Fatalf("%v: %s", err, out)
	}
	if err := mount(copied, at); err != nil {
		d.Fatal(err)
	}
	look(at)
	unmount(d.T, at)
	if err := os.Remove(copied); err != nil {
		d.Fatal(err)
	}
}
