package secret

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"iter"
)

// A Source gives the material behind a name in its plain form: PEM, or the
// bytes of a symmetric key.
type Source func(Ref) ([]byte, error)

// Piece is a text, or the name of material that stands there.
type Piece struct {
	Text string
	Ref  Ref // zero for a text
}

// String is the piece's text, or its placeholder.
func (p Piece) String() string {
	if p.Ref.IsZero() {
		return p.Text
	}
	return p.Ref.String()
}

// Materialise joins texts and material: what a rendered file is on its host. It
// is the one place where the bytes of secrets meet text; what it returns must
// not be printed. Lines end with a line feed, and material that ends with one
// shares it.
func Materialise(lines iter.Seq[[]Piece], source Source) ([]byte, error) {
	var out bytes.Buffer
	for line := range lines {
		for _, p := range line {
			if p.Ref.IsZero() {
				out.WriteString(p.Text)
				continue
			}
			material, err := source(p.Ref)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.Ref, err)
			}
			out.Write(encoded(p.Ref, material))
		}
		out.WriteByte('\n')
	}
	return out.Bytes(), nil
}

func encoded(r Ref, material []byte) []byte {
	if r.encoding == Base64 {
		return []byte(base64.StdEncoding.EncodeToString(material))
	}
	return bytes.TrimSuffix(material, []byte("\n"))
}
