package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/kthwc/kthwc/internal/powercut"
)

// A copy of a mounted disk's image is that disk after a power cut: what the
// file system had not yet sent to it is not there. Whenever it is taken, it
// holds every generation that was there before; when the command has returned,
// all that it wrote.
func TestPowerCuts(t *testing.T) {
	k := newKiller(t)
	d := &disk{Disk: powercut.New(t, "64M")}
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

// disk is a file system on which projects are.
type disk struct {
	*powercut.Disk
	count int
}

// project is a directory on the disk with a cluster.yaml, synced.
func (d *disk) project(k *killer) string {
	d.Helper()
	d.count++
	dir := filepath.Join(d.Mounted, fmt.Sprint(d.count))
	d.Copy(k.project(), dir)
	return dir
}

// cuts runs the command: killed at each call that changes names or syncs, with
// the power cut then, on copies of the project, and at last to its end.
func (d *disk) cuts(k *killer, project string, args ...string) {
	d.Helper()
	before := k.copyOf(project)
	for _, call := range []string{"fsync", "renameat", "write", "mkdirat"} {
		for n := 1; n < 30; n++ {
			d.count++
			dir := filepath.Join(d.Mounted, fmt.Sprint(d.count))
			d.Copy(before, dir)
			killed := k.killed(dir, call, n, args)
			d.CommitJournal()
			d.After(func(disk string) {
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
	d.After(func(disk string) {
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
