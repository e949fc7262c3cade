package diag

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
)

// Options says how [Print] writes.
type Options struct {
	Color  bool
	Max    int                      // faults to show; 0 means 20
	Source func(file string) []byte // the text that positions point into; nil prints no lines
}

// Print writes the list as a compiler does: what is wrong, where, the source
// line with a caret, and what to do.
func Print(w io.Writer, list List, o Options) error {
	p := printer{Options: o}
	if p.Max == 0 {
		p.Max = 20
	}
	for i, d := range list {
		if i == p.Max {
			fmt.Fprintf(&p.out, "%s\n", p.bold(fmt.Sprintf("... and %d more", len(list)-i)))
			break
		}
		p.diagnostic(d)
	}
	_, err := io.WriteString(w, p.out.String())
	return err
}

type printer struct {
	Options
	out strings.Builder
}

func (p *printer) paint(code, text string) string {
	if !p.Color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p *printer) bold(text string) string { return p.paint("1", text) }
func (p *printer) blue(text string) string { return p.paint("1;34", text) }

func (p *printer) severity(s Severity, text string) string {
	if s == Warning {
		return p.paint("1;33", text)
	}
	return p.paint("1;31", text)
}

func (p *printer) diagnostic(d Diagnostic) {
	fmt.Fprintf(&p.out, "%s: %s\n", p.severity(d.Severity, fmt.Sprintf("%s[%s]", d.Severity, d.Code)), p.bold(visible(d.Summary)))
	if d.Pos.File != "" {
		p.places(d)
	}
	for _, n := range d.Notes {
		fmt.Fprintf(&p.out, "   %s note: %s\n", p.blue("="), visible(n))
	}
	if d.Help != "" {
		fmt.Fprintf(&p.out, "   %s help: %s\n", p.blue("="), visible(d.Help))
	}
	p.out.WriteByte('\n')
}

type mark struct {
	pos   Pos
	label string
	main  bool
}

// places shows the source lines of the fault and of what is related to it, in
// the order of the file.
func (p *printer) places(d Diagnostic) {
	fmt.Fprintf(&p.out, "  %s %s\n", p.blue("-->"), d.Pos)
	marks := []mark{{d.Pos, d.Label, true}}
	for _, r := range d.Related {
		marks = append(marks, mark{r.Pos, r.Label, false})
	}
	slices.SortStableFunc(marks, func(a, b mark) int { return a.pos.Line - b.pos.Line })
	width := len(fmt.Sprint(marks[len(marks)-1].pos.Line))
	shownAny := false
	for _, m := range marks {
		text, ok := p.sourceLine(m.pos)
		if !ok {
			continue
		}
		if !shownAny {
			fmt.Fprintf(&p.out, "%*s %s\n", width, "", p.blue("|"))
			shownAny = true
		}
		p.marked(m, text, width, d.Severity)
	}
	if shownAny {
		fmt.Fprintf(&p.out, "%*s %s\n", width, "", p.blue("|"))
	}
}

func (p *printer) sourceLine(at Pos) (string, bool) {
	if p.Source == nil || at.Line == 0 {
		return "", false
	}
	lines := strings.Split(string(p.Source(at.File)), "\n")
	if at.Line > len(lines) {
		return "", false
	}
	return lines[at.Line-1], true
}

// maxLine is how much of a source line is shown.
const maxLine = 100

func (p *printer) marked(m mark, text string, width int, s Severity) {
	runes := []rune(visible(text))
	start := 0
	if m.pos.Col > maxLine {
		start = m.pos.Col - maxLine/2
	}
	start = min(start, len(runes))
	runes = runes[start:min(len(runes), start+maxLine)]
	fmt.Fprintf(&p.out, "%s %s %s\n", p.blue(fmt.Sprintf("%*d", width, m.pos.Line)), p.blue("|"), string(runes))
	if m.pos.Col == 0 {
		return
	}
	under, paint := "^", func(t string) string { return p.severity(s, t) }
	if !m.main {
		under, paint = "-", p.blue
	}
	indent := max(m.pos.Col-1-start, 0)
	length := max(1, min(m.pos.Len, len(runes)-indent))
	line := strings.Repeat(under, length)
	if m.label != "" {
		line += " " + visible(m.label)
	}
	fmt.Fprintf(&p.out, "%*s %s %s%s\n", width, "", p.blue("|"), strings.Repeat(" ", indent), paint(line))
}

// visible replaces what a terminal would act on, one rune for one rune.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r == utf8Error || !unicode.IsPrint(r) && r != ' ':
			return '?'
		}
		return r
	}, text)
}

const utf8Error = '\uFFFD'
