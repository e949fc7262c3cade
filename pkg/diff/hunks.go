package diff

import (
	"fmt"
	"strings"

	udiff "github.com/rogpeppe/go-internal/diff"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

// compare finds the changed runs of lines, with the causes of each.
func (c *comparison) compare(was, is *tree.Body) []Hunk {
	if was == nil || is == nil {
		return nil
	}
	unified := udiff.Diff("", was.Bytes(), "", is.Bytes())
	var out []Hunk
	old, now, gap := 0, 0, true
	for _, text := range strings.Split(strings.TrimSuffix(string(unified), "\n"), "\n") {
		if starts := [4]int{}; parseHeader(text, &starts) {
			old, now, gap = starts[0], starts[2], true
			continue
		}
		if old == 0 && now == 0 || text == "" {
			continue // the names of the files
		}
		if text[0] == ' ' {
			old, now, gap = old+1, now+1, true
			continue
		}
		if gap {
			out, gap = append(out, Hunk{Old: old, New: now}), false
		}
		h := &out[len(out)-1]
		h.Lines = append(h.Lines, Line{text[:1], text[1:]})
		switch text[0] {
		case '-':
			old++
		case '+':
			now++
		}
	}
	for i := range out {
		out[i].Because = c.hunkCauses(&out[i], was, is)
	}
	return out
}

// parseHeader reads "@@ -old,count +new,count @@". A side without lines starts
// at the line before it.
func parseHeader(text string, n *[4]int) bool {
	if _, err := fmt.Sscanf(text, "@@ -%d,%d +%d,%d @@", &n[0], &n[1], &n[2], &n[3]); err != nil {
		return false
	}
	for side := 0; side < 4; side += 2 {
		if n[side+1] == 0 {
			n[side]++
		}
	}
	return true
}

// hunkCauses joins the origins of the lines that went and that came.
func (c *comparison) hunkCauses(h *Hunk, was, is *tree.Body) []Cause {
	var from, to origin.Origin
	old, now := h.Old-1, h.New-1
	for _, l := range h.Lines {
		if l.Op == "-" {
			from = origin.Join(from, was.Lines[old].From)
			old++
		} else {
			to = origin.Join(to, is.Lines[now].From)
			now++
		}
	}
	return c.because(from, to)
}
