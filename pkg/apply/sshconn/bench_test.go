package sshconn

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/readers"
)

// Six connections and one `true` on each: ours, then the OpenSSH client's, in
// turn, and how many times as long ours take.
func BenchmarkSixHosts(b *testing.B) {
	program := readers.Path(b, "ssh")
	w := newWorld(b)
	var targets []Target
	for range 6 {
		s := startSSHD(b, w, sshdOptions{})
		w.know(b, s.addr, s.public(b, "ed25519"))
		targets = append(targets, target(b, s.addr))
	}
	config := filepath.Join(w.home, "bench")
	put(b, config, "IdentityFile "+w.path(".ssh/id_ed25519")+"\nIdentitiesOnly yes\nUserKnownHostsFile "+w.path(".ssh/known_hosts")+"\nGlobalKnownHostsFile none\nBatchMode yes\n")
	var ours, theirs time.Duration
	for b.Loop() {
		start := time.Now()
		oursOnce(b, targets, w.options)
		ours += time.Since(start)
		start = time.Now()
		theirsOnce(b, program, config, targets)
		theirs += time.Since(start)
	}
	b.ReportMetric(float64(ours.Milliseconds())/float64(b.N), "ours-ms")
	b.ReportMetric(float64(theirs.Milliseconds())/float64(b.N), "ssh-ms")
	b.ReportMetric(float64(ours)/float64(theirs), "ours/ssh")
}

func oursOnce(b *testing.B, targets []Target, o Options) {
	b.Helper()
	var all sync.WaitGroup
	for _, d := range DialAll(context.Background(), targets, o) {
		if d.Err != nil {
			b.Fatal(d.Err)
		}
		all.Go(func() {
			defer d.Conn.Close()
			if _, err := d.Conn.Run(context.Background(), Command{Argv: []string{"true"}}); err != nil {
				b.Error(err)
			}
		})
	}
	all.Wait()
}

func theirsOnce(b *testing.B, program, config string, targets []Target) {
	b.Helper()
	var all sync.WaitGroup
	for _, t := range targets {
		all.Go(func() {
			cmd := exec.Command(program, "-F", config, "-p", strconv.Itoa(t.Port), t.User+"@"+t.Address, "true")
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Errorf("%v: %s", err, bytes.TrimSpace(out))
			}
		})
	}
	all.Wait()
}
