package pki

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"filippo.io/age"
)

// someKeys is a generation with n keys.
func someKeys(tb testing.TB, n int) *generation {
	tb.Helper()
	key, err := newKey("ecdsa-p256")
	if err != nil {
		tb.Fatal(err)
	}
	entries, err := keyPairEntries("some", key)
	if err != nil {
		tb.Fatal(err)
	}
	g := &generation{number: 1, cluster: "c"}
	for i := range n {
		g.entries = append(g.entries, entry{name: fmt.Sprintf("pki/some%d.key", i), kind: privateKeyType, data: entries[0].data})
	}
	return g
}

// What is read is what was written, byte for byte, with or without the right
// last line; and nothing else is read.
func FuzzGeneration(f *testing.F) {
	who, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	for _, recipients := range [][]string{nil, {who.Recipient().String()}} {
		s, err := Open(f.TempDir()+"/store", "c")
		if err != nil {
			f.Fatal(err)
		}
		if recipients != nil {
			if err := s.SetRecipients(recipients); err != nil {
				f.Fatal(err)
			}
			s.OpenWith(func() ([]Identity, error) { return []Identity{who}, nil })
		}
		if err := s.commit(someKeys(f, 2).entries); err != nil {
			f.Fatal(err)
		}
		f.Add(s.last.encode())
		if recipients != nil {
			if err := s.Reseal(); err != nil {
				f.Fatal(err)
			}
			f.Add(s.last.encode())
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		body := text
		if at := bytes.LastIndex(text, []byte("\nend ")); at >= 0 {
			body = text[:at+1]
		}
		for _, text := range [][]byte{text, fmt.Appendf(bytes.Clone(body), "end %x\n", sha256.Sum256(body))} {
			g, err := decode(text)
			if err != nil {
				continue
			}
			again, err := decode(g.encode())
			if err != nil || !reflect.DeepEqual(g, again) || !bytes.Equal(text, again.encode()) {
				t.Fatalf("%q was read as %+v, and that as %+v, %v", text, g, again, err)
			}
		}
	})
}

// The keys of 5,000 nodes: written as one generation, and opened again.
func BenchmarkSeal(b *testing.B) {
	who, err := age.GenerateX25519Identity()
	if err != nil {
		b.Fatal(err)
	}
	g := someKeys(b, 15_000)
	for b.Loop() {
		s, err := Open(b.TempDir()+"/store", "c")
		if err != nil {
			b.Fatal(err)
		}
		if err := s.SetRecipients([]string{who.Recipient().String()}); err != nil {
			b.Fatal(err)
		}
		s.OpenWith(func() ([]Identity, error) { return []Identity{who}, nil })
		if err := s.publish(&generation{entries: slices.Clone(g.entries)}); err != nil {
			b.Fatal(err)
		}
		if _, err := s.unseal(2); err != nil {
			b.Fatal(err)
		}
	}
}
