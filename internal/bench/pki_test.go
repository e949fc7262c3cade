package bench_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/bench"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/inventory"
	"github.com/kthwc/kthwc/pkg/pki"
)

var today = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func compiled(tb testing.TB, nodes int) *compile.Cluster {
	tb.Helper()
	c, faults := compile.Compile(load(tb, bench.Pool(nodes)), compile.Facts{})
	if err := faults.Err(); err != nil {
		tb.Fatal(err)
	}
	return c
}

// issue makes what a plan for nothing has, but for what keep turns down, in a
// new store.
func issue(tb testing.TB, c *compile.Cluster, dir string, keep func(pki.Action) bool) int {
	tb.Helper()
	s, err := pki.Open(dir, c.Name.V)
	if err != nil {
		tb.Fatal(err)
	}
	plan := pki.MakePlan(c, nil, pki.Options{Now: today})
	plan.Actions = slices.DeleteFunc(plan.Actions, func(a pki.Action) bool { return !keep(a) })
	if err := pki.Issue(s, c, plan, pki.Options{Now: today}, nil); err != nil {
		tb.Fatal(err)
	}
	return len(plan.Actions)
}

func everything(pki.Action) bool { return true }

// kubelets are the two certificates of each kubelet, and the authorities.
func kubelets(a pki.Action) bool {
	return a.Kind == pki.Authority || strings.HasPrefix(a.Name, "kubelet-")
}

// BenchmarkIssue measures making keys and certificates and writing them as one
// generation.
func BenchmarkIssue(b *testing.B) {
	for _, n := range sizes {
		c := compiled(b, n)
		for what, keep := range map[string]func(pki.Action) bool{"everything": everything, "kubelets": kubelets} {
			b.Run(fmt.Sprintf("%s-%d", what, n), func(b *testing.B) {
				made := 0
				for i := 0; b.Loop(); i++ {
					made = issue(b, c, filepath.Join(b.TempDir(), fmt.Sprint(i)), keep)
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(made), "µs/piece")
				b.ReportMetric(float64(made), "pieces")
			})
		}
	}
}

// BenchmarkLook measures what every command of `kthwc pki` does with a store
// that is full: open it, say what it has, write and read that, and plan.
func BenchmarkLook(b *testing.B) {
	for _, n := range sizes {
		c, dir := compiled(b, n), filepath.Join(b.TempDir(), "store")
		issue(b, c, dir, everything)
		s, err := pki.Open(dir, c.Name.V)
		if err != nil {
			b.Fatal(err)
		}
		inv, err := s.Inventory()
		if err != nil {
			b.Fatal(err)
		}
		text, err := inv.YAML()
		if err != nil {
			b.Fatal(err)
		}
		for _, step := range []struct {
			name string
			run  func() error
		}{
			{"open", func() error { _, err := pki.Open(dir, c.Name.V); return err }},
			{"inventory", func() error { _, err := s.Inventory(); return err }},
			{"write", func() error { _, err := inv.YAML(); return err }},
			{"read", func() error { _, err := inventory.Parse(text); return err }},
			{"plan", func() error { pki.MakePlan(c, inv, pki.Options{Now: today}); return nil }},
		} {
			b.Run(fmt.Sprintf("%s-%d", step.name, n), func(b *testing.B) {
				for b.Loop() {
					if err := step.run(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/node")
			})
		}
	}
}
