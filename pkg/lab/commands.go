package lab

import (
	"path/filepath"
	"strconv"
)

// Every command that a lab runs is on this page; those of the network are lines
// of the plan (plan.go).

// programs are what the commands need, and the Debian package of each.
var programs = []struct {
	name, deb string
	alone     bool // needed only with a balancer
}{
	{"systemd-nspawn", "systemd-container", false},
	{"ip", "iproute2", false},
	{"unshare", "util-linux", false},
	{"nsenter", "util-linux", false},
	{"setpriv", "util-linux", false},
	{"mount", "mount", false},
	{"umount", "mount", false},
	{"ssh", "openssh-client", false},
	{"ssh-keygen", "openssh-client", false},
	{"haproxy", "haproxy", true},
}

// builders make the root file system; the first that is there is taken.
var builders = []struct {
	name    string
	command func(dir, mirror string) []string
}{
	{"mmdebstrap", func(dir, mirror string) []string {
		return []string{"mmdebstrap", "--mode=root", "--variant=minbase", "--include=" + packageList(), suite, dir, mirror}
	}},
	{"debootstrap", func(dir, mirror string) []string {
		return []string{"debootstrap", "--variant=minbase", "--include=" + packageList(), suite, dir, mirror}
	}},
}

// building runs a builder in namespaces of its own: it dies with kthwc, its
// mounts die with it, and what it leaves lies in a directory that is removed.
func building(temp string, command []string) []string {
	return append([]string{"setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "env", "TMPDIR=" + temp}, command...)
}

// holder is the first process of the lab's namespaces: it collects the children
// that others leave. Its end is the end of everything in them.
const holder = `mount -t tmpfs -o mode=0755 kthwc-lab /run
ip link set lo up
: >/run/kthwc-lab
while :; do sleep 1000000 & wait "$!"; done`

func holding() []string {
	return []string{"unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "sh", "-euc", holder}
}

// inside runs a command in all namespaces of the lab, inNetwork in its network only.
func inside(pid int, command ...string) []string {
	return append([]string{"nsenter", "--target", strconv.Itoa(pid), "--mount", "--net", "--pid", "--"}, command...)
}

func inNetwork(pid int, command ...string) []string {
	return append([]string{"nsenter", "--target", strconv.Itoa(pid), "--net", "--"}, command...)
}

func mounting(lower, dir string) []string {
	options := "lowerdir=" + lower + ",upperdir=" + filepath.Join(dir, "upper") + ",workdir=" + filepath.Join(dir, "work")
	return []string{"mount", "-t", "overlay", "-o", options, "overlay", filepath.Join(dir, "root")}
}

func unmounting(dir string) []string {
	return []string{"umount", "--lazy", filepath.Join(dir, "root")}
}

// launcher boots a machine in its cgroups; one that reboots ends with 133 and is
// booted again, in a network that is made again. The launcher itself stays outside: with version 2, a group with
// processes in it cannot hand out controllers.
const launcher = `rewire=$1
shift
enter() {
	while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 1; shift; done
	shift
	exec "$@"
}
while :; do
	code=0
	(enter "$@") || code=$?
	[ "$code" -eq 133 ] || exit "$code"
	sh -euc "$rewire"
done`

// booting starts a machine whose root is at dir/root.
func booting(name, dir, rewire string, cgroups []string) []string {
	command := append([]string{"sh", "-euc", launcher, "launcher", rewire}, cgroups...)
	command = append(command, "--", "systemd-nspawn", "--boot", "--register=no", "--keep-unit",
		"--directory="+filepath.Join(dir, "root"), "--machine="+name, "--hostname="+name,
		"--network-namespace-path=/run/netns/"+name,
		"--capability=all", "--system-call-filter=@keyring bpf @mount",
		"--console=pipe", "--resolv-conf=off", "--timezone=off", "--link-journal=no")
	if exists("/dev/kmsg") {
		command = append(command, "--bind=/dev/kmsg")
	}
	for _, b := range realDisk {
		command = append(command, "--bind="+filepath.Join(dir, "real", filepath.Base(b))+":"+b)
	}
	return command
}

// realDisk are directories that hold overlay mounts themselves: these must not
// lie on one.
var realDisk = []string{"/var/lib/containerd", "/var/lib/kubelet"}

func balancing(config string) []string {
	return []string{"ip", "netns", "exec", balancerNet, "haproxy", "-db", "-f", config}
}

func makingKey(file, comment string) []string {
	return []string{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", file}
}

// ssh logs in to a machine; words are what its shell shall read.
func ssh(config, name string, words ...string) []string {
	return append([]string{"ssh", "-F", config, name}, words...)
}

// asking is ssh for a question of ours: no terminal, no prompt.
func asking(config, name string, words ...string) []string {
	return append([]string{"ssh", "-F", config, "-n", "-T", "-o", "BatchMode=yes", name, "--"}, words...)
}
