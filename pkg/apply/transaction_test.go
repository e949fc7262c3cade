package apply

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kthwc/kthwc/pkg/tree"
)

// killed runs scripts in bash and kills it before its n-th command.
type killed struct{ before int }

func (k killed) Run(ctx context.Context, c Command) (Result, error) {
	c.Script = fmt.Sprintf("set -T; kthwc_n=0; trap 'kthwc_n=$((kthwc_n + 1)); [ $kthwc_n -ne %d ] || kill -9 $$' DEBUG\n%s", k.before, c.Script)
	return local{"bash"}.Run(ctx, c)
}

func (k killed) Forward(ctx context.Context, network, address string) (net.Conn, error) {
	return local{}.Forward(ctx, network, address)
}

func (killed) Close() error { return nil }

// snapshot is everything below a root but our own directory.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		if rel == "var/lib/kthwc" {
			return filepath.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		what := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what += " " + string(text)
		case info.Mode()&os.ModeSymlink != 0:
			target, _ := os.Readlink(p)
			what += " " + target
		}
		out[rel] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func entry(p string, kind tree.Kind, mode uint32, content, target string) Install {
	return Install{RecordedEntry{Path: p, Kind: kind, Mode: mode, Owner: "root", Group: "root", Target: target}, []byte(content)}
}

// before and after are two generations of a host: every kind of change is
// between them.
func generationsOf() (before, after []Install) {
	before = []Install{
		entry("/etc/app", tree.Dir, 0o755, "", ""), entry("/etc/app/same.conf", tree.Regular, 0o644, "same\n", ""),
		entry("/etc/app/changed.conf", tree.Regular, 0o644, "old\n", ""), entry("/etc/app/mode.conf", tree.Regular, 0o644, "mode\n", ""),
		entry("/etc/app/gone.conf", tree.Regular, 0o600, "gone\n", ""), entry("/etc/app/link", tree.Symlink, 0o777, "", "same.conf"),
	}
	after = []Install{
		entry("/etc/app", tree.Dir, 0o700, "", ""), entry("/etc/app/changed.conf", tree.Regular, 0o640, "new\n", ""),
		entry("/etc/app/mode.conf", tree.Regular, 0o600, "mode\n", ""), entry("/etc/app/gone.conf", tree.Absent, 0, "", ""),
		entry("/etc/app/link", tree.Symlink, 0o777, "", "changed.conf"), entry("/opt/new/deep/file", tree.Regular, 0o755, "#!/bin/sh\n", ""),
	}
	return before, after
}

// scratch is a directory in memory where there is such a place: these tests
// wait for the disk thousands of times.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "kthwc-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func root(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("files are given to root: run as root")
	}
	dir := scratch(t)
	for _, d := range []string{"etc", "opt", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (t *Transaction) all(entries []Install) error {
	ctx := context.Background()
	if err := t.Stage(ctx, entries, nil, Recorded{Generation: t.Generation, Cluster: "c", Node: "n"}); err != nil {
		return err
	}
	if err := t.Install(ctx); err != nil {
		return err
	}
	return t.Commit(ctx)
}

func TestTransaction(t *testing.T) {
	dir := root(t)
	before, after := generationsOf()
	for i, entries := range [][]Install{before, after} {
		tx := &Transaction{Conn: local{"sh"}, Root: dir, Generation: i + 1}
		if err := tx.all(entries); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{
		"etc/app": "drwx------", "etc/app/same.conf": "-rw-r--r-- same\n", "etc/app/changed.conf": "-rw-r----- new\n", "etc/app/mode.conf": "-rw------- mode\n",
		"etc/app/link": "Lrwxrwxrwx changed.conf", "opt/new/deep/file": "-rwxr-xr-x #!/bin/sh\n", "opt/new/deep": "drwxr-xr-x", "opt/new": "drwxr-xr-x",
		".": "drwxr-xr-x", "etc": "drwxr-xr-x", "opt": "drwxr-xr-x", "var": "drwxr-xr-x", "var/lib": "drwxr-xr-x",
	}
	if diff := cmp.Diff(want, snapshot(t, dir)); diff != "" {
		t.Error(diff)
	}
	s, err := Observe(context.Background(), local{"sh"}, Query{Root: dir})
	if err != nil || !strings.Contains(string(s.Confirmed), `"generation":2`) {
		t.Errorf("%q, %v", s.Confirmed, err)
	}
}

// Rolled back at any point, a host is what it was, to the last mode.
func TestRollback(t *testing.T) {
	dir := root(t)
	before, after := generationsOf()
	if err := (&Transaction{Conn: local{"sh"}, Root: dir, Generation: 1}).all(before); err != nil {
		t.Fatal(err)
	}
	was := snapshot(t, dir)
	ctx := context.Background()
	tx := &Transaction{Conn: local{"sh"}, Root: dir, Generation: 2}
	if err := tx.Stage(ctx, after, nil, Recorded{Generation: 2}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(was, snapshot(t, dir)); diff != "" {
		t.Errorf("staging touched: %s", diff)
	}
	if err := tx.Install(ctx); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := tx.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(was, snapshot(t, dir)); diff != "" {
			t.Error(diff)
		}
	}
	if err := tx.Commit(ctx); err == nil {
		t.Error("what was rolled back was committed")
	}
	if err := (&Transaction{Conn: local{"sh"}, Root: dir, Generation: 1}).Rollback(ctx); err == nil {
		t.Error("what was committed was rolled back")
	}
}

// Killed before any command of any step, a host recovers to the one generation
// or the other, every path is one of the two at any time, and the next
// transaction goes through.
func TestTransactionSurvivesEveryKill(t *testing.T) {
	dir := root(t)
	before, after := generationsOf()
	first := &Transaction{Conn: local{"sh"}, Root: dir, Generation: 1}
	if err := first.all(before); err != nil {
		t.Fatal(err)
	}
	was := snapshot(t, dir)
	whole := filepath.Join(scratch(t), "host")
	copyTree(t, dir, whole)
	done := &Transaction{Conn: local{"sh"}, Root: dir, Generation: 2}
	if err := done.all(after); err != nil {
		t.Fatal(err)
	}
	is := snapshot(t, dir)
	ctx := context.Background()
	kills := 0
	for at, step := range []func(*Transaction) error{
		func(tx *Transaction) error { return tx.Stage(ctx, after, nil, Recorded{Generation: 2}) },
		func(tx *Transaction) error { return tx.Install(ctx) },
		func(tx *Transaction) error { return tx.Commit(ctx) },
		func(tx *Transaction) error { return tx.Rollback(ctx) },
	} {
		for n := 1; n < 1000; n++ {
			host := filepath.Join(scratch(t), "host")
			copyTree(t, whole, host)
			tx := &Transaction{Conn: local{"sh"}, Root: host, Generation: 2}
			for _, earlier := range []func() error{
				func() error { return tx.Stage(ctx, after, nil, Recorded{Generation: 2}) }, func() error { return tx.Install(ctx) },
			}[:min(at, 2)] {
				if err := earlier(); err != nil {
					t.Fatal(err)
				}
			}
			if err := step(&Transaction{Conn: killed{n}, Root: host, Generation: 2}); err == nil {
				break // it has fewer commands
			}
			kills++
			where := "step " + strconv.Itoa(at) + ", killed before command " + strconv.Itoa(n)
			onlyOldOrNew(t, where, snapshot(t, host), was, is)
			if err := tx.Recover(ctx); err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			now := snapshot(t, host)
			if !cmp.Equal(now, was) && !cmp.Equal(now, is) {
				t.Fatalf("%s: neither the one nor the other: %s", where, cmp.Diff(was, now))
			}
			if n%5 == 0 { // the next apply goes through; its commands are the same each time
				if err := (&Transaction{Conn: local{"sh"}, Root: host, Generation: 3}).all(after); err != nil {
					t.Fatalf("%s: then %v", where, err)
				}
				if diff := cmp.Diff(is, snapshot(t, host)); diff != "" {
					t.Fatalf("%s: then %s", where, diff)
				}
			}
			os.RemoveAll(host)
		}
	}
	if kills < 100 {
		t.Errorf("only %d kills", kills)
	}
	t.Logf("%d kills", kills)
}

// onlyOldOrNew: no path holds anything but the old or the new; our own
// half-made files are beside it.
func onlyOldOrNew(t *testing.T, where string, now, was, is map[string]string) {
	t.Helper()
	for p, what := range now {
		if strings.Contains(p, "/.kthwc-") {
			continue
		}
		// A directory is made, and then given its mode.
		if what != was[p] && what != is[p] && !strings.HasPrefix(what, "d") {
			t.Fatalf("%s: %s is %q", where, p, what)
		}
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// A transfer that is cut at any byte is refused, and leaves nothing in place.
func TestCutTransfersAreNotInstalled(t *testing.T) {
	dir := root(t)
	_, after := generationsOf()
	was := snapshot(t, dir)
	archive, err := archiveOf(after, nil, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	end := bytes.LastIndex(archive, []byte("end")) // what follows is padding
	for at := 0; at < end; at += 101 {
		tx := &Transaction{Conn: cutter{at}, Root: dir, Generation: 1}
		if err := tx.Stage(context.Background(), after, nil, Recorded{}); err == nil {
			t.Fatalf("cut at %d of %d: staged", at, len(archive))
		}
		if err := tx.Install(context.Background()); err == nil {
			t.Fatalf("cut at %d: installed", at)
		}
		if diff := cmp.Diff(was, snapshot(t, dir)); diff != "" {
			t.Fatalf("cut at %d: %s", at, diff)
		}
	}
}

// cutter ends standard input after some bytes.
type cutter struct{ at int }

func (c cutter) Run(ctx context.Context, cmd Command) (Result, error) {
	cmd.Stdin = io.LimitReader(cmd.Stdin, int64(c.at))
	return local{"sh"}.Run(ctx, cmd)
}

func (c cutter) Forward(ctx context.Context, network, address string) (net.Conn, error) {
	return local{}.Forward(ctx, network, address)
}

func (cutter) Close() error { return nil }
