package apply

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kthwc/kthwc/pkg/tree"
)

// checks are what must be true of a host before anything is done there.
var checks = []func(*desired, *State) string{
	func(_ *desired, s *State) string {
		return want(s.Facts.UID == 0, "commands do not run as root: give ssh.user a way to (sudo)")
	},
	func(_ *desired, s *State) string {
		return want(s.Facts.Init == "systemd", "its init is %s, not systemd", s.Facts.Init)
	},
	func(n *desired, s *State) string {
		return want(s.Facts.Hostname == n.Name, "it is called %s: hostnamectl set-hostname %s", s.Facts.Hostname, n.Name)
	},
	func(n *desired, s *State) string {
		return want(!has(n.Node, kubeletUnit) || s.Facts.Resolvers > 0, "/etc/resolv.conf names no name server: the cluster's DNS would not start")
	},
	func(n *desired, s *State) string {
		at := slices.IndexFunc(n.Binaries, func(b tree.Binary) bool { return b.Arch != s.Facts.Arch })
		return want(at < 0, "it is %s, and its programs are for another processor: set arch", s.Facts.Arch)
	},
	func(n *desired, s *State) string {
		return want(n.Swap != "off" || len(s.Facts.Swaps) == 0, "swap is on (%v): swapoff -a, and take it out of /etc/fstab", s.Facts.Swaps)
	},
	func(n *desired, s *State) string {
		return want(n.Swap != "off" || len(s.Facts.SwapAtBoot) == 0, "swap comes back at the next boot: take %v out of /etc/fstab", s.Facts.SwapAtBoot)
	},
	func(_ *desired, s *State) string {
		return want(s.Facts.FreeInodes == Unlimited || s.Facts.FreeInodes > 2000, "only %d files more can be made below /var/lib", s.Facts.FreeInodes)
	},
	func(_ *desired, s *State) string {
		return want(s.Facts.FreeBytes > 512<<20, "only %d MiB are free below /var/lib", s.Facts.FreeBytes>>20)
	},
	func(_ *desired, s *State) string {
		return want(s.Facts.Skew.Abs() <= mostSkew, "its clock is %v %s: set it (timedatectl), or certificates are not valid yet, or no more", s.Facts.Skew.Abs().Round(time.Second), away(s.Facts.Skew))
	},
	noModules, noSettings, oldCgroups,
	func(_ *desired, s *State) string {
		for _, tool := range []string{"tar", "flock", "sync", "sha256sum", "systemctl", "systemd-run"} {
			if !s.Facts.Tools[tool] {
				return tool + " is missing: it is in coreutils, util-linux, tar or systemd"
			}
		}
		return ""
	},
}

// Clocks that differ a little are warned of. By as much as certificates begin
// before they are issued, clocks may differ and no certificate is refused.
const (
	someSkew = 30 * time.Second
	mostSkew = 5 * time.Minute
)

// away says in which direction a clock is wrong.
func away(skew time.Duration) string {
	if skew < 0 {
		return "behind this machine's"
	}
	return "ahead of this machine's"
}

func want(ok bool, format string, args ...any) string {
	if ok {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// preflight lists what stands in the way: of the host, and of what is planned for
// it.
func preflight(n *desired, s *State, p *HostPlan) []string {
	var out []string
	for _, check := range checks {
		if problem := check(n, s); problem != "" {
			out = append(out, problem)
		}
	}
	for _, c := range p.Changes {
		if c.NotIssued != "" {
			out = append(out, "certificates or keys are not issued (kthwc pki issue): "+c.NotIssued)
			break
		}
	}
	out = append(out, inPlace(p)...)
	need := int64(0)
	for _, b := range append(p.Programs, p.Images...) {
		need += b.Size
	}
	if need += need / 5; need > s.Facts.FreeBytes {
		out = append(out, fmt.Sprintf("%d MiB of programs are to be installed, and %d MiB are free", need>>20, s.Facts.FreeBytes>>20))
	}
	return append(out, taken(n, s)...)
}

// inPlace lists paths where something else is than what can be replaced: whoever
// put a link or a file where a directory shall be, or the other way round, meant
// something by it.
func inPlace(p *HostPlan) []string {
	var out []string
	for _, c := range p.Changes {
		for _, what := range c.What {
			if shall, is, differs := strings.Cut(what, " instead of "); differs && (shall == string(tree.Dir) || is == string(tree.Dir) || is == orOther("")) {
				out = append(out, fmt.Sprintf("%s is %s, and shall be %s: move it away", c.Path, is, shall))
			}
		}
	}
	return out
}

// taken lists the ports that somebody else listens on: a unit of ours that is to
// be started would not get them.
func taken(n *desired, s *State) []string {
	var out []string
	for _, u := range n.Units {
		if active := s.Units[u.Name].Active; !u.Started || active != "" && active != "inactive" && active != "failed" {
			continue
		}
		for _, p := range u.Probes {
			at, err := url.Parse(p.URL)
			if err != nil {
				continue
			}
			if port, err := strconv.Atoi(at.Port()); err == nil && s.Ports[port] {
				out = append(out, fmt.Sprintf("%s is to be started, and something else listens on port %d: ss -tlnp sport = %d", u.Name, port, port))
			}
		}
	}
	return out
}
