package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// searchPath is where programs are looked for, whatever the caller's PATH is.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// passedOn are the variables of the caller that commands see: whoever is behind
// a proxy must reach the archive.
var passedOn = []string{"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSH_AUTH_SOCK"}

// find looks a program up in the search path, unless it is a path itself.
func find(name string) (string, bool) {
	if filepath.IsAbs(name) {
		return name, exists(name)
	}
	for _, dir := range filepath.SplitList(searchPath) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, true
		}
	}
	return "", false
}

// runner runs commands and writes them down. Commands that are waited for hold
// the lab's lock as long as they run: a lock that can be had means that nothing
// of an earlier run is still at work.
type runner struct {
	id     string
	getenv func(string) string
	lock   *os.File
	log    *os.File // commands.log
}

// The variables that mark a process as a lab's.
const (
	markLab  = "KTHWC_LAB"
	markPart = "KTHWC_LAB_PART"
)

func (r *runner) command(ctx context.Context, argv []string) (*exec.Cmd, error) {
	path, ok := find(argv[0])
	if !ok {
		return nil, &Error{Lacking, "the program " + argv[0] + " is missing", "install its package"}
	}
	if r.log != nil {
		fmt.Fprintln(r.log, quoted(argv))
	}
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Dir = "/"
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = []string{"PATH=" + searchPath, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", markLab + "=" + r.id}
	for _, name := range passedOn {
		if v := r.getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	return cmd, nil
}

// run runs a command to its end, within a limit, and gives what it printed. The
// error has the last lines of what it said.
func (r *runner) run(ctx context.Context, limit time.Duration, argv ...string) (string, error) {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd, err := r.command(bounded, argv)
	if err != nil {
		return "", err
	}
	if r.lock != nil {
		cmd.ExtraFiles = []*os.File{r.lock}
	}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	switch {
	case err == nil:
		return out.String(), nil
	case ctx.Err() != nil:
		return out.String(), ctx.Err()
	case bounded.Err() != nil:
		err = fmt.Errorf("it has not ended after %v", limit)
	}
	return out.String(), fmt.Errorf("%s: %w%s", quoted(argv), err, lastLines(said.String()+out.String(), 10))
}

// start starts a part of the lab, which outlives this run: in a session of its
// own, without the lock, with a mark to find it by.
func (r *runner) start(part, logFile string, argv ...string) error {
	cmd, err := r.command(context.Background(), argv)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Env = append(cmd.Env, markPart+"="+part, "SYSTEMD_NSPAWN_API_VFS_WRITABLE=1")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // so that its end leaves nothing while we run
	return nil
}

// wait asks every tenth of a second until the answer is nil. Each question is
// bounded by whoever asks it.
func wait(ctx context.Context, limit time.Duration, question func() error) error {
	deadline := time.After(limit)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := question()
		var final *Error
		if err == nil || errors.As(err, &final) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return fmt.Errorf("not within %v: %w", limit, err)
		case <-tick.C:
		}
	}
}

// lastLines are the last lines of a text, each on a line of its own below what
// comes before it; control characters are left out.
func lastLines(text string, count int) string {
	lines := strings.Split(strings.TrimRight(text, "\r\n"), "\n")
	if text == "" {
		return ""
	}
	var b strings.Builder
	for _, line := range lines[max(0, len(lines)-count):] {
		b.WriteString("\n    " + strings.Map(printable, line))
	}
	return b.String()
}

func printable(r rune) rune {
	if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
		return -1
	}
	return r
}

// quoted is a command as a shell reads it.
func quoted(argv []string) string {
	words := make([]string, len(argv))
	for i, word := range argv {
		words[i] = Quote(word)
	}
	return strings.Join(words, " ")
}

// Quote is a word as a shell reads it back.
func Quote(word string) string {
	plain := strings.IndexFunc(word, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-", r)
	}) < 0
	if plain && word != "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
