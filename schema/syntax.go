package schema

import (
	"bytes"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/kthwc/kthwc/pkg/diag"
)

// notText says what is wrong with bytes that are not plain UTF-8 text, by how
// the rest of the file begins.
var notText = []struct{ begins, summary, help string }{
	{"\xef\xbb\xbf", "the file has a byte order mark", "save it as UTF-8 without a byte order mark (BOM)"},
	{"\xff\xfe", "the file is UTF-16, not UTF-8", "save it as UTF-8, or convert it: iconv -f UTF-16 -t UTF-8"},
	{"\xfe\xff", "the file is UTF-16, not UTF-8", "save it as UTF-8, or convert it: iconv -f UTF-16 -t UTF-8"},
	{"\x00", "the file has a NUL byte: it is not text", "remove the byte, or name the file that you meant with -f"},
}

// bytesFault refuses the byte at an offset.
func (l *loader) bytesFault(data []byte, at int) {
	summary := "the file has the byte 0x" + strconv.FormatUint(uint64(data[at]), 16) + ", which is not UTF-8 text"
	help := "save the file as UTF-8; an editor or `iconv` converts other encodings"
	if data[at] < utf8.RuneSelf {
		summary, help = "the file has a control character: "+strconv.QuoteRuneToASCII(rune(data[at])), "remove it; it may have come along with text copied from a terminal"
	}
	for _, known := range notText {
		if bytes.HasPrefix(data[at:], []byte(known.begins)) {
			summary, help = known.summary, known.help
			break
		}
	}
	l.fault("E0013", "", position(l.name, data, at), summary, help)
}

// A syntaxRow turns what the YAML reader says into a sentence for whoever wrote
// the file. The reader often stops some lines after or before the mistake.
type syntaxRow struct {
	says    string         // part of the reader's message
	stops   bool           // whether the mistake is where the reader stops, not where it says
	mark    *regexp.Regexp // what to underline in the line
	summary string
	help    string
}

var (
	indent  = regexp.MustCompile(`\S`)
	tabbed  = regexp.MustCompile(`^ *\t`)
	opening = regexp.MustCompile(`[\[{]`)
	quote   = regexp.MustCompile(`["']`)
	strange = regexp.MustCompile("[@`%|>&*!]")
	second  = regexp.MustCompile(`^[^:]*: [^:]*:`)

	syntaxRows = []syntaxRow{
		{"found unexpected end of stream", false, quote, "a quote is opened here and never closed", "put the same quote at the end of the value"},
		{"did not find expected ',' or", false, opening, "a bracket is opened here, and its list or mapping does not go on as one", "close the bracket, and put commas between the entries"},
		{"did not find expected '-' indicator", true, indent, "this line does not stand where the list around it goes on", "begin every entry with a dash and a space, all of them in one column, and indent its other fields two more"},
		{"did not find expected key", true, indent, "this line does not stand where the mapping around it goes on", "put the fields of one mapping in one column; write each as `name: value`"},
		{"mapping values are not allowed", true, second, "a colon where no field can begin", "quote the value if the colon belongs to it; otherwise put the field in the column of its neighbours"},
		{"could not find expected ':'", true, indent, "a line that is neither a field nor a part of one", "write it as `name: value`, or indent it below the field that it belongs to"},
		{"found character that cannot start any token", true, strange, "no value can begin with this character", "put the value in quotes"},
		{"found unknown escape character", true, quote, "a backslash in double quotes that YAML does not know", "use single quotes, or write two backslashes"},
		{"found incompatible YAML document", true, indent, "YAML of another version", "remove the line that begins with %"},
		{"unknown directive", true, indent, "a line that begins with %", "remove the line, or quote it if it is a value"},
		{"exceeded max depth", false, indent, "brackets or lists inside one another, thousands deep", "this is not a cluster.yaml; name the right file with -f"},
		{"unknown anchor", true, regexp.MustCompile(`\*`), "an alias of something that is not there", "write the value out, or quote it if the asterisk belongs to it"},
	}
	otherSyntax = syntaxRow{"", true, indent, "", "check the indentation and the quotes on this line and the one before; YAML indents with spaces"}
	tabs        = syntaxRow{"", false, tabbed, "the line is indented with a tab", "indent with spaces, two for every level; YAML does not accept tabs there"}
)

// syntax turns the YAML reader's error, which begins "yaml: line N: ", into a fault.
func (l *loader) syntax(err error) {
	line, message := said(err)
	row := otherSyntax
	if at := slices.IndexFunc(syntaxRows, func(r syntaxRow) bool { return strings.Contains(message, r.says) }); at >= 0 {
		row = syntaxRows[at]
	}
	lines := bytes.SplitAfter(l.doc.source, []byte("\n"))
	if strings.HasPrefix(message, "did not find") {
		line++ // the reader counts these from zero
	}
	if row.stops {
		line = stops(lines, message)
	}
	line = min(max(line, 1), len(lines))
	for near := line; near <= min(line+1, len(lines)); near++ {
		if tabbed.Match(lines[near-1]) {
			row, line = tabs, near
			break
		}
	}
	if row.summary == "" {
		row.summary = "the reader says: " + message
	}
	l.fault("E0007", "", marked(l.name, lines[line-1], line, row.mark), "this is not YAML: "+row.summary, row.help)
}

// said splits the reader's error into its line, if it has one, and its message.
func said(err error) (line int, message string) {
	message = strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(message, "line "); ok {
		number, text, _ := strings.Cut(rest, ": ")
		if n, err := strconv.Atoi(number); err == nil {
			return n, text
		}
	}
	return 0, message
}

// stops finds the line where the reader stops. It may have looked some lines
// ahead: the first that, as the last line of the file, gives the same message.
func stops(lines [][]byte, message string) int {
	whole := &lineReader{rest: lines}
	reads(whole)
	last := len(lines) - len(whole.rest)
	for line := max(last-2, 1); line < last; line++ {
		if reads(&lineReader{rest: lines[:line]}) == message {
			return line
		}
	}
	return max(last, 1)
}

// reads gives the message that the YAML reader ends with.
func reads(from io.Reader) string {
	decoder := yaml.NewDecoder(from)
	for {
		var n yaml.Node
		if err := decoder.Decode(&n); err != nil {
			_, message := said(err)
			return message
		}
	}
}

// lineReader hands out one line at a time: what is left says how far somebody read.
type lineReader struct {
	rest [][]byte
	now  []byte
}

func (r *lineReader) Read(p []byte) (int, error) {
	if len(r.now) == 0 {
		if len(r.rest) == 0 {
			return 0, io.EOF
		}
		r.now, r.rest = r.rest[0], r.rest[1:]
	}
	n := copy(p, r.now)
	r.now = r.now[n:]
	return n, nil
}

// marked is the place of a mark in a line, or of its first character.
func marked(file string, text []byte, line int, mark *regexp.Regexp) diag.Pos {
	for _, m := range []*regexp.Regexp{mark, indent} {
		if at := m.FindIndex(text); at != nil {
			return diag.Pos{File: file, Line: line, Col: utf8.RuneCount(text[:at[1]-1]) + 1, Len: 1}
		}
	}
	return diag.Pos{File: file, Line: line, Col: 1, Len: 1}
}
