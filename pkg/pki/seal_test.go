package pki_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/pkg/secret"
)

var someone, stranger = newIdentity(), newIdentity()

func newIdentity() *age.X25519Identity {
	i, err := age.GenerateX25519Identity()
	if err != nil {
		panic(err)
	}
	return i
}

func identity(list ...pki.Identity) func() ([]pki.Identity, error) {
	return func() ([]pki.Identity, error) { return list, nil }
}

// sensitive is every key that the cluster wants.
func sensitive(c *compile.Cluster) []secret.Ref {
	var out []secret.Ref
	for _, ca := range c.CAs {
		out = append(out, secret.CAKey(ca.Name))
	}
	for _, leaf := range c.Certs {
		out = append(out, secret.Key(leaf.Name))
	}
	for _, pair := range c.KeyPairs {
		out = append(out, secret.Key(pair.Name))
	}
	for _, k := range c.Encryption.Keys {
		out = append(out, secret.Symmetric("encryption/"+k.V))
	}
	return out
}

// sealed issues everything into a store that is encrypted to the recipients.
func sealed(t testing.TB, dir string, c *compile.Cluster, to ...string) *pki.Store {
	t.Helper()
	if err := open(t, dir, c).SetRecipients(to); err != nil {
		t.Fatal(err)
	}
	return issued(t, dir, c, today)
}

// Whoever is a recipient opens every key, and nobody else; what is public
// needs nobody.
func TestSealedKeysAreForRecipients(t *testing.T) {
	c := model(t, example(t, "examples/lab.yaml"))
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	line, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() + "/store"
	sealed(t, dir, c, someone.Recipient().String(), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(line))))
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "ann", []byte("word"))
	if err != nil {
		t.Fatal(err)
	}
	locked := pem.EncodeToMemory(block)
	word := func(w string) func() ([]byte, error) { return func() ([]byte, error) { return []byte(w), nil } }
	viaSSH, err := pki.ParseIdentities(locked, word("word"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.ParseIdentities(locked, word("other")); err == nil || !strings.Contains(err.Error(), "passphrase does not open") {
		t.Errorf("with another passphrase: %v", err)
	}
	for _, tc := range []struct {
		who  []pki.Identity
		want string
	}{
		{[]pki.Identity{someone}, ""}, {viaSSH, ""}, {[]pki.Identity{stranger, someone}, ""},
		{nil, "there is no identity to open them"}, {[]pki.Identity{stranger}, "was not encrypted to the identity given"},
	} {
		s := open(t, dir, c)
		s.OpenWith(identity(tc.who...))
		if plan := pki.MakePlan(c, facts(t, s), pki.Options{Now: today}); plan.Changes() {
			t.Errorf("%+v", changes(plan))
		}
		w := &world{T: t, c: c, s: s}
		for _, leaf := range c.Certs {
			material(t, s, secret.Cert(leaf.Name))
			if tc.want == "" {
				w.pair(leaf.Name)
			}
		}
		for _, ref := range sensitive(c) {
			if _, err := s.Material(ref); tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("%s: %v", ref, err)
			}
		}
	}
}

// However the file of a sealed generation is changed, with its digest put
// right, no name ever gives another key than its own.
func TestSealedEntriesCannotBeSwapped(t *testing.T) {
	c := model(t, example(t, "golden/single-node/cluster.yaml"))
	dir := t.TempDir() + "/store"
	s := sealed(t, dir, c, someone.Recipient().String())
	s.OpenWith(identity(someone))
	want := map[secret.Ref][]byte{}
	for _, ref := range sensitive(c) {
		want[ref] = material(t, s, ref)
	}
	file := filepath.Join(dir, "000002")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	foreign := t.TempDir() + "/store"
	sealed(t, foreign, c, someone.Recipient().String())
	other, err := os.ReadFile(foreign + "/000002")
	if err != nil {
		t.Fatal(err)
	}
	changed := map[string][]byte{
		"names":           exchange(text, "Name: pki/admin.key\n", "Name: pki/super-admin.key\n"),
		"another's batch": replaceBatch(text, batchOf(t, other)),
		"a fingerprint":   exchange(text, stubOf(t, text, "pki/admin.key"), stubOf(t, text, "pki/super-admin.key")),
		"batch cut off":   replaceBatch(text, batchOf(t, text)[:200]),
	}
	batch := batchOf(t, text)
	for at := 0; at < len(batch); at += max(1, len(batch)/60) {
		flipped := bytes.Clone(batch)
		flipped[at] ^= 4
		changed[fmt.Sprintf("bit %d of the batch", at)] = replaceBatch(text, flipped)
	}
	for name, text := range changed {
		if err := os.WriteFile(file, summed(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir, c)
		s.OpenWith(identity(someone))
		failed := 0
		for ref, key := range want {
			got, err := s.Material(ref)
			if err != nil {
				failed++
			} else if !bytes.Equal(got, key) {
				t.Errorf("%s: %s is another key", name, ref)
			}
		}
		if failed == 0 {
			t.Errorf("%s: nobody noticed", name)
		}
	}
}

// exchange swaps all of two texts.
func exchange(text []byte, a, b string) []byte {
	return []byte(strings.NewReplacer(a, b, b, a).Replace(string(text)))
}

// stubOf is the line with the fingerprint of a key.
func stubOf(t *testing.T, text []byte, name string) string {
	t.Helper()
	_, after, ok := strings.Cut(string(text), "Name: "+name+"\n\n")
	line, _, _ := strings.Cut(after, "\n")
	if !ok || len(line) != 44 {
		t.Fatalf("%s: %q", name, line)
	}
	return line
}

const batchHeader = "-----BEGIN AGE ENCRYPTED FILE-----\n"

func batchOf(t *testing.T, text []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(text[bytes.Index(text, []byte(batchHeader)):])
	if block == nil {
		t.Fatal("no batch")
	}
	return block.Bytes
}

func replaceBatch(text, batch []byte) []byte {
	at := bytes.Index(text, []byte(batchHeader))
	return append(text[:at:at], pem.EncodeToMemory(&pem.Block{Type: "AGE ENCRYPTED FILE", Headers: map[string]string{"Name": "keys"}, Bytes: batch})...)
}

// summed puts the last line of a generation right.
func summed(text []byte) []byte {
	if at := bytes.LastIndex(text, []byte("\nend ")); at >= 0 {
		text = text[:at+1]
	}
	return fmt.Appendf(bytes.Clone(text), "end %x\n", sha256.Sum256(text))
}

// Resealing changes who can read and nothing else, and what it makes stands
// alone, of a store of open keys as of a sealed one.
func TestResealing(t *testing.T) {
	c := model(t, example(t, "golden/single-node/cluster.yaml"))
	dir := t.TempDir() + "/store"
	s := issued(t, dir, c, today)
	want := map[secret.Ref][]byte{}
	for _, ref := range sensitive(c) {
		want[ref] = material(t, s, ref)
	}
	before := facts(t, s)
	for _, who := range []*age.X25519Identity{someone, stranger} {
		if err := s.SetRecipients([]string{who.Recipient().String()}); err != nil {
			t.Fatal(err)
		}
		if err := s.Reseal(); err != nil {
			t.Fatal(err)
		}
		for n := 1; n < s.Generation(); n++ {
			if err := os.Remove(filepath.Join(dir, fmt.Sprintf("%06d", n))); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
		s = open(t, dir, c)
		s.OpenWith(identity(who))
		for ref, key := range want {
			if !bytes.Equal(key, material(t, s, ref)) {
				t.Errorf("%s is another key", ref)
			}
		}
		after := facts(t, s)
		after.Generation = before.Generation
		a, _ := before.YAML()
		b, _ := after.YAML()
		if !bytes.Equal(a, b) {
			t.Errorf("the inventory was\n%s\nand is\n%s", a, b)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, fmt.Sprintf("%06d", s.Generation())), 0o644); err != nil {
		t.Fatal(err)
	}
	open(t, dir, c) // as it comes out of a repository
}
