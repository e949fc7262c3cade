// Package readers finds the programs that judge what is rendered.
//
// It promises that a test without its judge is skipped in words, or fails where
// KTHWC_REQUIRE=1 says that every judge must be there. It is a test helper.
package readers

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Path finds a reader built by `make readers`, or a program of the machine.
func Path(t testing.TB, name string) string {
	t.Helper()
	_, self, _, _ := runtime.Caller(0)
	dir := filepath.Join(filepath.Dir(self), "..", "..", "build", "readers")
	if d := os.Getenv("KTHWC_READERS"); d != "" {
		dir = d
	}
	for _, candidate := range []string{filepath.Join(dir, name), filepath.Join("/usr/sbin", name)} {
		if info, err := os.Stat(candidate); err == nil && !info.IsDir() {
			return candidate
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	if os.Getenv("KTHWC_REQUIRE") == "1" {
		t.Fatalf("%s is missing, and KTHWC_REQUIRE=1", name)
	}
	t.Skipf("%s is missing: `make readers` builds it, or install the package that has it", name)
	return ""
}

// Judge runs a program with content on its standard input, and fails the test
// with what it says if it does not accept it.
func Judge(t testing.TB, content []byte, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stdin = bytes.NewReader(content)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s %q: %v\n%s", filepath.Base(program), args, err, out)
	}
}
