// Package diag says what is wrong, where, and what to do about it.
//
// A [Diagnostic] speaks in the coordinates of the user's own files: field
// path, file, line and column. It promises a stable code for every kind of
// fault (see [Codes]), every fault of one run at once, and one order. It
// refuses to print expressions of the schema language or positions in our
// sources.
package diag

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Severity says whether a diagnostic stops the run.
type Severity int

// The severities. The zero value stops the run.
const (
	Error Severity = iota
	Warning
)

func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// Pos is a place in a file. Line and Col count from one, Col in runes; zero
// means unknown. Len is how many runes the caret underlines.
type Pos struct {
	File           string
	Line, Col, Len int
}

// IsValid says whether the line is known.
func (p Pos) IsValid() bool { return p.Line > 0 }

// String is file:line:col, leaving out what is unknown.
func (p Pos) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Col == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// Related is a second place that has to do with the fault.
type Related struct {
	Pos   Pos
	Label string
}

// Diagnostic is one fault in the user's input.
type Diagnostic struct {
	Code     string    // "E0103": stable, see Codes
	Severity Severity  //
	Path     string    // "spec.nodes[worker-1].address"; may be empty
	Pos      Pos       //
	Summary  string    // one lower-case sentence without a period
	Label    string    // what stands under the caret; may be empty
	Related  []Related // shown with their own source lines
	Notes    []string  //
	Help     string    // what to do: the exact edit where there is one
}

// List is every fault of a run.
type List []Diagnostic

// Error makes a List an error; printing it well takes [Print].
func (l List) Error() string {
	var b strings.Builder
	for i, d := range l {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s: %s[%s]: %s", d.Pos, d.Severity, d.Code, d.Summary)
	}
	return b.String()
}

// HasErrors says whether any entry stops the run.
func (l List) HasErrors() bool {
	return slices.ContainsFunc(l, func(d Diagnostic) bool { return d.Severity == Error })
}

// Err is the list as an error, or nil if nothing in it stops the run.
func (l List) Err() error {
	if !l.HasErrors() {
		return nil
	}
	return l
}

// Sort puts the list in the order of printing: position, code, summary.
func (l List) Sort() {
	slices.SortStableFunc(l, func(a, b Diagnostic) int {
		return cmp.Or(
			cmp.Compare(a.Pos.File, b.Pos.File),
			cmp.Compare(a.Pos.Line, b.Pos.Line),
			cmp.Compare(a.Pos.Col, b.Pos.Col),
			cmp.Compare(a.Code, b.Code),
			cmp.Compare(a.Summary, b.Summary),
		)
	})
}
