package apply

import (
	"fmt"
	"slices"

	"github.com/kthwc/kthwc/pkg/tree"
)

// checks are what must be true of a host before anything is done there.
var checks = []struct {
	what func(*tree.Node, *State) string
}{
	{func(_ *tree.Node, s *State) string {
		return want(s.Facts.UID == 0, "commands do not run as root: give ssh.user a way to (sudo)")
	}},
	{func(_ *tree.Node, s *State) string {
		return want(s.Facts.Init == "systemd", "its init is %s, not systemd", s.Facts.Init)
	}},
	{func(n *tree.Node, s *State) string {
		return want(s.Facts.Hostname == n.Name, "it is called %s: hostnamectl set-hostname %s", s.Facts.Hostname, n.Name)
	}},
	{func(n *tree.Node, s *State) string {
		at := slices.IndexFunc(n.Binaries, func(b tree.Binary) bool { return b.Arch != s.Facts.Arch })
		return want(at < 0, "it is %s, and its programs are for another processor: set arch", s.Facts.Arch)
	}},
	{func(n *tree.Node, s *State) string {
		return want(n.Swap != "off" || len(s.Facts.Swaps) == 0, "swap is on (%v): swapoff -a, and take it out of /etc/fstab", s.Facts.Swaps)
	}},
	{func(_ *tree.Node, s *State) string {
		return want(s.Facts.FreeInodes == 0 || s.Facts.FreeInodes > 2000, "only %d files more can be made below /var/lib", s.Facts.FreeInodes)
	}},
	{func(_ *tree.Node, s *State) string {
		return want(s.Facts.FreeBytes > 512<<20, "only %d MiB are free below /var/lib", s.Facts.FreeBytes>>20)
	}},
	{func(_ *tree.Node, s *State) string {
		for _, tool := range []string{"tar", "flock", "sync", "sha256sum", "systemctl", "systemd-run"} {
			if !s.Facts.Tools[tool] {
				return tool + " is missing: it is in coreutils, util-linux, tar or systemd"
			}
		}
		return ""
	}},
}

func want(ok bool, format string, args ...any) string {
	if ok {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// preflight lists what stands in the way.
func preflight(n *tree.Node, s *State) []string {
	var out []string
	for _, c := range checks {
		if problem := c.what(n, s); problem != "" {
			out = append(out, problem)
		}
	}
	return out
}
