package apply

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/kthwc/kthwc/pkg/tree"
)

//go:embed transaction.sh
var transactionScript string

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
}

// The statuses of the script (sysexits(3)).
const (
	statusBroken = 65 // what arrived, or the order of steps, is wrong
	statusBusy   = 75 // somebody else holds the lock
)

// ErrBusy says that another apply is at work on the host.
var ErrBusy = errors.New("another apply is at work on this host")

// Stage brings a generation to the host, whole and on the disk, and touches
// nothing else. The record is what becomes of the host when it is committed.
func (t *Transaction) Stage(ctx context.Context, entries []Install, record Recorded) error {
	text, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	archive, err := archiveOf(entries, text)
	if err != nil {
		return err
	}
	return t.run(ctx, "stage", archive)
}

// Install puts every entry in its place. Nothing is read half-written: each
// path is what it was or what it shall be.
func (t *Transaction) Install(ctx context.Context) error { return t.run(ctx, "install", nil) }

// Commit makes the generation what the host shall be from now on.
func (t *Transaction) Commit(ctx context.Context) error { return t.run(ctx, "commit", nil) }

// Rollback puts back what was there before.
func (t *Transaction) Rollback(ctx context.Context) error { return t.run(ctx, "rollback", nil) }

// Recover rolls back whatever was begun on the host and not committed.
func (t *Transaction) Recover(ctx context.Context) error { return t.run(ctx, "recover", nil) }

func (t *Transaction) run(ctx context.Context, step string, stdin []byte) error {
	r, err := t.Conn.Run(ctx, Command{Script: transactionScript, Args: []string{step, t.Root, strconv.Itoa(t.Generation)}, Stdin: bytes.NewReader(stdin)})
	switch {
	case err != nil:
		return err
	case r.Status == statusBusy:
		return ErrBusy
	case r.Status != 0:
		return fmt.Errorf("%s generation %d (status %d): %s", step, t.Generation, r.Status, lastLine(r.Stderr))
	}
	return nil
}

// archiveOf is the standard input of stage: the list, the record, and the
// contents by number.
func archiveOf(entries []Install, record []byte) ([]byte, error) {
	entries = withParents(entries)
	var list, out bytes.Buffer
	w := tar.NewWriter(&out)
	put := func(name string, content []byte) error {
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content))})
		if err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	}
	err := w.WriteHeader(&tar.Header{Name: "content/", Typeflag: tar.TypeDir, Mode: 0o700})
	for i, e := range entries {
		sum := "-"
		if e.Kind == tree.Regular {
			digest := sha256.Sum256(e.Content)
			sum = hex.EncodeToString(digest[:])
			err = errors.Join(err, put(fmt.Sprintf("content/%d", i), e.Content))
		}
		if strings.ContainsAny(e.Path+e.Target, "\t\n") {
			return nil, fmt.Errorf("%q cannot be installed", e.Path)
		}
		fmt.Fprintf(&list, "%d\t%s\t%04o\t%s\t%s\t%s\t%s\t%s\n", i, e.Kind, e.Mode, orRoot(e.Owner), orRoot(e.Group), sum, e.Path, e.Target)
	}
	err = errors.Join(err, put("entries", list.Bytes()), put("record", record), put("end", nil), w.Close())
	return out.Bytes(), err
}

func orRoot(name string) string {
	if name == "" {
		return "root"
	}
	return name
}

// parent is a directory that is made only if it is missing.
const parent tree.Kind = "parent"

// withParents puts every directory that an entry is in before it, and sorts by
// path: a directory sorts before what is in it.
func withParents(entries []Install) []Install {
	known := map[string]bool{"/": true}
	for _, e := range entries {
		known[e.Path] = true
	}
	out := slices.Clone(entries)
	for _, e := range entries {
		for dir := path.Dir(e.Path); !known[dir]; dir = path.Dir(dir) {
			known[dir] = true
			out = append(out, Install{RecordedEntry: RecordedEntry{Path: dir, Kind: parent, Mode: 0o755}})
		}
	}
	slices.SortFunc(out, func(a, b Install) int { return strings.Compare(a.Path, b.Path) })
	return out
}
