package bench_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/bench"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

var sizes = []int{6, 500, 5000}

func load(tb testing.TB, source []byte) *schema.Document {
	tb.Helper()
	doc, faults := schema.Load("cluster.yaml", source)
	if err := faults.Err(); err != nil {
		tb.Fatal(err)
	}
	return doc
}

func build(tb testing.TB, doc *schema.Document) *tree.Tree {
	tb.Helper()
	c, faults := compile.Compile(doc, compile.Facts{})
	if err := faults.Err(); err != nil {
		tb.Fatal(err)
	}
	t, faults := render.Render(c, render.Input{Source: doc.Source()})
	if err := faults.Err(); err != nil {
		tb.Fatal(err)
	}
	return t
}

// The inputs are what the benchmarks say they are.
func TestClustersHaveTheSizeAskedFor(t *testing.T) {
	for _, source := range [][]byte{bench.Pool(6), bench.Listed(6)} {
		if got := build(t, load(t, source)); len(got.Nodes) != 6 {
			t.Errorf("%d nodes", len(got.Nodes))
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, n := range sizes {
		for shape, source := range map[string][]byte{"listed": bench.Listed(n), "pool": bench.Pool(n)} {
			b.Run(fmt.Sprintf("%s-%d", shape, n), func(b *testing.B) {
				for b.Loop() {
					load(b, source)
				}
			})
		}
	}
}

// BenchmarkBuild measures compile and render in memory, and reports the cost of
// a node and the most memory that was live.
func BenchmarkBuild(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			doc := load(b, bench.Pool(n))
			runtime.GC()
			var peak uint64
			for b.Loop() {
				kept := build(b, doc)
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapSys)
				runtime.KeepAlive(kept)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/node")
			b.ReportMetric(float64(peak)/(1<<20), "MiB-peak")
		})
	}
}

// BenchmarkWrite measures a render to a fresh directory against a plain loop
// that writes the same bytes, in the same run.
func BenchmarkWrite(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t := build(b, load(b, bench.Pool(n)))
			var plain, ours time.Duration
			for i := 0; b.Loop(); i++ {
				dir := filepath.Join(b.TempDir(), fmt.Sprint(i))
				start := time.Now()
				if err := tree.Write(dir, t, tree.WriteOptions{}); err != nil {
					b.Fatal(err)
				}
				ours += time.Since(start)
				files := contents(b, dir)
				start = time.Now()
				writePlainly(b, dir+"-plain", files)
				plain += time.Since(start)
			}
			b.ReportMetric(float64(ours)/float64(plain), "times-plain-loop")
		})
	}
}

type file struct {
	path    string
	content []byte
}

func contents(tb testing.TB, dir string) []file {
	tb.Helper()
	var files []file
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		files = append(files, file{rel, content})
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return files
}

func writePlainly(tb testing.TB, dir string, files []file) {
	tb.Helper()
	made := map[string]bool{}
	for _, f := range files {
		path := filepath.Join(dir, f.path)
		if parent := filepath.Dir(path); !made[parent] {
			made[parent] = true
			if err := os.MkdirAll(parent, 0o755); err != nil {
				tb.Fatal(err)
			}
		}
		if err := os.WriteFile(path, f.content, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
}
