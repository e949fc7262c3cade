package applytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/powercut"
	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/tree"
)

// shell runs scripts on this machine, with something before each.
type shell struct{ edit func(script string) string }

func (s shell) Run(ctx context.Context, c apply.Command) (apply.Result, error) {
	script := c.Script
	if s.edit != nil {
		script = s.edit(script)
	}
	cmd := exec.CommandContext(ctx, "bash", append([]string{"-c", script, "kthwc"}, c.Args...)...)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, &out, &said
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return apply.Result{Stdout: out.Bytes(), Stderr: said.Bytes(), Status: cmd.ProcessState.ExitCode()}, err
}

func (shell) Forward(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("nothing listens here")
}

func (shell) Close() error { return nil }

// outage is a host on a disk whose power is cut.
type outage struct {
	*powercut.Disk
	sync    bool // the steps sync what they write, as they do
	was, is map[string]string
	seen    map[string]bool
	cuts    int
	wrong   []string
}

// From one generation to the next there is one of every kind of change.
func generations() (before, after []apply.Install) {
	before = []apply.Install{
		install("/etc/app", tree.Dir, 0o755, "", ""), install("/etc/app/changed", tree.Regular, 0o644, "old\n", ""),
		install("/etc/app/mode", tree.Regular, 0o644, "mode\n", ""), install("/etc/app/gone", tree.Regular, 0o600, "gone\n", ""),
		install("/etc/app/link", tree.Symlink, 0o777, "", "mode"),
	}
	after = []apply.Install{
		install("/etc/app", tree.Dir, 0o750, "", ""), install("/etc/app/changed", tree.Regular, 0o640, strings.Repeat("new\n", 3000), ""),
		install("/etc/app/mode", tree.Regular, 0o600, "mode\n", ""), install("/etc/app/gone", tree.Absent, 0, "", ""),
		install("/etc/app/link", tree.Symlink, 0o777, "", "changed"), install("/opt/new/deep", tree.Regular, 0o755, "#!/bin/sh\n", ""),
	}
	return before, after
}

// The power is cut before every command that writes: each path is old or new and
// whole, the host recovers to the one or the other, and what a step said that it
// had done is done.
func TestPowerCutAnywhere(t *testing.T) {
	o := &outage{Disk: powercut.New(t, "16M"), sync: true, seen: map[string]bool{}}
	o.run()
	for _, wrong := range o.wrong {
		t.Error(wrong)
	}
	if o.cuts < 90 || len(o.seen) < 30 {
		t.Errorf("the power was cut %d times only, and left %d different disks", o.cuts, len(o.seen))
	}
	t.Logf("%d cuts left %d different disks", o.cuts, len(o.seen))
}

// Without its syncs, the same is not safe: a test that finds nothing there would
// find nothing at all.
func TestPowerCutsAreFound(t *testing.T) {
	o := &outage{Disk: powercut.New(t, "16M"), seen: map[string]bool{}}
	o.run()
	if !slices.ContainsFunc(o.wrong, func(w string) bool { return strings.Contains(w, `"-rw-r----- "`) }) {
		t.Errorf("no empty file was found: %q", o.wrong)
	}
}

func (o *outage) run() {
	o.Helper()
	host := filepath.Join(o.Mounted, "host")
	for _, dir := range []string{"etc", "opt", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(host, dir), 0o755); err != nil {
			o.Fatal(err)
		}
	}
	before, after := generations()
	o.apply(host, 1, before)
	o.was = o.contents(host)
	if out, err := exec.Command("sync", "-f", host).CombinedOutput(); err != nil {
		o.Fatalf("%v: %s", err, out)
	}
	elsewhere := filepath.Join(powercut.Memory(o), "host")
	o.Copy(host, elsewhere)
	o.apply(elsewhere, 2, after)
	o.is = o.contents(elsewhere)

	ctx, second := o.Context(), &apply.Transaction{Root: host, Generation: 2}
	o.step("stage", host, second, func() error { return second.Stage(ctx, after, nil, record(2)) }, o.was)
	o.step("install", host, second, func() error { return second.Install(ctx, time.Minute) }, nil)
	o.step("commit", host, second, func() error { return second.Commit(ctx) }, o.is)
	third := &apply.Transaction{Root: host, Generation: 3, Conn: shell{}}
	if err := errors.Join(third.Stage(ctx, before, nil, record(3)), third.Install(ctx, time.Minute)); err != nil {
		o.Fatal(err)
	}
	o.step("rollback", host, third, func() error { return third.Rollback(ctx) }, o.is)
	o.step("revert", host, second, func() error { _, err := second.Revert(ctx); return err }, o.was)
}

func record(generation int) apply.Recorded {
	return apply.Recorded{Generation: generation, Cluster: cluster, Node: "host"}
}

func (o *outage) apply(host string, generation int, entries []apply.Install) {
	o.Helper()
	tx, ctx := &apply.Transaction{Root: host, Generation: generation, Conn: shell{}}, o.Context()
	if err := errors.Join(tx.Stage(ctx, entries, nil, record(generation)), tx.Install(ctx, time.Minute), tx.Commit(ctx)); err != nil {
		o.Fatal(err)
	}
}

// writes are the commands of the steps that change what is on the disk, or make
// it last.
const writes = `\$todo*|\"\$@\"*|command*|sync*|cat*|tac*|rm*|mkdir*|chmod*|chown*|tar*`

// oneByOne has the commands that take many paths take one at a time, so that the
// power may be cut between two of them.
const oneByOne = `mv() { if [ "$1 $2" = "-f -t" ]; then kthwc_to=$3; shift 4; for kthwc_f; do command mv -f -t "$kthwc_to" -- "$kthwc_f"; done; else command mv "$@"; fi; }
cp() { if [ "$1 $2" = "-d -t" ]; then kthwc_to=$3; shift 4; for kthwc_f; do command cp -d -t "$kthwc_to" -- "$kthwc_f"; done; else command cp "$@"; fi; }
`

// oneAtATime is a script whose other commands do so, too.
func oneAtATime(script string) string {
	return oneByOne + strings.Replace(script, "-lt 200 ]", "-lt 1 ]", 1)
}

// step runs a step, and cuts the power before each command of it that writes, and
// at its end: then it must have left what it is to leave.
func (o *outage) step(name, host string, tx *apply.Transaction, do func() error, leaves map[string]string) {
	o.Helper()
	into := powercut.Memory(o)
	tx.Conn = shell{func(script string) string {
		if !o.sync {
			script = "sync() { :; }\n" + script
		}
		return "set -T; kthwc_n=1000; trap 'case $BASH_COMMAND in " + writes + ") kthwc_n=$((kthwc_n + 1)); " + o.Shell(into+"/$kthwc_n.$BASHPID") + ";; esac' DEBUG\n" + oneAtATime(script)
	}}
	if err := do(); err != nil {
		o.Fatalf("%s: %v", name, err)
	}
	o.CommitJournal()
	cut, err := os.ReadDir(into)
	if err != nil || len(cut) < 5 {
		o.Fatalf("%s was cut %d times: %v", name, len(cut), err)
	}
	for _, c := range cut {
		o.Look(filepath.Join(into, c.Name()), func(at string) { o.judge(name+", cut before command "+c.Name(), filepath.Join(at, "host"), nil) })
	}
	if leaves != nil {
		o.After(func(at string) { o.judge(name+", cut when it had returned", filepath.Join(at, "host"), leaves) })
	}
}

// judge looks at a host after a power cut, and lets it boot: recover.
func (o *outage) judge(where, host string, leaves map[string]string) {
	o.Helper()
	o.cuts++
	if leaves == nil {
		key := fmt.Sprint(o.everything(host, "-"))
		if o.seen[key] {
			return
		}
		o.seen[key] = true
	}
	now := o.contents(host)
	for path, what := range now {
		if !strings.Contains(path, "/.kthwc-") && what != o.was[path] && what != o.is[path] && !strings.HasPrefix(what, "d") {
			o.wrong = append(o.wrong, fmt.Sprintf("%s: %s is %q", where, path, fmt.Sprintf("%.40s", what)))
		}
	}
	if err := (&apply.Transaction{Root: host, Generation: 9, Conn: shell{}}).Recover(o.Context()); err != nil {
		o.wrong = append(o.wrong, fmt.Sprintf("%s: recover: %v", where, err))
		return
	}
	after := differ("", o.contents(host), o.was)
	if leaves != nil {
		after = differ("", o.contents(host), leaves)
	} else if len(after) > 0 && len(differ("", o.contents(host), o.is)) == 0 {
		after = nil
	}
	for _, d := range after {
		o.wrong = append(o.wrong, where+": recovered, "+d)
	}
}

// contents is everything below a host but our own directory.
func (o *outage) contents(host string) map[string]string {
	o.Helper()
	return o.everything(host, "var/lib/kthwc")
}

func (o *outage) everything(host, without string) map[string]string {
	o.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(host, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(host, p)
		if rel == without {
			return filepath.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		out[rel] = info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			text, err := os.ReadFile(p)
			out[rel] += " " + string(text)
			return err
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			out[rel] += " " + target
			return err
		}
		return nil
	})
	if err != nil {
		o.Fatal(err)
	}
	return out
}

// A real disk of 1 MiB, and one without inodes, are full in the middle of it: an
// error, and nothing but old or new.
func TestTinyDisks(t *testing.T) {
	before, after := generations()
	after = append(after, install("/opt/new/long", tree.Regular, 0o644, strings.Repeat("long\n", 300_000), ""))
	for i := range 40 {
		after = append(after, install(fmt.Sprintf("/opt/new/many/%d", i), tree.Regular, 0o644, "one\n", ""))
	}
	for name, flags := range map[string][]string{"1 MiB": nil, "no inodes": {"-N", "64"}} {
		size := map[string]string{"1 MiB": "1M", "no inodes": "16M"}[name]
		o := &outage{Disk: powercut.Tiny(t, size, flags...)}
		host := filepath.Join(o.Mounted, "host")
		for _, dir := range []string{"etc", "opt", "var/lib"} {
			if err := os.MkdirAll(filepath.Join(host, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		o.apply(host, 1, before)
		was := o.contents(host)
		tx := &apply.Transaction{Root: host, Generation: 2, Conn: shell{}}
		err := tx.Stage(t.Context(), after, nil, record(2))
		if err == nil {
			err = tx.Install(t.Context(), time.Minute)
		}
		if err == nil || !full(err) {
			t.Errorf("%s: %v", name, err)
		}
		if err := tx.Recover(t.Context()); err != nil {
			t.Errorf("%s: recover: %v", name, err)
		}
		if wrong := differ("", o.contents(host), was); len(wrong) > 0 {
			t.Errorf("%s: %q", name, wrong)
		}
		fitting := &apply.Transaction{Root: host, Generation: 3, Conn: shell{}}
		if err := errors.Join(fitting.Stage(t.Context(), before, nil, record(3)), fitting.Install(t.Context(), time.Minute), fitting.Commit(t.Context())); err != nil {
			t.Errorf("%s: what fits is not applied then: %v", name, err)
		}
	}
}
