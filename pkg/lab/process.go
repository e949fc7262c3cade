package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// marked are the processes that carry the lab's mark: of one part, or of all. A
// process that has ended and is not collected has no environment, and is none.
func (l *Lab) marked(part string) map[int]string {
	out := map[int]string{}
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
		if text, err := os.ReadFile(file); err == nil && pid != os.Getpid() {
			if p, ok := partOf(text, l.id); ok && (part == "" || p == part) {
				out[pid] = p
			}
		}
	}
	return out
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

// holder is the first process of the lab's namespaces, once it has set them up.
func (l *Lab) holder() (int, bool) {
	for pid := range l.marked(namespace) {
		if firstOfNamespace(readText(fmt.Sprintf("/proc/%d/status", pid))) && exists(fmt.Sprintf("/proc/%d/root/run/kthwc-lab", pid)) {
			return pid, true
		}
	}
	return 0, false
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
