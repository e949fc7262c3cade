package printable

import (
	"strconv"
	"testing"
	"unicode/utf8"
)

// Whatever is put in, what comes out can be printed, and short text is short.
func FuzzText(f *testing.F) {
	f.Add("\x1b[2Jkubelet\r\n\u202e", 3)
	f.Fuzz(func(t *testing.T, s string, most int) {
		for _, got := range []string{Text(s), Short(s, max(0, most%1000))} {
			if !utf8.ValidString(got) {
				t.Fatalf("%q became %q", s, got)
			}
			for _, r := range got {
				if r != '\n' && !strconv.IsPrint(r) {
					t.Fatalf("%q became %q", s, got)
				}
			}
		}
	})
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{"a\tb": `a\tb`, "\x1b[31m": `\x1b[31m`, "é\n": "é\n", "\xff": "�"} {
		if got := Text(in); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
	if got := Short("äöü", 3); got != "ä…" {
		t.Errorf("%q", got)
	}
}
