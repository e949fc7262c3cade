package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// seed is a file that a machine has from the start; the text of a link is what
// it leads to.
type seed struct {
	path, text string
	mode       fs.FileMode
	id         int // of user and group
}

type seeds []seed

// The user that is made where cluster.yaml does not log in as root.
const userID = 1000

// sshdSettings, and the unit that makes a namespace feel like a machine, are
// files of every machine.
const (
	sshdSettings = `# The lab's: keys only, and the host key that it has pinned.
Port %d
PermitRootLogin prohibit-password
PasswordAuthentication no
HostKey /etc/ssh/ssh_host_ed25519_key
`
	ownMachine = `[Unit]
Description=Give this machine cgroups and kernel settings of its own
DefaultDependencies=no
Before=sysinit.target systemd-sysctl.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/lib/kthwc-lab/own

[Install]
WantedBy=sysinit.target
`
	ownScript = "usr/local/lib/kthwc-lab/own"
	units     = "etc/systemd/system/"
)

// ownSettings lets a machine write to its own cgroups (version 1), and lays a
// file over each setting of the kernel that all machines share with this one: a
// kubelet writes them.
const ownSettings = `[ ! -d /sys/fs/cgroup/memory ] || for c in /sys/fs/cgroup/*/; do mount -o remount,bind,rw "$c"; done
mkdir -p /run/kthwc-lab
for s in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
	[ -e "/proc/sys/$s" ] || continue
	own="/run/kthwc-lab/$(echo "$s" | tr / .)"
	cat "/proc/sys/$s" >"$own"
	mount --bind "$own" "/proc/sys/$s"
done`

// seeds are the files of one machine, without its keys.
func (f *Fleet) seeds(m Machine) seeds {
	resolver := ""
	for _, g := range f.Gateway {
		resolver += "nameserver " + g.Addr().String() + "\n"
	}
	out := seeds{
		{"etc/hostname", m.Name + "\n", 0o644, 0},
		{"etc/hosts", "127.0.0.1 localhost\n127.0.1.1 " + m.Name + "\n::1 localhost ip6-localhost ip6-loopback\n", 0o644, 0},
		{"etc/resolv.conf", resolver, 0o644, 0},
		{"etc/ssh/sshd_config.d/kthwc-lab.conf", fmt.Sprintf(sshdSettings, m.Port), 0o644, 0},
		{ownScript, "#!/bin/sh -eu\n" + ownSettings + "\n", 0o755, 0},
		{units + "kthwc-lab.service", ownMachine, 0o644, 0},
		{units + "sysinit.target.wants/kthwc-lab.service", "../kthwc-lab.service", fs.ModeSymlink, 0},
		// Nobody types passwords at the console, and waiting takes instances of inotify.
		{units + "systemd-ask-password-console.path", "/dev/null", fs.ModeSymlink, 0},
		{units + "systemd-ask-password-wall.path", "/dev/null", fs.ModeSymlink, 0},
	}
	if m.User != "root" {
		out = append(out, seed{"etc/sudoers.d/" + m.User, m.User + " ALL=(ALL) NOPASSWD: ALL\n", 0o440, 0})
	}
	return out
}

// accounts are lines that are appended to files of the image.
func accounts(user string) map[string]string {
	if user == "root" {
		return nil
	}
	return map[string]string{
		"etc/passwd": fmt.Sprintf("%s:x:%d:%d::/home/%s:/bin/bash\n", user, userID, userID, user),
		"etc/group":  fmt.Sprintf("%s:x:%d:\n", user, userID),
		"etc/shadow": user + ":*:1::::::\n",
	}
}

// digest names the files: a machine with others is another machine.
func (s seeds) digest() string {
	hash := sha256.New()
	for _, f := range s {
		fmt.Fprintf(hash, "%q %q %o %d\n", f.path, f.text, f.mode, f.id)
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}

// A disk is the layer that a machine writes to, with its first files in it, and
// the directories that must lie on a real disk.
func (l *Lab) diskKind() kind {
	return kind{
		files: true, keep: true,
		present: func(_ context.Context, s Step) bool { return exists(l.path("machines", s.Of, "upper")) },
		ensure:  func(_ context.Context, s Step) error { return l.makeDisk(s) },
		undo: func(_ context.Context, s Step) error {
			var errs []error
			for _, name := range []string{"upper", "work", "root", "real", "console.log", "off"} {
				errs = append(errs, os.RemoveAll(l.path("machines", s.Of, name)))
			}
			return errors.Join(errs...)
		},
	}
}

func (l *Lab) makeDisk(s Step) error {
	f, err := l.Fleet()
	if err != nil {
		return err
	}
	m, err := f.Machine(s.Of)
	if err != nil {
		return err
	}
	dirs := []string{"upper", "work", "root"}
	for _, d := range realDisk {
		dirs = append(dirs, filepath.Join("real", filepath.Base(d)))
	}
	for _, d := range dirs {
		if err := os.MkdirAll(l.path("machines", s.Of, d), 0o755); err != nil {
			return err
		}
	}
	files, err := l.withKeys(m, f.seeds(m))
	if err != nil {
		return err
	}
	return l.plant(s.With[0], m, files)
}

// withKeys adds the machine's own key, and the lab's to who may log in.
func (l *Lab) withKeys(m Machine, files seeds) (seeds, error) {
	private, err := os.ReadFile(l.path("machines", m.Name, "host_key"))
	if err != nil {
		return nil, err
	}
	public, err := os.ReadFile(l.path("machines", m.Name, "host_key.pub"))
	if err != nil {
		return nil, err
	}
	operator, err := os.ReadFile(l.path("id_ed25519.pub"))
	if err != nil {
		return nil, err
	}
	home, id := "root", 0
	if m.User != "root" {
		home, id = "home/"+m.User, userID
	}
	return append(files,
		seed{"etc/ssh/ssh_host_ed25519_key", string(private), 0o600, 0},
		seed{"etc/ssh/ssh_host_ed25519_key.pub", string(public), 0o644, 0},
		seed{home + "/.ssh/authorized_keys", string(operator), 0o600, id}), nil
}

// plant writes files to a machine's layer. A directory that the image has too
// is given the image's mode: the layer's is the one that counts.
func (l *Lab) plant(image string, m Machine, files seeds) error {
	root, err := os.OpenRoot(l.path("machines", m.Name, "upper"))
	if err != nil {
		return err
	}
	defer root.Close()
	base, err := os.OpenRoot(image)
	if err != nil {
		return err
	}
	defer base.Close()
	for name, line := range accounts(m.User) {
		text, err := base.ReadFile(name)
		if err != nil {
			return err
		}
		info, err := base.Stat(name)
		if err != nil {
			return err
		}
		files = append(files, seed{name, string(text) + line, info.Mode().Perm(), 0})
	}
	for _, f := range files {
		if err := plantOne(root, base, f); err != nil {
			return err
		}
	}
	return nil
}

func plantOne(root, base *os.Root, f seed) error {
	if err := directories(root, base, path.Dir(f.path), f.id); err != nil {
		return err
	}
	if f.mode&fs.ModeSymlink != 0 {
		return root.Symlink(f.text, f.path)
	}
	if err := root.WriteFile(f.path, []byte(f.text), f.mode); err != nil {
		return err
	}
	return errors.Join(root.Chmod(f.path, f.mode), root.Lchown(f.path, f.id, f.id))
}

// directories makes a directory and those above it: as the image has them, or
// for their owner alone where they are not root's.
func directories(root, base *os.Root, dir string, id int) error {
	at := ""
	for part := range strings.SplitSeq(dir, "/") {
		at = path.Join(at, part)
		if _, err := root.Stat(at); err == nil {
			continue
		}
		mode, owner := fs.FileMode(0o755), 0
		if info, err := base.Stat(at); err == nil {
			mode = info.Mode().Perm()
		} else if id != 0 || path.Base(at) == ".ssh" {
			mode, owner = 0o700, id
		}
		if err := errors.Join(root.Mkdir(at, mode), root.Chmod(at, mode), root.Lchown(at, owner, owner)); err != nil {
			return err
		}
	}
	return nil
}
