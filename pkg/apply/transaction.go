package apply

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kthwc/kthwc/pkg/tree"
)

//go:embed transaction.sh
var transactionScript string

//go:embed blob.sh
var blobScript string

// An Install is one path of a transaction. Content is of regular files.
type Install struct {
	RecordedEntry
	Content []byte
}

// Transaction is one generation of one host. Its steps are separate commands,
// each of which may be repeated: what was begun and not committed is rolled
// back by Recover.
type Transaction struct {
	Conn       Conn
	Root       string // the directory that is taken for /; "" on real hosts
	Generation int
	Epoch      int // of the Hold; 0: the host is not held, and nobody is asked
}

// What the scripts end with, beside 0: EX_TEMPFAIL of sysexits(3), and the
// numbers after it.
const (
	statusBusy  = 75
	statusTaken = 76

	statusCommitted = 77
)

// Errors of a step that did nothing.
var (
	ErrBusy  = errors.New("another apply is at work on this host")
	ErrTaken = errors.New("somebody else has taken this host over (kthwc unlock)")

	ErrCommitted = errors.New("it is committed")
)

// Stage brings a generation to the host, whole and on the disk, and touches
// nothing else. The record is what becomes of the host when it is committed;
// units are those that Install and Act will touch.
func (t *Transaction) Stage(ctx context.Context, entries []Install, units []UnitAction, record Recorded) error {
	text, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	archive, err := archiveOf(entries, units, text)
	if err != nil {
		return err
	}
	_, err = t.run(ctx, archive, "stage")
	return err
}

// Install puts every entry in its place. Nothing is read half-written: each
// path is what it was or what it shall be. Before, the host makes sure that it undoes
// the generation by itself after a time, and at its next boot, unless it is committed
// by then; a host that cannot is not changed.
func (t *Transaction) Install(ctx context.Context, undoAfter time.Duration) error {
	return t.step(ctx, "install", seconds(undoAfter))
}

// Act starts or restarts a unit of the generation, and does not wait for
// it; the time after which the host undoes the generation begins anew. It gives the
// invocation that the unit had before; "" for none.
func (t *Transaction) Act(ctx context.Context, undoAfter time.Duration, u UnitAction) (invocation string, err error) {
	r, err := t.run(ctx, nil, "act", seconds(undoAfter), u.Do, u.Unit)
	return strings.TrimSpace(string(r.Stdout)), err
}

// Extend has the time begin anew after which the host undoes the generation.
func (t *Transaction) Extend(ctx context.Context, undoAfter time.Duration) error {
	return t.step(ctx, "extend", seconds(undoAfter))
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) }

// Commit makes the generation what the host shall be from now on.
func (t *Transaction) Commit(ctx context.Context) error { return t.step(ctx, "commit") }

// Rollback puts back what was there before. What is committed stays: ErrCommitted.
func (t *Transaction) Rollback(ctx context.Context) error { return t.step(ctx, "rollback") }

// back puts back what was there before, committed or not: the others of a batch
// may not have come so far.
func (t *Transaction) back(ctx context.Context) error {
	err := t.Rollback(ctx)
	if errors.Is(err, ErrCommitted) {
		_, err = t.Revert(ctx)
	}
	return err
}

// Revert puts back what was there before the generation that was committed last,
// and says which units run again, each with the invocation that it had until now.
func (t *Transaction) Revert(ctx context.Context) (running map[string]string, err error) {
	r, err := t.run(ctx, nil, "revert")
	running = map[string]string{}
	for line := range strings.Lines(string(r.Stdout)) {
		if f := strings.Split(strings.TrimRight(line, "\n"), "\t"); len(f) == 3 && f[1] == "active" {
			running[f[0]] = f[2]
		}
	}
	return running, err
}

// Recover rolls back whatever was begun on the host and not committed.
func (t *Transaction) Recover(ctx context.Context) error { return t.step(ctx, "recover") }

func (t *Transaction) step(ctx context.Context, do string, args ...string) error {
	_, err := t.run(ctx, nil, do, args...)
	return err
}

// stepTime bounds a step that is not cut short.
const stepTime = 5 * time.Minute

// run runs one step. What changes the host is brought to its end, whoever loses
// patience meanwhile: it takes moves and syncs of small files, and no more.
func (t *Transaction) run(ctx context.Context, stdin []byte, do string, args ...string) (Result, error) {
	if do != "stage" {
		if err := ctx.Err(); err != nil {
			return Result{}, err
		}
		steady, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTime)
		defer cancel()
		ctx = steady
	}
	epoch := "-"
	if t.Epoch > 0 {
		epoch = strconv.Itoa(t.Epoch)
	}
	r, err := t.Conn.Run(ctx, Command{Script: transactionScript, Args: append([]string{do, t.Root, strconv.Itoa(t.Generation), epoch}, args...), Stdin: bytes.NewReader(stdin)})
	switch {
	case err != nil:
	case r.Status == statusBusy:
		err = ErrBusy
	case r.Status == statusTaken:
		err = ErrTaken
	case r.Status == statusCommitted:
		err = ErrCommitted
	case r.Status != 0:
		err = fmt.Errorf("%s generation %d (status %d): %s", do, t.Generation, r.Status, lastLine(r.Stderr))
	}
	return r, err
}

// Blob brings a file to a path that its digest names. It needs no transaction:
// nothing uses it before a link leads there.
func (t *Transaction) Blob(ctx context.Context, path, digest string, mode uint32, content io.Reader) error {
	r, err := t.Conn.Run(ctx, Command{Script: blobScript, Args: []string{t.Root, path, digest, fmt.Sprintf("%04o", mode)}, Stdin: content})
	if err == nil && r.Status != 0 {
		err = fmt.Errorf("install %s (status %d): %s", path, r.Status, lastLine(r.Stderr))
	}
	return err
}

// archiveOf is the standard input of stage: the lists, the record, the script
// that undoes it, and the contents by directory and name.
func archiveOf(entries []Install, units []UnitAction, record []byte) ([]byte, error) {
	entries = withParents(entries)
	var list, sums, acts, out bytes.Buffer
	w := tar.NewWriter(&out)
	put := func(name string, mode uint32, content []byte) error {
		err := w.WriteHeader(&tar.Header{Name: name, Mode: int64(mode), Size: int64(len(content))})
		if err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	}
	var err error
	slots := map[string]int{} // by directory
	for i, e := range entries {
		slot := "-"
		if turns[e.Kind] == turnContents {
			in := path.Dir(e.Path)
			if _, known := slots[in]; !known {
				slots[in] = len(slots)
			}
			slot = strconv.Itoa(slots[in])
		}
		name := slot + "/" + path.Base(e.Path)
		switch e.Kind {
		case tree.Regular:
			fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(e.Content), name)
			err = errors.Join(err, put("content/"+name, e.Mode, e.Content))
		case tree.Symlink:
			err = errors.Join(err, w.WriteHeader(&tar.Header{Name: "content/" + name, Typeflag: tar.TypeSymlink, Linkname: e.Target, Mode: 0o777}))
		}
		if strings.ContainsAny(e.Path+e.Target, "\t\n") {
			return nil, fmt.Errorf("%q cannot be installed", e.Path)
		}
		fmt.Fprintf(&list, "%d\t%s\t%s\t%04o\t%s\t%s\t%s\t%s\n", i, slot, e.Kind, e.Mode, orRoot(e.Owner), orRoot(e.Group), e.Path, e.Target)
	}
	for _, u := range units {
		fmt.Fprintf(&acts, "%s\t%s\n", u.Do, u.Unit)
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{"entries", list.Bytes()}, {"sums", sums.Bytes()}, {"units", acts.Bytes()}, {"record", record}, {"script", []byte(transactionScript)}, {"end", nil},
	} {
		err = errors.Join(err, put(f.name, 0o600, f.content))
	}
	return out.Bytes(), errors.Join(err, w.Close())
}

func orRoot(name string) string {
	if name == "" {
		return "root"
	}
	return name
}

// parent is a directory that is made only if it is missing.
const parent tree.Kind = "parent"

// withParents adds every directory that an entry is in, and puts directories first,
// each before what is in it; then files and links, those of a directory together;
// then what shall go, which needs no directory.
func withParents(entries []Install) []Install {
	known := map[string]bool{"/": true}
	for _, e := range entries {
		known[e.Path] = true
	}
	out := slices.Clone(entries)
	for _, e := range entries {
		if e.Kind == tree.Absent {
			continue
		}
		for dir := path.Dir(e.Path); !known[dir]; dir = path.Dir(dir) {
			known[dir] = true
			out = append(out, Install{RecordedEntry: RecordedEntry{Path: dir, Kind: parent, Mode: 0o755}})
		}
	}
	slices.SortFunc(out, func(a, b Install) int {
		return cmp.Or(cmp.Compare(turns[a.Kind], turns[b.Kind]), strings.Compare(together(a), together(b)), strings.Compare(a.Path, b.Path))
	})
	return out
}

// together is what entries of a turn are sorted by first: the directory that
// contents go to.
func together(e Install) string {
	if turns[e.Kind] == turnContents {
		return path.Dir(e.Path)
	}
	return ""
}

// When each kind of entry is installed.
const (
	turnDirs = iota
	turnContents
	turnGone
)

var turns = map[tree.Kind]int{parent: turnDirs, tree.Dir: turnDirs, tree.Regular: turnContents, tree.Symlink: turnContents, tree.Absent: turnGone}
