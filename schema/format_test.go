package schema_test

import (
	"bytes"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/kthwc/kthwc/schema"
)

// What this project writes is formatted already.
func TestExamplesAreFormatted(t *testing.T) {
	texts := templates(t)
	for _, f := range globbed(t, "../examples/*.yaml") {
		texts[f] = read(t, f)
	}
	for name, text := range texts {
		if got, faults := schema.Format(name, text); faults != nil || !bytes.Equal(got, text) {
			t.Errorf("%s is not formatted: %v\n%s", name, faults, got)
		}
	}
}

// Untidy layouts of one meaning, and the tidy one.
func TestFormat(t *testing.T) {
	for _, c := range []struct{ name, in, out string }{
		{"indentation", "a:\n    b:\n    - x\n    -   y\n", "a:\n  b:\n    - x\n    - y\n"},
		{"spaces", "a:   1   #  one\nb: [1,2 , 3]\n", "a: 1 #  one\nb: [1, 2, 3]\n"},
		{"ends of lines", "a: 1   \r\nb: 2\t\r\n", "a: 1\nb: 2\n"},
		{"last line feed", "a: 1", "a: 1\n"},
		{"blank lines", "a: 1\n\n\n# about b\nb: 2\n   \n# the end\n", "a: 1\n\n\n# about b\nb: 2\n\n# the end\n"},
		{"comments of entries", "a:\n# first\n- x # one\n\n# second\n- y\nb: 1\n# after\n", "a:\n  # first\n  - x # one\n\n  # second\n  - y\nb: 1\n# after\n"},
		{"block text", "a: |\n    one\n\n    # two\n    three\nb: >-\n    folded\n    text\n", "a: |\n  one\n\n  # two\n  three\nb: >-\n  folded\n  text\n"},
		{"quotes stay", "a: \"no\"\nb: 'x'\nc: \"0644\"\nd: plain\n", "a: \"no\"\nb: 'x'\nc: \"0644\"\nd: plain\n"},
		{"long lines stay", "a: " + strings.Repeat("word ", 60) + "end\n", "a: " + strings.Repeat("word ", 60) + "end\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, faults := schema.Format("cluster.yaml", []byte(c.in))
			if faults != nil || string(got) != c.out {
				t.Errorf("%v\ngot:\n%s\nwant:\n%s", faults, got, c.out)
			}
		})
	}
}

// A file that cannot be formatted right is refused in words.
func TestFormatRefuses(t *testing.T) {
	for name, c := range map[string]struct{ code, help, source string }{
		"block text with spaces at the ends": {"E0018", "remove the spaces", "a: |\n  one  \n\n  two\n"},
		"no YAML":                            {"E0007", "", "a: [\n"},
		"two documents":                      {"E0008", "", "a: 1\n---\nb: 2\n"},
		"nothing":                            {"E0009", "", "# nothing\n"},
		"no text":                            {"E0013", "", "a: \x00\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, faults := schema.Format("cluster.yaml", []byte(c.source))
			if got != nil || len(faults) != 1 || faults[0].Code != c.code || !strings.Contains(faults[0].Help, c.help) {
				t.Errorf("%q %v", got, faults)
			}
			checkFaults(t, faults, c.source)
		})
	}
}

var comment = regexp.MustCompile(`(?m)(?:^|[ \t])(#.*?)[ \t\r]*$`)

// comments are the texts that may be comments, in order.
func comments(text []byte) []string {
	var out []string
	for _, m := range comment.FindAllSubmatch(text, -1) {
		out = append(out, string(m[1]))
	}
	return out
}

// Formatted text has the same values, comments and faults, and is formatted.
func FuzzFormat(f *testing.F) {
	files, _ := filepath.Glob("../examples/*.yaml")
	more, _ := filepath.Glob("../cmd/kthwc/testdata/errors/*.yaml")
	for _, file := range append(files, more...) {
		f.Add(read(f, file))
	}
	f.Add([]byte("a:   1   # one\n\n\nb:\n- x\n-   y # c\n# foot\n\n# head\nc:   {a: 1,   b: [1,2]} \nd: |\n  text  \n\n  more\n# end\n"))
	f.Add([]byte("? a\n: b\n\n- c\n"))
	f.Add([]byte("[a, #x\n b]#y\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, faults := schema.Format("cluster.yaml", data)
		if (got == nil) != faults.HasErrors() {
			t.Fatal("a text with errors, or none without")
		}
		checkFaults(t, faults, string(data))
		if got == nil {
			return
		}
		if again, faults := schema.Format("cluster.yaml", got); faults != nil || !bytes.Equal(again, got) {
			t.Fatalf("the second time it is laid out otherwise:\n%q\n%q\n%v", got, again, faults)
		}
		if before, after := comments(data), comments(got); !slices.Equal(before, after) {
			t.Fatalf("comments were\n%q, and are\n%q", before, after)
		}
		if before, after := value(t, data), value(t, got); !bytes.Equal(before, after) {
			t.Fatalf("values were\n%s\nand are\n%s", before, after)
		}
		_, before := schema.Load("cluster.yaml", data)
		if _, after := schema.Load("cluster.yaml", got); len(before) != len(after) {
			t.Fatalf("faults were %v, and are %v", before, after)
		}
	})
}

// value is the meaning of a text, without its style; nothing for aliases, which
// may expand without end.
func value(t *testing.T, text []byte) []byte {
	t.Helper()
	var n yaml.Node
	if err := yaml.Unmarshal(text, &n); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	var visit func(n *yaml.Node)
	visit = func(n *yaml.Node) {
		b.WriteString(n.ShortTag() + " " + n.Value + "\n")
		for _, c := range n.Content {
			visit(c)
		}
	}
	visit(&n)
	return b.Bytes()
}
