package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/pkg/lab"
)

// labPrograms are what a lab needs of Debian.
var labPrograms = []string{"systemd-nspawn", "mmdebstrap", "ip", "ssh", "ssh-keygen", "haproxy", "unshare", "nsenter", "setpriv"}

// A lab comes up from wherever a SIGKILL left it, its machines are hosts that
// can be logged in to, and down leaves the machine as it was, also when it was
// killed itself.
func TestLab(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the lab makes namespaces and mounts, which only root may: run the tests as root to run this one")
	}
	for _, program := range labPrograms {
		readers.Path(t, program)
	}
	dir := t.TempDir()
	example, err := os.ReadFile("../../examples/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cluster.yaml"), example, 0o600); err != nil {
		t.Fatal(err)
	}
	l := &labRun{t: t, dir: dir, id: "kthwc-lab-none", namespaces: map[string]bool{}}
	l.run("lab", "down") // of nothing: does nothing
	l.gone()
	t.Cleanup(func() { _ = l.command(context.Background(), "lab", "down").Run() })

	seed := uint64(time.Now().UnixNano())
	t.Logf("the moments of the kills are those of seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	l.first()
	l.look()
	l.run("lab", "down")
	l.gone()
	for range 4 {
		l.killed(time.Duration(random.Int64N(int64(4*time.Second))), "lab", "up")
	}
	l.run("lab", "up")
	if said := l.run("lab", "up"); !strings.Contains(said, "nothing was done") {
		t.Errorf("up of what is up says:\n%s", said)
	}
	l.look()
	l.hosts()
	forwarded := l.forward()
	l.power()
	l.killed(time.Duration(random.Int64N(int64(1500*time.Millisecond))), "lab", "down")
	l.killed(time.Duration(random.Int64N(int64(1500*time.Millisecond))), "lab", "up")
	l.run("lab", "down")
	l.gone()
	if c, err := net.Dial("tcp", forwarded); err == nil {
		c.Close()
		t.Errorf("down left somebody who listens at %s", forwarded)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.kthwc")); len(left) > 0 {
		t.Errorf("down left %v", left)
	}
}

// labRun runs kthwc for one lab.
type labRun struct {
	t          *testing.T
	dir        string
	id         string          // of the lab, once there is one
	namespaces map[string]bool // that its processes were seen in
}

// labMachines are the machines of examples/lab.yaml.
var labMachines = map[string]string{
	"controller-0": "10.240.0.10", "controller-1": "10.240.0.11", "controller-2": "10.240.0.12",
	"worker-0": "10.240.0.20", "worker-1": "10.240.0.21", "worker-2": "10.240.0.22",
}

// look notes what there is of a lab that is up: the traces must be there, or
// nobody would miss them afterwards.
func (l *labRun) look() {
	l.t.Helper()
	journal, _ := os.ReadFile(filepath.Join(l.dir, "lab.kthwc", "lab", "journal"))
	if found := regexp.MustCompile(`^\{"lab":"(kthwc-lab-[0-9a-f]+)"`).FindSubmatch(journal); found != nil {
		l.id = string(found[1])
	}
	kinds := map[string]int{}
	for trace := range l.traces() {
		kind, _, _ := strings.Cut(trace, " ")
		kinds[kind]++
	}
	if kinds["cgroup"] == 0 || kinds["process"] < 2*len(labMachines) || len(l.namespaces) < 2*len(labMachines) {
		l.t.Errorf("a lab that is up (%s) has but these traces: %v, and %d namespaces", l.id, kinds, len(l.namespaces))
	}
}

func (l *labRun) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "kthwc", args...)
	cmd.Dir = l.dir
	return cmd
}

// run runs a verb to its good end, and gives what it said.
func (l *labRun) run(args ...string) string {
	l.t.Helper()
	out, err := l.command(l.t.Context(), args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("kthwc %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// first is the first up, which builds the root file system where there is none.
// A machine that lacks something of the kernel says so here.
func (l *labRun) first() {
	l.t.Helper()
	cmd := l.command(l.t.Context(), "lab", "up")
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
	case cmd.ProcessState.ExitCode() == exitRefused:
		readers.Missing(l.t, string(out))
	default:
		l.t.Fatalf("kthwc lab up: %v\n%s", err, out)
	}
}

// killed runs a verb and kills it after a while, unless it has ended by then.
func (l *labRun) killed(after time.Duration, args ...string) {
	l.t.Helper()
	var said bytes.Buffer
	cmd := l.command(l.t.Context(), args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	kill := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	kill.Stop()
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	l.t.Logf("%v was killed after %v, at %q", args, after, lines[len(lines)-1])
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); err != nil && ok && !status.Signaled() {
		l.t.Fatalf("kthwc %q: %v\n%s", args, err, said.String())
	}
}

// hosts looks at the machines from inside: what cluster.yaml says is so.
func (l *labRun) hosts() {
	addresses := labMachines
	ids := map[string]bool{}
	for name, address := range addresses {
		l.run("lab", "exec", name, "--", "true")
		said := strings.Fields(l.run("lab", "exec", name, "--", "sh", "-c", "hostname; cat /etc/machine-id; ip -4 -o address show dev eth0; systemctl is-system-running"))
		if said[0] != name || !slices.Contains(said, address+"/24") || said[len(said)-1] != "running" {
			l.t.Errorf("%s says %q", name, said)
		}
		ids[said[1]] = true
	}
	if len(ids) != len(addresses) {
		l.t.Errorf("%d machines have %d machine-ids", len(addresses), len(ids))
	}
	l.run("lab", "exec", "worker-0", "--", "sh", "-ec", "mountpoint -q /var/lib/containerd; mountpoint -q /var/lib/kubelet; d=/sys/fs/cgroup/memory; [ -d $d ] || d=/sys/fs/cgroup; mkdir $d/probe; rmdir $d/probe")
	l.run("lab", "status")
	if said := l.run("lab", "exec", "worker-0", "--", "getent", "ahostsv4", "external.lab.test"); !strings.HasPrefix(said, "10.240.0.1 ") {
		l.t.Errorf("the resolver says %q", said)
	}
	settings, _ := os.ReadFile("/proc/sys/kernel/panic")
	l.run("lab", "exec", "worker-0", "--", "sh", "-ec", "echo 42 >/proc/sys/kernel/panic; [ $(cat /proc/sys/kernel/panic) = 42 ]")
	if now, _ := os.ReadFile("/proc/sys/kernel/panic"); !bytes.Equal(now, settings) {
		l.t.Errorf("a machine of the lab changed this machine's kernel.panic from %s to %s", settings, now)
	}
	ended := l.command(l.t.Context(), "lab", "exec", "worker-0", "--", "sh", "-c", "exit 7")
	if err := ended.Run(); ended.ProcessState.ExitCode() != 7 {
		l.t.Errorf("the exit code of a command on a machine is lost: %v", err)
	}
	l.balancer()
}

// balancer is a balancer: no controller is healthy before it answers for its
// health on port 80, and then its port 6443 is reached.
func (l *labRun) balancer() {
	const site = "server { listen 80 default_server; location = /healthz { return 200; } }\nserver { listen 6443; return 200 controller-1; }\n"
	write := "printf %s " + "'" + site + "'" + " >/etc/nginx/sites-available/default && systemctl reload nginx"
	fetch := []string{"lab", "exec", "worker-0", "--", "sh", "-c", "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | socat -t 2 - TCP:10.240.0.100:6443,connect-timeout=2"}
	l.run("lab", "exec", "controller-1", "--", "sh", "-c", write)
	l.eventually(func() error {
		if out, err := l.command(l.t.Context(), fetch...).CombinedOutput(); err != nil || !strings.HasSuffix(string(out), "controller-1") {
			return fmt.Errorf("through the balancer: %v\n%s", err, out)
		}
		return nil
	})
}

// status is what lab status says, whatever its exit code.
func (l *labRun) status() lab.Status {
	l.t.Helper()
	out, _ := l.command(l.t.Context(), "lab", "status", "--format", "json").Output()
	var status lab.Status
	if err := json.Unmarshal(out, &status); err != nil {
		l.t.Fatalf("%v: %s", err, out)
	}
	return status
}

// forward is the port of this machine that leads to the balancer, also after
// what serves it was killed. It follows balancer, whose controller-1 answers.
func (l *labRun) forward() string {
	l.t.Helper()
	at := l.status().Forward.Address
	reach := func() error {
		response, err := http.Get("http://" + at)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if text, err := io.ReadAll(response.Body); err != nil || string(text) != "controller-1" {
			return fmt.Errorf("%q %v", text, err)
		}
		return nil
	}
	l.eventually(reach)
	for _, pid := range l.processes("KTHWC_LAB_PART=forward") {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if status := l.status(); status.Forward.Running {
		l.t.Error("a forward that was killed is said to run")
	}
	l.run("lab", "up")
	if now := l.status().Forward; now.Address != at || !now.Running {
		l.t.Errorf("after a restart the port is %+v, not %s", now, at)
	}
	l.eventually(reach)
	return at
}

// processes are those of this lab that have a variable.
func (l *labRun) processes(variable string) []int {
	var out []int
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
		command, _ := os.ReadFile(filepath.Dir(file) + "/cmdline")
		if environ, _ := os.ReadFile(file); bytes.Contains(environ, []byte(variable+"\x00")) && bytes.Contains(command, []byte(l.dir)) {
			out = append(out, pid)
		}
	}
	return out
}

// power: a machine that is off is gone for the others, and when it is on again
// it has its disk and none of what its network had; one whose cable is out runs
// on. Nobody else notices, and up mends everything.
func (l *labRun) power() {
	l.t.Helper()
	machine := func(name string) lab.MachineStatus {
		all := l.status().Machines
		return all[slices.IndexFunc(all, func(m lab.MachineStatus) bool { return m.Name == name })]
	}
	ping := func(address string) error {
		return l.command(l.t.Context(), "lab", "exec", "worker-0", "--", "socat", "-u", "OPEN:/dev/null", "TCP:"+address+":22,connect-timeout=2").Run()
	}
	l.run("lab", "exec", "worker-1", "--", "sh", "-ec", "echo kept >/root/note; ip link add gone type bridge")
	l.run("lab", "off", "worker-1")
	if m := machine("worker-1"); !m.Off || m.Running || ping("10.240.0.21") == nil {
		l.t.Errorf("a machine whose power was cut is %+v", m)
	}
	l.run("lab", "on", "worker-1")
	if err := ping("10.240.0.21"); err != nil || !machine("worker-1").Up() {
		l.t.Errorf("a machine that is on again: %v", err)
	}
	l.run("lab", "exec", "worker-1", "--", "sh", "-ec", "[ $(cat /root/note) = kept ]; ! ip link show gone 2>/dev/null")
	l.run("lab", "exec", "worker-2", "--", "sh", "-c", "ip link add gone type bridge; nohup sh -c 'sleep 2; date +%s >/root/ran' >/dev/null 2>&1 &")
	l.run("lab", "cut", "worker-2")
	if m := machine("worker-2"); !m.Cut || !m.Running || m.Off || ping("10.240.0.22") == nil {
		l.t.Errorf("a machine whose cable is out is %+v", m)
	}
	time.Sleep(2500 * time.Millisecond)
	l.run("lab", "join", "worker-2")
	l.run("lab", "exec", "worker-2", "--", "sh", "-ec", "test -s /root/ran; ip link show gone >/dev/null")
	l.run("lab", "exec", "worker-2", "--", "systemctl", "reboot")
	l.eventually(func() error {
		return l.command(l.t.Context(), "lab", "exec", "worker-2", "--", "sh", "-c", "! ip link show gone 2>/dev/null").Run()
	})
	l.run("lab", "off", "worker-1")
	l.run("lab", "cut", "worker-2")
	l.run("lab", "up")
	for _, name := range []string{"worker-1", "worker-2"} {
		if m := machine(name); !m.Up() {
			l.t.Errorf("up left %+v", m)
		}
	}
}

// eventually asks until there is no error, for half a minute.
func (l *labRun) eventually(ask func() error) {
	l.t.Helper()
	var err error
	for range 60 {
		if err = ask(); err == nil {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	l.t.Error(err)
}

// traces is everything on this machine that is there for this lab: mounts,
// links, network namespaces, cgroups, processes and their namespaces. Others are
// at work here too, with labs of their own.
func (l *labRun) traces() map[string]bool {
	out := map[string]bool{}
	names := func(kind, dir string, ours func(string) bool) {
		entries, _ := os.ReadDir(dir) // what is not there has nothing in it
		for _, e := range entries {
			if ours(e.Name()) {
				out[kind+" "+e.Name()] = true
			}
		}
	}
	names("link", "/sys/class/net", func(name string) bool { return name == "kthwc0" || strings.HasPrefix(name, "port") })
	names("/run", "/run", func(name string) bool { return strings.Contains(name, "kthwc-lab") })
	names("netns", "/run/netns", func(name string) bool { return labMachines[name] != "" || name == "balancer@lab" })
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, l.dir) || strings.Contains(line, "kthwc-lab") {
			out["mount "+line] = true
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == l.id {
			out["cgroup "+path] = true
		}
		return nil
	})
	l.processTraces(out)
	return out
}

// processTraces are processes that carry the lab's mark, are in its cgroups or
// name its directory, and whatever is in a namespace that one of those once had.
func (l *labRun) processTraces(out map[string]bool) {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		command, _ := os.ReadFile(p + "/cmdline")
		environ, _ := os.ReadFile(p + "/environ")
		groups, _ := os.ReadFile(p + "/cgroup")
		ours := bytes.Contains(command, []byte(l.dir)) || bytes.Contains(environ, []byte("KTHWC_LAB="+l.id+"\x00")) || bytes.Contains(groups, []byte("/"+l.id+"/"))
		if ours {
			out["process "+p+" "+string(bytes.ReplaceAll(command, []byte{0}, []byte(" ")))] = true
		}
		for _, kind := range []string{"net", "mnt", "pid", "cgroup", "uts", "ipc"} {
			own, _ := os.Readlink("/proc/self/ns/" + kind)
			target, err := os.Readlink(p + "/ns/" + kind)
			if err != nil || target == own {
				continue
			}
			if ours {
				l.namespaces[target] = true
			}
			if l.namespaces[target] {
				out["namespace "+target+" of "+p] = true
			}
		}
	}
}

// gone waits until there are no traces: the kernel takes network namespaces down
// late.
func (l *labRun) gone() {
	l.t.Helper()
	l.eventually(func() error {
		if left := slices.Sorted(maps.Keys(l.traces())); len(left) > 0 {
			return fmt.Errorf("down left:\n%s", strings.Join(left, "\n"))
		}
		return nil
	})
}
