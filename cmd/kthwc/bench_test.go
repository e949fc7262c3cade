package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"
)

// BenchmarkProcess measures from process start to files for the six nodes of
// the example, against `kthwc version` in the same run, and against what the
// file system alone takes: a plain loop that writes the same bytes.
func BenchmarkProcess(b *testing.B) {
	dir := b.TempDir()
	program := compiledProgram(b, dir)
	example, err := filepath.Abs("../../examples/cluster.yaml")
	if err != nil {
		b.Fatal(err)
	}
	var version, render, plain time.Duration
	for b.Loop() {
		version += timed(b, program, "version")
		render += timed(b, program, "render", "-f", example, "-o", filepath.Join(dir, "out"))
		files := read(b, filepath.Join(dir, "out"))
		start := time.Now()
		if err := os.CopyFS(filepath.Join(dir, "plain"), files); err != nil {
			b.Fatal(err)
		}
		plain += time.Since(start)
		if err := errors.Join(os.RemoveAll(filepath.Join(dir, "out")), os.RemoveAll(filepath.Join(dir, "plain"))); err != nil {
			b.Fatal(err)
		}
	}
	report(b, version, "ms-version")
	report(b, render-version, "ms-more-than-version")
	report(b, plain, "ms-plain-loop")
}

// compiledProgram builds kthwc.
func compiledProgram(b *testing.B, dir string) string {
	b.Helper()
	program := filepath.Join(dir, "kthwc")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return program
}

// report gives a sum over all runs as milliseconds of one.
func report(b *testing.B, sum time.Duration, unit string) {
	b.ReportMetric(float64(sum.Microseconds())/1000/float64(b.N), unit)
}

// read takes a directory into memory.
func read(b *testing.B, dir string) fs.FS {
	b.Helper()
	files := fstest.MapFS{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		files[filepath.ToSlash(rel)] = &fstest.MapFile{Data: text, Mode: 0o644}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return files
}

func timed(b *testing.B, program string, args ...string) time.Duration {
	b.Helper()
	start := time.Now()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return time.Since(start)
}
