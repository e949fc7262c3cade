package lab

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// facts are what a lab needs to know of this machine.
type facts struct {
	os            string
	root          bool
	programs      map[string]bool
	overlay       bool     // the kernel has the overlay file system
	namespaces    []string // that the kernel does not have
	bridgeFilter  bool     // br_netfilter is loaded
	cgroup        int      // version
	capabilities  uint64   // of processes
	diskIsOverlay bool     // the state directory lies on an overlay file system
	watchers      int      // instances of inotify that root may have besides those of others
}

// capSysResource is the number of the capability to lower oom_score_adj.
const capSysResource = 24

var errNotRoot = &Error{Lacking, "the lab makes namespaces, mounts and machines: only root may", "run it with sudo"}

// watchersEach is how many instances of inotify a machine uses with all that a
// cluster runs there; too few, and units fail for "too many open files".
const watchersEach = 16

// observe looks at the machine, for a lab in a state directory.
func observe(state string) facts {
	self := readText("/proc/self/cgroup")
	f := facts{
		os: runtime.GOOS, root: os.Geteuid() == 0, programs: map[string]bool{},
		overlay:       strings.Contains(readText("/proc/filesystems"), "\toverlay\n"),
		bridgeFilter:  exists("/proc/sys/net/bridge/bridge-nf-call-iptables"),
		cgroup:        cgroupVersion(self),
		capabilities:  capabilities(readText("/proc/self/status")),
		diskIsOverlay: fileSystem(readText("/proc/self/mountinfo"), state) == "overlay",
		watchers:      watchersLeft(),
	}
	for _, name := range []string{"mnt", "net", "pid", "uts", "ipc", "cgroup"} {
		if !exists("/proc/self/ns/" + name) {
			f.namespaces = append(f.namespaces, name)
		}
	}
	for _, p := range programs {
		_, f.programs[p.name] = find(p.name)
	}
	for _, b := range builders {
		_, f.programs[b.name] = find(b.name)
	}
	return f
}

// watchersLeft are the instances of inotify that root, who is the same on all
// machines, may still make.
func watchersLeft() int {
	limit, err := strconv.Atoi(strings.TrimSpace(readText("/proc/sys/fs/inotify/max_user_instances")))
	if err != nil {
		return math.MaxInt
	}
	for _, pid := range processes() {
		files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)) // one that has ended has none
		for _, file := range files {
			if target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, file.Name())); err == nil && target == "anon_inode:inotify" {
				limit--
			}
		}
	}
	return limit
}

// capabilities are those of the bounding set: what a machine could have at most.
func capabilities(status string) uint64 {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			bits, _ := strconv.ParseUint(strings.TrimSpace(rest), 16, 64)
			return bits
		}
	}
	return 0
}

// fileSystem is the type of the file system that a path lies on.
func fileSystem(mountinfo, path string) string {
	best, kind := -1, ""
	for line := range strings.Lines(mountinfo) {
		before, after, found := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !found || len(left) < 5 || len(right) < 1 {
			continue
		}
		at := strings.TrimSuffix(left[4], "/") + "/"
		if strings.HasPrefix(path+"/", at) && len(at) >= best {
			best, kind = len(at), right[0]
		}
	}
	return kind
}

// lack is one thing that the machine does not have, and how to get it.
type lack struct{ what, fix string }

// lacks are the rows of what a lab needs.
func (f facts) lacks(fleet *Fleet) []lack {
	var out []lack
	need := func(has bool, what, fix string) {
		if !has {
			out = append(out, lack{what, fix})
		}
	}
	need(f.overlay, "the kernel has no overlay file system", "modprobe overlay")
	need(len(f.namespaces) == 0, "the kernel lacks namespaces: "+strings.Join(f.namespaces, ", "), "use a kernel with CONFIG_NAMESPACES and all that is below it")
	need(f.bridgeFilter, "the kernel does not filter what passes a bridge, which Services need", "modprobe br_netfilter")
	need(!f.diskIsOverlay, "the state directory lies on an overlay file system, which cannot carry another", "name a directory on a disk with --state")
	watchers := watchersEach * len(fleet.Machines)
	need(f.watchers >= watchers, fmt.Sprintf("root may have %d more instances of inotify, and %d machines take up to %d", f.watchers, len(fleet.Machines), watchers), "sysctl -w fs.inotify.max_user_instances=1024")
	var debs, names []string
	for _, p := range programs {
		if !f.programs[p.name] && (fleet.Balancer != nil || !p.alone) {
			names, debs = append(names, p.name), append(debs, p.deb)
		}
	}
	if !slices.ContainsFunc(builderNames(), func(name string) bool { return f.programs[name] }) {
		names, debs = append(names, strings.Join(builderNames(), " or ")), append(debs, builders[0].name)
	}
	slices.Sort(debs)
	need(len(names) == 0, "programs are missing: "+strings.Join(names, ", "), "apt-get install "+strings.Join(slices.Compact(debs), " "))
	return out
}

func builderNames() []string {
	var out []string
	for _, b := range builders {
		out = append(out, b.name)
	}
	return out
}

// refuse says everything that the machine lacks at once.
func (f facts) refuse(fleet *Fleet) error {
	if f.os != "linux" {
		return &Error{Lacking, "a lab needs Linux, and this machine runs " + f.os, "use a Linux machine; everything else of kthwc works here"}
	}
	if !f.root {
		return errNotRoot
	}
	lacks := f.lacks(fleet)
	if len(lacks) == 0 {
		return nil
	}
	var what, fixes []string
	for _, l := range lacks {
		what, fixes = append(what, l.what), append(fixes, l.fix)
	}
	return &Error{Lacking, fmt.Sprintf("this machine cannot run a lab yet: %s", strings.Join(what, "; ")), strings.Join(fixes, "; ")}
}
