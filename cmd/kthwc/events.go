package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/kthwc/kthwc/pkg/apply"
)

// journalist writes down what an apply does: in a file for later, and where it
// was asked for, as JSON for programs.
type journalist struct {
	s    *session
	path string
	file *os.File
	out  io.Writer // nil: nobody asked for JSON
	mu   sync.Mutex
}

// watcher shows what an apply does while it does it.
type watcher struct {
	event func(apply.Event)
	end   func()
	out   io.Writer // for JSON, where that was asked for
}

func (s *session) watchApply(p *apply.Plan, format string) watcher {
	if format == "json" {
		return watcher{func(apply.Event) {}, func() {}, s.out}
	}
	view := s.newProgress(p)
	return watcher{view.event, view.end, nil}
}

// newJournalist opens the log of a transaction, for its owner alone. A log that
// cannot be written stops nothing: it is said.
func (s *session) newJournalist(verb, cluster string, transaction int, out io.Writer) *journalist {
	j := &journalist{s: s, out: out, path: filepath.Join(cacheDir(s.getenv), "kthwc", "log", fmt.Sprintf("%s-%s-%s-%d.log", cluster, s.now().UTC().Format("20060102T150405Z"), verb, transaction))}
	err := os.MkdirAll(filepath.Dir(j.path), 0o700)
	if err == nil {
		j.file, err = os.OpenFile(j.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	}
	if err != nil {
		fmt.Fprintf(s.err, "no log is written: %v\n", err)
	}
	return j
}

func (j *journalist) event(e apply.Event) {
	j.write(apply.EventRecord{Type: e.Doing, Node: e.Node, Step: e.Step, Detail: e.Detail, Seconds: e.Took.Seconds()})
}

func (j *journalist) write(r apply.EventRecord) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r.Version, r.Time, r.Detail = 1, j.s.now().UTC().Format(time.RFC3339Nano), redacted(r.Detail)
	if j.file != nil {
		fmt.Fprintln(j.file, strings.TrimRight(fmt.Sprintf("%s %-7s %-14s %-30s %s", r.Time, r.Type, r.Node, r.Step, strings.ReplaceAll(r.Detail, "\n", "\n    ")), " ")+took(r.Seconds))
	}
	if j.out != nil {
		e := json.NewEncoder(j.out)
		e.SetEscapeHTML(false)
		_ = e.Encode(r) // whoever reads has gone: the apply goes on
	}
}

// end writes the summary and names the log of a run that failed.
func (j *journalist) end(transaction int, err error) {
	code, detail := 0, "done"
	if err != nil {
		code, detail = codeOf(err), err.Error()
	}
	j.write(apply.EventRecord{Type: "summary", Transaction: transaction, Exit: &code, Detail: detail})
	if j.file == nil {
		return
	}
	j.file.Close()
	if err != nil {
		fmt.Fprintf(j.s.err, "the log is %s\n", j.path)
	}
}

// secrets are what material looks like, should a host ever say it.
var secrets = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)|LS0tLS1CRUdJTi[A-Za-z0-9+/=]*|(client-key-data|secret|token|password): *[^\s]+`)

// redacted is text without what looks like material.
func redacted(text string) string { return secrets.ReplaceAllString(text, "[redacted]") }

func took(seconds float64) string {
	if seconds == 0 {
		return ""
	}
	return fmt.Sprintf(" (%.1f s)", seconds)
}
