package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Bounds of what is waited for.
const (
	oneCommand = 30 * time.Second
	oneBoot    = 120 * time.Second
	oneLock    = 20 * time.Second
)

func (l *Lab) engine() *engine {
	return &engine{journal: l.journal, progress: l.Progress, off: l.isOff, kinds: map[string]kind{
		image:     l.imageKind(),
		keys:      l.keysKind(),
		hostKey:   l.hostKeyKind(),
		disk:      l.diskKind(),
		namespace: l.namespaceKind(),
		bridge:    l.bridgeKind(),
		cgroups:   l.cgroupsKind(),
		wire:      l.wireKind(),
		overlay:   l.overlayKind(),
		boot:      l.bootKind(),
		cable:     l.cableKind(),
		balance:   l.balanceKind(),
		access:    l.accessKind(),
		resolve:   l.servantKind(),
		forward:   l.servantKind(),
		ready:     l.readyKind(),
	}}
}

// begin takes the lock and opens the journal. A run that ended leaves the lock
// to its last command, for as long as that runs.
func (l *Lab) begin(ctx context.Context, create bool) (err error) {
	if err := l.prepareState(create); err != nil {
		return err
	}
	if err := wait(ctx, oneLock, l.tryLock); err != nil {
		if errors.Is(err, errLocked) {
			return &Error{Locked, errLocked.Error(), "wait for it, or end it; then run this again"}
		}
		return err
	}
	if l.journal, err = openJournal(l.path("journal"), l.id); err != nil {
		return err
	}
	l.id = l.journal.id
	log, err := os.OpenFile(l.path("commands.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	l.runner = &runner{l.id, l.Getenv, l.lock, log}
	return writeFile(l.path(".gitignore"), []byte("*\n"), 0o644)
}

// prepareState refuses directories that are not a lab's: down removes them.
func (l *Lab) prepareState(create bool) error {
	if create {
		if err := errors.Join(os.MkdirAll(filepath.Dir(l.State), 0o755), os.MkdirAll(l.State, 0o700)); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(l.State)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lock" && !exists(l.path("journal")) {
			return &Error{Refused, fmt.Sprintf("%s is no lab's: it has %s and no journal", l.State, e.Name()), "name another directory with --state"}
		}
	}
	return nil
}

// tryLock takes the lock, if the file that it took is still the one that others
// will find.
func (l *Lab) tryLock() error {
	f, err := os.OpenFile(l.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return &Error{Failed, err.Error(), ""}
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return errLocked
	}
	ours, err := f.Stat()
	theirs, err2 := os.Stat(l.path("lock"))
	if err != nil || err2 != nil || !os.SameFile(ours, theirs) {
		f.Close()
		return errors.New("the lock was removed by a run that ended")
	}
	l.lock = f
	return nil
}

// end gives back what begin took.
func (l *Lab) end() {
	if l.journal != nil && l.journal.close != nil {
		_ = l.journal.close()
	}
	_ = l.runner.log.Close()
	_ = l.lock.Close()
}

// inside runs a command in the lab's namespaces.
func (l *Lab) inside(ctx context.Context, command ...string) error {
	pid, ok := l.holder()
	if !ok {
		return errors.New("the lab's namespaces have gone")
	}
	_, err := l.runner.run(ctx, oneCommand, inside(pid, command...)...)
	return err
}

// lines runs lines of the plan that are commands.
func (l *Lab) lines(ctx context.Context, lines []string) error {
	for _, line := range lines {
		if !strings.HasPrefix(line, "ip ") {
			continue
		}
		if err := l.inside(ctx, strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// attempt runs lines that undo something that may not be there.
func (l *Lab) attempt(ctx context.Context, lines []string, gone func() bool) error {
	if gone() {
		return ctx.Err()
	}
	var errs []error
	for _, line := range lines {
		errs = append(errs, l.inside(ctx, strings.Fields(line)...))
	}
	if !gone() {
		return errors.Join(errs...)
	}
	return nil
}

// within says whether a path exists in the lab's own view of the files.
func (l *Lab) within(path string) bool {
	pid, ok := l.holder()
	return ok && exists(fmt.Sprintf("/proc/%d/root%s", pid, path))
}

func (l *Lab) namespaceKind() kind {
	undo := func(ctx context.Context, _ Step) error {
		return l.kill(ctx, func() []int { return pids(l.marked("")) })
	}
	return kind{
		present: func(context.Context, Step) bool { _, ok := l.holder(); return ok },
		ensure: func(ctx context.Context, s Step) error {
			if err := undo(ctx, s); err != nil {
				return err
			}
			if err := l.runner.start(namespace, l.path("namespaces.log"), holding()...); err != nil {
				return err
			}
			err := wait(ctx, 10*time.Second, func() error {
				if _, ok := l.holder(); !ok {
					return errors.New("the first process of the namespaces is not there")
				}
				return nil
			})
			if err != nil && ctx.Err() == nil {
				return &Error{Failed, err.Error() + lastLines(readText(l.path("namespaces.log")), 5), "does this machine let root make namespaces?"}
			}
			return err
		},
		undo: undo,
	}
}

func (l *Lab) bridgeKind() kind {
	there := func() bool { return l.networkHas("/proc/%d/net/dev", bridgeName+":") }
	return kind{
		present: func(context.Context, Step) bool { return there() },
		ensure:  func(ctx context.Context, s Step) error { return l.lines(ctx, s.With) },
		undo: func(ctx context.Context, _ Step) error {
			return l.attempt(ctx, []string{"ip link delete " + bridgeName}, func() bool { return !there() })
		},
	}
}

// networkHas looks for a word in a file of the lab's network.
func (l *Lab) networkHas(file, word string) bool {
	pid, ok := l.holder()
	return ok && strings.Contains(readText(fmt.Sprintf(file, pid)), word)
}

// plugged says whether a namespace and the bridge's end of its cable are there.
func (l *Lab) plugged(name string) (net, cable bool) {
	return l.within("/run/netns/" + name), l.networkHas("/proc/%d/net/dev", portName(name)+":")
}

func (l *Lab) wireKind() kind {
	return kind{
		present: func(_ context.Context, s Step) bool { net, cable := l.plugged(s.Of); return net && cable },
		ensure:  func(ctx context.Context, s Step) error { return l.lines(ctx, s.With) },
		undo:    func(ctx context.Context, s Step) error { return l.unplug(ctx, s.Of) },
	}
}

func (l *Lab) unplug(ctx context.Context, name string) error {
	return l.attempt(ctx, leave(name), func() bool { net, cable := l.plugged(name); return !net && !cable })
}

func (l *Lab) cgroupsKind() kind {
	return kind{
		present: func(_ context.Context, s Step) bool { return all(s.With, exists) },
		ensure: func(_ context.Context, s Step) error {
			v2 := cgroupVersion(readText("/proc/self/cgroup")) == 2
			for _, dir := range s.With {
				if err := makeCgroup(dir, v2); err != nil {
					return err
				}
			}
			return nil
		},
		undo: l.undoCgroups,
	}
}

// undoCgroups ends what runs in them, also what has escaped its launcher.
func (l *Lab) undoCgroups(ctx context.Context, s Step) error {
	if err := l.kill(ctx, func() []int { return cgroupProcesses(s.With) }); err != nil {
		return err
	}
	for _, dir := range s.With {
		if err := l.removeCgroup(ctx, dir); err != nil {
			return err
		}
		_ = os.Remove(filepath.Dir(dir)) // succeeds with the last machine's
	}
	return nil
}

func (l *Lab) overlayKind() kind {
	there := func(s Step) bool { return l.within(l.path("machines", s.Of, "root", "etc")) }
	return kind{
		present: func(_ context.Context, s Step) bool { return there(s) },
		ensure: func(ctx context.Context, s Step) error {
			return l.inside(ctx, mounting(s.With[0], l.path("machines", s.Of))...)
		},
		undo: func(ctx context.Context, s Step) error {
			return l.attempt(ctx, []string{quoted(unmounting(l.path("machines", s.Of)))}, func() bool { return !there(s) })
		},
	}
}

// bootPart marks the processes of one machine's launcher.
func bootPart(name string) string { return boot + "/" + name }

func (l *Lab) bootKind() kind {
	return kind{
		present: func(_ context.Context, s Step) bool { return len(l.marked(bootPart(s.Of))) > 0 },
		ensure:  func(_ context.Context, s Step) error { return l.boot(s) },
		undo: func(ctx context.Context, s Step) error {
			return l.kill(ctx, func() []int { return append(pids(l.marked(bootPart(s.Of))), cgroupProcesses(s.With)...) })
		},
	}
}

// boot starts a machine's launcher: from now on the machine is on.
func (l *Lab) boot(s Step) error {
	f, err := l.Fleet()
	if err != nil {
		return err
	}
	m, err := f.Machine(s.Of)
	if err != nil {
		return err
	}
	pid, ok := l.holder()
	if !ok {
		return errors.New("the lab's namespaces have gone")
	}
	if err := os.RemoveAll(l.offMark(s.Of)); err != nil {
		return err
	}
	dir := l.path("machines", s.Of)
	return l.runner.start(bootPart(s.Of), filepath.Join(dir, "console.log"), inside(pid, booting(s.Of, dir, f.rewire(m), s.With)...)...)
}

func (l *Lab) balanceKind() kind {
	stop := func(ctx context.Context) error {
		return l.kill(ctx, func() []int { return pids(l.marked(balance)) })
	}
	return kind{
		present: func(context.Context, Step) bool {
			net, cable := l.plugged(balancerNet)
			return net && cable && len(l.marked(balance)) > 0
		},
		ensure: func(ctx context.Context, s Step) error {
			if err := l.lines(ctx, s.With); err != nil {
				return err
			}
			return l.startBalancer(ctx, s.With)
		},
		undo: func(ctx context.Context, _ Step) error {
			if err := stop(ctx); err != nil {
				return err
			}
			return errors.Join(l.unplug(ctx, balancerNet), os.RemoveAll(l.path("balancer")))
		},
	}
}

// startBalancer writes its configuration, which is the lines that are no
// commands, and starts it.
func (l *Lab) startBalancer(ctx context.Context, with []string) error {
	if err := os.MkdirAll(l.path("balancer"), 0o700); err != nil {
		return err
	}
	var config []string
	for _, line := range with {
		if !strings.HasPrefix(line, "ip ") {
			config = append(config, line)
		}
	}
	file, log := l.path("balancer", "haproxy.cfg"), l.path("balancer", "haproxy.log")
	if err := writeFile(file, []byte(strings.Join(config, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	pid, ok := l.holder()
	if !ok {
		return errors.New("the lab's namespaces have gone")
	}
	if _, err := l.runner.run(ctx, oneCommand, "haproxy", "-c", "-q", "-f", file); err != nil {
		return err
	}
	return l.runner.start(balance, log, inside(pid, balancing(file)...)...)
}
