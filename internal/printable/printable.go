// Package printable makes text of others safe to show.
//
// It promises that what it returns moves no cursor and changes no setting of a
// terminal: whatever is no printable character or line feed is escaped as Go
// writes it. It refuses to judge what the text says.
package printable

import (
	"strconv"
	"strings"
)

// Text escapes what cannot be printed.
func Text(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == '\n' || strconv.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRuneToASCII(r)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}

// Short is Text of no more than so many bytes.
func Short(s string, most int) string {
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return Text(s)
}
