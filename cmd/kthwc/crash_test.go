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

	"filippo.io/age"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/pkg/secret"
)

// writing are the system calls that change a disk. A program that is killed on
// entering one has done all that came before it.
var writing = []string{"write", "pwrite64", "fsync", "renameat", "renameat2", "rename", "mkdirat", "unlinkat", "fchmod", "flock"}

// Killed at any system call that writes, no verb loses anything: the store is
// what it was or has one whole generation more, and the next run completes it.
func TestIssuingSurvivesEveryKill(t *testing.T) {
	k := newKiller(t)
	fresh := k.project()
	k.sweep("first", fresh, "pki", "issue")
	issued := k.copyOf(fresh)
	k.must(issued, "pki", "issue")
	k.sweep("renewal", issued, "pki", "renew", "admin")
}

func TestSealingSurvivesEveryKill(t *testing.T) {
	k := newKiller(t)
	recipients := []string{"pki", "init", "--recipient", k.identity.Recipient().String()}
	fresh := k.project()
	k.sweep("recipients of an empty store", fresh, recipients...)
	open := k.copyOf(fresh)
	k.must(open, "pki", "issue")
	k.sweep("recipients of a store of open keys", open, recipients...)
	k.must(open, recipients...)
	k.sweep("resealing", open, "pki", "reseal")
	k.must(open, "pki", "reseal")
	k.sweep("renewal", open, "pki", "renew", "admin")
}

func TestImportSurvivesEveryKill(t *testing.T) {
	k := newKiller(t)
	open, sealed := k.project(), k.project()
	k.must(sealed, "pki", "init", "--recipient", k.identity.Recipient().String())
	files := k.material()
	k.sweep("import", open, "pki", "import", "--from", files)
	k.sweep("import, sealed", sealed, "pki", "import", "--from", files)
}

type killer struct {
	*testing.T
	strace, program string
	identity        *age.X25519Identity
	identityFile    string
}

func newKiller(t *testing.T) *killer {
	t.Helper()
	k := &killer{T: t, strace: readers.Path(t, "strace"), program: buildProgram(t), identityFile: filepath.Join(t.TempDir(), "identity.txt")}
	var err error
	if k.identity, err = age.GenerateX25519Identity(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.identityFile, []byte(k.identity.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

func buildProgram(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "kthwc")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// project is a directory with a cluster.yaml.
func (k *killer) project() string {
	k.Helper()
	source, err := os.ReadFile("../../golden/single-node/cluster.yaml")
	if err != nil {
		k.Fatal(err)
	}
	dir := k.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cluster.yaml"), source, 0o644); err != nil {
		k.Fatal(err)
	}
	return dir
}

// material is a directory of files to import.
func (k *killer) material() string {
	k.Helper()
	elsewhere, files := k.project(), k.TempDir()
	k.must(elsewhere, "pki", "issue")
	store, err := pki.Open(elsewhere+"/single-node.kthwc/store", "single-node")
	if err != nil {
		k.Fatal(err)
	}
	for file, ref := range map[string]secret.Ref{
		"etcd.crt": secret.Bundle("etcd"), "etcd.key": secret.CAKey("etcd"), "service-account.key": secret.Key("service-account"),
		"etcd-server@box.crt": secret.Cert("etcd-server@box"), "etcd-server@box.key": secret.Key("etcd-server@box"),
	} {
		text, err := store.Material(ref)
		if err := errors.Join(err, os.WriteFile(filepath.Join(files, file), text, 0o600)); err != nil {
			k.Fatal(err)
		}
	}
	return files
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
			if !k.killed(dir, call, n, args) {
				break // it has fewer calls than that
			}
			killed++
			k.whole(fmt.Sprintf("%s, killed at %s number %d", name, call, n), before, dir, args)
		}
	}
	if killed < 5 {
		k.Errorf("%s was killed %d times only", name, killed)
	}
	k.Logf("%s: killed at %d places", name, killed)
}

// killed runs the command and says whether it was killed at its nth call.
func (k *killer) killed(dir, call string, n int, args []string) bool {
	inject := fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n)
	return k.run(dir, k.strace, append([]string{"-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call, "-e", inject, k.program}, args...)...) != nil
}

// whole proves that a directory holds all that was there before, and that the
// next run completes what was begun.
func (k *killer) whole(what, before, after string, again []string) {
	k.Helper()
	k.kept(what, before, after)
	for _, args := range [][]string{{"pki", "list"}, again, {"pki", "issue"}, {"pki", "inventory", "--write"}, {"pki", "plan", "--exit-code"}} {
		if err := k.run(after, k.program, args...); err != nil {
			k.Errorf("%s: then %v", what, err)
		}
	}
	k.must(after, "pki", "renew", "admin")
	left, _ := filepath.Glob(filepath.Join(after, "*.kthwc/store/.*.*"))
	if len(left) > 0 {
		k.Errorf("%s: %v is left", what, left)
	}
}

// kept proves that the generations of before are there, byte for byte.
func (k *killer) kept(what, before, after string) {
	k.Helper()
	for _, f := range generations(before) {
		was, _ := os.ReadFile(f)
		is, err := os.ReadFile(filepath.Join(after, strings.TrimPrefix(f, before)))
		if err != nil || !bytes.Equal(was, is) {
			k.Errorf("%s: %s is not what it was", what, f)
		}
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
	cmd.Env = append(os.Environ(), "CI=true", "KTHWC_IDENTITY="+k.identityFile)
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
