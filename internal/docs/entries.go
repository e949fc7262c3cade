package docs

import (
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/kthwc/kthwc/pkg/tree"
)

// An entry is an item of a list at the top of a file.
type entry struct {
	Kind, Name, Why string
	lines           []tree.Line
	whys            []reason
	alike           []string // names of later entries that are like this one
}

// list explains a file of lists: every entry once, and of entries that are
// alike the first.
func (b *built) list(w *strings.Builder, f file, r row) error {
	fmt.Fprintf(w, "\n%s %s", r.what, b.head(f))
	for _, part := range split(f.Body.Lines, isKey) {
		fmt.Fprintf(w, "## %s\n", strings.TrimSuffix(part[0].String(), ":"))
		entries, err := b.distinct(f.Path, part[1:])
		if err != nil {
			return err
		}
		for _, e := range entries {
			e.write(w)
		}
		w.WriteString("\n")
	}
	return nil
}

func isKey(line string) bool   { return line != "" && !strings.ContainsRune(" -", rune(line[0])) }
func isEntry(line string) bool { return strings.HasPrefix(line, "- ") }

// split cuts lines before every line that starts a part.
func split(lines []tree.Line, starts func(string) bool) [][]tree.Line {
	var out [][]tree.Line
	for _, l := range lines {
		if starts(l.String()) || len(out) == 0 {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], l)
	}
	return out
}

// distinct are the entries without those that are like an earlier one: the same
// keys for the same reasons.
func (b *built) distinct(path string, lines []tree.Line) ([]*entry, error) {
	var out []*entry
	known := map[string]*entry{}
	for _, lines := range split(lines, isEntry) {
		e, err := b.entry(path, lines)
		if err != nil {
			return nil, err
		}
		if like := known[e.key()]; like != nil {
			like.alike = append(like.alike, e.Name)
			continue
		}
		known[e.key()] = e
		out = append(out, e)
	}
	return out, nil
}

// entry reads what an entry says of itself, and why its lines are there. Its
// own `why` is no line of it: it is said above them.
func (b *built) entry(path string, lines []tree.Line) (*entry, error) {
	var text strings.Builder
	for _, l := range lines {
		text.WriteString(l.String() + "\n")
	}
	var read []entry
	if err := yaml.Unmarshal([]byte(text.String()), &read); err != nil || len(read) != 1 {
		return nil, fmt.Errorf("%s: %q is not an entry: %w", path, text.String(), err)
	}
	e := &read[0]
	e.lines = withoutWhy(lines)
	e.whys = b.reasons(path, e.lines)
	e.raise()
	return e, nil
}

// withoutWhy drops the key `why` and the lines that its text goes on.
func withoutWhy(lines []tree.Line) []tree.Line {
	inWhy := false
	return slices.DeleteFunc(slices.Clone(lines), func(l tree.Line) bool {
		text := l.String()
		inWhy = strings.HasPrefix(text, "  why:") || inWhy && strings.HasPrefix(text, "   ")
		return inWhy
	})
}

// raise takes what every line has from the lines: the entry itself is there for
// these reasons.
func (e *entry) raise() {
	for _, why := range e.whys {
		if e.Why == "" && len(why.prose) > 0 {
			e.Why = why.prose[0]
		}
	}
	for _, field := range slices.Clone(e.whys[0].fields) {
		everywhere := !slices.ContainsFunc(e.whys, func(r reason) bool { return !slices.Contains(r.fields, field) })
		for i := range e.whys {
			if everywhere {
				e.whys[i].fields = without(e.whys[i].fields, field)
			}
		}
	}
	for i := range e.whys {
		e.whys[i].prose = without(e.whys[i].prose, e.Why)
	}
}

// key is the same for entries that differ in names and addresses only.
func (e *entry) key() string {
	var out strings.Builder
	out.WriteString(e.Kind + e.Why)
	for i, l := range e.lines {
		key, _, isKey := strings.Cut(l.String(), ": ")
		if !isKey {
			key = "" // an entry of a list
		}
		if line := key + e.whys[i].String() + "\n"; !strings.HasSuffix(out.String(), line) {
			out.WriteString(line)
		}
	}
	return out.String()
}

func (e *entry) write(w *strings.Builder) {
	fmt.Fprintf(w, "\n### %s\n\n%s", strings.TrimSpace(e.Kind+" "+e.Name), e.Why)
	if len(e.alike) > 0 {
		fmt.Fprintf(w, " Like it: %s.", strings.Join(e.alike, ", "))
	}
	w.WriteString("\n\n")
	rows(w, e.lines, e.whys)
}
