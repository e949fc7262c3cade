package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/internal/readers"
)

// writing are the system calls that change a disk. A program that is killed on
// entering one has done all that came before it.
var writing = []string{"write", "pwrite64", "fsync", "renameat", "renameat2", "rename", "mkdirat", "unlinkat", "fchmod", "flock"}

// Killed at any system call that writes, issuing loses nothing: the store is
// what it was or has one whole generation more, and the next run completes it.
func TestIssuingSurvivesEveryKill(t *testing.T) {
	strace := readers.Path(t, "strace")
	program := filepath.Join(t.TempDir(), "kthwc")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	source, err := os.ReadFile("../../golden/single-node/cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	fresh := t.TempDir()
	if err := os.WriteFile(filepath.Join(fresh, "cluster.yaml"), source, 0o644); err != nil {
		t.Fatal(err)
	}
	k := &killer{T: t, strace: strace, program: program}
	k.sweep("first", fresh, "pki", "issue")
	issued := k.copyOf(fresh)
	k.must(issued, "pki", "issue")
	k.sweep("renewal", issued, "pki", "renew", "admin")
}

type killer struct {
	*testing.T
	strace, program string
}

// sweep kills the command at the first, the second, and so on call of each
// kind, each time from the same beginning.
func (k *killer) sweep(name, before string, args ...string) {
	killed := 0
	for _, call := range writing {
		for n := 1; ; n++ {
			dir := k.copyOf(before)
			if n > 200 {
				k.Fatalf("%s: %d calls of %s", name, n, call)
			}
			inject := fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n)
			err := k.run(dir, k.strace, append([]string{"-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call, "-e", inject, k.program}, args...)...)
			if err == nil {
				break // it has fewer calls than that
			}
			killed++
			k.whole(fmt.Sprintf("%s, killed at %s number %d", name, call, n), before, dir)
		}
	}
	if killed < 5 {
		k.Errorf("%s was killed %d times only", name, killed)
	}
	k.Logf("%s: killed at %d places", name, killed)
}

// whole proves that a directory holds all that was there before, and that the
// next run completes what was begun.
func (k *killer) whole(what, before, after string) {
	k.Helper()
	for _, f := range generations(before) {
		was, _ := os.ReadFile(f)
		is, err := os.ReadFile(filepath.Join(after, strings.TrimPrefix(f, before)))
		if err != nil || !bytes.Equal(was, is) {
			k.Errorf("%s: %s is not what it was", what, f)
		}
	}
	for _, args := range [][]string{{"pki", "list"}, {"pki", "issue"}, {"pki", "inventory", "--write"}, {"pki", "plan", "--exit-code"}} {
		if err := k.run(after, k.program, args...); err != nil {
			k.Errorf("%s: then %v", what, err)
		}
	}
	k.must(after, "pki", "renew", "admin")
	left, _ := filepath.Glob(filepath.Join(after, "*.kthwc/store/.0*"))
	if len(left) > 0 {
		k.Errorf("%s: %v is left", what, left)
	}
}

var generation = regexp.MustCompile(`/[0-9]{6}$`)

func generations(dir string) []string {
	files, _ := filepath.Glob(filepath.Join(dir, "*.kthwc/store/*"))
	return slices.DeleteFunc(files, func(f string) bool { return !generation.MatchString(f) })
}

func (k *killer) must(dir string, args ...string) {
	k.Helper()
	if err := k.run(dir, k.program, args...); err != nil {
		k.Fatal(err)
	}
}

func (k *killer) run(dir, program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CI=true")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w\n%s", filepath.Base(program), args, err, out)
	}
	return nil
}

// copyOf is a directory of its own with the same files.
func (k *killer) copyOf(dir string) string {
	k.Helper()
	to := k.TempDir()
	if err := errors.Join(exec.Command("cp", "-a", dir+"/.", to).Run(), os.Chmod(to, 0o755)); err != nil {
		k.Fatal(err)
	}
	return to
}
