package applytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/tree"
)

func install(path string, kind tree.Kind, mode uint32, content, target string) apply.Install {
	return apply.Install{RecordedEntry: apply.RecordedEntry{Path: path, Kind: kind, Mode: mode, Owner: "root", Group: "root", Target: target}, Content: []byte(content)}
}

// direct is a transaction without an operator around it.
func direct(t *testing.T, m *machine, generation int) *apply.Transaction {
	t.Helper()
	c, err := quick(1, m).here(world{version: 1}).dial(bounded(t, 2*time.Minute), m.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &apply.Transaction{Conn: c, Generation: generation}
}

// all goes through the steps up to the first error.
func all(ctx context.Context, tx *apply.Transaction, entries []apply.Install) (step string, err error) {
	record := apply.Recorded{Generation: tx.Generation, Cluster: cluster}
	for _, s := range []struct {
		name string
		do   func() error
	}{
		{"stage", func() error { return tx.Stage(ctx, entries, nil, record) }},
		{"install", func() error { return tx.Install(ctx, 5*time.Minute) }},
		{"commit", func() error { return tx.Commit(ctx) }},
	} {
		if err := s.do(); err != nil {
			return s.name, err
		}
	}
	return "", nil
}

// tight are disks that are too small, from nothing to enough, by pages or inodes.
var tight = []struct {
	name, at string
	options  func(n int) string
	from, to int
	by       int
}{
	{"bytes for our own", "/var/lib/kthwc", func(n int) string { return fmt.Sprintf("size=%dk", 4*n) }, 1, 80, 3},
	{"inodes for our own", "/var/lib/kthwc", func(n int) string { return fmt.Sprintf("nr_inodes=%d", n) }, 2, 60, 2},
	{"bytes for what is installed", "/etc/rig", func(n int) string { return fmt.Sprintf("size=%dk", 4*n) }, 3, 30, 2},
	{"inodes for what is installed", "/etc/rig", func(n int) string { return fmt.Sprintf("nr_inodes=%d", n) }, 6, 16, 1},
}

// A disk that is full at any moment leaves each path as it was or as it shall be;
// the error says what there is no space for; and when there is space again, the
// host is what it was, and the next transaction goes through.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for _, row := range tight {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			m := take(t, 1)[0]
			tx := direct(t, m, 0)
			entries := []apply.Install{
				install("/etc/rig/key", tree.Regular, 0o600, strings.Repeat("new\n", 2500), ""), install("/etc/rig/web.conf", tree.Regular, 0o644, strings.Repeat("new\n", 2500), ""),
				install("/etc/rig/deep/er/new", tree.Regular, 0o644, strings.Repeat("new\n", 2500), ""), install("/etc/rig/link", tree.Symlink, 0o777, "", "key"),
				install("/etc/rig/gone", tree.Absent, 0, "", ""),
			}
			var was, is *picture
			var finished []*picture
			succeeded, failed := 0, map[string]int{}
			for n := row.from; n <= row.to; n += row.by {
				m.must(t, `mkdir -p "$2" && mount -t tmpfs -o mode=0755,"$1" rig "$2" && mkdir -p /etc/rig && cd /etc/rig &&
					printf old >key && printf old >web.conf && printf old >gone && ln -s web.conf link`, row.options(n), row.at)
				if was == nil {
					was = m.mustPicture(t)
				}
				tx.Generation = n
				ctx := bounded(t, time.Minute)
				step, err := all(ctx, tx, entries)
				now := m.mustPicture(t)
				if err == nil {
					succeeded++
					if is = now; succeeded > 3 {
						n = row.to
					}
				} else {
					failed[step]++
					if !full(err) {
						t.Errorf("%d: %v", n, err)
					}
					onlyWhole(t, n, now, was)
					m.must(t, `mount -o remount,size=4m,nr_inodes=4000 "$1"`, row.at)
					if f := spaceAgain(ctx, t, m, tx, entries, step, was); f != nil {
						finished = append(finished, f)
					}
				}
				m.must(t, `umount "$1"; rm -rf /etc/rig; systemctl stop kthwc-guard.timer 2>/dev/null; rm -rf /var/lib/kthwc/*`, row.at)
			}
			if succeeded == 0 || len(failed) == 0 || is == nil {
				t.Errorf("%d succeeded, and failed %v", succeeded, failed)
			}
			for _, f := range finished {
				if wrong := differ("", f.managed, is.managed); len(wrong) > 0 {
					t.Errorf("finished, %q", wrong)
				}
			}
			t.Logf("%d succeeded; failed in %v", succeeded, failed)
		})
	}
}

// spaceAgain recovers a host whose transaction failed in a step: it is what it was, or
// has finished what was confirmed, and then gives that picture. The next transaction
// succeeds.
func spaceAgain(ctx context.Context, t *testing.T, m *machine, tx *apply.Transaction, entries []apply.Install, step string, was *picture) (finished *picture) {
	t.Helper()
	n := tx.Generation
	if err := tx.Recover(ctx); err != nil {
		t.Errorf("%d: with space again, recover: %v", n, err)
	}
	if back := m.mustPicture(t); step == "commit" && back.managed["/etc/rig/gone"] == "absent" {
		finished = back
	} else if wrong := differ("", back.managed, was.managed); len(wrong) > 0 {
		t.Errorf("%d: recovered, %q", n, wrong)
	}
	tx.Generation = 1000 + n
	if step, err := all(ctx, tx, entries); err != nil {
		t.Errorf("%d: then %s: %v", n, step, err)
	}
	return finished
}

// full says whether an error names the reason.
func full(err error) bool {
	return strings.Contains(err.Error(), "No space left") || strings.Contains(err.Error(), "Wrote only")
}

// onlyWhole: what TestDiskFull installs is the old text, the new one, or nothing
// where there was nothing.
func onlyWhole(t *testing.T, n int, now, was *picture) {
	t.Helper()
	fresh := tree.Digest([]byte(strings.Repeat("new\n", 2500)))[:16]
	for path, what := range now.managed {
		ok := what == was.managed[path] || strings.HasPrefix(what, "dir ") || what == "link key" || path == "/etc/rig/gone" && what == "absent"
		if !ok && !strings.HasSuffix(what, " "+fresh) {
			t.Errorf("%d: %s is %s", n, path, what)
		}
	}
}

// A host without space is refused before anything is written.
func TestNoSpaceIsFoundBefore(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	for options, want := range map[string]string{"size=100m": "MiB are free below /var/lib", "nr_inodes=500": "files more can be made below /var/lib"} {
		m.must(t, `mkdir -p /var/lib/kthwc && mount -t tmpfs -o "$1" rig /var/lib/kthwc`, options)
		p := quick(1, m).here(world{version: 1})
		if err := p.apply(bounded(t, time.Minute)); err == nil || !strings.Contains(err.Error(), want) || p.outcome != nil {
			t.Errorf("%s: %v", options, err)
		}
		if there := m.must(t, `ls -A /var/lib/kthwc; umount /var/lib/kthwc; rmdir /var/lib/kthwc`); there != "" {
			t.Errorf("%s: something was written: %q", options, there)
		}
	}
}

// traps are what may be in the place of what is to be written, or above it.
var traps = []struct {
	name, set string
	refused   string // a word of the error; "" where it is replaced
}{
	{"a directory", `mkdir same`, "directory"},
	{"a directory with something in it", `mkdir same; echo mine >same/mine`, "directory"},
	{"a link to a file", `ln -s /root/precious same`, ""},
	{"a link to a directory", `mkdir /root/precious.d; ln -s /root/precious.d same`, ""},
	{"a link to nowhere", `ln -s /nowhere same`, ""},
	{"a second name of another file", `ln /root/precious same`, ""},
	{"a pipe", `mkfifo same`, "is no file, link or directory"},
	{"a device", `mknod same c 1 3`, "is no file, link or directory"},
	{"a file that cannot be changed", `echo x >same; chattr +i same`, "not permitted"},
	{"a mount", `echo x >same; mount --bind /root/precious same`, "is a mount"},
	{"a link above", `cd /; rm -r /etc/rig; mkdir -m 0777 /root/precious.d; ln -s /root/precious.d /etc/rig`, "is a link"},
	{"a file above", `cd /; rm -r /etc/rig; echo x >/etc/rig`, "directory"},
	{"a name with everything", `mkdir -- '-rf * $(reboot) "'`, ""},
}

// What somebody has planted where we write is replaced, or refused before anything
// is changed; it is never followed.
func TestTrapsAreNotFollowed(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	tx := direct(t, m, 0)
	m.must(t, `echo precious >/root/precious`)
	entries := []apply.Install{
		install("/etc/rig", tree.Dir, 0o755, "", ""), install("/etc/rig/before", tree.Regular, 0o644, "new\n", ""),
		install("/etc/rig/same", tree.Regular, 0o640, "new\n", ""), install("/etc/rig/under", tree.Regular, 0o644, "new\n", ""),
	}
	const state = `stat -c '%A %h %n' /root/precious* ; cat /root/precious; find /root/precious.d /etc/rig -printf '%y %m %p %l\n' 2>/dev/null | sort`
	for i, trap := range traps {
		m.must(t, `mkdir -p /etc/rig && cd /etc/rig && `+trap.set)
		was := m.must(t, state)
		tx.Generation = i + 1
		ctx := bounded(t, time.Minute)
		step, err := all(ctx, tx, entries)
		switch {
		case trap.refused == "" && err != nil:
			t.Errorf("%s: %s: %v", trap.name, step, err)
		case trap.refused == "":
			if now := m.must(t, `cat /etc/rig/same; stat -c '%a %F' /etc/rig/same; cat /root/precious; ls -A /root/precious.d 2>/dev/null; :`); now != "new\n640 regular file\nprecious\n" {
				t.Errorf("%s: then there is %q", trap.name, now)
			}
		case err == nil || !strings.Contains(err.Error(), trap.refused):
			t.Errorf("%s: %s: %v", trap.name, step, err)
		default:
			if err := tx.Rollback(ctx); err != nil {
				t.Errorf("%s: rollback: %v", trap.name, err)
			}
			if now := m.must(t, state); now != was {
				t.Errorf("%s: rolled back, there is %q, not %q", trap.name, now, was)
			}
		}
		m.must(t, `umount /etc/rig/same 2>/dev/null; chattr -i /etc/rig/same 2>/dev/null; rm -rf /etc/rig /root/precious.d; echo precious >/root/precious; systemctl stop kthwc-guard.timer; rm -rf /var/lib/kthwc`)
	}
	m.must(t, `rm -f /root/precious`)
}

// Names that a shell would take for something else are names.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	tx := direct(t, m, 1)
	names := []string{"-rf", "a b", "$(reboot)", "`reboot`", `"`, "'", `\`, "*", "?", "[a]", "~", "#", "!", "&", ";", "%s", "\x01\x7f", "ä €", " ", strings.Repeat("n", 230), "content", "entries", ".kthwc-1-3"}
	var entries []apply.Install
	for _, name := range names {
		entries = append(entries, install("/etc/rig/"+name, tree.Regular, 0o644, name+"\n", ""))
	}
	entries = append(entries, install("/etc/rig/link", tree.Symlink, 0o777, "", "-rf * $(reboot) '\""))
	ctx := bounded(t, time.Minute)
	if step, err := all(ctx, tx, entries); err != nil {
		t.Fatalf("%s: %v", step, err)
	}
	q := apply.Query{}
	for _, e := range entries {
		q.Paths = append(q.Paths, e.Path)
	}
	s, err := apply.Observe(ctx, tx.Conn, q)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		is := s.Entries[e.Path]
		if e.Kind == tree.Regular && is.Digest != tree.Digest(e.Content) || is.Target != e.Target {
			t.Errorf("%q is %+v", e.Path, is)
		}
	}
	if n := strings.TrimSpace(m.must(t, `ls -A /etc/rig | wc -l`)); n != fmt.Sprint(len(entries)) {
		t.Errorf("there are %s files", n)
	}
	for _, name := range []string{"/etc/rig/a\nb", "/etc/rig/a\tb"} {
		tx.Generation++
		if err := tx.Stage(ctx, []apply.Install{install(name, tree.Regular, 0o644, "", "")}, nil, apply.Recorded{}); err == nil {
			t.Errorf("%q was staged", name)
		}
	}
}

// A bit that flips in what was staged is found before it is installed.
func TestStagedBytesThatChange(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	tx := direct(t, m, 1)
	ctx := bounded(t, time.Minute)
	m.must(t, `mkdir /etc/rig; echo old >/etc/rig/same`)
	was := m.mustPicture(t)
	entries := []apply.Install{install("/etc/rig/mode", tree.Regular, 0o644, "new\n", ""), install("/etc/rig/same", tree.Regular, 0o644, string(bytes.Repeat([]byte("new\n"), 5000)), "")}
	if err := tx.Stage(ctx, entries, nil, apply.Recorded{}); err != nil {
		t.Fatal(err)
	}
	m.must(t, `cd /var/lib/kthwc/gen/1/content && perl -e 'for (glob "*/*") { next if -s $_ < 1000; open(my $f, "+<", $_); seek($f, 7777, 0); print $f "N" }'`)
	err := tx.Install(ctx, time.Minute)
	if err == nil || !strings.Contains(err.Error(), "/etc/rig/same") {
		t.Errorf("installed: %v", err)
	}
	if wrong := m.mustPicture(t).between(was, was); len(wrong) > 0 {
		t.Errorf("%q", wrong)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Error(err)
	}
}

// The time after which a host undoes everything begins anew with each unit, however
// fast they follow each other: systemd restarts a timer five times in ten seconds.
func TestTimerBeginsAnewOften(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	tx := direct(t, m, 1)
	ctx := bounded(t, time.Minute)
	unit := install("/etc/systemd/system/rig-often.service", tree.Regular, 0o644, "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n", "")
	start := apply.UnitAction{Unit: "rig-often.service", Do: apply.Start}
	if err := errors.Join(tx.Stage(ctx, []apply.Install{unit}, []apply.UnitAction{start}, apply.Recorded{}), tx.Install(ctx, time.Hour)); err != nil {
		t.Fatal(err)
	}
	for range 12 {
		if _, err := tx.Act(ctx, time.Hour, start); err != nil {
			t.Fatal(err)
		}
	}
	m.must(t, `systemctl is-active kthwc-guard.timer && systemctl is-active rig-often.service && systemctl is-enabled rig-often.service`)
	m.must(t, `systemctl stop kthwc-guard.timer`)
	if err := tx.Extend(ctx, time.Hour); err != nil {
		t.Error(err)
	}
	m.must(t, `systemctl is-active kthwc-guard.timer`)
	if err := tx.Rollback(ctx); err != nil {
		t.Error(err)
	}
	if err := tx.Extend(ctx, time.Hour); err == nil || !strings.Contains(err.Error(), "has undone generation") {
		t.Errorf("what was undone has its time anew: %v", err)
	}
	m.must(t, `! systemctl is-active kthwc-guard.timer && ! systemctl is-enabled rig-often.service 2>/dev/null`)
}

// A host that could not undo a change by itself is not changed.
func TestUnarmedHostIsNotChanged(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	tx := direct(t, m, 1)
	ctx := bounded(t, time.Minute)
	m.must(t, `mkdir /etc/rig; echo old >/etc/rig/same; mount --bind /bin/false /usr/bin/systemd-run`)
	was := m.mustPicture(t)
	entries := []apply.Install{install("/etc/rig/same", tree.Regular, 0o644, "new\n", "")}
	if err := tx.Stage(ctx, entries, nil, apply.Recorded{}); err != nil {
		t.Fatal(err)
	}
	if err := tx.Install(ctx, time.Minute); err == nil || !strings.Contains(err.Error(), "no timer can be started that would undo this") {
		t.Errorf("installed: %v", err)
	}
	if wrong := m.mustPicture(t).between(was, was); len(wrong) > 0 {
		t.Errorf("%q", wrong)
	}
	m.must(t, `umount /usr/bin/systemd-run`)
	if err := errors.Join(tx.Install(ctx, time.Minute), tx.Rollback(ctx)); err != nil {
		t.Error(err)
	}
}
