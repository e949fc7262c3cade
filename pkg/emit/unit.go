package emit

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

// UnitFile collects the lines of a systemd unit (systemd.syntax(7)).
type UnitFile struct {
	body tree.Body
	err  error
}

// Section begins a section.
func (u *UnitFile) Section(name string, from origin.Origin) {
	if len(u.body.Lines) > 0 {
		u.body.Add(from, "")
	}
	u.body.Add(from, "["+name+"]")
}

// Key writes Key=value. The value stands as it is but for "%", which systemd
// would expand; control characters, and spaces at either end, are an error.
func (u *UnitFile) Key(key, value string, from origin.Origin) {
	if hasControl(value) || strings.HasSuffix(value, `\`) || strings.Trim(value, " ") != value {
		u.err = fmt.Errorf("%s=%q: a unit cannot carry this value", key, value)
		return
	}
	u.body.Add(from, key+"="+strings.ReplaceAll(value, "%", "%%"))
}

// Argument is one word of a command line.
type Argument struct {
	Text string
	From origin.Origin
}

// Exec writes a command line, one argument to a line. program may begin with
// systemd's prefixes (@ - : + !); it is not quoted.
func (u *UnitFile) Exec(key, program string, from origin.Origin, args ...Argument) {
	if strings.Trim(program, plainArgument+"!") != "" || program == "" {
		u.err = fmt.Errorf("%s=%q: a program's path is plain", key, program)
		return
	}
	line := key + "=" + program
	for _, a := range args {
		word, err := QuoteArgument(a.Text)
		if err != nil {
			u.err = err
			return
		}
		u.body.Add(from, line+` \`)
		line, from = "  "+word, a.From
	}
	u.body.Add(from, line)
}

// Body is the unit's text, or the first value that a unit cannot carry.
func (u *UnitFile) Body() (*tree.Body, error) { return &u.body, u.err }

func hasControl(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

const plainArgument = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/.:,=@+-"

var argumentEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`)

// QuoteArgument writes one word of a command line so that systemd.service(5)
// reads it back: "%" and "$" doubled, and quotes around whole words only.
func QuoteArgument(text string) (string, error) {
	if hasControl(text) {
		return "", fmt.Errorf("%q: a unit's command line cannot carry control characters", text)
	}
	if text != "" && strings.Trim(text, plainArgument) == "" {
		return text, nil
	}
	return `"` + argumentEscapes.Replace(text) + `"`, nil
}

// Directive is one Key=value of a unit, continuation lines joined.
type Directive struct{ Section, Key, Value string }

// ParseUnit reads unit text as systemd.syntax(7) says.
func ParseUnit(text string) ([]Directive, error) {
	var out []Directive
	section, pending := "", ""
	for n, line := range strings.Split(text, "\n") {
		text := strings.TrimLeft(line, " \t")
		comment := strings.HasPrefix(text, "#") || strings.HasPrefix(text, ";")
		if comment || pending == "" && text == "" {
			continue
		}
		if continued, ok := strings.CutSuffix(line, `\`); ok {
			pending += continued + " "
			continue
		}
		line, pending = pending+line, ""
		if name, ok := strings.CutPrefix(line, "["); ok && strings.HasSuffix(name, "]") {
			section = strings.TrimSuffix(name, "]")
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || section == "" {
			return nil, fmt.Errorf("line %d: %q is neither a section nor key=value", n+1, line)
		}
		out = append(out, Directive{section, strings.Trim(key, " \t"), strings.Trim(value, " \t")})
	}
	return out, nil
}

// ParseExec splits a command line into its words, as systemd does: quotes
// around whole words, backslash escapes, and "%%" and "$$" for "%" and "$".
func ParseExec(line string) ([]string, error) {
	var words []string
	for rest := strings.TrimLeft(line, " \t"); rest != ""; rest = strings.TrimLeft(rest, " \t") {
		word, after, err := nextWord(rest)
		if err != nil {
			return nil, err
		}
		words, rest = append(words, word), after
	}
	return words, nil
}

func nextWord(line string) (word, rest string, err error) {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote == 0 && (c == ' ' || c == '\t'):
			return b.String(), line[i:], nil
		case quote == 0 && b.Len() == 0 && i == 0 && (c == '"' || c == '\''):
			quote = c
		case c == quote && quote != 0:
			return b.String(), line[i+1:], nil
		case c == '\\' || c == '%' || c == '$':
			if i++; i == len(line) {
				return "", "", fmt.Errorf("%q ends in the middle of an escape", line)
			}
			if c != '\\' && line[i] != c {
				return "", "", fmt.Errorf("%q has a lone %c, which systemd expands", line, c)
			}
			b.WriteByte(line[i])
		default:
			b.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", "", fmt.Errorf("%q has a quote that is not closed", line)
	}
	return b.String(), "", nil
}
