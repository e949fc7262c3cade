package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
)

// entry is one line of the journal: a step that begins, is done, or was undone.
type entry struct {
	Lab  string `json:"lab,omitempty"` // the first line: whose journal it is
	Do   string `json:"do,omitempty"`
	Step Step   `json:"step,omitzero"`
}

// What an entry says.
const (
	began  = "begin"
	done   = "done"
	undone = "undone"
)

// record is what the journal has of a step that is there, whole or in part.
type record struct {
	Step Step
	Done bool
}

// journal is the list of what was made, in the order in which it was begun. Every
// entry is on disk before what it announces is begun.
type journal struct {
	id      string
	records []record
	out     interface {
		io.Writer
		Sync() error
	}
	close func() error
}

// openJournal reads a journal, or begins one. A line that is cut off is of an
// entry that did not take place.
func openJournal(path, id string) (*journal, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	j := readJournal(text)
	j.out, j.close = f, f.Close
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		if _, err := f.WriteString("\n"); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if j.id == "" {
		j.id = id
		return j, j.write(entry{Lab: id})
	}
	return j, nil
}

func readJournal(text []byte) *journal {
	j := &journal{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e entry
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			j.take(e)
		}
	}
	return j
}

// take does to the records what an entry says.
func (j *journal) take(e entry) {
	at := slices.IndexFunc(j.records, func(r record) bool { return r.Step.key() == e.Step.key() })
	switch {
	case e.Lab != "":
		j.id = e.Lab
	case e.Do == done && at >= 0:
		j.records[at].Done = true
	case e.Do == began || e.Do == undone:
		if at >= 0 {
			j.records = slices.Delete(j.records, at, at+1)
		}
		if e.Do == began {
			j.records = append(j.records, record{Step: e.Step})
		}
	}
}

func (j *journal) write(e entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := j.out.Write(append(line, '\n')); err != nil {
		return err
	}
	if err := j.out.Sync(); err != nil {
		return err
	}
	j.take(e)
	return nil
}

// find is what the journal has of a step.
func (j *journal) find(s Step) (record, bool) {
	for _, r := range j.records {
		if r.Step.key() == s.key() {
			return r, true
		}
	}
	return record{}, false
}
