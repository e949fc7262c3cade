package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

// built is everything that the pipeline made of a file.
type built struct {
	doc     *schema.Document
	cluster *compile.Cluster
	facts   compile.Facts // what the cluster was compiled with, beside the file
	tree    *tree.Tree
	faults  diag.List
}

// build reads the file and runs the pipeline to the tree. Faults are printed.
func (s *session) build() (*built, error) {
	b, source, err := s.model(s.facts)
	if err != nil {
		return nil, err
	}
	if b.cluster != nil {
		input, err := s.input(source)
		if err != nil {
			return nil, err
		}
		var faults diag.List
		b.tree, faults = render.Render(b.cluster, input)
		for i := range faults {
			if faults[i].Path != "" && !faults[i].Pos.IsValid() {
				faults[i].Pos = b.doc.Pos(faults[i].Path)
			}
		}
		b.faults = append(b.faults, faults...)
	}
	return b, s.diagnose(b.faults, source)
}

// compiled reads the file and runs the pipeline to the model. Faults are printed.
func (s *session) compiled() (*built, error) { return s.compiledWith(s.facts) }

// noFacts compiles the file by itself.
func noFacts(string) (compile.Facts, error) { return compile.Facts{}, nil }

func (s *session) compiledWith(facts func(cluster string) (compile.Facts, error)) (*built, error) {
	b, source, err := s.model(facts)
	if err != nil {
		return nil, err
	}
	return b, s.diagnose(b.faults, source)
}

func (s *session) model(factsOf func(cluster string) (compile.Facts, error)) (*built, []byte, error) {
	source, err := s.read()
	if err != nil {
		return nil, nil, err
	}
	b, err := modelOf(s.name(), source, factsOf)
	return b, source, err
}

func modelOf(name string, source []byte, factsOf func(cluster string) (compile.Facts, error)) (b *built, err error) {
	b = &built{}
	b.doc, b.faults = schema.Load(name, source)
	if b.doc != nil {
		if b.facts, err = factsOf(b.doc.Cluster.Metadata.Name); err != nil {
			return nil, err
		}
		var faults diag.List
		b.cluster, faults = compile.Compile(b.doc, b.facts)
		b.faults = append(b.faults, faults...)
	}
	return b, nil
}

// asApplied builds a cluster.yaml as it was when it was applied, to compare with;
// nil where that cannot be built any more.
func (s *session) asApplied(source string) *built {
	b, err := modelOf("the applied cluster.yaml", []byte(source), s.facts)
	if err != nil || b.cluster == nil || b.faults.HasErrors() {
		return nil
	}
	input, err := s.input([]byte(source))
	if err != nil {
		return nil
	}
	if b.tree, b.faults = render.Render(b.cluster, input); b.faults.HasErrors() {
		return nil
	}
	return b
}

// input is what rendering takes beside the model: the overlays that flags name,
// and a view of the project directory that does not lead outside.
func (s *session) input(source []byte) (render.Input, error) {
	dir := s.project()
	in := render.Input{Source: source}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return in, err
	}
	in.Project = root.FS()
	for _, name := range s.overlays {
		inside, err := within(dir, name)
		if err != nil {
			return in, err
		}
		in.Overlays = append(in.Overlays, inside)
	}
	return in, nil
}

// project is the directory that cluster.yaml is in.
func (s *session) project() string {
	if s.file == "-" {
		return "."
	}
	return filepath.Dir(s.file)
}

// within is the name of a file relative to a directory that it lies in.
func within(dir, name string) (string, error) {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	file, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	inside, err := filepath.Rel(absolute, file)
	if err != nil || !filepath.IsLocal(inside) {
		return "", &exitError{exitUsage, fmt.Sprintf("%s is outside %s, the directory of cluster.yaml", name, absolute), "put the overlay beside cluster.yaml: whoever reviews the one must see the other"}
	}
	return filepath.ToSlash(inside), nil
}

func (s *session) name() string {
	if s.file == "-" {
		return "<stdin>"
	}
	return s.file
}

// read gives the bytes of the file. No more are read than a cluster.yaml may have.
func (s *session) read() ([]byte, error) {
	from := s.in
	if s.file != "-" {
		f, err := os.Open(s.file)
		if err != nil {
			return nil, s.unreadable(err)
		}
		defer f.Close()
		from = f
	}
	source, err := io.ReadAll(io.LimitReader(from, schema.MaxBytes+1))
	if err != nil {
		return nil, s.unreadable(err)
	}
	return source, nil
}

func (s *session) unreadable(err error) error {
	d := diag.Diagnostic{Code: "E0001", Pos: diag.Pos{File: s.name()}, Summary: "the file cannot be read"}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.Summary, d.Help = fmt.Sprintf("there is no file %s", s.file), "name one with -f, or write one with `kthwc init`"
	case errors.Is(err, syscall.EISDIR):
		d.Summary, d.Help = s.file+" is a directory", "name the file in it: -f "+s.file+"/cluster.yaml"
	case errors.Is(err, fs.ErrPermission):
		d.Help = "make it readable for you"
	}
	return s.diagnose(diag.List{d}, nil)
}
