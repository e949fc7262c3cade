package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkProcess measures from process start to files for the six nodes of
// the example, against `kthwc version` in the same run.
func BenchmarkProcess(b *testing.B) {
	dir := b.TempDir()
	program := filepath.Join(dir, "kthwc")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	example, err := filepath.Abs("../../examples/cluster.yaml")
	if err != nil {
		b.Fatal(err)
	}
	var version, render time.Duration
	for b.Loop() {
		version += timed(b, program, "version")
		render += timed(b, program, "render", "-f", example, "-o", filepath.Join(dir, "out"))
		if err := os.RemoveAll(filepath.Join(dir, "out")); err != nil {
			b.Fatal(err)
		}
	}
	milliseconds := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(b.N) }
	b.ReportMetric(milliseconds(version), "ms-version")
	b.ReportMetric(milliseconds(render-version), "ms-more-than-version")
}

func timed(b *testing.B, program string, args ...string) time.Duration {
	b.Helper()
	start := time.Now()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return time.Since(start)
}
