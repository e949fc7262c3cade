package docs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

// A reason is why a line is there: sentences, and the fields that it was
// computed from.
type reason struct {
	prose  []string
	fields []string
}

// String is the reason inside a table. Fields are explained only where no
// sentence explains the line.
func (r reason) String() string {
	out := slices.Clone(r.prose)
	var names []string
	for _, field := range r.fields {
		path, isDefault := strings.CutPrefix(field, origin.PrefixDefault)
		name := code(path)
		if isDefault {
			name = "default of " + name
		}
		if doc := schema.Doc(path); len(r.prose) == 0 && doc != "" {
			out = append(out, name+": "+doc)
			continue
		}
		names = append(names, name)
	}
	if len(names) > 0 {
		out = append(out, "From "+strings.Join(names, ", ")+".")
	}
	return strings.ReplaceAll(strings.Join(out, "<br>"), "|", `\|`)
}

// reasons is the reason of every line.
func (b *built) reasons(unit string, lines []tree.Line) []reason {
	out := make([]reason, len(lines))
	for i, l := range lines {
		if why := render.FlagReason(unit, l); why != "" {
			out[i].prose = append(out[i].prose, why)
		}
		b.add(&out[i], l.From.Sources())
	}
	return out
}

// add sorts sources into sentences and fields.
func (b *built) add(r *reason, sources []string) {
	byRow := slices.ContainsFunc(sources, func(s string) bool { return strings.HasPrefix(s, origin.PrefixRow) })
	for _, source := range sources {
		text, known := render.Because(source, b.cluster.Release)
		switch {
		case known && !strings.HasPrefix(source, origin.PrefixDefault):
			r.prose = append(r.prose, text)
		case byRow && source == "spec.kubernetes.version": // the row says so
		default:
			r.fields = append(r.fields, anyNode(source))
		}
	}
	r.fields = slices.Compact(r.fields)
}

// nodeName is the name in the path of a field of a node, and the number of a
// list's entry.
var nodeName = regexp.MustCompile(`nodes\[[^]]*\]|\[\d+\]$`)

// anyNode is the path of a field of a node, for any node.
func anyNode(source string) string {
	return nodeName.ReplaceAllStringFunc(source, func(found string) string {
		if strings.HasPrefix(found, "nodes") {
			return "nodes[*]"
		}
		return ""
	})
}

// common is the sentence that is there most often, if that is three times or more.
func common(whys []reason) string {
	count, best := map[string]int{}, ""
	previous := ""
	for _, why := range whys {
		for _, sentence := range why.prose {
			if sentence != previous {
				count[sentence]++
			}
			if count[sentence] > count[best] {
				best = sentence
			}
		}
		previous = strings.Join(why.prose, "")
	}
	if count[best] < 3 {
		return ""
	}
	return best
}

func without(list []string, text string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == text })
}

// material is what a certificate, key or bundle is for.
func material(ref secret.Ref) string {
	name := strings.TrimSuffix(strings.TrimPrefix(ref.String(), "${secret:pki/"), "}")
	name, isKey := strings.CutSuffix(name, ".key")
	role, _, _ := strings.Cut(strings.TrimSuffix(strings.TrimSuffix(name, ".crt"), ".pub"), "@")
	for _, id := range []string{"cert-" + role, "ca-" + strings.TrimPrefix(role, "ca/"), role} {
		if text := render.Reason(id); text != "" && isKey {
			return fmt.Sprintf("The key of `%s`.", role)
		} else if text != "" {
			return text
		}
	}
	return ""
}
