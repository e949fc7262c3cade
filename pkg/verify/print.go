package verify

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// TextOptions is how a report is printed.
type TextOptions struct {
	Color   bool
	Verbose bool // every assertion, with expected and actual; else those that hold are counted
}

// Text prints the report for people: a line for each layer, what does not hold
// below it, and at the end what is broken first and what to do about it.
func (r *Report) Text(w io.Writer, o TextOptions) {
	t := &text{w: w, o: o}
	fmt.Fprintf(w, "%s: Kubernetes %s, %s profile\n\n", r.Cluster, r.Kubernetes, r.Profile)
	for _, l := range layers {
		t.layer(l.layer, l.about, r.of(l.layer))
	}
	for _, left := range r.Leftovers {
		fmt.Fprintf(w, "\n%s left behind: %s\n", t.mark(Failed), left)
	}
	t.verdict(r)
}

// of are the results of a layer.
func (r *Report) of(l Layer) []Result {
	return slices.DeleteFunc(slices.Clone(r.Results), func(x Result) bool { return x.Layer != l })
}

// text is a report while it is printed.
type text struct {
	w io.Writer
	o TextOptions
}

// marks are how results are told apart, with and without colours.
var marks = map[Status]struct{ sign, color string }{
	OK: {"ok", "32"}, Failed: {"FAIL", "31"}, NotPossible: {"n/a", "33"}, Skipped: {"skip", "36"},
}

func (t *text) paint(color, s string) string {
	if !t.o.Color {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

func (t *text) mark(s Status) string {
	return t.paint(marks[s].color, fmt.Sprintf("%-4s", marks[s].sign))
}

// layer prints one layer: its line, then what is not simply ok.
func (t *text) layer(l Layer, about string, list []Result) {
	if len(list) == 0 {
		return
	}
	count := map[Status]int{}
	for _, x := range list {
		count[x.Status]++
	}
	status := OK
	if count[OK] == 0 {
		status = NotPossible
	}
	if count[Failed] > 0 {
		status = Failed
	}
	fmt.Fprintf(t.w, "%s  %-12s  %-40s  %s\n", t.mark(status), l, about, counts(count))
	for _, g := range grouped(list, t.o.Verbose) {
		t.group(g)
	}
}

// counts says how many results there are of each kind.
func counts(count map[Status]int) string {
	var out []string
	for _, s := range []struct {
		status Status
		word   string
	}{{OK, "ok"}, {Failed, "failed"}, {NotPossible, "not possible"}, {Skipped, "skipped"}} {
		if n := count[s.status]; n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, s.word))
		}
	}
	return strings.Join(out, ", ")
}

// group is results that have one reason, or one cause.
type group struct {
	Result
	titles []string // of all of them
}

// grouped puts results together that have the same reason or cause. Those that
// hold are left out unless all are wanted.
func grouped(list []Result, verbose bool) []*group {
	var out []*group
	for _, x := range list {
		if x.Status == OK && !verbose {
			continue
		}
		same := func(g *group) bool {
			return x.Status != OK && g.Status == x.Status && g.Reason == x.Reason && g.Cause == x.Cause && (!verbose || g.title() == x.title())
		}
		at := slices.IndexFunc(out, same)
		if at < 0 {
			at = len(out)
			out = append(out, &group{Result: x})
		}
		out[at].titles = append(out[at].titles, x.title())
	}
	return out
}

func (t *text) group(g *group) {
	switch g.Status {
	case OK:
		fmt.Fprintf(t.w, "      %s %s: %s\n", t.mark(g.Status), g.title(), g.Actual)
		return
	case Failed:
		fmt.Fprintf(t.w, "      %s %s\n", t.mark(g.Status), g.title())
		t.pair("expected", g.Expected)
		t.pair("actual", g.Actual)
		t.pair("likely", g.Cause)
		t.pair("do", g.Help)
		t.pair("the same", listed(g.titles[1:]))
	default:
		fmt.Fprintf(t.w, "      %s %s\n", t.mark(g.Status), listed(g.titles))
		t.pair("because", g.Reason)
	}
}

// mostListed is how many results of one cause are listed by name.
const mostListed = 8

// listed joins titles; of very many only the first.
func listed(titles []string) string {
	if more := len(titles) - mostListed; more > 0 {
		return strings.Join(titles[:mostListed], "; ") + fmt.Sprintf("; and %d more", more)
	}
	return strings.Join(titles, "; ")
}

// pair prints a word and its text, which is wrapped.
func (t *text) pair(word, s string) {
	if s == "" {
		return
	}
	const width, indent = 88, 21
	for i, line := range wrap(s, width) {
		if i > 0 {
			word = ""
		}
		fmt.Fprintf(t.w, "%*s%-9s %s\n", indent-10, "", word, line)
	}
}

// wrap breaks a text into lines at its spaces.
func wrap(s string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(s) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, line)
}

// verdict says what is broken first.
func (t *text) verdict(r *Report) {
	summary := counts(r.Counts())
	fmt.Fprintf(t.w, "\n%s in %s\n", cmp.Or(summary, "nothing was checked"), r.Took.Round(100*time.Millisecond))
	first := r.First()
	if first == nil {
		return
	}
	fmt.Fprintf(t.w, "%s: %s\n", t.paint("1;31", "broken first: "+string(first.Layer)), first.title())
	t.pair("likely", first.Cause)
	t.pair("do", first.Help)
}

// The elements of JUnit's XML: a suite for each layer, a case for each result.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name      string      `xml:"name,attr"`
		Tests     int         `xml:"tests,attr"`
		Failures  int         `xml:"failures,attr"`
		Skipped   int         `xml:"skipped,attr"`
		Timestamp string      `xml:"timestamp,attr"`
		Cases     []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitMessage `xml:"failure"`
		Skipped *junitMessage `xml:"skipped"`
	}
	junitMessage struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr,omitempty"`
		Text    string `xml:",chardata"`
	}
)

// JUnit writes the report as JUnit's XML, which build servers read. What is not
// possible counts as skipped; what was left behind is a failed case.
func (r *Report) JUnit(w io.Writer) error {
	out := junitSuites{Name: "kthwc verify " + r.Cluster, Time: seconds(r.Took.Milliseconds())}
	for _, l := range layers {
		suite := junitSuite{Name: string(l.layer), Timestamp: r.Started.Format("2006-01-02T15:04:05")}
		for _, x := range r.of(l.layer) {
			suite.add(junitOf(x))
		}
		out.add(suite)
	}
	left := junitSuite{Name: "cleanup", Timestamp: r.Started.Format("2006-01-02T15:04:05")}
	for _, text := range r.Leftovers {
		left.add(junitCase{Class: "cleanup", Name: "nothing is left behind", Time: "0", Failure: &junitMessage{Message: text, Type: "cleanup"}})
	}
	out.add(left)
	var b bytes.Buffer
	b.WriteString(xml.Header)
	e := xml.NewEncoder(&b)
	e.Indent("", "  ")
	if err := e.Encode(out); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

func (s *junitSuites) add(suite junitSuite) {
	if suite.Tests == 0 {
		return
	}
	s.Suites = append(s.Suites, suite)
	s.Tests, s.Failures, s.Skipped = s.Tests+suite.Tests, s.Failures+suite.Failures, s.Skipped+suite.Skipped
}

func (s *junitSuite) add(c junitCase) {
	s.Cases = append(s.Cases, c)
	s.Tests++
	if c.Failure != nil {
		s.Failures++
	}
	if c.Skipped != nil {
		s.Skipped++
	}
}

func junitOf(x Result) junitCase {
	c := junitCase{Class: string(x.Layer), Name: x.title(), Time: seconds(x.Took)}
	switch x.Status {
	case Failed:
		c.Failure = &junitMessage{Message: cmp.Or(x.Cause, "not as expected"), Type: string(x.Layer),
			Text: fmt.Sprintf("expected: %s\nactual: %s\ndo: %s", x.Expected, x.Actual, x.Help)}
	case NotPossible, Skipped:
		c.Skipped = &junitMessage{Message: x.Reason, Type: string(x.Status)}
	}
	return c
}

func seconds(milliseconds int64) string { return fmt.Sprintf("%.3f", float64(milliseconds)/1000) }
