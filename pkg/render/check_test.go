package render

import (
	"testing"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

// What is wrong with a finished tree is found there.
func TestCheckFindsWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		code string
		mode uint32
		part tree.Part
	}{
		{"E0220", 0o644, tree.Part{Text: "server: https://:6443"}},
		{"E0220", 0o644, tree.Part{Text: "--flag="}},
		{"E0220", 0o644, tree.Part{Text: "a:\tb"}},
		{"E0220", 0o644, tree.Part{Text: "a\r"}},
		{"E0221", 0o644, tree.Part{Ref: secret.Key("admin")}},
		{"", 0o600, tree.Part{Ref: secret.Key("admin")}},
		{"", 0o644, tree.Part{Text: "server: https://127.0.0.1:6443"}},
	} {
		body := &tree.Body{}
		body.AddParts(origin.Fixed("x"), c.part)
		r := &renderer{c: &compile.Cluster{}, t: &tree.Tree{Files: []*tree.File{{Path: "a.yaml", Kind: tree.Regular, Mode: c.mode, Body: body}}}}
		r.check()
		got := ""
		if len(r.faults) > 0 {
			got = r.faults[0].Code
		}
		if got != c.code {
			t.Errorf("%v: got %q, want %q", c.part, got, c.code)
		}
	}
}
