package verify

import (
	"context"
	"fmt"
	"sync"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/compile"
)

// bringScript imports an archive from standard input, unless the image is there
// already. What it imports is labelled, so that it is found again. Arguments:
// ctr, the image.
const bringScript = `if "$1" -n k8s.io images ls -q "name==$2" | grep -q .; then
	cat >/dev/null
	exit 0
fi
"$1" -n k8s.io images import - >/dev/null && "$1" -n k8s.io images label "$2" kthwc.dev/verify=true >/dev/null`

// takeScript removes what any run has imported. Argument: ctr.
const takeScript = `"$1" -n k8s.io images ls -q 'labels."kthwc.dev/verify"==true' | while read -r image; do
	"$1" -n k8s.io images rm --sync "$image" >/dev/null || exit 1
done`

// bring gives every worker the image of the workloads, where there is an
// archive of it.
func (r *run) bring(ctx context.Context) error {
	if r.o.Archive == nil {
		return nil
	}
	return r.onWorkers(func(w *compile.Node, host apply.Conn) error {
		archive, err := r.o.Archive()
		if err != nil {
			return err
		}
		defer archive.Close()
		return ended(host.Run(ctx, apply.Command{Script: bringScript, Args: []string{r.Cluster.Path("bin/ctr", w), r.o.Image}, Stdin: archive}))
	})
}

// takeAway removes the image from workers that it was brought to, by this run
// or by one that was killed.
func (r *run) takeAway(ctx context.Context) {
	if r.o.Archive == nil {
		return
	}
	err := r.onWorkers(func(w *compile.Node, host apply.Conn) error {
		return ended(host.Run(ctx, apply.Command{Script: takeScript, Args: []string{r.Cluster.Path("bin/ctr", w)}}))
	})
	if err != nil {
		r.report.Leftovers = append(r.report.Leftovers, "the image "+r.o.Image+": "+said(err))
	}
}

// onWorkers does the same on every worker that answers. The error is the first
// one.
func (r *run) onWorkers(f func(*compile.Node, apply.Conn) error) (failed error) {
	var mu sync.Mutex
	each(r.workers(), func(w *compile.Node) {
		host := r.Conns[w.Name.V]
		if host == nil {
			return
		}
		if err := f(w, host); err != nil {
			mu.Lock()
			defer mu.Unlock()
			failed = fmt.Errorf("%s: %w", w.Name.V, err)
		}
	})
	return failed
}

// ended is the error of a run that ended with another status than 0.
func ended(a apply.Result, err error) error {
	if err == nil && a.Status != 0 {
		return fmt.Errorf("status %d: %s", a.Status, short(string(a.Stderr)))
	}
	return err
}
