package pki

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/inventory"
)

// The kinds of material that are rotated.
const (
	RotateCA             = "ca"
	RotateServiceAccount = "service-account"
	RotateEncryption     = "encryption"
	RotateLeaf           = "leaf"
)

// A Keyset is what is rotated as one: an authority, the key pair that signs
// tokens, the encryption keys.
type Keyset struct {
	Kind string // RotateCA, RotateServiceAccount or RotateEncryption
	Name string // of the authority or the key pair
}

// key is the keyset's name in the store.
func (k Keyset) key() string {
	switch k.Kind {
	case RotateCA:
		return "ca/" + k.Name
	case RotateEncryption:
		return encryptionKeys
	}
	return k.Name
}

const encryptionKeys = "encryption"

// Trust makes a new version of a keyset and lets it be trusted beside the
// primary: one new generation. Of encryption keys it is the one that
// cluster.yaml lists and that no keyset knows.
func (s *Store) Trust(c *compile.Cluster, k Keyset, now time.Time) error {
	states, err := s.states(c, k)
	if err != nil {
		return err
	}
	i := &issuer{store: s, now: now, roots: map[string]*root{}, model: c, newKeys: true}
	entries, added, err := i.version(c, k)
	if err != nil {
		return err
	}
	return s.advance(k, append(states, added...), entries...)
}

// Promote lets the version that is trusted beside the primary sign, and trusts
// the old one on: one new generation.
func (s *Store) Promote(c *compile.Cluster, k Keyset) error {
	return s.change(c, k, func(old state, newest bool) string {
		switch {
		case newest:
			return inventory.Primary
		case old.State == inventory.Primary:
			return inventory.Trusted
		}
		return old.State
	})
}

// Distrust trusts the primary alone: one new generation.
func (s *Store) Distrust(c *compile.Cluster, k Keyset) error {
	return s.change(c, k, func(old state, _ bool) string {
		if old.State == inventory.Trusted {
			return inventory.Distrusted
		}
		return old.State
	})
}

// Drop forgets what is distrusted: one new generation. The material stays in
// the generation that it was made in.
func (s *Store) Drop(c *compile.Cluster, k Keyset) error {
	return s.change(c, k, func(old state, _ bool) string {
		if old.State == inventory.Distrusted {
			return ""
		}
		return old.State
	})
}

// change gives every version of a keyset its next state; "" drops it. newest
// says that a version is the one that was trusted last.
func (s *Store) change(c *compile.Cluster, k Keyset, next func(old state, newest bool) string) error {
	states, err := s.states(c, k)
	if err != nil {
		return err
	}
	latest := slices.MaxFunc(states, func(a, b state) int { return a.Generation - b.Generation })
	var out []state
	for _, old := range states {
		if to := next(old, old == latest); to != "" {
			out = append(out, state{old.Name, old.Generation, to})
		}
	}
	return s.advance(k, out)
}

// states are the versions of a keyset; those of one that was never rotated are
// found.
func (s *Store) states(c *compile.Cluster, k Keyset) ([]state, error) {
	inv, err := s.Inventory()
	if err != nil {
		return nil, err
	}
	var out []state
	for _, v := range versionsOf(c, inv, k) {
		out = append(out, state(v))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the %s %s %w", k.Kind, k.Name, ErrNotIssued)
	}
	return out, nil
}

func (s *Store) advance(k Keyset, states []state, entries ...entry) error {
	return s.commit(append(entries, keysetEntry(k.key(), states)))
}

// moved is the keyset of a pair whose primary is written again: its primary is
// of the next generation. There is none before the first rotation.
func (s *Store) moved(name string) []entry {
	states := slices.Clone(s.keysets[name])
	if len(states) == 0 {
		return nil
	}
	for i := range states {
		if states[i].State == inventory.Primary {
			states[i].Generation = s.Generation() + 1
		}
	}
	return []entry{keysetEntry(name, states)}
}

// stateOf is the state of an encryption key; "" before the first rotation.
func (s *Store) stateOf(name string) string {
	short, _ := strings.CutPrefix(name, "keys/encryption/")
	at := slices.IndexFunc(s.keysets[encryptionKeys], func(k state) bool { return k.Name == short })
	if at < 0 {
		return ""
	}
	return s.keysets[encryptionKeys][at].State
}

// version makes the new material of a keyset.
func (i *issuer) version(c *compile.Cluster, k Keyset) ([]entry, []state, error) {
	next := []state{{Generation: i.store.Generation() + 1, State: inventory.Trusted}}
	switch k.Kind {
	case RotateCA:
		at := slices.IndexFunc(c.CAs, func(ca compile.CA) bool { return ca.Name == k.Name })
		if at < 0 {
			return nil, nil, fmt.Errorf("no authority is called %s", k.Name)
		}
		err := i.newRoot(&c.CAs[at])
		return i.entries, next, err
	case RotateEncryption:
		return i.encryptionKey(c)
	}
	entries, err := i.tokenPair(c, k.Name)
	return entries, next, err
}

// tokenPair is a new pair, or in the tutorial a new certificate with its key.
func (i *issuer) tokenPair(c *compile.Cluster, name string) ([]entry, error) {
	if _, certificate := c.TokenPair(); !certificate {
		return i.keyPair(name)
	}
	at := slices.IndexFunc(c.Certs, func(cert *compile.Cert) bool { return cert.Name == name })
	plan := &Plan{Actions: []Action{{Do: DoReissue, Kind: Certificate, Name: name}}}
	if err := i.loadRoots(plan, map[string]*compile.Cert{name: c.Certs[at]}); err != nil {
		return nil, err
	}
	return i.certificate(c.Certs[at])
}

// encryptionKey makes the key that cluster.yaml lists anew; one that `pki
// issue` has made already is in the keyset.
func (i *issuer) encryptionKey(c *compile.Cluster) ([]entry, []state, error) {
	for _, k := range c.Encryption.Keys {
		if _, known := i.store.current("keys/encryption/" + k.V); !known {
			entries, err := i.one(Action{Kind: Key, Name: "encryption/" + k.V}, nil)
			return entries, []state{{k.V, i.store.Generation() + 1, inventory.Trusted}}, err
		}
	}
	return nil, nil, nil
}
