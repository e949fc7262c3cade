package docs

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

// specimen is the input of the artefact pages, unless a row names another.
const specimen = "examples/cluster.yaml"

// A family is one page: files that belong together, with an introduction.
type family struct {
	page, title, intro string
	rows               []row
	also               func(*built, *strings.Builder) error // what is written before the files
}

// A row names files of one kind, as NODE:/PATH or PATH with the patterns of
// path.Match, and says what they are.
type row struct {
	where   string
	what    string
	example string // another input than the specimen
	entries bool   // a list of entries, which are explained one by one
}

// built is an input with what was rendered from it.
type built struct {
	path    string
	cluster *compile.Cluster
	tree    *tree.Tree
}

// build renders an input of the project.
func build(project fs.FS, input string) (*built, error) {
	source, err := fs.ReadFile(project, input)
	if err != nil {
		return nil, err
	}
	doc, faults := schema.Load(input, source)
	if doc == nil {
		return nil, faults.Err()
	}
	c, faults := compile.Compile(doc, compile.Facts{})
	if c == nil {
		return nil, faults.Err()
	}
	t, faults := render.Render(c, render.Input{Source: source})
	if t == nil {
		return nil, faults.Err()
	}
	return &built{input, c, t}, nil
}

// file is one rendered file with its place.
type file struct {
	*tree.File
	where string // controller-0:/etc/hosts, or manifests/20-coredns.yaml
}

// matching lists the files that a row names, in the order of the tree.
func (b *built) matching(r row) []file {
	var out []file
	for name, f := range b.tree.All() {
		where := place(name)
		if ok, _ := path.Match(r.where, where); ok && isSpecimen(where) {
			out = append(out, file{f, where})
		}
	}
	return out
}

// isSpecimen says whether a file is of the cluster, or of a node that stands for
// all of its role.
func isSpecimen(where string) bool {
	node, _, ofNode := strings.Cut(where, ":")
	return !ofNode || slices.Contains(specimens, node)
}

// place is NODE:/PATH of a path below a rendered directory.
func place(onDisk string) string {
	rest, ofNode := strings.CutPrefix(onDisk, "nodes/")
	if !ofNode {
		return onDisk
	}
	node, inside, _ := strings.Cut(rest, "/")
	return node + ":/" + inside
}

// artefactPages is a page for each family and a contents page.
func artefactPages() []page {
	out := []page{{"artefacts/README.md", func(fs.FS) (string, error) { return contents(), nil }}}
	for _, f := range families {
		out = append(out, page{"artefacts/" + f.page, f.write})
	}
	return out
}

func contents() string {
	var b strings.Builder
	b.WriteString(generated + "# What is rendered, and why\n\nEvery file that kthwc writes for `" + specimen + "`, by family: what it is, who reads it, and why\neach line is there. One controller and one worker stand for all. `kthwc explain PATH` says the same of your own cluster.\n\n")
	for _, f := range families {
		fmt.Fprintf(&b, "- [%s](%s)\n", f.title, f.page)
	}
	return b.String()
}

// write is the page of the family.
func (f family) write(project fs.FS) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s# %s\n\n%s\n", generated, f.title, f.intro)
	if f.also != nil {
		main, err := build(project, specimen)
		if err != nil {
			return "", err
		}
		if err := f.also(main, &b); err != nil {
			return "", err
		}
	}
	var short []string
	for _, r := range f.rows {
		in, err := build(project, first(r.example, specimen))
		if err != nil {
			return "", err
		}
		files := in.matching(r)
		if len(files) == 0 {
			return "", fmt.Errorf("nothing that is rendered from %s is named %s", in.path, r.where)
		}
		for _, file := range files {
			switch {
			case file.Body == nil || isMaterial(file.File):
				short = append(short, shortly(file, r.what))
			case r.entries:
				err = in.list(&b, file, r)
			default:
				fmt.Fprintf(&b, "\n## `%s`\n\n%s\n\n%s", file.where, r.what, in.head(file))
				in.table(&b, file.Path, file.Body.Lines)
			}
			if err != nil {
				return "", err
			}
		}
	}
	if len(short) > 0 {
		b.WriteString("\n## Also on the host\n\n| path | mode, owner | what it is |\n|---|---|---|\n" + strings.Join(short, ""))
	}
	return b.String(), nil
}

// first is a unless it is empty.
func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// isMaterial says whether the file is one piece of late-bound material.
func isMaterial(f *tree.File) bool {
	return len(f.Body.Lines) == 1 && len(f.Body.Refs()) == 1
}

// shortly is a file without lines of its own in one row of a table.
func shortly(f file, what string) string {
	metadata := fmt.Sprintf("%04o %s", f.Mode, f.Owner)
	switch f.Kind {
	case tree.Symlink:
		metadata = "link to " + code(f.Target)
	case tree.Absent:
		metadata = "must be absent"
	}
	if f.Body != nil {
		what = material(f.Body.Refs()[0])
	}
	return fmt.Sprintf("| %s | %s | %s |\n", code(f.where), metadata, what)
}

// head is who may read the file, who does, and which input it is from.
func (b *built) head(f file) string {
	parts := []string{fmt.Sprintf("Mode %04o, owner %s.", f.Mode, f.Owner)}
	if !strings.Contains(f.where, ":") {
		parts = nil // its mode on a host is nobody's business
	}
	if len(f.Readers) > 0 {
		parts = append(parts, "Read by `"+strings.Join(f.Readers, "`, `")+"`, which learns of a change.")
	}
	name := strings.TrimSuffix(path.Base(b.path), ".yaml")
	onDisk := strings.Replace(f.where, ":/", "/", 1)
	if onDisk != f.where {
		onDisk = "nodes/" + onDisk
	}
	parts = append(parts, fmt.Sprintf("[The whole file](../../golden/examples/%s/%s), from `%s`.", name, onDisk, b.path))
	return strings.Join(parts, " ") + "\n\n"
}

// longRun is how many lines of one reason are shown in full.
const longRun = 12

// table explains lines. A reason that many of them have is said once, above.
func (b *built) table(w *strings.Builder, unit string, lines []tree.Line) {
	whys := b.reasons(unit, lines)
	if general := common(whys); general != "" {
		for i := range whys {
			whys[i].prose = without(whys[i].prose, general)
		}
		fmt.Fprintf(w, "Where nothing else is said: %s\n\n", general)
	}
	rows(w, lines, whys)
}

// rows is the table itself: lines in a row that have the same reason share one.
func rows(w *strings.Builder, lines []tree.Line, whys []reason) {
	w.WriteString("| line | why |\n|---|---|\n")
	for i := 0; i < len(lines); {
		var shared []string
		why := whys[i].String()
		for ; i < len(lines) && (whys[i].String() == why || blank(lines[i])); i++ {
			if !blank(lines[i]) {
				shared = append(shared, strings.TrimSuffix(lines[i].String(), ` \`))
			}
		}
		fmt.Fprintf(w, "| %s | %s |\n", shown(shared), why)
	}
}

func blank(l tree.Line) bool { return strings.TrimSpace(l.String()) == "" }

func shown(lines []string) string {
	rest := ""
	if len(lines) > longRun {
		rest = fmt.Sprintf("<br>and %d more lines", len(lines)-3)
		lines = lines[:3]
	}
	codes := make([]string, len(lines))
	for i, l := range lines {
		codes[i] = code(l)
	}
	return strings.Join(codes, "<br>") + rest
}
