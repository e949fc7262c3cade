package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// servants are the parts of a lab that are this program itself, run as `lab
// serve`. Each says when it serves, and where (announce).
var servants = map[string]func(*Lab, context.Context) error{
	resolve: (*Lab).serveNames,
	forward: (*Lab).serveForward,
}

// Serve is the work of one servant. It returns when ctx ends, or with what made
// it end before.
func (l *Lab) Serve(ctx context.Context, part string) error {
	serve, known := servants[part]
	if !known {
		return &Error{Refused, fmt.Sprintf("a lab has no servant %q", part), "kthwc lab up starts them all"}
	}
	return serve(l, ctx)
}

func (l *Lab) servantKind() kind {
	return kind{
		present: func(_ context.Context, s Step) bool { _, ok := l.serving(s.Kind); return ok },
		ensure: func(ctx context.Context, s Step) error {
			if err := os.MkdirAll(l.path(s.Kind), 0o700); err != nil {
				return err
			}
			if err := l.runner.start(s.Kind, l.path(s.Kind, "log"), l.Self, "lab", "serve", s.Kind, l.State); err != nil {
				return err
			}
			return l.awaitServant(ctx, s.Kind)
		},
		undo: func(ctx context.Context, s Step) error {
			return l.kill(ctx, func() []int { return pids(l.marked(s.Kind)) })
		},
	}
}

func (l *Lab) awaitServant(ctx context.Context, part string) error {
	return wait(ctx, 10*time.Second, func() error {
		if _, ok := l.serving(part); ok {
			return nil
		}
		if len(l.marked(part)) == 0 {
			return &Error{Failed, "it has ended" + lastLines(readText(l.path(part, "log")), 5), "run `kthwc lab up` again"}
		}
		return errors.New("it does not serve yet")
	})
}

// announce says where a servant serves; what a dead one has said does not count,
// since the process is named.
func (l *Lab) announce(part, address string) error {
	return writeFile(l.path(part, "address"), fmt.Appendf(nil, "%s %d\n", address, os.Getpid()), 0o600)
}

// announced is what the last servant of a part has said, dead or alive.
func (l *Lab) announced(part string) (address string, pid int) {
	address, number, _ := strings.Cut(strings.TrimSpace(readText(l.path(part, "address"))), " ")
	pid, _ = strconv.Atoi(number)
	return address, pid
}

// serving is where a part serves.
func (l *Lab) serving(part string) (address string, ok bool) {
	address, pid := l.announced(part)
	mark, ours := l.markOf(pid)
	return address, ours && mark == part
}
