package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/internal/names"
	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/diff"
	"github.com/kthwc/kthwc/pkg/tree"
)

// actMarks are what becomes of a path or an object, at the head of its line.
var actMarks = map[string]string{apply.Add: "+", apply.Modify: "~", apply.Delete: "-", "unknown": "?", "": "?", apply.Start: ">", apply.Restart: "»", apply.Enable: ">", apply.Stop: "-", "release": "="}

// printPlan writes a plan: drift first and apart, then what changes, grouped over
// nodes on which it is the same, then the order.
func (h *hosts) printPlan(p *apply.Plan, format string) error {
	if format == "json" {
		e := json.NewEncoder(h.s.out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(p)
	}
	w := &planPrinter{h: h, w: h.s.out, colored: h.s.coloredOut(), expand: h.expand}
	w.stops(p)
	w.section("Changed by others since the last apply; it will be put back:", w.drift(p))
	w.section("Changes:", w.changes(p))
	w.section("Kubernetes objects:", w.objects(p))
	w.section("Order:", w.order(p))
	w.section("Warnings:", p.Warnings)
	w.total(p)
	return w.err
}

type planPrinter struct {
	h       *hosts
	w       io.Writer
	colored bool
	expand  bool
	err     error
}

func (w *planPrinter) print(format string, args ...any) {
	if _, err := fmt.Fprintf(w.w, format, args...); err != nil && w.err == nil {
		w.err = err
	}
}

func (w *planPrinter) section(title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	w.print("%s\n", title)
	for _, l := range lines {
		w.print("  %s\n", w.paint(l))
	}
	w.print("\n")
}

// colors of marks; the mark itself says as much.
var markColors = map[string]string{"+": "32", "~": "33", "-": "31", "!": "35", ">": "36", "»": "36"}

func (w *planPrinter) paint(line string) string {
	mark, rest, _ := strings.Cut(line, " ")
	if color := markColors[mark]; w.colored && color != "" {
		return "\x1b[" + color + "m" + mark + "\x1b[0m " + rest
	}
	return line
}

// stops are hosts of which nothing is known, and what preflight found.
func (w *planPrinter) stops(p *apply.Plan) {
	var unknown, problems, notes []string
	for _, h := range p.Hosts {
		if h.Unknown != "" {
			unknown = append(unknown, h.Node+": "+strings.ReplaceAll(h.Unknown, "\n", "\n    "))
		}
		for _, problem := range h.Problems {
			problems = append(problems, h.Node+": "+problem)
		}
		if h.Interrupted != "" {
			notes = append(notes, h.Node+": "+h.Interrupted)
		}
	}
	w.section("Nothing is known, and nothing planned:", unknown)
	w.section("In the way:", problems)
	w.section("An earlier apply was interrupted; what it left is undone first:", notes)
}

// grouped collects lines that are the same on several nodes.
type grouped struct {
	order []string
	nodes map[string][]string
}

func (g *grouped) add(line, node string) {
	if g.nodes == nil {
		g.nodes = map[string][]string{}
	}
	if g.nodes[line] == nil {
		g.order = append(g.order, line)
	}
	g.nodes[line] = append(g.nodes[line], node)
}

// alike is how many paths that come to one directory are one line.
const alike = 4

// gathered takes paths together that come to one directory on the same nodes:
// the first apply brings hundreds.
func (g *grouped) gathered() *grouped {
	out := &grouped{}
	for i := 0; i < len(g.order); {
		line := g.order[i]
		j := i + 1
		for j < len(g.order) && sameDirectory(line, g.order[j]) && slices.Equal(g.nodes[line], g.nodes[g.order[j]]) {
			j++
		}
		if j-i >= alike {
			dir := path.Dir(strings.TrimPrefix(line, "+ "))
			line = fmt.Sprintf("+ %s/  %d paths, from %s to %s", dir, j-i, base(line), base(g.order[j-1]))
		} else {
			j = i + 1
		}
		for _, node := range g.nodes[g.order[i]] {
			out.add(line, node)
		}
		i = j
	}
	return out
}

// sameDirectory says whether two lines are paths that come to one directory.
func sameDirectory(a, b string) bool {
	pathA, okA := strings.CutPrefix(a, "+ /")
	pathB, okB := strings.CutPrefix(b, "+ /")
	return okA && okB && path.Dir(pathA) == path.Dir(pathB)
}

func base(line string) string {
	name, _, _ := strings.Cut(path.Base(line), " ")
	return name
}

// lines has the nodes behind each line's first row.
func (g *grouped) lines() []string {
	var out []string
	for _, line := range g.order {
		first, rest, more := strings.Cut(line, "\n")
		first += "  on " + names.Ranges(g.nodes[line])
		if more {
			first += "\n" + rest
		}
		out = append(out, strings.Split(first, "\n")...)
	}
	return out
}

func (w *planPrinter) drift(p *apply.Plan) []string {
	var g grouped
	for _, h := range p.Hosts {
		for _, c := range h.Drift {
			g.add("! "+c.Path+detail(c), h.Node)
		}
	}
	return g.lines()
}

// detail is what of a path differs.
func detail(c apply.Change) string {
	switch {
	case c.Do == apply.Delete:
		return " (gone)"
	case len(c.What) > 0:
		return " (" + strings.Join(c.What, ", ") + ")"
	}
	return ""
}

func (w *planPrinter) changes(p *apply.Plan) []string {
	var g grouped
	for i, h := range p.Hosts {
		for _, name := range h.Users {
			g.add("+ user "+name, h.Node)
		}
		for _, name := range h.Packages {
			g.add("+ package "+name, h.Node)
		}
		for _, b := range slices.Concat(h.Programs, h.Images) {
			kind := "program"
			if b.Image != "" {
				kind = "image"
			}
			g.add(fmt.Sprintf("+ %s %s (%.1f MB)", kind, b.Name, float64(b.Size)/1e6), h.Node)
		}
		for _, c := range h.Changes {
			g.add(w.change(&p.Hosts[i], c), h.Node)
		}
	}
	if !w.expand {
		return g.gathered().lines()
	}
	return g.lines()
}

// change is one path, and below it the lines that differ and why.
func (w *planPrinter) change(h *apply.HostPlan, c apply.Change) string {
	line := actMarks[c.Do] + " " + c.Path
	if c.Do == apply.Modify {
		line += detail(c)
	}
	if c.Secret {
		line += " [secret]"
	}
	if c.NotIssued != "" {
		line += " (not issued)"
	}
	if c.Do != apply.Add {
		line += w.reason(h, c)
	}
	return line
}

// mostLines is how many lines of one path a plan shows.
const mostLines = 16

// reason is the lines that differ from what was applied last, with the fields of
// cluster.yaml that they come from.
func (w *planPrinter) reason(h *apply.HostPlan, c apply.Change) string {
	drifted := slices.ContainsFunc(h.Drift, func(d apply.Change) bool { return d.Path == c.Path })
	was := w.h.reasons[h.Node][c.Path]
	switch {
	case was != nil:
		p := diffPrinter{s: w.h.s, release: w.h.cluster.Release}
		for _, a := range was.Attributes {
			p.attribute(was.Op, a)
		}
		p.hunks(was)
		p.causes(4, was.Because)
		lines := strings.Split(strings.TrimSuffix(p.b.String(), "\n"), "\n")
		if len(lines) > mostLines {
			lines = append(lines[:mostLines], fmt.Sprintf("    … %d lines more: kthwc diff --live", len(lines)-mostLines))
		}
		return "\n" + strings.Join(lines, "\n")
	case drifted:
		return "\n    because others have changed it"
	case c.Secret || w.late(h.Node, c.Path):
		return "\n    because certificates or keys were issued: kthwc pki list"
	case c.Kind == tree.Symlink && strings.HasPrefix(c.Path, "/usr/local/bin/"):
		return "\n    because kthwc.lock names another program"
	}
	return ""
}

// late says whether a file has material in it that is joined late.
func (w *planPrinter) late(node, path string) bool {
	f := w.h.tree.Node(node).File(path)
	return f != nil && f.Body != nil && len(f.Body.Refs()) > 0
}

// explain finds what has changed in cluster.yaml since it was applied, and with
// it the reason for each path.
func (h *hosts) explain(found map[string]apply.Host) {
	h.reasons = map[string]map[string]*diff.Change{}
	builds := map[string]*built{}
	for _, n := range h.tree.Nodes {
		text := found[n.Name].State.Applied()
		if text == "" {
			continue
		}
		if _, known := builds[text]; !known {
			builds[text] = h.s.asApplied(text)
			if was := builds[text]; was != nil {
				h.compare(was, text, found)
			}
		}
	}
}

// compare notes the changes of the hosts that had one cluster.yaml.
func (h *hosts) compare(was *built, text string, found map[string]apply.Host) {
	changes := diff.Trees(diff.Side{Tree: was.tree, Doc: was.doc}, diff.Side{Tree: h.tree, Doc: h.doc})
	for i := range changes {
		for _, node := range changes[i].Nodes {
			if found[node].State.Applied() != text || changes[i].What != "file" {
				continue
			}
			if h.reasons[node] == nil {
				h.reasons[node] = map[string]*diff.Change{}
			}
			h.reasons[node][strings.ReplaceAll(changes[i].Name, changes[i].Nodes[0], node)] = &changes[i]
		}
	}
}

func (w *planPrinter) objects(p *apply.Plan) []string {
	var out []string
	for _, c := range p.Manifests {
		line := actMarks[c.Do] + " "
		switch {
		case c.Kind == "":
			line += c.Manifest
		case c.Namespace != "":
			line += fmt.Sprintf("%s %s/%s", c.Kind, c.Namespace, c.Name)
		default:
			line += fmt.Sprintf("%s %s", c.Kind, c.Name)
		}
		if len(c.What) > 0 {
			line += " (" + strings.Join(c.What, ", ") + ")"
		}
		out = append(out, line)
	}
	return out
}

func (w *planPrinter) order(p *apply.Plan) []string {
	var out []string
	for i, b := range p.Rollout {
		if i == p.ManifestsAfter && len(p.Manifests) > 0 {
			out = append(out, "   Kubernetes objects, by server-side apply")
		}
		line := fmt.Sprintf("%d. %s", i+1, names.Ranges(b.Nodes))
		if len(b.Nodes) > 1 {
			line += ", together"
		}
		if b.Drain {
			line += "; cordoned and drained first"
		}
		if b.Disruption != "" {
			line += "; stands still meanwhile: " + b.Disruption
		}
		out = append(out, line)
		for _, s := range b.Steps {
			out = append(out, "   "+stepLine(s, b))
		}
	}
	if len(p.Rollout) <= p.ManifestsAfter && len(p.Manifests) > 0 {
		out = append(out, "   Kubernetes objects, by server-side apply")
	}
	return out
}

func stepLine(s apply.Step, b apply.Batch) string {
	line := fmt.Sprintf("%s %s %s", actMarks[s.Do], s.Do, s.Unit)
	if len(s.Nodes) < len(b.Nodes) {
		line += " on " + names.Ranges(s.Nodes)
	}
	if s.Before != "" {
		line += "; before: " + s.Before
	}
	if s.Gate != "" {
		line += "; then: " + s.Gate
	}
	return line
}

func (w *planPrinter) total(p *apply.Plan) {
	counts := map[string]int{}
	same, units := 0, 0
	for _, h := range p.Hosts {
		same += h.Same
		units += len(h.Units)
		for _, c := range h.Changes {
			counts[c.Do]++
		}
	}
	if p.Empty() {
		w.print("Nothing to do: %d paths on %d hosts are as they shall be.\n", same, len(p.Hosts))
		return
	}
	w.print("Plan: %d to add, %d to change, %d to delete, %d units; %d paths are as they shall be.\n", counts[apply.Add], counts[apply.Modify], counts[apply.Delete], units, same)
}
