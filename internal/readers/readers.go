// Package readers finds the programs that judge what is rendered.
//
// It promises that a test without its judge is skipped in words, or fails where
// KTHWC_REQUIRE=1 says that every judge must be there. It is a test helper.
package readers

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Path finds a reader built by `make readers`, or a program of the machine.
func Path(tb testing.TB, name string) string {
	tb.Helper()
	for _, place := range []string{Dir(), "/usr/sbin", "/usr/lib/systemd"} {
		candidate := filepath.Join(place, name)
		if info, err := os.Stat(candidate); err == nil && !info.IsDir() {
			return candidate
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	Missing(tb, name+" is missing: `make readers` builds it, or install the package that has it")
	return ""
}

// Dir is where `make readers` puts what it builds.
func Dir() string {
	if dir := os.Getenv("KTHWC_READERS"); dir != "" {
		return dir
	}
	_, self, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(self), "..", "..", "build", "readers")
}

// Missing ends a test that has not what it needs: skipped, or failed where
// KTHWC_REQUIRE=1.
func Missing(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("KTHWC_REQUIRE") == "1" {
		tb.Fatalf("%s (KTHWC_REQUIRE=1)", what)
	}
	tb.Skip(what)
}

// Run runs a program with content on its standard input and gives what it
// prints; the error has what it says.
func Run(content []byte, program string, args ...string) (string, error) {
	cmd := exec.Command(program, args...)
	cmd.Stdin = bytes.NewReader(content)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %q: %w\n%s%s", filepath.Base(program), args, err, out, said.Bytes())
	}
	return string(out), nil
}

// Judge runs a program with content on its standard input, and fails the test
// with what it says if it does not accept it.
func Judge(tb testing.TB, content []byte, program string, args ...string) {
	tb.Helper()
	if _, err := Run(content, program, args...); err != nil {
		tb.Error(err)
	}
}
