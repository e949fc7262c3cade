// Package docs writes the reference pages of docs/ from the tables and the
// examples that they are about.
//
// It promises that a page says what the program does: a page that differs from
// what its source gives is a failing test. It reads the project through a file
// system that it is given, writes nothing itself, and refuses to hold what the
// program knows already: only introductions are written here by hand.
package docs

import (
	"fmt"
	"io/fs"
	"strings"
)

//go:generate go run ./gen

// A page is one file of docs/, and what writes it.
type page struct {
	path  string
	write func(fs.FS) (string, error)
}

func pages() []page {
	return append(artefactPages(),
		page{"certificates.md", certificates},
		page{"coverage.md", coverage},
		page{"plan.schema.json", planSchema},
		page{"event.schema.json", eventSchema},
		page{"verify.schema.json", verifySchema},
		page{"errors.md", func(fs.FS) (string, error) { return errorCodes(), nil }},
	)
}

// Files is every generated page by its path below docs/. The file system is the
// project's directory.
func Files(project fs.FS) (map[string]string, error) {
	out := map[string]string{}
	for _, p := range pages() {
		text, err := p.write(project)
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", p.path, err)
		}
		out[p.path] = text
	}
	return out, nil
}

// generated is the first line of every page that is written here.
const generated = "<!-- Written by `make docs`; edit what it is written from, not this page. -->\n\n"

// code is text as Markdown shows code.
func code(text string) string {
	fence := "`"
	if strings.Contains(text, fence) {
		fence = "``"
	}
	return fence + strings.ReplaceAll(text, "|", `\|`) + fence
}
