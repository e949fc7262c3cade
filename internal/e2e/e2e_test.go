// Package e2e drives the built kthwc as a person does: from cluster.yaml to a
// cluster on the machines of a lab, and through what befalls a cluster later.
//
// It promises that whatever it expects is seen from outside: exit codes, what is
// printed, what kubectl and the hosts say, and a probe that writes and reads
// through the balancer all the while. It imports nothing of the program. It
// refuses to run unasked, because it takes minutes: KTHWC_E2E=1, as root, with
// what lab/artifacts/build.sh builds.
package e2e

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/kthwc/kthwc/internal/readers"
)

// inLab names a directory with a lab that is up: chapters are then tried one by
// one, with -run, and the lab stays. For whoever works on them.
var inLab = flag.String("in", "", "a directory with cluster.yaml and its lab, which was applied to; it is used and kept (one test at a time)")

// A chapter is something that befalls a cluster. It begins with a cluster that is
// as examples/lab.yaml says, and leaves one.
type chapter struct {
	name string
	tell func(*testing.T, *operator)
}

// Four labs go side by side, and take about the same time.

// The hardened example, and what people do to it.
func TestHardened(t *testing.T) {
	together(t)
	newOperator(t, "lab.yaml").through(t, []chapter{{"boots", boots}, {"rolls", rolls}, {"cutOff", cutOff}, {"killed", killed}})
}

// The same, what is taken back, what befalls its hosts, and which component is broken.
func TestHosts(t *testing.T) {
	together(t)
	newOperator(t, "lab.yaml").through(t, []chapter{{"rollback", rollback}, {"off", off}, {"rebooted", rebooted}, {"worker", worker}, {"components", broken(injected, "--skip-smoke")}})
}

// The same, what is changed by hand, and what breaks for pods.
func TestPods(t *testing.T) {
	together(t)
	newOperator(t, "lab.yaml").through(t, []chapter{{"drift", drift}, {"pods", broken(injectedForPods)}, {"mended", mended}})
}

// through tells chapters one after the other.
func (o *operator) through(t *testing.T, chapters []chapter) {
	for _, c := range chapters {
		ok := t.Run(c.name, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					o.report(t)
				}
			}()
			c.tell(t, o)
			o.settled(t)
		})
		if !ok {
			o.mend(t)
		}
	}
}

// The other examples boot and are what is predicted: the tutorial's profile, and the
// topology of its newest edition, one server beside two workers.
func TestExamples(t *testing.T) {
	if *inLab != "" {
		t.Skip("-in names another lab")
	}
	together(t)
	for _, example := range []string{"lab-tutorial.yaml", "lab-server.yaml"} {
		t.Run(example, func(t *testing.T) {
			o := newOperator(t, example)
			o.settled(t)
			o.verified(t)
		})
	}
}

// together has a lab beside those of other tests: they know nothing of each other.
func together(t *testing.T) {
	t.Helper()
	needs(t)
	if *inLab == "" {
		t.Parallel()
	}
}

// needs skips, in words, where the test was not asked for or what it needs is
// missing; KTHWC_REQUIRE=1 makes the latter a failure.
func needs(t *testing.T) {
	t.Helper()
	if os.Getenv("KTHWC_E2E") != "1" {
		t.Skip("this boots clusters and takes minutes: KTHWC_E2E=1 asks for it")
	}
	if os.Geteuid() != 0 {
		readers.Missing(t, "the lab makes namespaces and mounts, which only root may: run this as root")
	}
	for _, program := range []string{"systemd-nspawn", "mmdebstrap", "ip", "ssh", "haproxy"} {
		readers.Path(t, program)
	}
	for _, file := range []string{kubectlProgram(), toolboxImage()} {
		if _, err := os.Stat(file); err != nil {
			readers.Missing(t, file+" is missing: `make lab-artifacts` builds it")
		}
	}
}

// root is the repository's directory.
func root() string {
	_, self, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(self), "..", "..")
}

func artifacts() string { return filepath.Join(root(), "build", "artifacts") }

func kubectlProgram() string {
	return first(filepath.Join(artifacts(), "dl.k8s.io", "v1.37.*", "bin", "linux", runtime.GOARCH, "kubectl"))
}

func toolboxImage() string {
	return first(filepath.Join(artifacts(), "kthwc.dev", "lab", "toolbox", "*-linux-"+runtime.GOARCH+".tar"))
}

// first is a file that a pattern matches, or the pattern where there is none.
func first(pattern string) string {
	if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
		return found[0]
	}
	return pattern
}

// build makes the program that is driven, as `make build` does.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "kthwc")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/kthwc")
	cmd.Dir = root()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}
