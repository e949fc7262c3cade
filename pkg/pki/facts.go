package pki

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/inventory"
)

// Inventory is the public facts of what the store holds.
func (s *Store) Inventory() (*inventory.Inventory, error) {
	out := &inventory.Inventory{APIVersion: inventory.Version, Cluster: s.cluster, Generation: s.Generation()}
	roots := map[string]signedBy{} // by subject key identifier
	for _, name := range slices.Sorted(maps.Keys(s.entries)) {
		if ca, ok := strings.CutPrefix(name, "pki/ca/"); ok && strings.HasSuffix(ca, ".crt") {
			if err := s.authorityFacts(strings.TrimSuffix(ca, ".crt"), out, roots); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.entries)) {
		if err := s.otherFacts(name, out, roots); err != nil {
			return nil, fmt.Errorf("%s in the store cannot be read: %w", name, err)
		}
	}
	return out, nil
}

// signedBy is one key of an authority.
type signedBy struct{ authority, spki string }

func (s *Store) authorityFacts(name string, out *inventory.Inventory, roots map[string]signedBy) error {
	a := inventory.Authority{Name: name}
	for _, k := range s.keyset("ca/"+name, "pki/ca/"+name+".crt") {
		e, _ := s.version("pki/ca/"+name+".crt", k.Generation)
		certificate, err := x509.ParseCertificate(e.data)
		if err != nil {
			return fmt.Errorf("the authority %s in the store cannot be read: %w", name, err)
		}
		facts := factsOf(certificate)
		roots[string(certificate.SubjectKeyId)] = signedBy{name, facts.SPKI}
		a.Keyset = append(a.Keyset, inventory.RootKey{State: k.State, Facts: facts, Generation: k.Generation})
	}
	out.Authorities = append(out.Authorities, a)
	return nil
}

func (s *Store) otherFacts(name string, out *inventory.Inventory, roots map[string]signedBy) error {
	e, _ := s.current(name)
	short := strings.TrimPrefix(name[:max(strings.LastIndexByte(name, '.'), 0)], "pki/")
	switch {
	case strings.HasPrefix(name, "pki/ca/"):
		return nil
	case e.kind == certificateType:
		certificate, err := x509.ParseCertificate(e.data)
		if err != nil {
			return err
		}
		by := roots[string(certificate.AuthorityKeyId)]
		out.Certificates = append(out.Certificates, inventory.Certificate{Name: short, Authority: by.authority, SignedBy: by.spki, Facts: factsOf(certificate), Generation: e.generation})
		if len(s.keysets[short]) > 0 {
			return s.keyPairFacts(short, name, out)
		}
	case e.kind == publicKeyType:
		return s.keyPairFacts(short, name, out)
	case strings.HasPrefix(name, "keys/"):
		print, err := e.fingerprint()
		out.Keys = append(out.Keys, inventory.Key{Name: strings.TrimPrefix(name, "keys/"), State: s.stateOf(name), Fingerprint: hex.EncodeToString(print), Generation: e.generation})
		return err
	}
	return nil
}

func (s *Store) keyPairFacts(short, name string, out *inventory.Inventory) error {
	pair := inventory.KeyPair{Name: short}
	for _, k := range s.keyset(short, name) {
		e, _ := s.version(name, k.Generation)
		public, spki, err := e.public()
		if err != nil {
			return err
		}
		pair.Keyset = append(pair.Keyset, inventory.PublicKey{State: k.State, KeyType: keyTypeOf(public), SPKI: digest(spki), Generation: k.Generation})
	}
	out.KeyPairs = append(out.KeyPairs, pair)
	return nil
}

// public is the public key of an entry, and its SubjectPublicKeyInfo.
func (e entry) public() (key any, spki []byte, err error) {
	if e.kind == certificateType {
		certificate, err := x509.ParseCertificate(e.data)
		if err != nil {
			return nil, nil, err
		}
		return certificate.PublicKey, certificate.RawSubjectPublicKeyInfo, nil
	}
	key, err = x509.ParsePKIXPublicKey(e.data)
	return key, e.data, err
}

func factsOf(c *x509.Certificate) inventory.Facts {
	facts := inventory.Facts{
		CommonName: c.Subject.CommonName, Organization: strings.Join(c.Subject.Organization, ", "), KeyType: keyTypeOf(c.PublicKey),
		Serial: c.SerialNumber.Text(16), NotBefore: c.NotBefore, NotAfter: c.NotAfter, SPKI: digest(c.RawSubjectPublicKeyInfo), Names: slices.Clone(c.DNSNames),
	}
	for _, ip := range c.IPAddresses {
		facts.Names = append(facts.Names, ip.String())
	}
	slices.Sort(facts.Names)
	for _, u := range c.ExtKeyUsage {
		facts.Usages = append(facts.Usages, map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: compile.ServerAuth, x509.ExtKeyUsageClientAuth: compile.ClientAuth}[u])
	}
	return facts
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// keyTypeOf names a public key as cluster.yaml does.
func keyTypeOf(public any) string {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		return fmt.Sprintf("ecdsa-p%d", k.Curve.Params().BitSize)
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa-%d", k.N.BitLen())
	}
	return fmt.Sprintf("%T", public)
}
