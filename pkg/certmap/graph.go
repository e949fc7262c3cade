package certmap

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/pki"
)

// graph is the map as a picture has it: who shows, what, who judges.
type graph struct {
	shows, judges []string
	groups        []cluster
	items         []node // in the order of their groups
	edges         []edge
}

// cluster is one authority with what it signs, or the keys.
type cluster struct {
	title, why  string
	first, last int // of items, last excluded
}

type node struct{ label, detail, why string }

// edge leads from a shower to an item, or from an item to a judge.
type edge struct {
	toJudge     bool
	party, item int
	as          string // of one from a shower
	judged      bool
}

func newGraph(items []Item) *graph {
	g := &graph{}
	for n := range items {
		i := &items[n]
		title, why := i.Authority, ""
		switch i.Kind {
		case pki.Authority:
			title, why = i.Role, i.Why
		case pki.KeyPair, pki.Key:
			title = "keys"
		}
		if len(g.groups) == 0 || g.groups[len(g.groups)-1].title != title {
			g.groups = append(g.groups, cluster{title, why, len(g.items), len(g.items)})
		}
		if i.Kind != pki.Authority {
			g.add(i)
			g.groups[len(g.groups)-1].last++
		}
	}
	g.untangle()
	return g
}

func (g *graph) add(i *Item) {
	at, kinds := len(g.items), []string{}
	for _, a := range i.Arrows {
		kind := roles[a.As]
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
		for _, e := range []edge{{false, position(&g.shows, a.By), at, kind, true}, {true, position(&g.judges, a.To), at, "", a.Bundle != "" || a.As == pki.TokenSigning}} {
			if !slices.Contains(g.edges, e) {
				g.edges = append(g.edges, e)
			}
		}
	}
	detail := cmp.Or(strings.Join(kinds, " and "), "shown to nobody in the cluster") + " · " + i.pickups()
	if len(i.Waits) > 0 {
		detail = "wait · " + detail
	}
	g.items = append(g.items, node{i.Label(), detail, cmp.Or(i.Apart, i.Why)})
}

func position(list *[]string, text string) int {
	at := slices.Index(*list, text)
	if at < 0 {
		at = len(*list)
		*list = append(*list, text)
	}
	return at
}

// untangle orders the parties by the middle of what they touch, so that few
// lines cross.
func (g *graph) untangle() {
	g.sort(&g.shows, false)
	g.sort(&g.judges, true)
}

func (g *graph) sort(parties *[]string, judges bool) {
	middle, order := make([]float64, len(*parties)), make([]int, len(*parties))
	for p := range order {
		order[p] = p
		count := 0.0
		for _, e := range g.edges {
			if e.toJudge == judges && e.party == p {
				middle[p] += float64(e.item)
				count++
			}
		}
		middle[p] /= max(count, 1)
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(middle[a], middle[b]) })
	sorted, place := make([]string, len(order)), make([]int, len(order))
	for to, from := range order {
		sorted[to], place[from] = (*parties)[from], to
	}
	*parties = sorted
	for i := range g.edges {
		if e := &g.edges[i]; e.toJudge == judges {
			e.party = place[e.party]
		}
	}
}

// Mermaid is the map as a flowchart, which many viewers of Markdown draw.
func Mermaid(items []Item) string {
	g := newGraph(items)
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	for i, p := range g.shows {
		fmt.Fprintf(&b, "  s%d(%s)\n", i, quoted(p))
	}
	for i, c := range g.groups {
		fmt.Fprintf(&b, "  subgraph g%d[%s]\n", i, quoted(c.title))
		for n := c.first; n < c.last; n++ {
			fmt.Fprintf(&b, "    c%d[%s]\n", n, quoted(g.items[n].label+"\n"+g.items[n].detail))
		}
		b.WriteString("  end\n")
	}
	for i, p := range g.judges {
		fmt.Fprintf(&b, "  j%d(%s)\n", i, quoted(p))
	}
	for _, e := range g.edges {
		switch {
		case !e.toJudge:
			fmt.Fprintf(&b, "  s%d -->|%s| c%d\n", e.party, e.as, e.item)
		case e.judged:
			fmt.Fprintf(&b, "  c%d --> j%d\n", e.item, e.party)
		default:
			fmt.Fprintf(&b, "  c%d -.->|not judged| j%d\n", e.item, e.party)
		}
	}
	return b.String()
}

// quoted is text as a Mermaid label: what could be markup is an entity.
func quoted(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '\n':
			b.WriteString("<br/>")
		case strings.ContainsRune("\"#&<>`;*_[]", r) || r < ' ':
			fmt.Fprintf(&b, "#%d;", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
