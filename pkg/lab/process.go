package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// marked are the processes that carry the lab's mark: of one part, or of all.
func (l *Lab) marked(part string) map[int]string {
	out := map[int]string{}
	for _, pid := range processes() {
		if p, ok := l.markOf(pid); ok && (part == "" || p == part) && pid != os.Getpid() {
			out[pid] = p
		}
	}
	return out
}

// processes are all of this machine.
func processes() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var out []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// markOf reads the mark of a process. One that has ended and is not collected has no
// environment, and no mark.
func (l *Lab) markOf(pid int) (part string, ours bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return "", false
	}
	return partOf(text, l.id)
}

// partOf reads the mark in the environment of a process.
func partOf(environ []byte, id string) (part string, ours bool) {
	for variable := range bytes.SplitSeq(environ, []byte{0}) {
		name, value, _ := strings.Cut(string(variable), "=")
		switch name {
		case markLab:
			ours = value == id
		case markPart:
			part = value
		}
	}
	return part, ours
}

// holder is the first process of the lab's namespaces, once it has set them up. It
// is remembered, because every connection into the lab needs it, and a machine has
// thousands of processes to look through.
func (l *Lab) holder() (int, bool) {
	if pid := int(l.held.Load()); pid != 0 && l.holds(pid) {
		return pid, true
	}
	for _, pid := range processes() {
		if l.holds(pid) {
			l.held.Store(int64(pid))
			return pid, true
		}
	}
	return 0, false
}

// holds says whether a process is the holder.
func (l *Lab) holds(pid int) bool {
	part, ours := l.markOf(pid)
	return ours && part == namespace && firstOfNamespace(readText(fmt.Sprintf("/proc/%d/status", pid))) && exists(fmt.Sprintf("/proc/%d/root/run/kthwc-lab", pid))
}

// firstOfNamespace says whether a process is number 1 of a namespace just below
// that of whoever reads its status.
func firstOfNamespace(status string) bool {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			numbers := strings.Fields(rest)
			return len(numbers) == 2 && numbers[1] == "1"
		}
	}
	return false
}

// kill ends processes until there are none: what forks while it is looked at is
// found by the next look.
func (l *Lab) kill(ctx context.Context, list func() []int) error {
	return wait(ctx, 20*time.Second, func() error {
		left := list()
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
		if len(left) > 0 {
			return fmt.Errorf("processes %v do not end", left)
		}
		return nil
	})
}

func pids(m map[int]string) []int {
	var out []int
	for pid := range m {
		out = append(out, pid)
	}
	slices.Sort(out)
	return out
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
