package lab

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cgroupVersion is 2 where only the unified hierarchy has controllers.
func cgroupVersion(self string) int {
	for line := range strings.Lines(self) {
		if parts := strings.SplitN(line, ":", 3); len(parts) == 3 && parts[1] != "" && !strings.HasPrefix(parts[1], "name=") {
			return 1
		}
	}
	return 2
}

// cgroupRoots are the directories that a lab's machines have their cgroups
// below, one for each mounted hierarchy. On version 1 they lie in the cgroup that
// the caller is in. On version 2 they lie at the top: only there may processes
// and groups with controllers be side by side.
func cgroupRoots(self, mountinfo, id string) []string {
	unified := cgroupVersion(self) == 2
	var out []string
	for line := range strings.Lines(self) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		mounted, root, ok := hierarchy(mountinfo, parts[1])
		below, err := filepath.Rel(root, parts[2])
		switch {
		case !ok:
			continue
		case unified || err != nil || !filepath.IsLocal(below):
			below = "." // outside what is mounted here
		}
		out = append(out, filepath.Join(mounted, below, id))
	}
	return out
}

// hierarchy finds where the hierarchy with some controllers is mounted, and which
// of its directories that is.
func hierarchy(mountinfo, controllers string) (mounted, root string, ok bool) {
	for line := range strings.Lines(mountinfo) {
		before, after, found := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !found || len(left) < 6 || len(right) < 3 {
			continue
		}
		options := strings.Split(right[2], ",")
		matches := right[0] == "cgroup2" && controllers == ""
		if right[0] == "cgroup" && controllers != "" {
			matches = !slices.ContainsFunc(strings.Split(controllers, ","), func(c string) bool { return !slices.Contains(options, c) })
		}
		if matches {
			return left[4], left[3], true
		}
	}
	return "", "", false
}

// makeCgroup makes a machine's directory in one hierarchy, ready for processes.
func makeCgroup(dir string, v2 bool) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	parent := filepath.Dir(dir)
	if v2 {
		for _, up := range []string{filepath.Dir(parent), parent} {
			delegate(up)
		}
		return nil
	}
	// Of version 1, cpuset alone starts without what a process needs.
	for _, d := range []string{parent, dir} {
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := inherit(d, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// delegate lets the groups below a directory have its controllers: those that it
// has, and may give.
func delegate(dir string) {
	for _, c := range strings.Fields(readText(filepath.Join(dir, "cgroup.controllers"))) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
	}
}

// inherit gives a setting of a group the value of the group above, if it has none.
func inherit(dir, name string) error {
	path := filepath.Join(dir, name)
	if !exists(path) || strings.TrimSpace(readText(path)) != "" {
		return nil
	}
	return os.WriteFile(path, []byte(readText(filepath.Join(filepath.Dir(dir), name))), 0o644)
}

// cgroupProcesses are the processes in directories and below.
func cgroupProcesses(dirs []string) []int {
	var out []int
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				for _, word := range strings.Fields(readText(filepath.Join(path, "cgroup.procs"))) {
					if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
						out = append(out, pid)
					}
				}
			}
			return nil
		})
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// removeCgroup removes a directory and those below, which the machine made. A
// group that was just emptied may be busy for a moment.
func (l *Lab) removeCgroup(ctx context.Context, dir string) error {
	return wait(ctx, 10*time.Second, func() error {
		var dirs []string
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			if err := os.Remove(d); err != nil && !os.IsNotExist(err) {
				return fmt.Errorf("the cgroup is not empty: %w", err)
			}
		}
		return nil
	})
}
