package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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

// oneAtATime is a script whose commands take one path at a time where they take many,
// so that something may happen between two of them.
func oneAtATime(script string) string { return strings.Replace(script, "-ge 200 ]", "-ge 1 ]", 1) }

// writes are the commands that change what is on the disk: between two of them it
// is the same whenever a kill comes.
const writes = `\"\$@\"*|command*|cat*|tac*|stat*|rm*|mkdir*|chmod*|chown*|mv*|cp*|tar*|*">"*`

// filmed runs scripts in bash and copies the host before each of their commands
// that writes: what a kill there would leave. Commands of subshells count, too.
type filmed struct {
	host, into string
	far        bool // as if contents and their places were in different file systems
}

func (f filmed) Run(ctx context.Context, c Command) (Result, error) {
	script := oneAtATime(c.Script)
	if f.far {
		script = farAway(script)
	}
	c.Script = fmt.Sprintf("set -T; kthwc_n=0; trap 'case $BASH_COMMAND in %s) kthwc_n=$((kthwc_n + 1)); command cp -a -- %s %s/$kthwc_n.$BASHPID;; esac' DEBUG\n%s", writes, f.host, f.into, script)
	return local{"bash"}.Run(ctx, c)
}

func (f filmed) Forward(ctx context.Context, network, address string) (net.Conn, error) {
	return local{}.Forward(ctx, network, address)
}

func (filmed) Close() error { return nil }

// farAway is a script as it is where contents and their places are in different file
// systems.
func farAway(script string) string {
	return strings.Replace(script, `[ "$mount" = "$home" ]`, "false", 1)
}

// distant runs scripts so.
type distant struct{ local }

func (d distant) Run(ctx context.Context, c Command) (Result, error) {
	c.Script = farAway(c.Script)
	return d.local.Run(ctx, c)
}

// snapshot is everything below a root but our own directory.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	return walked(t, root, "var/lib/kthwc")
}

// walked is everything below a root but one directory: owners and times are left out.
func walked(t *testing.T, root, without string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		if rel == without {
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
	if err := t.Install(ctx, time.Minute); err != nil {
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
	if err := tx.Install(ctx, time.Minute); err != nil {
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

// A waiting directory that somebody has put there before is not written through, and
// files are as old as they are.
func TestWaitingPlaceIsOurs(t *testing.T) {
	for name, conn := range map[string]Conn{"near": local{"sh"}, "far": distant{local{"sh"}}} {
		dir, elsewhere := root(t), scratch(t)
		_, after := generationsOf()
		precious := filepath.Join(elsewhere, "changed.conf")
		if err := errors.Join(os.Mkdir(filepath.Join(dir, "etc/app"), 0o755), os.Symlink(elsewhere, filepath.Join(dir, "etc/app/.kthwc-1")), os.WriteFile(precious, []byte("precious"), 0o600)); err != nil {
			t.Fatal(err)
		}
		began := time.Now().Add(-time.Minute)
		tx := &Transaction{Conn: conn, Root: dir, Generation: 1}
		if err := tx.all(after); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if text, err := os.ReadFile(precious); err != nil || string(text) != "precious" {
			t.Errorf("%s: it was overwritten: %q, %v", name, text, err)
		}
		if info, err := os.Stat(filepath.Join(dir, "etc/app/changed.conf")); err != nil || info.ModTime().Before(began) {
			t.Errorf("%s: %v, %v", name, info.ModTime(), err)
		}
	}
}

// What belonged to somebody who has no name any more belongs to him again.
func TestRollbackToNobodysDirectory(t *testing.T) {
	dir := root(t)
	app := filepath.Join(dir, "etc/app")
	if err := errors.Join(os.Mkdir(app, 0o750), os.Chown(app, 54321, 54322)); err != nil {
		t.Fatal(err)
	}
	before, _ := generationsOf()
	ctx := context.Background()
	tx := &Transaction{Conn: local{"sh"}, Root: dir, Generation: 1}
	if err := errors.Join(tx.Stage(ctx, before, nil, Recorded{}), tx.Install(ctx, time.Minute), tx.Rollback(ctx)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("stat", "-c", "%a %u %g", app).Output()
	if err != nil || string(out) != "750 54321 54322\n" {
		t.Errorf("%s, %v", out, err)
	}
}

// A commit that was cut off when the record was in its place is one.
func TestRollbackOfWhatIsConfirmed(t *testing.T) {
	dir := root(t)
	before, after := generationsOf()
	ctx := context.Background()
	if err := (&Transaction{Conn: local{"sh"}, Root: dir, Generation: 1}).all(before); err != nil {
		t.Fatal(err)
	}
	was := snapshot(t, dir)
	tx := &Transaction{Conn: local{"sh"}, Root: dir, Generation: 2}
	if err := errors.Join(tx.Stage(ctx, after, nil, Recorded{Generation: 2}), tx.Install(ctx, time.Minute)); err != nil {
		t.Fatal(err)
	}
	ours := filepath.Join(dir, "var/lib/kthwc")
	if err := os.Rename(filepath.Join(ours, "gen/2/record"), filepath.Join(ours, "confirmed")); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(ctx); !errors.Is(err, ErrCommitted) {
		t.Errorf("rolled back: %v", err)
	}
	if err := tx.back(ctx); err != nil {
		t.Error(err)
	}
	s, err := Observe(ctx, local{"sh"}, Query{Root: dir})
	if diff := cmp.Diff(was, snapshot(t, dir)); diff != "" || err != nil || !strings.Contains(string(s.Confirmed), `"generation":1`) {
		t.Errorf("%v, confirmed is %s, %s", err, s.Confirmed, diff)
	}
}

// A generation that is gone, and only its journal is left, is not interrupted for
// ever; and what was rolled back takes no space.
func TestRecoverWithoutTheGeneration(t *testing.T) {
	dir := root(t)
	before, after := generationsOf()
	ctx := context.Background()
	lost := &Transaction{Conn: local{"sh"}, Root: dir, Generation: 1}
	if err := lost.Stage(ctx, before, nil, Recorded{}); err != nil {
		t.Fatal(err)
	}
	if err := (&Transaction{Conn: local{"sh"}, Root: dir, Generation: 2}).all(after); err != nil {
		t.Fatal(err)
	}
	undone := &Transaction{Conn: local{"sh"}, Root: dir, Generation: 3}
	if err := errors.Join(undone.Stage(ctx, before, nil, Recorded{}), undone.Install(ctx, time.Minute), undone.Rollback(ctx)); err != nil {
		t.Fatal(err)
	}
	if err := lost.Recover(ctx); err != nil {
		t.Fatal(err)
	}
	s, err := Observe(ctx, local{"sh"}, Query{Root: dir})
	if err != nil || s.interrupted() != "" || len(s.Journal) != 3 {
		t.Errorf("%q %v, %v", s.interrupted(), s.Journal, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "var/lib/kthwc/gen/*")); len(left) != 1 || filepath.Base(left[0]) != "2" {
		t.Errorf("%q", left)
	}
}

// What may be exchanged by others is not written through, and bytes that have
// changed since they arrived are not installed; nothing is touched then.
func TestInstallRefuses(t *testing.T) {
	for name, trap := range map[string]func(dir string) error{
		"/etc/app is a link":       func(dir string) error { return os.Symlink("/tmp", filepath.Join(dir, "etc/app")) },
		"/etc/app is no directory": func(dir string) error { return os.WriteFile(filepath.Join(dir, "etc/app"), nil, 0o644) },
		"/opt is not root's alone": func(dir string) error { return os.Chmod(filepath.Join(dir, "opt"), 0o1777) },
		"/opt/new is not root's alone": func(dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "opt/other"), 0o755), os.Chown(filepath.Join(dir, "opt/other"), 65534, 65534), os.Symlink("other", filepath.Join(dir, "opt/new")))
		},
		"/etc/app/changed.conf did not arrive whole": func(dir string) error {
			names, err := filepath.Glob(filepath.Join(dir, "var/lib/kthwc/gen/1/content/*/*"))
			for _, n := range names {
				if text, _ := os.ReadFile(n); string(text) == "new\n" {
					return os.WriteFile(n, []byte("nEw\n"), 0o600)
				}
			}
			return fmt.Errorf("no such content: %w", err)
		},
	} {
		dir := root(t)
		_, after := generationsOf()
		ctx := context.Background()
		tx := &Transaction{Conn: local{"sh"}, Root: dir, Generation: 1}
		if err := errors.Join(tx.Stage(ctx, after, nil, Recorded{}), trap(dir)); err != nil {
			t.Fatal(err)
		}
		was := snapshot(t, dir)
		if err := tx.Install(ctx, time.Minute); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(was, snapshot(t, dir)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Killed before any command of any step, a host recovers to the one generation
// or the other, every path is one of the two at any time, and the next
// transaction goes through. Each step runs once and is filmed: what a kill leaves
// is what is on the disk then, and hosts that are the same to the last byte recover
// alike, so each is tried once.
func TestTransactionSurvivesEveryKill(t *testing.T) {
	dir := root(t)
	before, after := generationsOf()
	if err := (&Transaction{Conn: local{"sh"}, Root: dir, Generation: 1}).all(before); err != nil {
		t.Fatal(err)
	}
	k := &kills{T: t, after: after, was: snapshot(t, dir), seen: map[string]bool{}, recovered: map[string]bool{}}
	ctx := context.Background()
	stage := func(tx *Transaction) error { return tx.Stage(ctx, after, nil, Recorded{Generation: 2}) }
	install := func(tx *Transaction) error { return tx.Install(ctx, time.Minute) }
	commit := func(tx *Transaction) error { return tx.Commit(ctx) }
	rollback := func(tx *Transaction) error { return tx.Rollback(ctx) }
	done := filepath.Join(scratch(t), "host")
	copyTree(t, dir, done)
	if err := (&Transaction{Conn: local{"sh"}, Root: done, Generation: 2}).all(after); err != nil {
		t.Fatal(err)
	}
	k.is = snapshot(t, done)
	revert := func(tx *Transaction) error { _, err := tx.Revert(ctx); return err }
	for _, s := range []struct {
		name    string
		earlier []func(*Transaction) error
		step    func(*Transaction) error
		least   int  // commands that it has
		far     bool // contents come to other file systems
	}{
		{"stage", nil, stage, 8, false},
		{"install", []func(*Transaction) error{stage}, install, 30, false},
		{"install far away", []func(*Transaction) error{stage}, install, 40, true},
		{"commit", []func(*Transaction) error{stage, install}, commit, 5, false},
		{"rollback", []func(*Transaction) error{stage, install}, rollback, 20, false},
		{"revert", []func(*Transaction) error{stage, install, commit}, revert, 20, false},
	} {
		host := filepath.Join(scratch(t), "host")
		copyTree(t, dir, host)
		for _, e := range s.earlier {
			if err := e(&Transaction{Conn: local{"sh"}, Root: host, Generation: 2}); err != nil {
				t.Fatal(err)
			}
		}
		k.film(s.name, filmed{host: host, far: s.far}, s.least, s.step)
	}
	t.Logf("%d kills left %d different hosts, which recovered to %d", k.count, len(k.seen), len(k.recovered))
}

// kills are the hosts that kills leave.
type kills struct {
	*testing.T
	after           []Install
	was, is         map[string]string
	seen, recovered map[string]bool // by everything that is on the host
	count           int
}

// film runs a step and judges what it would leave before each of its commands;
// before some of them it is killed in truth, too.
func (k *kills) film(name string, camera filmed, least int, step func(*Transaction) error) {
	k.Helper()
	before := filepath.Join(scratch(k.T), "host")
	copyTree(k.T, camera.host, before)
	camera.into = scratch(k.T)
	if err := step(&Transaction{Conn: camera, Root: camera.host, Generation: 2}); err != nil {
		k.Fatal(err)
	}
	frames, err := os.ReadDir(camera.into)
	if err != nil || len(frames) < least {
		k.Fatalf("%s was filmed %d times only: %v", name, len(frames), err)
	}
	for _, f := range frames {
		k.count++
		k.judge(name+", killed before command "+f.Name(), filepath.Join(camera.into, f.Name()))
	}
	for n := 7; ; n += 60 {
		copied := filepath.Join(scratch(k.T), "host")
		copyTree(k.T, before, copied)
		if err := step(&Transaction{Conn: killed{n}, Root: copied, Generation: 2}); err == nil {
			break // it has fewer commands
		}
		k.count++
		k.judge(fmt.Sprintf("%s, in truth killed before command %d", name, n), copied)
	}
}

// judge recovers a host as a kill left it.
func (k *kills) judge(where, host string) {
	k.Helper()
	state := whole(k.T, host)
	if k.seen[state] {
		return
	}
	k.seen[state] = true
	onlyOldOrNew(k.T, where, snapshot(k.T, host), k.was, k.is)
	if err := (&Transaction{Conn: local{"sh"}, Root: host, Generation: 2}).Recover(context.Background()); err != nil {
		k.Fatalf("%s: %v", where, err)
	}
	now := snapshot(k.T, host)
	if !cmp.Equal(now, k.was) && !cmp.Equal(now, k.is) {
		k.Fatalf("%s: neither the one nor the other: %s", where, cmp.Diff(k.was, now))
	}
	if state = whole(k.T, host); k.recovered[state] {
		return
	}
	k.recovered[state] = true
	if err := (&Transaction{Conn: local{"sh"}, Root: host, Generation: 3}).all(k.after); err != nil {
		k.Fatalf("%s: then %v", where, err)
	}
	if diff := cmp.Diff(k.is, snapshot(k.T, host)); diff != "" {
		k.Fatalf("%s: then %s", where, diff)
	}
}

// whole is a host to the last byte, with what is our own.
func whole(t *testing.T, host string) string {
	t.Helper()
	all := walked(t, host, "-")
	var out strings.Builder
	for _, p := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&out, "%q %q\n", p, all[p])
	}
	return tree.Digest([]byte(out.String()))
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
		if err := tx.Install(context.Background(), time.Minute); err == nil {
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
