// Package secret names late-bound material without holding it.
//
// Certificates, keys and encryption keys appear in the compiled model and in
// the rendered tree only as a [Ref]: a name that prints as
//
//	${secret:pki/admin.key|base64}
//
// A public piece of which several versions are in use, such as a key that is
// trusted beside the one that signs, is named with the generation that it was
// made in:
//
//	${secret:pki/service-account.pub#2}
//
// It promises that a Ref is comparable, harmless to print, diff, log and
// commit, and that [Parse] reads exactly what [Ref.String] writes. It refuses
// to hold bytes: no type of this package has a field for them.
package secret

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Encoding says how the material is written where the Ref stands.
type Encoding string

// The encodings. PEM is the material as it is kept; Base64 is RFC 4648
// section 4 on one line, as kubeconfigs embed it.
const (
	PEM    Encoding = ""
	Base64 Encoding = "base64"
)

// Ref is the name of one piece of material in one encoding.
type Ref struct {
	name     string
	version  int // generation that it was made in; 0 for what is in use
	encoding Encoding
}

// Open is how every placeholder begins.
const Open = "${secret:"

const closing = "}"

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9@._/-]*[a-z0-9])?$`)

// Cert names the certificate (public) of the pair called name, followed by
// nothing: the chain is the leaf alone.
func Cert(name string) Ref { return Ref{name: "pki/" + name + ".crt"} }

// Key names the private key of the pair called name.
func Key(name string) Ref { return Ref{name: "pki/" + name + ".key"} }

// Bundle names the trust bundle of a CA: every root that is trusted now.
func Bundle(ca string) Ref { return Ref{name: "pki/ca/" + ca + ".crt"} }

// CAKey names the private key of a CA's primary root.
func CAKey(ca string) Ref { return Ref{name: "pki/ca/" + ca + ".key"} }

// PublicKey names the public half of a key pair that has no certificate.
func PublicKey(name string) Ref { return Ref{name: "pki/" + name + ".pub"} }

// Symmetric names a symmetric key, such as one for encryption at rest.
func Symmetric(name string) Ref { return Ref{name: "keys/" + name} }

// As is the same material in another encoding.
func (r Ref) As(e Encoding) Ref { return Ref{r.name, r.version, e} }

// At is one version of public material: that of a generation, whatever is in
// use. Of an authority's bundle it is that one root alone.
func (r Ref) At(generation int) Ref { return Ref{r.name, generation, r.encoding} }

// Base64 is short for As(Base64).
func (r Ref) Base64() Ref { return r.As(Base64) }

// IsZero says whether r names nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

// Version is the generation that is asked for; 0 means what is in use.
func (r Ref) Version() int { return r.version }

// Name is the name without version and encoding, such as "pki/admin.key".
func (r Ref) Name() string { return r.name }

// Versioned is the name with its version, such as "pki/service-account.pub#2".
func (r Ref) Versioned() string {
	if r.version == 0 {
		return r.name
	}
	return r.name + "#" + strconv.Itoa(r.version)
}

// Encoding is the way the material is written.
func (r Ref) Encoding() Encoding { return r.encoding }

// Sensitive says whether the material must stay secret. Certificates, bundles
// and public keys are late-bound but public.
func (r Ref) Sensitive() bool {
	return !strings.HasSuffix(r.name, ".crt") && !strings.HasSuffix(r.name, ".pub")
}

// String is the placeholder that stands in rendered text.
func (r Ref) String() string {
	text := Open + r.Versioned()
	if r.encoding != PEM {
		text += "|" + string(r.encoding)
	}
	return text + closing
}

// MarshalText is the placeholder, so that JSON has it too.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Parse reads one placeholder. The error says what is wrong with the text.
func Parse(text string) (Ref, error) {
	inner, ok := strings.CutPrefix(text, Open)
	if !ok || !strings.HasSuffix(inner, closing) {
		return Ref{}, fmt.Errorf("%q is not a secret placeholder like ${secret:pki/admin.key|base64}", text)
	}
	name, encoding, found := strings.Cut(strings.TrimSuffix(inner, closing), "|")
	if found && Encoding(encoding) != Base64 {
		return Ref{}, fmt.Errorf("unknown encoding %q in %q; the encodings are none and base64", encoding, text)
	}
	name, version, err := cutVersion(name)
	if err != nil || !nameForm.MatchString(name) || strings.Contains(name, "..") {
		return Ref{}, fmt.Errorf("%q is not the name of a secret", name)
	}
	r := Ref{name, version, Encoding(encoding)}
	if version != 0 && r.Sensitive() {
		return Ref{}, fmt.Errorf("%q: only public material is asked for by its version", text)
	}
	return r, nil
}

var versionForm = regexp.MustCompile(`^[1-9][0-9]{0,5}$`) // the store counts to 999999

// cutVersion takes the version off a name.
func cutVersion(name string) (string, int, error) {
	short, text, found := strings.Cut(name, "#")
	if !found {
		return name, 0, nil
	}
	if !versionForm.MatchString(text) {
		return name, 0, fmt.Errorf("%q is no version", text)
	}
	version, err := strconv.Atoi(text)
	return short, version, err
}

// Split cuts text at its placeholders: texts and refs alternate, beginning and
// ending with a text, so len(texts) == len(refs)+1. A malformed placeholder is
// an error.
func Split(text string) (texts []string, refs []Ref, err error) {
	for {
		before, after, found := strings.Cut(text, Open)
		texts = append(texts, before)
		if !found {
			return texts, refs, nil
		}
		name, rest, ok := strings.Cut(after, closing)
		if !ok {
			return nil, nil, fmt.Errorf("a secret placeholder is not closed: %q", Open+after)
		}
		ref, err := Parse(Open + name + closing)
		if err != nil {
			return nil, nil, err
		}
		refs, text = append(refs, ref), rest
	}
}
