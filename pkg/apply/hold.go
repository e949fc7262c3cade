package apply

import (
	"bufio"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed hold.sh
var holdScript string

//go:embed release.sh
var releaseScript string

// holdTime bounds how long a host may take to say whether it can be held.
const holdTime = 20 * time.Second

// A Hold keeps a host for this run: nobody else gets it while the connection
// lives.
type Hold struct {
	Epoch int // of the last run that held the host

	// Journal is where generations stand now that no step of an earlier run is at
	// work any more; Begin reads it.
	Journal map[string]string

	lines chan string
	in    *io.PipeWriter
	ended chan struct{}
	err   error
	once  sync.Once
}

// HeldError says who has the host.
type HeldError struct{ Node, Owner string }

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s is held by %s", e.Node, cmp.Or(e.Owner, "another run"))
}

// HoldHost takes a host. The owner is text for others to read: who, from where,
// what for, since when.
func HoldHost(ctx context.Context, node string, c Conn, root, owner string) (*Hold, error) {
	out, in := io.Pipe()
	said, says := io.Pipe()
	h := &Hold{lines: make(chan string, 8), in: in, ended: make(chan struct{})}
	go h.listen(said)
	go func() {
		r, err := c.Run(context.WithoutCancel(ctx), Command{Script: holdScript, Args: []string{root, owner}, Stdin: out, Watch: says})
		if h.err = err; err == nil && r.Status != 0 && r.Status != statusBusy {
			h.err = fmt.Errorf("hold the host (status %d): %s", r.Status, lastLine(r.Stderr))
		}
		says.Close()
		out.Close()
		close(h.ended)
	}()
	answer, err := h.answer(ctx)
	if err != nil {
		h.Release()
		return nil, err
	}
	if owner, busy := strings.CutPrefix(answer, "busy"); busy {
		h.Release()
		return nil, &HeldError{node, strings.TrimSpace(owner)}
	}
	h.Epoch, err = strconv.Atoi(strings.TrimPrefix(answer, "held "))
	if err != nil {
		h.Release()
		return nil, fmt.Errorf("%s says %q where it should say which epoch it is in", node, answer)
	}
	return h, nil
}

// listen reads what the holder says, and answers the question whether this run
// lives.
func (h *Hold) listen(from io.Reader) {
	defer close(h.lines)
	scanner := bufio.NewScanner(from)
	scanner.Buffer(nil, 1<<20) // a journal has a word for each generation that there was
	for scanner.Scan() {
		if scanner.Text() == "asked" {
			go func() { _, _ = io.WriteString(h.in, "alive\n") }()
			continue
		}
		select {
		case h.lines <- scanner.Text():
		default: // nobody asked for so much
		}
	}
}

func (h *Hold) answer(ctx context.Context) (string, error) {
	late := time.NewTimer(holdTime)
	defer late.Stop()
	select {
	case line, ok := <-h.lines:
		if ok {
			return line, nil
		}
		<-h.ended
		return "", cmp.Or(h.err, errors.New("the host says nothing"))
	case <-ctx.Done():
		return "", ctx.Err()
	case <-late.C:
		return "", errors.New("the host does not say whether it can be held")
	}
}

// Begin tells the host which epoch the steps from now on have: those of earlier
// runs are refused, and the last of them has ended.
func (h *Hold) Begin(ctx context.Context, epoch int) error {
	if _, err := fmt.Fprintf(h.in, "epoch %d\n", epoch); err != nil {
		return err
	}
	line, err := h.answer(ctx)
	if err != nil {
		return err
	}
	words := strings.Fields(line)
	if len(words) < 2 || words[0] != "epoch" || words[1] != strconv.Itoa(epoch) {
		return fmt.Errorf("the host says %q where it should say that it is in epoch %d", line, epoch)
	}
	h.Journal = map[string]string{}
	for _, word := range words[2:] {
		generation, progress, _ := strings.Cut(word, "=")
		h.Journal[generation] = progress
	}
	return nil
}

// Lost is closed when the host is no longer held.
func (h *Hold) Lost() <-chan struct{} { return h.ended }

// Release gives the host back.
func (h *Hold) Release() {
	h.once.Do(func() { h.in.Close() })
	select {
	case <-h.ended:
	case <-time.After(5 * time.Second): // the connection's end releases it too
	}
}

// ReleaseDead takes a host from an owner who is gone, and says who that was; ""
// where nobody had it. An owner who answers keeps it: *HeldError.
func ReleaseDead(ctx context.Context, node string, c Conn, root string, patience time.Duration) (owner string, err error) {
	r, err := c.Run(ctx, Command{Script: releaseScript, Args: []string{root, strconv.Itoa(int(patience.Seconds()))}})
	if err != nil {
		return "", err
	}
	word, owner, _ := strings.Cut(strings.TrimSpace(string(r.Stdout)), " ")
	switch {
	case r.Status == statusBusy && word == "alive":
		return "", &HeldError{node, owner}
	case r.Status != 0:
		return "", fmt.Errorf("%s: release the host (status %d): %s", node, r.Status, lastLine(r.Stderr))
	}
	return owner, nil
}
