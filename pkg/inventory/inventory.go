// Package inventory is the public record of what was issued: inventory.yaml.
//
// It holds subjects, names, serial numbers, times and hashes of public keys; of
// symmetric keys a keyed fingerprint. It promises one order and one writing for
// one content, so that the file can be committed and compared, and that no
// field can hold material. It refuses files of another version and unknown
// fields.
package inventory

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/yaml"
)

// Version is the version of the file's format.
const Version = "kthwc.dev/inventory/v1alpha1"

// Inventory is everything that was issued and is still of use.
type Inventory struct {
	APIVersion   string        `json:"apiVersion"`
	Cluster      string        `json:"cluster"`
	Generation   int           `json:"generation"` // of the store that it was read off
	Authorities  []Authority   `json:"authorities,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"`
	KeyPairs     []KeyPair     `json:"keyPairs,omitempty"`
	Keys         []Key         `json:"keys,omitempty"`
}

// The states of an entry of a keyset: what signs, what is trusted beside it,
// and what is trusted no more.
const (
	Primary    = "primary"
	Trusted    = "trusted"
	Distrusted = "distrusted"
)

// Authority is one root of trust with every key that it has had and that has
// not been dropped.
type Authority struct {
	Name   string    `json:"name"`
	Keyset []RootKey `json:"keyset"` // the primary first, then by generation
}

// RootKey is one self-signed certificate of an authority.
type RootKey struct {
	State      string `json:"state"`
	Facts      `json:",inline"`
	Generation int `json:"generation"` // of the store, in which it was made
}

// Certificate is one leaf.
type Certificate struct {
	Name       string `json:"name"`
	Authority  string `json:"authority"`
	SignedBy   string `json:"signedBy"` // SPKI of the authority's key
	Facts      `json:",inline"`
	Generation int `json:"generation"` // of the store, in which it was made
}

// KeyPair is a key pair without a certificate.
type KeyPair struct {
	Name   string      `json:"name"`
	Keyset []PublicKey `json:"keyset"`
}

// PublicKey is one public key of a keyset.
type PublicKey struct {
	State      string `json:"state"`
	KeyType    string `json:"keyType"`
	SPKI       string `json:"spki"`
	Generation int    `json:"generation"`
}

// Key is one symmetric key.
type Key struct {
	Name        string `json:"name"`
	State       string `json:"state,omitempty"` // in its keyset; none before the first rotation
	Fingerprint string `json:"fingerprint"`     // HMAC-SHA-256 keyed by the key itself, over its name
	Generation  int    `json:"generation"`
}

// Facts are what a certificate says.
type Facts struct {
	CommonName   string    `json:"commonName"`
	Organization string    `json:"organization,omitempty"`
	Names        []string  `json:"names,omitempty"` // subject alternative names, sorted
	Usages       []string  `json:"usages,omitempty"`
	KeyType      string    `json:"keyType"`
	Serial       string    `json:"serial"` // hexadecimal
	NotBefore    time.Time `json:"notBefore"`
	NotAfter     time.Time `json:"notAfter"`
	SPKI         string    `json:"spki"` // hexadecimal SHA-256 of the SubjectPublicKeyInfo (RFC 7469 section 2.4)
}

// Parse reads inventory.yaml.
func Parse(text []byte) (*Inventory, error) {
	var i Inventory
	if err := yaml.UnmarshalStrict(text, &i); err != nil {
		return nil, fmt.Errorf("the inventory cannot be read: %w", err)
	}
	if i.APIVersion != Version {
		return nil, fmt.Errorf("the inventory is of version %q; this program reads %s", i.APIVersion, Version)
	}
	return &i, nil
}

// YAML is inventory.yaml.
func (i *Inventory) YAML() ([]byte, error) {
	i.sort()
	text, err := yaml.Marshal(i)
	if err != nil {
		return nil, fmt.Errorf("write the inventory: %w", err)
	}
	var b bytes.Buffer
	b.WriteString("# Public facts of what was issued. `kthwc pki inventory --write` writes it from the store.\n")
	b.Write(text)
	return b.Bytes(), nil
}

func (i *Inventory) sort() {
	slices.SortFunc(i.Authorities, func(a, b Authority) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(i.Certificates, func(a, b Certificate) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(i.KeyPairs, func(a, b KeyPair) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(i.Keys, func(a, b Key) int { return cmp.Compare(a.Name, b.Name) })
}

// Authority finds an authority by name; nil if it has never been made.
func (i *Inventory) Authority(name string) *Authority {
	return find(i.Authorities, func(a *Authority) bool { return a.Name == name })
}

// Certificate finds a leaf by name; nil if it has never been issued.
func (i *Inventory) Certificate(name string) *Certificate {
	return find(i.Certificates, func(c *Certificate) bool { return c.Name == name })
}

// KeyPair finds a key pair by name; nil if it has never been made.
func (i *Inventory) KeyPair(name string) *KeyPair {
	return find(i.KeyPairs, func(k *KeyPair) bool { return k.Name == name })
}

// Key finds a symmetric key by name; nil if it has never been made.
func (i *Inventory) Key(name string) *Key {
	return find(i.Keys, func(k *Key) bool { return k.Name == name })
}

func find[T any](list []T, is func(*T) bool) *T {
	for at := range list {
		if is(&list[at]) {
			return &list[at]
		}
	}
	return nil
}

// Verifying are the keys that are trusted: the primary and those beside it.
func (a *Authority) Verifying() []RootKey {
	return slices.DeleteFunc(slices.Clone(a.Keyset), func(k RootKey) bool { return k.State == Distrusted })
}

// Primary is the key that signs now; nil if there is none.
func (a *Authority) Primary() *RootKey {
	return find(a.Keyset, func(k *RootKey) bool { return k.State == Primary })
}

// Primary is the key that signs now; nil if there is none.
func (k *KeyPair) Primary() *PublicKey {
	return find(k.Keyset, func(p *PublicKey) bool { return p.State == Primary })
}
