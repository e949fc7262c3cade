//go:build unix

package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kthwc/kthwc/pkg/origin"
)

// The test binary is the writer too: with these it writes once or several
// times, and kills itself at a step.
const (
	writeTo = "KTHWC_TEST_WRITE_TO"
	stopAt  = "KTHWC_TEST_STOP_AT"
	swapBy  = "KTHWC_TEST_SWAP_BY"
	times   = "KTHWC_TEST_TIMES"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(writeTo); dir != "" {
		if err := writeAndStop(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// exchanges are the ways to put the new tree in place.
var exchanges = map[string]func(*writer) error{"exchange": exchange, "two renames": twoRenames}

func writeAndStop(dir string) error {
	stop, _ := strconv.Atoi(os.Getenv(stopAt))
	repeat, _ := strconv.Atoi(os.Getenv(times))
	var steps atomic.Int64
	for range max(repeat, 1) {
		w := newWriter(dir)
		w.exchange = exchanges[os.Getenv(swapBy)]
		w.step = func() {
			if int(steps.Add(1)) == stop {
				_ = unix.Kill(os.Getpid(), unix.SIGKILL)
				select {} // the signal comes
			}
		}
		if err := w.write(says("new"), WriteOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// says is a tree whose every file has the text.
func says(text string) *Tree {
	body := &Body{}
	body.Add(origin.Fixed("x"), text)
	t := &Tree{Cluster: "c", Files: []*File{{Path: "manifests/a.yaml", Kind: Regular, Body: body}}}
	for _, name := range []string{"box-0", "box-1"} {
		t.Nodes = append(t.Nodes, &Node{Name: name, Files: []*File{
			{Path: "/etc/a", Kind: Regular, Body: body}, {Path: "/etc/b/c", Kind: Regular, Body: body},
		}})
	}
	return t
}

// whole gives the text of every file of a rendered directory: "" if there is
// none, and an error if it is not one whole tree.
func whole(dir string) (string, error) {
	r, err := ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(dir); err == nil {
			return "", errors.New("a directory without its manifest")
		}
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if len(r.Edited) > 0 {
		return "", fmt.Errorf("%q are not as the manifest says", r.Edited)
	}
	text, files := "", 0
	for where, f := range r.Tree.All() {
		if files++; text != "" && text != string(f.Body.Bytes()) {
			return "", fmt.Errorf("%s is of another tree", where)
		}
		text = string(f.Body.Bytes())
	}
	if files != 5 {
		return "", fmt.Errorf("%d files", files)
	}
	return strings.TrimSuffix(text, "\n"), nil
}

func child(dir, swap string, more ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append([]string{writeTo + "=" + dir, swapBy + "=" + swap}, more...)...)
	return cmd
}

// A writer that is killed at any step leaves the whole old tree or the whole
// new one; the next one takes its place and leaves nothing beside it.
func TestWriteMayBeKilledAnywhere(t *testing.T) {
	for swap := range exchanges {
		for _, before := range []string{"", "old"} {
			t.Run(swap+" over "+strconv.Quote(before), func(t *testing.T) {
				t.Parallel()
				killed := 0
				for step, done := 1, false; !done; step++ {
					if step > 30 {
						t.Fatal("the writer does not end")
					}
					if done = stopped(t, swap, before, step); !done {
						killed++
					}
				}
				if killed < 9 {
					t.Errorf("the writer was killed at %d steps only", killed)
				}
			})
		}
	}
}

// stopped lets a writer be killed at one step, and says whether it came to its
// end before that.
func stopped(t *testing.T, swap, before string, step int) (done bool) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	if before != "" {
		if err := Write(dir, says(before), WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	out, err := child(dir, swap, stopAt+"="+strconv.Itoa(step)).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != -1) {
		t.Fatalf("step %d: %v\n%s", step, err, out)
	}
	got, broken := whole(dir)
	lost := got == "" && before != "" && swap == "two renames" // until the next writer looks
	if broken != nil || got != before && got != "new" && !lost {
		t.Errorf("step %d: the directory says %q, %v", step, got, broken)
	}
	if w := newWriter(dir); lost {
		if kept, err := whole(w.old); kept != before || err != nil {
			t.Errorf("step %d: what was there is %q, %v", step, kept, err)
		}
		if err := w.settle(); err != nil {
			t.Errorf("step %d: %v", step, err)
		}
		if kept, err := whole(dir); kept != before || err != nil {
			t.Errorf("step %d: found again is %q, %v", step, kept, err)
		}
	}
	if err := Write(dir, says("next"), WriteOptions{}); err != nil {
		t.Errorf("step %d: the next render: %v", step, err)
	}
	alone(t, dir, "next")
	return err == nil
}

// alone says that dir is one whole tree with the text, and that nothing lies
// beside it.
func alone(t *testing.T, dir, text string) {
	t.Helper()
	if got, err := whole(dir); got != text || err != nil {
		t.Errorf("the directory says %q, %v", got, err)
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the output: %v, %v", entries, err)
	}
}

// Renders at the same time into one directory, of one process and of several,
// are one after the other: all succeed, and one whole tree is left.
func TestWritesAtTheSameTime(t *testing.T) {
	for swap := range exchanges {
		t.Run(swap, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "out")
			var running sync.WaitGroup
			for range 2 {
				running.Go(func() {
					if out, err := child(dir, swap, times+"=20").CombinedOutput(); err != nil {
						t.Errorf("%v\n%s", err, out)
					}
				})
				running.Go(func() {
					for range 20 {
						w := newWriter(dir)
						w.exchange = exchanges[swap]
						if err := w.write(says("new"), WriteOptions{}); err != nil {
							t.Error(err)
						}
					}
				})
			}
			running.Wait()
			alone(t, dir, "new")
		})
	}
}

// What is beside the output and not the writer's own is left alone.
func TestWriteLeavesNeighbours(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "out")
	for _, name := range []string{"out.old", ".out.new-1", ".other.kthwc-new"} {
		if err := os.MkdirAll(filepath.Join(parent, name, "precious"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for swap := range exchanges {
		w := newWriter(dir)
		w.exchange = exchanges[swap]
		if err := w.write(says("new"), WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"out.old", ".out.new-1", ".other.kthwc-new"} {
		if _, err := os.Stat(filepath.Join(parent, name, "precious")); err != nil {
			t.Error(err)
		}
	}
}

// No name of a tree leads out of the directory, or into another one's place.
func TestNamesStayInTheTree(t *testing.T) {
	for name, damage := range map[string]func(*Tree){
		"a node above":           func(t *Tree) { t.Nodes[0].Name = "../../x" },
		"a node of two names":    func(t *Tree) { t.Nodes[0].Name = "a/b" },
		"a node that is here":    func(t *Tree) { t.Nodes[0].Name = "." },
		"a node without a name":  func(t *Tree) { t.Nodes[0].Name = "" },
		"the same node again":    func(t *Tree) { t.Nodes[0].Name = "box-1" },
		"a file above":           func(t *Tree) { t.Files[0].Path = "../x" },
		"a file of the machine":  func(t *Tree) { t.Files[0].Path = "/etc/x" },
		"the manifest":           func(t *Tree) { t.Files[0].Path = ManifestName },
		"a file among the nodes": func(t *Tree) { t.Files[0].Path = "nodes/box-0/etc/a" },
		"a node's file above":    func(t *Tree) { t.Nodes[0].Files[0].Path = "/../../../x" },
		"a node's file beside":   func(t *Tree) { t.Nodes[0].Files[0].Path = "x" },
	} {
		parent := t.TempDir()
		bad := says("x")
		damage(bad)
		if err := Write(filepath.Join(parent, "out"), bad, WriteOptions{}); err == nil {
			t.Errorf("%s was written", name)
		}
		if entries, _ := os.ReadDir(parent); len(entries) > 0 {
			t.Errorf("%s: %v was left behind", name, entries)
		}
	}
}
