package pki

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
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
	recipientsType  = "RECIPIENTS"         // to whom keys are encrypted from here on
	sealedType      = "SEALED"             // stands for a key; its bytes are the key's fingerprint
	batchType       = "AGE ENCRYPTED FILE" // every key of the generation
)

// entry is one piece of material.
type entry struct {
	name string // as in package secret, without the encoding: pki/admin.key
	kind string
	data []byte // DER, or the bytes of a symmetric key
	made int    // the generation in which it was made; 0 is the one that it is in
}

// private says whether the entry is a key that others must not read.
func (e entry) private() bool { return e.kind == privateKeyType || e.kind == symmetricType }

// A generation is what one batch made: one file, which is never changed.
type generation struct {
	number   int
	previous string // SHA-256 of the generation before; "" of the first
	cluster  string
	whole    bool // it holds all that is in use: those before it need not be there
	entries  []entry
	sum      string // SHA-256 of the file
}

const (
	header  = "kthwc-store v1"
	isWhole = " whole"
)

// open says whether keys can be read off the file.
func (g *generation) open() bool { return slices.ContainsFunc(g.entries, entry.private) }

// encode writes the file: a line that says what it is, PEM blocks with the
// name of each, and the digest of everything before it.
func (g *generation) encode() []byte {
	var b bytes.Buffer
	line := fmt.Sprintf("%s cluster %s generation %d previous %s", header, g.cluster, g.number, orDash(g.previous))
	if g.whole {
		line += isWhole
	}
	b.WriteString(line + "\n")
	for _, e := range g.entries {
		headers := map[string]string{"Name": e.name}
		if e.made != 0 {
			headers["Generation"] = strconv.Itoa(e.made)
		}
		// Writing PEM to memory fails only for headers with a colon in the key.
		_ = pem.Encode(&b, &pem.Block{Type: e.kind, Headers: headers, Bytes: e.data})
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
	for len(rest) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Headers["Name"] == "" {
			return nil, fmt.Errorf("an entry after the first %d cannot be read", len(g.entries))
		}
		made, _ := strconv.Atoi(block.Headers["Generation"]) // a wrong number is not written as it was read
		g.entries = append(g.entries, entry{block.Headers["Name"], block.Type, block.Bytes, made})
	}
	if !bytes.Equal(g.encode(), text) {
		return nil, fmt.Errorf("it is not written as kthwc writes it")
	}
	return g, nil
}

func decodeHeader(line string) (*generation, error) {
	line, whole := strings.CutSuffix(line, isWhole)
	words := strings.Fields(strings.TrimPrefix(line, header))
	if !strings.HasPrefix(line, header+" ") || len(words) != 6 || words[0] != "cluster" || words[2] != "generation" || words[4] != "previous" {
		return nil, fmt.Errorf("it does not begin as a file of the store does")
	}
	number, err := strconv.Atoi(words[3])
	if err != nil || number < 1 {
		return nil, fmt.Errorf("%q is no number of a generation", words[3])
	}
	return &generation{number: number, cluster: words[1], previous: strings.TrimPrefix(words[5], "-"), whole: whole}, nil
}
