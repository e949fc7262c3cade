package lab

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const archHere = runtime.GOARCH

const (
	mountsV1 = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	selfV1 = `4:memory:/outer/inner
3:cpu,cpuacct:/
2:net_cls:/
1:name=systemd:/user.slice
0::/
`
	mountsV2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	selfV2   = "0::/user.slice/user-0.slice/session-3.scope\n"
)

// Version 1: below the group that the caller is in, in every hierarchy that is
// mounted. Version 2: at the top, where controllers may be handed out. Version 2
// is computed here and was never run.
func TestCgroupRoots(t *testing.T) {
	for _, c := range []struct {
		name, self, mounts string
		version            int
		want               []string
	}{
		{"version 1", selfV1, mountsV1, 1, []string{"/sys/fs/cgroup/memory/outer/inner/lab", "/sys/fs/cgroup/cpu,cpuacct/lab", "/sys/fs/cgroup/systemd/user.slice/lab", "/sys/fs/cgroup/unified/lab"}},
		{"version 2", selfV2, mountsV2, 2, []string{"/sys/fs/cgroup/lab"}},
		{"in a container", "4:memory:/docker/abc/x\n", "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", 1, []string{"/sys/fs/cgroup/memory/x/lab"}},
		{"outside of what is mounted", "4:memory:/other\n", "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", 1, []string{"/sys/fs/cgroup/memory/lab"}},
		{"nothing", "", "", 2, nil},
	} {
		if v := cgroupVersion(c.self); v != c.version {
			t.Errorf("%s: version %d", c.name, v)
		}
		if got := cgroupRoots(c.self, c.mounts, "lab"); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, not %v", c.name, got, c.want)
		}
	}
}

// A group of version 1 gets its processors from above; one of version 2 gets
// every controller that there is, on each level.
func TestMakeCgroup(t *testing.T) {
	top := t.TempDir()
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(top, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(top, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("cpuset.cpus", "0-1\n")
	write("lab/cpuset.cpus", "\n")
	write("lab/m/cpuset.cpus", "\n")
	if err := makeCgroup(filepath.Join(top, "lab", "m"), false); err != nil {
		t.Fatal(err)
	}
	if got := readText(filepath.Join(top, "lab/m/cpuset.cpus")); got != "0-1\n" {
		t.Errorf("the machine has the processors %q", got)
	}
	write("cgroup.controllers", "memory\n")
	write("lab/cgroup.controllers", "memory\n")
	if err := makeCgroup(filepath.Join(top, "lab", "m"), true); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", "lab"} {
		if got := readText(filepath.Join(top, dir, "cgroup.subtree_control")); got != "+memory" {
			t.Errorf("%q hands out %q", dir, got)
		}
	}
}

// well is a machine that lacks nothing.
func well() facts {
	f := facts{os: "linux", root: true, programs: map[string]bool{"mmdebstrap": true}, overlay: true, bridgeFilter: true, cgroup: 1, watchers: 16, capabilities: ^uint64(0)}
	for _, p := range programs {
		f.programs[p.name] = true
	}
	return f
}

// Whatever is missing is named with the fix, all of it at once.
func TestRefusal(t *testing.T) {
	fleet := &Fleet{Balancer: &Balancer{}, Machines: make([]Machine, 1)}
	if err := well().refuse(fleet); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		spoil func(*facts)
		want  []string
	}{
		"not Linux":  {func(f *facts) { f.os = "darwin" }, []string{"darwin"}},
		"not root":   {func(f *facts) { f.root = false }, []string{"sudo"}},
		"overlay":    {func(f *facts) { f.overlay = false }, []string{"modprobe overlay"}},
		"bridge":     {func(f *facts) { f.bridgeFilter = false }, []string{"modprobe br_netfilter"}},
		"namespaces": {func(f *facts) { f.namespaces = []string{"cgroup"} }, []string{"CONFIG_NAMESPACES", "cgroup"}},
		"watchers":   {func(f *facts) { f.watchers = 15 }, []string{"sysctl -w fs.inotify.max_user_instances", "15", "16"}},
		"disk":       {func(f *facts) { f.diskIsOverlay = true }, []string{"--state"}},
		"programs": {func(f *facts) { f.programs = map[string]bool{"ip": true} },
			[]string{"apt-get install haproxy mmdebstrap mount openssh-client systemd-container util-linux", "systemd-nspawn", "mmdebstrap or debootstrap"}},
		"two things": {func(f *facts) { f.overlay, f.bridgeFilter = false, false }, []string{"modprobe overlay", "modprobe br_netfilter"}},
	} {
		f := well()
		c.spoil(&f)
		err := f.refuse(fleet)
		var known *Error
		if !errors.As(err, &known) || known.Reason != Lacking {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(known.Message+known.Help, want) {
				t.Errorf("%s: %q is not in %s; %s", name, want, known.Message, known.Help)
			}
		}
	}
	f := well()
	delete(f.programs, "haproxy")
	if err := f.refuse(&Fleet{}); err != nil {
		t.Errorf("a lab without a balancer needs none: %v", err)
	}
}

func TestWhatIsReadOfProc(t *testing.T) {
	if got := capabilities("Name:\tx\nCapEff:\t0000000000000000\nCapBnd:\t000001fffeffffff\n"); got&(1<<capSysResource) != 0 || got&(1<<21) == 0 {
		t.Errorf("%x", got)
	}
	mounts := "27 1 254:0 / / rw - ext4 /dev/vda rw\n28 27 0:5 / /var/lib rw - overlay o rw\n29 28 0:6 / /var/library rw - xfs x rw\n"
	for path, want := range map[string]string{"/home/x": "ext4", "/var/lib/lab": "overlay", "/var/library": "xfs", "/var/lib": "overlay"} {
		if got := fileSystem(mounts, path); got != want {
			t.Errorf("%s lies on %s", path, got)
		}
	}
	for status, want := range map[string]bool{"NSpid:\t70\t1\n": true, "NSpid:\t70\n": false, "NSpid:\t70\t2\n": false, "NSpid:\t70\t5\t1\n": false, "": false} {
		if firstOfNamespace(status) != want {
			t.Errorf("%q", status)
		}
	}
	for environ, want := range map[string]string{
		"A=b\x00KTHWC_LAB=id\x00KTHWC_LAB_PART=boot/a\x00": "boot/a", "KTHWC_LAB=other\x00KTHWC_LAB_PART=x\x00": "-", "XKTHWC_LAB=id\x00": "-", "KTHWC_LAB=id\x00": "",
	} {
		part, ours := partOf([]byte(environ), "id")
		if got := map[bool]string{true: part, false: "-"}[ours]; got != want {
			t.Errorf("%q is of %q", environ, got)
		}
	}
}

// A directory that is not a lab's is refused before anything is written, since
// down would remove it.
func TestForeignDirectories(t *testing.T) {
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(Options{State: foreign, Cache: "/cache"})
	if err != nil {
		t.Fatal(err)
	}
	for _, create := range []bool{true, false} {
		var known *Error
		if err := l.begin(t.Context(), create); !errors.As(err, &known) || known.Reason != Refused {
			t.Errorf("%v", err)
		}
	}
	if entries, _ := os.ReadDir(foreign); len(entries) != 1 {
		t.Errorf("something was written: %v", entries)
	}
	for _, state := range []string{"/run/lab", "/tmp/a,b", "/tmp/a:b", "/tmp/a b"} {
		if _, err := Open(Options{State: state, Cache: "/cache"}); err == nil {
			t.Errorf("%s was taken", state)
		}
	}
}

// Two runs at once are one, and the other says so. The lock is free when the
// first ends, and removing the lab removes all of it.
func TestLockAndRemoval(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x.kthwc", "lab")
	open := func() *Lab {
		l, err := Open(Options{State: dir, Cache: "/cache"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := open()
	if err := first.begin(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := open().tryLock(); !errors.Is(err, errLocked) {
		t.Errorf("a second lock: %v", err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others can read the lab: %v", info.Mode())
	}
	first.end()
	second := open()
	if err := second.begin(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := second.removeState(); err != nil {
		t.Fatal(err)
	}
	second.end()
	if exists(filepath.Dir(dir)) {
		t.Error("something is left")
	}
}

// A journal that was cut off anywhere is the journal before the entry that was cut.
func TestJournalIsCutAnywhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := openJournal(path, "lab-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []entry{{Do: began, Step: Step{boot, "a", []string{"x"}}}, {Do: done, Step: Step{boot, "a", []string{"x"}}}} {
		if err := j.write(e); err != nil {
			t.Fatal(err)
		}
	}
	_ = j.close()
	text, _ := os.ReadFile(path)
	for cut := range len(text) + 1 {
		if err := os.WriteFile(path, text[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := openJournal(path, "lab-1")
		if err != nil || again.id != "lab-1" {
			t.Fatalf("cut at %d: %q %v", cut, again.id, err)
		}
		if err := again.write(entry{Do: began, Step: Step{wire, "b", nil}}); err != nil {
			t.Fatal(err)
		}
		_ = again.close()
		after := readJournal([]byte(readText(path)))
		if _, ok := after.find(Step{wire, "b", nil}); !ok || after.id != "lab-1" {
			t.Fatalf("cut at %d: what was written next is lost", cut)
		}
		lines := bytes.Count(append(text, '\n')[:cut+1], []byte("}\n"))
		if r, ok := after.find(Step{boot, "a", nil}); ok != (lines > 1) || r.Done != (lines > 2) {
			t.Fatalf("cut at %d: %v after %d lines", cut, r, lines)
		}
	}
}

// A machine's files get their modes, those of the image where it has the
// directory; the user that logs in has an account and may become root.
func TestPlant(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("gives files to other users: needs root")
	}
	base := t.TempDir()
	for name, mode := range map[string]fs.FileMode{"etc": 0o755, "etc/sudoers.d": 0o750, "root": 0o700, "etc/ssh": 0o755, "home": 0o755} {
		if err := errors.Join(os.MkdirAll(filepath.Join(base, name), mode), os.Chmod(filepath.Join(base, name), mode)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"passwd", "group", "shadow"} {
		if err := os.WriteFile(filepath.Join(base, "etc", name), []byte("root:x\n"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	l := &Lab{Options: Options{State: t.TempDir()}}
	f := fleets(t)["user"]
	m := f.Machines[0]
	for name, text := range map[string]string{"id_ed25519.pub": "operator", "machines/" + m.Name + "/host_key": "private", "machines/" + m.Name + "/host_key.pub": "public", "machines/" + m.Name + "/upper/x": ""} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(l.path(name)), 0o755), os.WriteFile(l.path(name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := l.withKeys(m, f.seeds(m))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.plant(base, m, files); err != nil {
		t.Fatal(err)
	}
	upper := l.path("machines", m.Name, "upper")
	for name, want := range map[string]fs.FileMode{
		"etc/hostname": 0o644, "etc/sudoers.d": 0o750 | fs.ModeDir, "etc/sudoers.d/admin": 0o440, "etc/ssh/ssh_host_ed25519_key": 0o600,
		"home/admin": 0o700 | fs.ModeDir, "home/admin/.ssh": 0o700 | fs.ModeDir, "home/admin/.ssh/authorized_keys": 0o600, "etc/shadow": 0o640,
	} {
		if info, err := os.Stat(filepath.Join(upper, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	for name, want := range map[string]string{"etc/hostname": m.Name + "\n", "home/admin/.ssh/authorized_keys": "operator", "etc/passwd": "root:x\nadmin:x:1000:1000::/home/admin:/bin/bash\n"} {
		if got := readText(filepath.Join(upper, name)); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	unit := filepath.Join(upper, units, "sysinit.target.wants", "kthwc-lab.service")
	if !strings.Contains(readText(unit), "ExecStart=/"+ownScript+"\n") || !strings.HasPrefix(readText(filepath.Join(upper, ownScript)), "#!/bin/sh") {
		t.Error("the machine's own unit is not enabled, or has no program")
	}
	if !strings.Contains(readText(filepath.Join(upper, "etc/ssh/sshd_config.d/kthwc-lab.conf")), "Port 2222\n") {
		t.Error("sshd does not listen where cluster.yaml says")
	}
}

// An image keeps nothing that two machines must not share.
func TestClean(t *testing.T) {
	dir := t.TempDir()
	for _, name := range strange {
		if strings.HasSuffix(name, "/") {
			name += "file"
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := clean(dir); err != nil {
		t.Fatal(err)
	}
	var left []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		if !d.IsDir() {
			left = append(left, strings.TrimPrefix(path, dir))
		}
		return nil
	})
	if !slices.Equal(left, []string{"/etc/machine-id"}) || readText(filepath.Join(dir, "etc/machine-id")) != "" {
		t.Errorf("left: %v", left)
	}
}

func TestLastLines(t *testing.T) {
	if got := lastLines("a\nb\x1b[31m\nc\n", 2); got != "\n    b[31m\n    c" {
		t.Errorf("%q", got)
	}
	if lastLines("", 3) != "" {
		t.Error("nothing became something")
	}
}

func mustMkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}
