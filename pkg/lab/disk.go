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

// seed is a file that a machine has from the start.
type seed struct {
	path, text string
	mode       fs.FileMode
	id         int // of user and group
}

type seeds []seed

// The user that is made where cluster.yaml does not log in as root.
const userID = 1000

// sshdSettings and remountCgroups are files of every machine.
const (
	sshdSettings = `# The lab's: keys only, and the host key that it has pinned.
Port %d
PermitRootLogin prohibit-password
PasswordAuthentication no
HostKey /etc/ssh/ssh_host_ed25519_key
`
	remountCgroups = `[Unit]
Description=Let this machine write to its own cgroups (version 1)
DefaultDependencies=no
Before=sysinit.target
ConditionPathIsMountPoint=/sys/fs/cgroup/memory

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -euc 'for c in /sys/fs/cgroup/*/; do mount -o remount,bind,rw "$c"; done'

[Install]
WantedBy=sysinit.target
`
	cgroupUnit = "etc/systemd/system/kthwc-lab-cgroups.service"
)

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
		{cgroupUnit, remountCgroups, 0o644, 0},
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
			for _, name := range []string{"upper", "work", "root", "real", "console.log"} {
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
	wanted := "etc/systemd/system/sysinit.target.wants/" + path.Base(cgroupUnit)
	if err := directories(root, base, path.Dir(wanted), 0); err != nil {
		return err
	}
	return root.Symlink("/"+cgroupUnit, wanted)
}

func plantOne(root, base *os.Root, f seed) error {
	if err := directories(root, base, path.Dir(f.path), f.id); err != nil {
		return err
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
