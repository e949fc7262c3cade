package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/readers"
)

// Exit codes that people's scripts rely on.
const (
	done    = 0
	pending = 2
	invalid = 3
	refused = 4
	partial = 6
	undone  = 7
)

// operator is a person with a cluster.yaml and a terminal.
type operator struct {
	kthwc   string // the program
	dir     string // where cluster.yaml is
	cluster string // its name
	example string // the example's text
	kept    wishes // what it has beside
}

// newOperator brings an example's cluster up, and takes its lab down with the
// test, when nothing of it may be left.
func newOperator(t *testing.T, example string) *operator {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(), "examples", example))
	if err != nil {
		t.Fatal(err)
	}
	o := &operator{kthwc: build(t), dir: t.TempDir(), example: string(text), cluster: strings.TrimSuffix(example, ".yaml")}
	if *inLab != "" {
		o.dir = *inLab
		o.write(t, wishes{})
		o.kubeconfig(t)
		o.run(t, done, "lab", "up")
		o.run(t, done, "apply", "--lab", "--auto-approve")
		return o
	}
	t.Cleanup(func() { o.leave(t) })
	o.write(t, wishes{})
	o.boot(t)
	return o
}

// boot is what the README says, from nothing to a cluster.
func (o *operator) boot(t *testing.T) {
	t.Helper()
	o.run(t, done, "artifacts", "lock", "--from", artifacts())
	o.run(t, done, "artifacts", "fetch", "--from", artifacts())
	o.run(t, done, "pki", "init")
	o.run(t, done, "pki", "issue")
	start := time.Now()
	if up := o.try(t, "lab", "up"); up.code == refused {
		readers.Missing(t, "this machine cannot have a lab: "+up.stderr)
	} else {
		up.is(t, done)
	}
	o.apply(t, done, "--timeout", "3m") // others boot beside it
	t.Logf("from no machine to a cluster in %.0f s", time.Since(start).Seconds())
	o.kubeconfig(t)
}

// kubeconfig writes the operator's, which leads to the API from this machine.
func (o *operator) kubeconfig(t *testing.T) {
	t.Helper()
	o.run(t, done, "kubeconfig", "--lab")
}

// wishes are what cluster.yaml has beside the example.
type wishes struct {
	nodes string // lines at the end of its last list
	spec  string // lines of its spec
	flags []arg
}

// arg is a row of extraArgs.
type arg struct{ component, name, value string }

// write writes cluster.yaml: the example, what was kept, and more.
func (o *operator) write(t *testing.T, more wishes) {
	t.Helper()
	text := o.example + more.nodes + o.kept.spec + more.spec
	flags := slices.Concat(o.kept.flags, more.flags)
	slices.SortStableFunc(flags, func(a, b arg) int { return strings.Compare(a.component, b.component) })
	for i, f := range flags {
		if i == 0 {
			text += "  extraArgs:\n"
		}
		if i == 0 || flags[i-1].component != f.component {
			text += "    " + f.component + ":\n"
		}
		text += fmt.Sprintf("      %s: %q\n", f.name, f.value)
	}
	if err := os.WriteFile(filepath.Join(o.dir, "cluster.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// scheduler is a change that is made fast and does little.
func scheduler(verbosity int) wishes {
	return wishes{flags: []arg{{"kube-scheduler", "v", strconv.Itoa(verbosity)}}}
}

// apiserver is a change of every API server.
func apiserver(name, value string) wishes {
	return wishes{flags: []arg{{"kube-apiserver", name, value}}}
}

// answer is how a command ended.
type answer struct {
	what           string
	stdout, stderr string
	code           int
	took           time.Duration
}

// mostTime bounds one command: a hang is a failure with words.
const mostTime = 12 * time.Minute

// try runs kthwc, whatever it ends with.
func (o *operator) try(t *testing.T, args ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), mostTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, o.kthwc, args...)
	cmd.Dir = o.dir
	return ended(t, cmd, "kthwc "+strings.Join(args, " "))
}

func ended(t *testing.T, cmd *exec.Cmd, what string) answer {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", what, err)
	}
	return answer{what, out.String(), errs.String(), cmd.ProcessState.ExitCode(), time.Since(start)}
}

// run runs kthwc and ends the chapter unless it ends with a code.
func (o *operator) run(t *testing.T, code int, args ...string) answer {
	t.Helper()
	a := o.try(t, args...)
	a.is(t, code)
	if a.took > 2*time.Second {
		t.Logf("%s: exit %d after %.1f s", a.what, a.code, a.took.Seconds())
	}
	return a
}

// apply brings what cluster.yaml says.
func (o *operator) apply(t *testing.T, code int, more ...string) answer {
	t.Helper()
	return o.run(t, code, append([]string{"apply", "--lab", "--auto-approve"}, more...)...)
}

func (a answer) is(t *testing.T, code int) {
	t.Helper()
	if a.code != code {
		t.Fatalf("%s: exit %d, not %d, after %.1f s\n%s%s", a.what, a.code, code, a.took.Seconds(), a.stdout, a.stderr)
	}
}

// says fails unless every pattern is in what was printed.
func (a answer) says(t *testing.T, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(a.stdout + a.stderr) {
			t.Errorf("%s does not say %s:\n%s%s", a.what, p, a.stdout, a.stderr)
		}
	}
}

func (a answer) parse(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.stdout), into); err != nil {
		t.Fatalf("%s: %v\n%s%s", a.what, err, a.stdout, a.stderr)
	}
}

// on runs a shell's program on a machine of the lab.
func (o *operator) on(t *testing.T, node, program string) string {
	t.Helper()
	return strings.TrimSpace(o.run(t, done, "lab", "exec", node, "--", "sh", "-ec", program).stdout)
}

// kubectl speaks to the API through the balancer, as a person on this machine.
func (o *operator) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	a := o.tryKubectl(t, args...)
	a.is(t, done)
	return strings.TrimSpace(a.stdout)
}

func (o *operator) tryKubectl(t *testing.T, args ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	defer cancel()
	args = append([]string{"--kubeconfig", o.state("admin.kubeconfig")}, args...)
	return ended(t, exec.CommandContext(ctx, kubectlProgram(), args...), "kubectl "+strings.Join(args, " "))
}

// state is a file of the cluster's state directory.
func (o *operator) state(name string) string { return filepath.Join(o.dir, o.cluster+".kthwc", name) }

// unitsAlone is a plan that changes no path.
var unitsAlone = regexp.MustCompile(`(?m)^Plan: 0 to add, 0 to change, 0 to delete, [1-9]\d* units; `)

// settled says that nothing is to be done: no path, at once, after every apply, and no
// unit. Units may be a moment late, when systemd is about to start one again: controller
// managers end when they lose their lease, and kubelets without a runtime.
func (o *operator) settled(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		plan := o.try(t, "plan", "--lab", "--exit-code")
		if plan.code != done && !unitsAlone.MatchString(plan.stdout) {
			plan.is(t, done)
		}
		if status := o.try(t, "status", "--lab"); plan.code != done || status.code != done {
			t.Logf("not settled yet:\n%s%s", plan.stdout, status.stdout)
			return fmt.Errorf("plan ends with %d and status with %d:\n%s%s%s%s", plan.code, status.code, plan.stdout, plan.stderr, status.stdout, status.stderr)
		}
		plan.says(t, `(?m)^Nothing to do: [1-9]\d* paths on [1-9] hosts are as they shall be\.$`)
		return nil
	})
}

// verified compares the cluster with all that is predicted.
func (o *operator) verified(t *testing.T, more ...string) {
	t.Helper()
	a := o.run(t, done, append([]string{"verify", "--lab", "--image-archive", toolboxImage(), "--external-name", "external.lab.test"}, more...)...)
	t.Log(a.stdout)
}

// ready fails unless exactly these nodes are Ready and take pods.
func (o *operator) ready(t *testing.T, nodes ...string) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		a := o.tryKubectl(t, "get", "nodes", "-o", `jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{.spec.unschedulable}{"\n"}{end}`)
		said := strings.Fields(a.stdout)
		var want []string
		for _, n := range nodes {
			want = append(want, n+"=True")
		}
		if !slices.Equal(said, want) {
			return fmt.Errorf("nodes are %v, not %v %s", said, want, a.stderr)
		}
		return nil
	})
}

// eventually asks until there is no error.
func eventually(t *testing.T, most time.Duration, ask func() error) {
	t.Helper()
	var err error
	for start := time.Now(); time.Since(start) < most; time.Sleep(500 * time.Millisecond) {
		if err = ask(); err == nil {
			return
		}
	}
	t.Fatalf("not within %v: %v", most, err)
}

// running is a kthwc that was started and is watched.
type running struct {
	cmd   *exec.Cmd
	what  string
	start time.Time
	lines chan string // of both streams
	mu    sync.Mutex
	said  strings.Builder
	ended chan error
}

// begin starts kthwc and does not wait for it.
func (o *operator) begin(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), mostTime)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, o.kthwc, args...)
	cmd.Dir = o.dir
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = write, write
	r := &running{cmd: cmd, what: "kthwc " + strings.Join(args, " "), start: time.Now(), lines: make(chan string, 1000), ended: make(chan error, 1)}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	go r.listen(read)
	return r
}

func (r *running) listen(from *os.File) {
	defer from.Close()
	for lines := bufio.NewScanner(from); lines.Scan(); {
		r.mu.Lock()
		fmt.Fprintln(&r.said, lines.Text())
		r.mu.Unlock()
		r.lines <- lines.Text()
	}
	close(r.lines)
	r.ended <- r.cmd.Wait()
}

func (r *running) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.String()
}

// until waits for a line.
func (r *running) until(t *testing.T, pattern string) {
	t.Helper()
	wanted := regexp.MustCompile(pattern)
	for line := range r.lines {
		if wanted.MatchString(line) {
			return
		}
	}
	t.Fatalf("%s has ended and never said %s:\n%s", r.what, pattern, r.text())
}

// kill is SIGKILL: nothing is tidied up.
func (r *running) kill(t *testing.T) {
	t.Helper()
	_ = r.cmd.Process.Signal(syscall.SIGKILL)
	for range r.lines {
	}
	<-r.ended
	if status, ok := r.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && !status.Signaled() {
		t.Fatalf("%s had ended before it was killed:\n%s", r.what, r.text())
	}
}

// wait is how it ended by itself.
func (r *running) wait() answer {
	for range r.lines {
	}
	<-r.ended
	return answer{r.what, r.text(), "", r.cmd.ProcessState.ExitCode(), time.Since(r.start)}
}

// report prints where things stand after a failure.
func (o *operator) report(t *testing.T) {
	for _, args := range [][]string{{"lab", "status"}, {"status", "--lab"}, {"plan", "--lab"}} {
		a := o.try(t, args...)
		t.Logf("afterwards %s says (exit %d):\n%s%s", a.what, a.code, a.stdout, a.stderr)
	}
}

// mend goes back to the example after a chapter that failed, so that the next
// one is told at all.
func (o *operator) mend(t *testing.T) {
	o.write(t, wishes{})
	for _, args := range [][]string{{"unlock", "--lab"}, {"lab", "up"}, {"apply", "--lab", "--auto-approve"}} {
		if a := o.try(t, args...); a.code != done {
			t.Logf("%s: exit %d\n%s%s", a.what, a.code, a.stdout, a.stderr)
		}
	}
}

// leave takes the lab down: no process, mount, file or open port of it may be left.
func (o *operator) leave(t *testing.T) {
	before := o.processes()
	server, _, err := credentials(o.state("admin.kubeconfig"))
	if err != nil {
		t.Error(err) // it did not come so far
	}
	o.run(t, done, "lab", "down").says(t, "nothing of it is left")
	if len(before) < 2 {
		t.Errorf("the lab is looked for in the wrong way: while it was up, only %v was found", before)
	}
	eventually(t, 30*time.Second, func() error {
		if left := o.processes(); len(left) > 0 {
			return fmt.Errorf("down left processes: %v", left)
		}
		return nil
	})
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(mounts, []byte(o.dir)) {
		t.Errorf("down left mounts (%v):\n%s", err, mounts)
	}
	if _, err := os.Stat(o.state("lab")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("down left %s (%v)", o.state("lab"), err)
	}
	if c, err := net.Dial("tcp", strings.TrimPrefix(server, "https://")); err == nil {
		c.Close()
		t.Errorf("down left somebody who listens at %s", server)
	}
}

// processes are those whose arguments or environment name the directory.
func (o *operator) processes() []string {
	var out []string
	all, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	for _, p := range all {
		command, _ := os.ReadFile(p + "/cmdline") // one that has ended is none
		environ, _ := os.ReadFile(p + "/environ")
		if bytes.Contains(command, []byte(o.dir+"/")) || bytes.Contains(environ, []byte(o.dir+"/")) {
			out = append(out, p+" "+string(bytes.ReplaceAll(command, []byte{0}, []byte(" "))))
		}
	}
	return out
}
