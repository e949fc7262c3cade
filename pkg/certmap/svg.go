package certmap

import (
	"encoding/xml"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Measures of the picture, in pixels.
const (
	margin   = 24
	header   = 64  // above the columns
	gap      = 190 // between the columns, where the lines are
	row      = 46  // of an item
	rowGap   = 8
	title    = 30 // of an authority
	groupGap = 18
	inside   = 12   // beside the text of a box
	letter   = 7.6  // of a label, on average, with room to spare
	small    = 6.6  // of a detail
	boxTall  = 34.0 // of a party
)

// colours are those of the authorities: a dark one for lines and a light one
// for what is behind text.
var colours = [][2]string{
	{"#1f5fa8", "#e8f0fa"}, {"#2e7d32", "#e8f4e9"}, {"#b3541e", "#fbeee4"}, {"#6a3d9a", "#f1eaf7"},
	{"#a01f4f", "#f9e7ee"}, {"#00747c", "#e2f3f4"}, {"#7a6a00", "#f7f4e0"},
}

// drawing collects elements.
type drawing struct {
	b                   strings.Builder
	g                   *graph
	left, middle, right column
	itemAt              []float64 // the middle of each item
	group               []int     // of each item
	height              float64
}

type column struct{ x, wide float64 }

func (c column) end() float64 { return c.x + c.wide }

// SVG is the map as a picture: who shows a certificate at the left, who judges
// it at the right, and the certificates by authority between them.
func SVG(items []Item) string {
	d := &drawing{g: newGraph(items)}
	d.measure()
	wide := d.right.end() + margin
	fmt.Fprintf(&d.b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" font-family="DejaVu Sans, Verdana, Arial, sans-serif">`+"\n", wide, d.height, wide, d.height)
	fmt.Fprintf(&d.b, `<rect width="%.0f" height="%.0f" fill="#ffffff"/>`+"\n", wide, d.height)
	d.heading(d.left, "who shows it")
	d.heading(d.middle, "certificates and keys, by authority")
	d.heading(d.right, "who judges it")
	d.groups()
	d.lines()
	d.items()
	d.parties(d.left, d.g.shows)
	d.parties(d.right, d.g.judges)
	d.b.WriteString("</svg>\n")
	return d.b.String()
}

func (d *drawing) measure() {
	d.left = column{margin, boxWidth(d.g.shows)}
	var labels []string
	details := 0.0
	for _, n := range d.g.items {
		labels = append(labels, n.label)
		details = max(details, small*float64(utf8.RuneCountInString(n.detail))+4*inside)
	}
	for _, c := range d.g.groups {
		labels = append(labels, c.title)
	}
	d.middle = column{d.left.end() + gap, max(boxWidth(labels)+2*inside, details)}
	d.right = column{d.middle.end() + gap, boxWidth(d.g.judges)}
	y := float64(header)
	for i, c := range d.g.groups {
		y += title
		for n := c.first; n < c.last; n++ {
			d.itemAt, d.group = append(d.itemAt, y+row/2), append(d.group, i)
			y += row + rowGap
		}
		y += groupGap
	}
	tallest := float64(header) + float64(max(len(d.g.shows), len(d.g.judges)))*(boxTall+rowGap)
	d.height = max(y, tallest) + margin
}

func boxWidth(labels []string) float64 {
	wide := 140.0
	for _, l := range labels {
		wide = max(wide, letter*float64(utf8.RuneCountInString(l))+2*inside)
	}
	return wide
}

func (d *drawing) heading(c column, text string) {
	d.text(c.x+c.wide/2, header-28, `font-size="15" fill="#555555" text-anchor="middle"`, text)
}

func (d *drawing) text(x, y float64, attributes, text string) {
	fmt.Fprintf(&d.b, `<text x="%.1f" y="%.1f" %s>%s</text>`+"\n", x, y, attributes, escaped(text))
}

// escaped is text as XML has it.
func escaped(text string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(text)); err != nil {
		return "" // a builder takes everything
	}
	return b.String()
}

func colour(group int) [2]string { return colours[group%len(colours)] }

// groups are the authorities, behind what they sign.
func (d *drawing) groups() {
	y := float64(header)
	for i, c := range d.g.groups {
		tall := title + float64(c.last-c.first)*(row+rowGap)
		fmt.Fprintf(&d.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="8" fill="%s" stroke="%s"><title>%s</title></rect>`+"\n", d.middle.x, y, d.middle.wide, tall, colour(i)[1], colour(i)[0], escaped(c.why))
		d.text(d.middle.x+inside, y+20, `font-size="14" font-weight="bold" fill="`+colour(i)[0]+`"`, c.title)
		y += tall + groupGap
	}
}

func (d *drawing) items() {
	for n, item := range d.g.items {
		y := d.itemAt[n] - row/2
		fmt.Fprintf(&d.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%d" rx="5" fill="#ffffff" stroke="%s"><title>%s</title></rect>`+"\n", d.middle.x+inside, y, d.middle.wide-2*inside, row, colour(d.group[n])[0], escaped(item.why))
		d.text(d.middle.x+2*inside, y+19, `font-size="13" fill="#111111"`, item.label)
		d.text(d.middle.x+2*inside, y+36, `font-size="11" fill="#555555"`, item.detail)
	}
}

// partyAt is the middle of a party: parties are spread over the whole height.
func (d *drawing) partyAt(i, of int) float64 {
	return header + (float64(i)+0.5)*(d.height-header-margin)/float64(of)
}

func (d *drawing) parties(c column, labels []string) {
	for i, l := range labels {
		y := d.partyAt(i, len(labels)) - boxTall/2
		fmt.Fprintf(&d.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="16" fill="#f4f4f4" stroke="#444444"/>`+"\n", c.x, y, c.wide, boxTall)
		d.text(c.x+c.wide/2, y+22, `font-size="13" fill="#111111" text-anchor="middle"`, l)
	}
}

// lines lead from left to right, in the colours of the authorities; one that
// ends with somebody who does not look is broken.
func (d *drawing) lines() {
	for _, e := range d.g.edges {
		from, to := d.left.end(), d.middle.x+inside
		y1, y2 := d.partyAt(e.party, len(d.g.shows)), d.itemAt[e.item]
		if e.toJudge {
			from, to = d.middle.end()-inside, d.right.x
			y1, y2 = y2, d.partyAt(e.party, len(d.g.judges))
		}
		dash := ""
		if !e.judged {
			dash = ` stroke-dasharray="6 5"`
		}
		bend := (to - from) / 2
		fmt.Fprintf(&d.b, `<path d="M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f" fill="none" stroke="%s" stroke-width="1.8" stroke-opacity="0.75"%s/>`+"\n",
			from, y1, from+bend, y1, to-bend, y2, to, y2, colour(d.group[e.item])[0], dash)
	}
}
