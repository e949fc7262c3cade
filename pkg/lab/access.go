package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func (l *Lab) keysKind() kind {
	return l.keyFiles(func(Step) string { return l.path("id_ed25519") })
}

func (l *Lab) hostKeyKind() kind {
	return l.keyFiles(func(s Step) string { return l.path("machines", s.Of, "host_key") })
}

// keyFiles makes a key pair: the lab's own, or a machine's. The names of both
// files are there when the pair is whole, since the public one comes last.
func (l *Lab) keyFiles(file func(Step) string) kind {
	return kind{
		files:   true,
		present: func(_ context.Context, s Step) bool { return exists(file(s)) && exists(file(s)+".pub") },
		ensure: func(ctx context.Context, s Step) error {
			if err := os.MkdirAll(filepath.Dir(file(s)), 0o700); err != nil {
				return err
			}
			comment := l.id
			if s.Of != "" {
				comment = s.Of
			}
			_, err := l.runner.run(ctx, oneCommand, makingKey(file(s), comment)...)
			return err
		},
		undo: func(_ context.Context, s Step) error {
			if err := errors.Join(os.RemoveAll(file(s)), os.RemoveAll(file(s)+".pub")); err != nil {
				return err
			}
			if s.Of != "" {
				_ = os.Remove(filepath.Dir(file(s))) // succeeds when nothing else of the machine is left
			}
			return nil
		},
	}
}

func (l *Lab) accessKind() kind {
	return kind{
		files: true,
		present: func(_ context.Context, s Step) bool {
			known, err := l.knownHosts()
			return err == nil && readText(l.path("known_hosts")) == known && readText(l.SSHConfig()) == l.sshConfig(s.With)
		},
		ensure: func(_ context.Context, s Step) error {
			known, err := l.knownHosts()
			if err != nil {
				return err
			}
			return errors.Join(writeFile(l.path("known_hosts"), []byte(known), 0o600), writeFile(l.SSHConfig(), []byte(l.sshConfig(s.With)), 0o600))
		},
		undo: func(context.Context, Step) error {
			return errors.Join(os.RemoveAll(l.path("known_hosts")), os.RemoveAll(l.SSHConfig()))
		},
	}
}

// SSHConfig is where up writes the settings of ssh: each machine under its name
// and under its addresses, with the key that logs in and those of the hosts.
func (l *Lab) SSHConfig() string { return l.path("ssh_config") }

func (l *Lab) sshConfig(lines []string) string {
	return strings.ReplaceAll(strings.Join(lines, "\n")+"\n", "@/", l.State+"/")
}

// knownHosts pins the key of every machine.
func (l *Lab) knownHosts() (string, error) {
	f, err := l.Fleet()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, m := range f.Machines {
		public, err := os.ReadFile(l.path("machines", m.Name, "host_key.pub"))
		if err != nil {
			return "", err
		}
		words := strings.Fields(string(public))
		if len(words) < 2 {
			return "", fmt.Errorf("%s has no key in it", l.path("machines", m.Name, "host_key.pub"))
		}
		fmt.Fprintf(&b, "%s %s %s\n", m.knownNames(), words[0], words[1])
	}
	return b.String(), nil
}

// A machine is ready when ssh logs in to it and systemd has started what it
// starts. It is asked again at every up.
func (l *Lab) readyKind() kind {
	return kind{
		present: func(ctx context.Context, s Step) bool { _, err := l.ask(ctx, s.Of, "true"); return err == nil },
		ensure:  l.awaitReady,
	}
}

func (l *Lab) awaitReady(ctx context.Context, s Step) error {
	err := wait(ctx, oneBoot, func() error {
		if len(l.marked(bootPart(s.Of))) == 0 {
			return &Error{Failed, "the machine has ended" + l.console(s.Of), l.advice(s.Of)}
		}
		state, err := l.ask(ctx, s.Of, "systemctl", "is-system-running", "--wait")
		if state = strings.TrimSpace(state); state == "running" || state == "degraded" {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("systemd says %q", state)
		}
		l.Progress(Event{s, Waiting, "an answer over ssh: " + firstLine(err)})
		return err
	})
	var known *Error
	if err == nil || ctx.Err() != nil || errors.As(err, &known) {
		return err
	}
	return &Error{Failed, err.Error() + l.console(s.Of), l.advice(s.Of)}
}

func (l *Lab) console(name string) string {
	last := lastLines(readText(l.path("machines", name, "console.log")), 10)
	if last == "" {
		return "; its console has nothing"
	}
	return "; its console ends with:" + last
}

func (l *Lab) advice(name string) string {
	return fmt.Sprintf("run `kthwc lab up` again; the whole console is in %s, the commands in %s", l.path("machines", name, "console.log"), l.path("commands.log"))
}

var errNotUp = &Error{Failed, "the lab does not run", "kthwc lab up starts it"}

// ask runs a command on a machine and gives its answer, also when it fails.
func (l *Lab) ask(ctx context.Context, name string, words ...string) (string, error) {
	pid, ok := l.holder()
	if !ok {
		return "", errNotUp
	}
	return l.runner.run(ctx, 20*time.Second, inNetwork(pid, asking(l.SSHConfig(), name, words...)...)...)
}

// SSH is the command that logs in to a machine of the lab, or runs words there.
// It is the caller's to run, with the caller's terminal.
func (l *Lab) SSH(name string, words ...string) (*exec.Cmd, error) {
	f, err := l.Fleet()
	if err != nil {
		return nil, err
	}
	if _, err := f.Machine(name); err != nil {
		return nil, err
	}
	remote := make([]string, len(words))
	for i, w := range words {
		remote[i] = Quote(w)
	}
	return l.Here(ssh(l.SSHConfig(), name, remote...)...)
}

// Here is a command that runs on this machine, in the lab's network.
func (l *Lab) Here(command ...string) (*exec.Cmd, error) {
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	pid, ok := l.holder()
	if !ok {
		return nil, errNotUp
	}
	argv := inNetwork(pid, command...)
	path, ok := find(argv[0])
	if !ok {
		return nil, &Error{Lacking, argv[0] + " is missing", "apt-get install util-linux"}
	}
	return exec.Command(path, argv[1:]...), nil
}
