package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// suite is the Debian release of the machines.
const suite = "bookworm"

// packages are what a machine starts with: what makes it a host that can be
// logged in to, and what the components need.
var packages = []string{
	"systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "ca-certificates", "procps", "kmod",
	"iproute2", "iptables", "nftables", "conntrack", "socat", "ipset",
	"nginx-light", // the controllers' health site
	"haproxy",     // the workers' way to the API servers
}

// strange are files of the root file system that must not be the same on every
// machine, or that say something about this one. Directories end in a slash.
var strange = []string{
	"etc/ssh/ssh_host_ecdsa_key", "etc/ssh/ssh_host_ecdsa_key.pub",
	"etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub",
	"etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub",
	"etc/hostname", "etc/resolv.conf", "etc/machine-id", "var/lib/dbus/machine-id",
	"var/cache/apt/", "var/lib/apt/lists/",
}

func packageList() string { return strings.Join(packages, ",") }

// imageDir is where the root file system lies: made from another list of
// packages it is another one.
func (l *Lab) imageDir() string {
	digest := sha256.Sum256([]byte(suite + "\n" + packageList() + "\n" + strings.Join(strange, "\n")))
	return filepath.Join(l.Cache, suite+"-"+hex.EncodeToString(digest[:8]))
}

// An image is kept: other labs use it, and the next one. Only what is left of a
// build that was interrupted is undone.
func (l *Lab) imageKind() kind {
	return kind{
		files:   true,
		present: func(_ context.Context, s Step) bool { return exists(s.With[0]) },
		ensure: func(ctx context.Context, s Step) error {
			if exists(s.With[0]) {
				return nil
			}
			return l.buildImage(ctx, s)
		},
		undo: func(_ context.Context, s Step) error { return l.dropBuild(s.With[0]) },
	}
}

// unfinished are where an image is built, and where its builder keeps its own.
func (l *Lab) unfinished(dir string) (build, temp string) {
	return dir + "." + l.id, dir + "." + l.id + ".tmp"
}

func (l *Lab) dropBuild(dir string) error {
	build, temp := l.unfinished(dir)
	return errors.Join(os.RemoveAll(build), os.RemoveAll(temp))
}

// buildImage builds beside the place and moves the result there in one step.
func (l *Lab) buildImage(ctx context.Context, s Step) error {
	l.Progress(Event{s, Waiting, "a minute or two; it is kept for the next time"})
	dir := s.With[0]
	build, temp := l.unfinished(dir)
	if err := errors.Join(l.dropBuild(dir), os.MkdirAll(temp, 0o755)); err != nil {
		return err
	}
	for _, b := range builders {
		if _, ok := find(b.name); !ok {
			continue
		}
		if _, err := l.runner.run(ctx, 15*time.Minute, building(temp, b.command(build, l.Mirror))...); err != nil {
			return &Error{Failed, err.Error(), "see that " + l.Mirror + " can be reached, or name another archive with --mirror"}
		}
		break
	}
	if err := clean(build); err != nil {
		return err
	}
	if err := os.Rename(build, dir); err != nil && !errors.Is(err, fs.ErrExist) { // another lab was faster
		return err
	}
	return l.dropBuild(dir)
}

// clean takes out of a root file system what must not be shared. An empty
// machine-id makes systemd write one of its own at the first boot.
func clean(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range strange {
		if err := root.RemoveAll(strings.TrimSuffix(name, "/")); err != nil {
			return err
		}
		if strings.HasSuffix(name, "/") {
			if err := root.MkdirAll(strings.TrimSuffix(name, "/"), 0o755); err != nil {
				return err
			}
		}
	}
	return root.WriteFile("etc/machine-id", nil, 0o444)
}
