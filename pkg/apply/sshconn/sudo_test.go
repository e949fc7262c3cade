package sshconn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/readers"
)

// The password of the operator on the test's host, and its crypt(3) hash.
const sudoPassword = "CANARY's \\pass$word"

// sudoHost is a real sshd and a real sudo that see other users than this machine
// has: their /etc/passwd, /etc/shadow and /etc/sudoers are bound over in a mount
// namespace of their own.
func sudoHost(t *testing.T, w *world, sudoers string) Target {
	t.Helper()
	readers.Path(t, "sudo")
	unshare := readers.Path(t, "unshare")
	if os.Getuid() != 0 {
		readers.Missing(t, "a namespace with other users is made as root")
	}
	if exec.Command(unshare, "-m", "mount", "--bind", "/etc/passwd", "/etc/passwd").Run() != nil {
		readers.Missing(t, "mount namespaces are not allowed here")
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	hash := strings.TrimSpace(tool(t, "openssl", "passwd", "-6", "-salt", "kthwc", sudoPassword))
	files := map[string]struct {
		content string
		mode    os.FileMode
	}{
		"passwd":  {string(mustRead(t, "/etc/passwd")) + "operator:x:4242:4242::/tmp:/bin/sh\n", 0o644},
		"shadow":  {string(mustRead(t, "/etc/shadow")) + "operator:" + hash + ":19000:0:99999:7:::\n", 0o600},
		"sudoers": {"Defaults !lecture, timestamp_timeout=0\nroot ALL=(ALL) ALL\n" + sudoers + "\n", 0o440},
	}
	mounts := ""
	for name, f := range files {
		path := filepath.Join(dir, name)
		put(t, path, f.content)
		if err := os.Chmod(path, f.mode); err != nil {
			t.Fatal(err)
		}
		mounts += fmt.Sprintf("mount --bind %s /etc/%s && ", path, name)
	}
	s := startSSHD(t, w, sshdOptions{wrapper: []string{unshare, "-m", "sh", "-c", mounts + `exec "$@"`, "sh"}})
	for _, d := range []string{s.dir, filepath.Dir(s.dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(s.dir, "authorized"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.know(t, s.addr, s.public(t, "ed25519"))
	to := target(t, s.addr)
	to.User = "operator"
	return to
}

var asRoot = Command{Script: `id -u; cat`, Sudo: true}

func withInput(c Command, in string) Command {
	c.Stdin = strings.NewReader(in)
	return c
}

// Without a password: nobody is asked, whether or not there is somebody.
func TestSudoWithoutPassword(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	to := sudoHost(t, w, "operator ALL=(ALL) NOPASSWD: ALL")
	for _, ask := range []func(context.Context, string) ([]byte, error){nil,
		func(context.Context, string) ([]byte, error) { t.Error("asked"); return nil, errors.New("no") }} {
		w.options.SudoPassword = ask
		r := runs(t, w.dial(t, to), withInput(asRoot, "content"))
		if string(r.Stdout) != "0\ncontent" || len(r.Stderr) > 0 {
			t.Errorf("%q %q", r.Stdout, r.Stderr)
		}
	}
	t.Run("a cancelled command ends, although it is root's", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "pid")
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := w.dial(t, to).Run(ctx, Command{Script: `echo $$ >"$1"; sleep 1000`, Args: []string{file}, Sudo: true})
		if e := expect(t, err, TimedOut); !e.Begun || e.Runs {
			t.Error(e)
		}
	})
}

// With a password: asked for once, given once to each sudo, and nowhere else.
func TestSudoWithPassword(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	to := sudoHost(t, w, "operator ALL=(ALL) ALL")
	_, err := w.dial(t, to).Run(bound(t), withInput(asRoot, "CANARY"))
	if e := expect(t, err, SudoNeedsPassword, "NOPASSWD"); e.Begun {
		t.Error("it had not begun")
	}
	asked := 0
	w.options.SudoPassword = func(_ context.Context, host string) ([]byte, error) {
		asked++
		if !strings.Contains(host, "worker-0") {
			t.Errorf("asked for %q", host)
		}
		return []byte(sudoPassword), nil
	}
	c := w.dial(t, to)
	for range 3 {
		r := runs(t, c, withInput(asRoot, "content\n"))
		if string(r.Stdout) != "0\ncontent\n" || len(r.Stderr) > 0 {
			t.Errorf("%q %q", r.Stdout, r.Stderr)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	r := runs(t, c, Command{Script: `tr "\0" "\n" </proc/self/environ; for p in /proc/[0-9]*; do tr "\0" " " <$p/cmdline; done; env; cat`, Sudo: true})
	if strings.Contains(string(r.Stdout)+string(r.Stderr), "CANARY's") {
		t.Error("the password is in an environment or an argument list of the host")
	}
	t.Run("a wrong one", func(t *testing.T) {
		w.options.SudoPassword = func(context.Context, string) ([]byte, error) { return []byte("CANARY-wrong"), nil }
		_, err := w.dial(t, to).Run(bound(t), withInput(asRoot, "CANARY-content"))
		if e := expect(t, err, SudoRefused, "does not accept the password"); e.Begun || strings.Contains(e.Error(), "CANARY") {
			t.Error(e)
		}
	})
	t.Run("nobody answers", func(t *testing.T) {
		w.options.SudoPassword = func(context.Context, string) ([]byte, error) { return nil, errors.New("no terminal") }
		_, err := w.dial(t, to).Run(bound(t), asRoot)
		expect(t, err, SudoNeedsPassword, "no terminal")
	})
	t.Run("one with a line break", func(t *testing.T) {
		w.options.SudoPassword = func(context.Context, string) ([]byte, error) { return []byte("CANARY\nrm"), nil }
		_, err := w.dial(t, to).Run(bound(t), asRoot)
		if e := expect(t, err, SudoNeedsPassword); strings.Contains(e.Error(), "CANARY") {
			t.Error(e)
		}
	})
}

// Sudo that says no.
func TestSudoRefused(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	w.options.SudoPassword = func(context.Context, string) ([]byte, error) { return []byte(sudoPassword), nil }
	c := w.dial(t, sudoHost(t, w, ""))
	_, err := c.Run(bound(t), withInput(asRoot, "CANARY"))
	if e := expect(t, err, SudoRefused, "not in the sudoers file"); e.Begun || strings.Contains(e.Error(), "CANARY") {
		t.Error(e)
	}
	c = w.dial(t, sudoHost(t, w, "Defaults requiretty\noperator ALL=(ALL) NOPASSWD: ALL"))
	_, err = c.Run(bound(t), asRoot)
	expect(t, err, SudoRefused, "tty")
}
