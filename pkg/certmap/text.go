package certmap

import (
	"strings"
	"unicode/utf8"

	"github.com/kthwc/kthwc/internal/names"
	"github.com/kthwc/kthwc/pkg/pki"
)

const width = 100

const legend = `
reload: a change is picked up without a restart · restart: the file is read at the start
each run: every run reads the file · wait: it cannot be issued before an address is known
`

// page collects lines that are no longer than the page is wide, unless a word is.
type page struct{ b strings.Builder }

// line writes words from an indentation on, and what does not fit below them.
func (p *page) line(indent int, label, text string) {
	hang := indent + utf8.RuneCountInString(label)
	at := hang
	p.b.WriteString(strings.Repeat(" ", indent) + label)
	for i, word := range strings.Fields(text) {
		long := utf8.RuneCountInString(word)
		switch {
		case i > 0 && at+1+long > width:
			p.b.WriteString("\n" + strings.Repeat(" ", hang))
			at = hang
		case i > 0:
			p.b.WriteByte(' ')
			at++
		}
		p.b.WriteString(word)
		at += long
	}
	p.b.WriteByte('\n')
}

// Text is the map for a terminal, on 100 columns.
func Text(items []Item) string {
	p := &page{}
	for n := range items {
		i := &items[n]
		if n > 0 {
			p.b.WriteByte('\n')
		}
		indent := 4
		if i.Kind != pki.Certificate {
			indent = 2
			p.line(0, i.Kind+" ", i.Label())
		} else {
			p.line(2, "", i.Label())
		}
		p.item(i, indent)
	}
	p.b.WriteString(legend)
	return p.b.String()
}

func (p *page) item(i *Item, indent int) {
	p.line(indent, "", i.Why)
	for _, a := range i.judged() {
		p.line(indent, "judges   ", strings.Join(a.Certificates, ", ")+" for "+a.To)
	}
	if i.Kind != pki.Authority {
		for _, a := range i.Arrows {
			p.line(indent, pad(a.Role()), a.Sentence())
		}
	}
	if i.Apart != "" {
		p.line(indent, "apart    ", i.Apart)
	}
	for _, w := range i.Waits {
		p.line(indent, "wait     ", w)
	}
	for _, f := range i.Files {
		p.line(indent, "file     ", f.Where+" ("+f.Holds+")")
		for _, r := range f.Readers {
			p.line(indent+11, "", r.Component+" "+r.Fields+": "+string(r.Pickup))
		}
	}
}

func pad(label string) string { return label + strings.Repeat(" ", 9-len(label)) }

// Sentence says who shows it to whom.
func (a *Arrow) Sentence() string {
	to := a.To
	if a.Beside {
		component, _, _ := strings.Cut(a.To, "@")
		to = component + " on the same node"
	}
	text := a.By + " → " + to
	switch {
	case a.As == pki.TokenSigning:
		return text
	case a.Bundle == "":
		return text + ", which does not look"
	}
	return text + ", judged by " + a.Bundle
}

// judged takes together what an authority judges, and for whom.
func (i *Item) judged() []Arrow {
	if i.Kind != pki.Authority {
		return nil
	}
	var byParty, byList bundle[string, string]
	for _, a := range i.Arrows {
		for _, c := range a.Certificates {
			byParty.add(a.To, c)
		}
	}
	for _, to := range byParty.keys {
		byList.add(strings.Join(names.Sorted(byParty.of[to]), ", "), to)
	}
	var out []Arrow
	for _, list := range byList.keys {
		out = append(out, Arrow{To: strings.Join(byList.of[list], ", "), Certificates: []string{list}})
	}
	return out
}
