// Package lab makes the machines of a cluster.yaml on this one machine: real
// systemd hosts with sshd, each with its own addresses in a network of the lab's
// own, and the load balancer before them.
//
// Everything that runs or is mounted lives in one set of namespaces, so that
// nothing of this machine's own network or mounts is touched, and ending one
// process ends the lab. What is made is a list of steps (plan.go); the engine
// makes what is missing and undoes what is not wanted any more, and writes down
// each step before it begins (journal.go), so that a run that was killed at any
// moment is resumed by the next up or undone by down. The commands that it runs
// are in commands.go, and in commands.log as they were run.
//
// It refuses to run where it is not root or where the machine lacks something,
// and says what; it never makes a machine's disk again behind anybody's back.
package lab

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
)

// Options are what a lab is opened with.
type Options struct {
	State    string              // directory of everything that belongs to this lab
	Cache    string              // directory of root file systems, shared by labs
	Mirror   string              // Debian archive to build the root file system from
	Self     string              // this program: `lab serve PART STATE` of it calls Serve
	Getenv   func(string) string // of the caller: settings of proxies reach the builder
	Progress func(Event)         // may be nil
}

// Event is something that a run does.
type Event struct {
	Step   Step
	Doing  string // Making, Made, Waiting or Undone
	Detail string // what is waited for, and the last error
}

// What an Event says.
const (
	Making  = "making"
	Waiting = "waiting"
	Made    = "made"
	Undone  = "undone"
)

// Reason is the sort of an Error.
type Reason int

// Reasons of an Error.
const (
	Failed  Reason = iota // something did not work; run it again
	Refused               // the cluster.yaml or the request is not for a lab
	Lacking               // the machine lacks something
	Locked                // another run is at work
)

// Error says why the lab is not as asked, and what to do.
type Error struct {
	Reason        Reason
	Message, Help string
}

func (e *Error) Error() string { return e.Message }

var errLocked = errors.New("another kthwc lab is at work here, or a command that one has left")

// Lab is one lab: a state directory, and what is up of it. One thing is done with it
// at a time; beside verbs that take the lock, others open it for themselves.
type Lab struct {
	Options
	id      string // marks its processes and cgroups
	runner  *runner
	lock    *os.File
	journal *journal
	held    atomic.Int64 // the process that holder found last
}

// plainPath is what every program that gets a path can carry: mount options,
// binds and configuration files all have their own quoting.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9/._@+-]*$`)

// Open takes a lab by its state directory, which need not exist yet.
func Open(o Options) (*Lab, error) {
	if o.Progress == nil {
		o.Progress = func(Event) {}
	}
	if o.Getenv == nil {
		o.Getenv = func(string) string { return "" }
	}
	for name, path := range map[string]*string{"state": &o.State, "cache": &o.Cache} {
		absolute, err := absolutePath(*path)
		if err != nil {
			return nil, err
		}
		if !plainPath.MatchString(absolute) {
			return nil, &Error{Refused, fmt.Sprintf("the %s directory %q has characters that mounts cannot carry", name, absolute), "name another with --" + name + ": letters, digits and . _ @ + - only"}
		}
		if strings.HasPrefix(absolute+"/", "/run/") {
			return nil, &Error{Refused, fmt.Sprintf("the %s directory %s is below /run, which a lab has its own of", name, absolute), "name another with --" + name}
		}
		*path = absolute
	}
	l := &Lab{Options: o, id: labID(o.State)}
	if id := readJournal([]byte(readText(l.path("journal")))).id; id != "" {
		l.id = id // where the directory was moved
	}
	return l, nil
}

// absolutePath is a path without links, of which the last parts may not exist yet.
func absolutePath(path string) (string, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	for have, rest := absolute, ""; ; have, rest = filepath.Dir(have), filepath.Join(filepath.Base(have), rest) {
		if real, err := filepath.EvalSymlinks(have); err == nil {
			return filepath.Join(real, rest), nil
		}
		if have == filepath.Dir(have) {
			return absolute, nil
		}
	}
}

// Up makes what is missing of a fleet. It says whether anything was done.
func (l *Lab) Up(ctx context.Context, f *Fleet) (changed bool, err error) {
	facts := observe(l.State)
	if _, up := l.holder(); up {
		facts.watchers = math.MaxInt // some are this lab's own
	}
	if err := facts.refuse(f); err != nil {
		return false, err
	}
	if err := l.begin(ctx, true); err != nil {
		return false, err
	}
	defer l.end()
	steps := f.steps(l.site())
	e := l.engine()
	if err := e.refuse(ctx, steps); err != nil { // what is refused leaves the fleet as it is
		return false, err
	}
	if err := l.writeFleet(f); err != nil {
		return false, err
	}
	if err := e.up(ctx, steps); err != nil {
		return e.changed, err
	}
	if err := l.writeQuirks(facts); err != nil {
		return e.changed, err
	}
	return e.changed, nil
}

// Down undoes everything that the journal has. With keep, the files of the lab
// stay: keys, and the disks of its machines.
func (l *Lab) Down(ctx context.Context, keep bool) (changed bool, err error) {
	if os.Geteuid() != 0 {
		return false, errNotRoot
	}
	_, statErr := os.Stat(l.State)
	if statErr == nil {
		if err := l.begin(ctx, false); err != nil {
			return false, err
		}
		defer l.end()
		e := l.engine()
		if err := e.down(ctx, keep); err != nil {
			return e.changed, err
		}
	}
	swept, err := l.sweep(ctx)
	if err != nil || statErr != nil || keep {
		return swept || statErr == nil, err
	}
	return true, l.removeState()
}

// sweep ends what carries the lab's mark and removes its cgroups, also where
// the journal is lost.
func (l *Lab) sweep(ctx context.Context) (bool, error) {
	found := len(l.marked("")) > 0
	if err := l.kill(ctx, func() []int { return pids(l.marked("")) }); err != nil {
		return found, err
	}
	for _, root := range cgroupRoots(readText("/proc/self/cgroup"), readText("/proc/self/mountinfo"), l.id) {
		if _, err := os.Stat(root); err != nil {
			continue
		}
		found = true
		if err := l.removeCgroup(ctx, root); err != nil {
			return found, err
		}
	}
	return found, nil
}

// removeState removes the state directory: what says what was made goes last.
func (l *Lab) removeState() error {
	entries, err := os.ReadDir(l.State)
	if err != nil {
		return err
	}
	last := []string{"journal", "lock"}
	for _, e := range entries {
		if !slices.Contains(last, e.Name()) {
			if err := os.RemoveAll(l.path(e.Name())); err != nil {
				return err
			}
		}
	}
	for _, name := range last {
		if err := os.Remove(l.path(name)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if err := os.Remove(l.State); err != nil {
		return err
	}
	if parent := filepath.Dir(l.State); strings.HasSuffix(parent, ".kthwc") {
		os.Remove(parent) // succeeds where nothing else is in it
	}
	return nil
}

// path is a path below the state directory.
func (l *Lab) path(parts ...string) string {
	return filepath.Join(append([]string{l.State}, parts...)...)
}

func readText(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}

// site is what plans need to know of this machine.
func (l *Lab) site() site {
	return site{image: l.imageDir(), cgroups: l.cgroupRoots()}
}

// cgroupRoots are those that the journal has, so that a lab stays where it is
// whoever runs up again.
func (l *Lab) cgroupRoots() []string {
	for _, r := range l.journal.records {
		if r.Step.Kind == cgroups && len(r.Step.With) > 0 && all(r.Step.With, exists) {
			var out []string
			for _, dir := range r.Step.With {
				out = append(out, filepath.Dir(dir))
			}
			return out
		}
	}
	return cgroupRoots(readText("/proc/self/cgroup"), readText("/proc/self/mountinfo"), l.id)
}
