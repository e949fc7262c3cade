package pki

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strconv"
	"strings"
)

// The kinds of entry: the type of its PEM block.
const (
	certificateType = "CERTIFICATE"
	privateKeyType  = "PRIVATE KEY" // PKCS #8
	publicKeyType   = "PUBLIC KEY"
	symmetricType   = "SYMMETRIC KEY"
	keysetType      = "KEYSET"
	sealedType      = "SEALED" // an encrypted entry
)

// entry is one piece of material.
type entry struct {
	name string // as in package secret, without the encoding: pki/admin.key
	kind string
	data []byte // DER, or the bytes of a symmetric key
}

// A generation is what one batch made: one file, which is never changed.
type generation struct {
	number   int
	previous string // SHA-256 of the generation before; "" of the first
	cluster  string
	entries  []entry
	sum      string // SHA-256 of the file
}

const header = "kthwc-store v1"

// encode writes the file: a line that says what it is, PEM blocks with the
// name of each, and the digest of everything before it.
func (g *generation) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s cluster %s generation %d previous %s\n", header, g.cluster, g.number, orDash(g.previous))
	for _, e := range g.entries {
		// Writing PEM to memory fails only for headers with a colon in the key.
		_ = pem.Encode(&b, &pem.Block{Type: e.kind, Headers: map[string]string{"Name": e.name}, Bytes: e.data})
	}
	sum := sha256.Sum256(b.Bytes())
	fmt.Fprintf(&b, "end %s\n", hex.EncodeToString(sum[:]))
	return b.Bytes()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// decode reads a file that encode wrote, and nothing else.
func decode(text []byte) (*generation, error) {
	at := bytes.LastIndex(text, []byte("\nend "))
	if at < 0 {
		return nil, fmt.Errorf("it has no end: it was cut off")
	}
	body, end := text[:at+1], string(text[at+1:])
	sum := sha256.Sum256(body)
	digest := hex.EncodeToString(sum[:])
	if end != "end "+digest+"\n" {
		return nil, fmt.Errorf("its content is not what its last line says: it was changed or cut off")
	}
	line, rest, _ := bytes.Cut(body, []byte("\n"))
	g, err := decodeHeader(string(line))
	if err != nil {
		return nil, err
	}
	g.sum = digest
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Headers["Name"] == "" {
			return nil, fmt.Errorf("an entry after the first %d cannot be read", len(g.entries))
		}
		g.entries = append(g.entries, entry{block.Headers["Name"], block.Type, block.Bytes})
	}
	return g, nil
}

func decodeHeader(line string) (*generation, error) {
	words := strings.Fields(strings.TrimPrefix(line, header))
	if !strings.HasPrefix(line, header+" ") || len(words) != 6 || words[0] != "cluster" || words[2] != "generation" || words[4] != "previous" {
		return nil, fmt.Errorf("it does not begin as a file of the store does")
	}
	number, err := strconv.Atoi(words[3])
	if err != nil || number < 1 {
		return nil, fmt.Errorf("%q is no number of a generation", words[3])
	}
	return &generation{number: number, cluster: words[1], previous: strings.TrimPrefix(words[5], "-")}, nil
}
