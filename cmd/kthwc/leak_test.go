package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/pkg/secret"
)

// leakRuns are a life of a store, of open keys first and then of encrypted
// ones, with every verb of pki and with what fails. IDENTITY, FILES and
// RECIPIENT stand for what the test made.
var leakRuns = [][]string{
	{"init"}, {"init", "--recipients-file", "IDENTITY"},
	{"import", "--from", "FILES"}, {"import", "--from", "FILES"}, {"import", "--from", "FILES/etcd.key"},
	{"import", "--name", "admin", "--cert", "FILES/etcd.key", "--key", "FILES/etcd.key"},
	{"import", "--name", "admin", "--cert", "FILES/etcd.crt", "--key", "FILES/cut.key"},
	{"import", "--key-pair", "service-account", "--key", "FILES/broken.key"},
	{"import", "--symmetric", "encryption/key1", "--key", "FILES/etcd.key"},
	{"issue"}, {"plan"}, {"plan", "--format", "json", "--all"}, {"list"}, {"list", "--format", "json"},
	{"inspect", "admin"}, {"inspect", "ca/etcd"}, {"inspect", "service-account"}, {"inspect", "admin.key"}, {"inspect", "encryption/key1"},
	{"inventory"}, {"inventory", "--write"}, {"map"}, {"map", "--format", "json"}, {"map", "--format", "mermaid"}, {"map", "--format", "svg"},
	{"rotate", "ca", "etcd", "--plan"}, {"rotate", "ca", "etcd", "--stage", "1"}, {"rotate", "encryption", "--plan", "--format", "json"}, {"reseal"},
	{"init", "--recipient", "RECIPIENT"}, {"reseal"}, {"renew", "admin"}, {"renew", "nobody"},
	{"renew", "super-admin", "--identity", "FILES/cut.key"}, {"renew", "super-admin", "--identity", "FILES/etcd.key"},
	{"import", "--from", "FILES"}, {"inspect", "admin"}, {"list"}, {"inventory"}, {"reseal"},
}

// Whatever the verbs print or write, in success or failure, has no byte of a
// key, outside the files of the store, where they are encrypted in the end.
func TestKeysStayInTheStore(t *testing.T) {
	k := &killer{T: t, program: buildProgram(t)}
	files, dir := k.material(), k.project()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	identityFile := filepath.Join(t.TempDir(), "identity.txt")
	key, err := os.ReadFile(files + "/etcd.key")
	if err != nil {
		t.Fatal(err)
	}
	broken := bytes.Replace(key, []byte("\nMI"), []byte("\nMJ"), 1)
	if err := errors.Join(os.WriteFile(identityFile, []byte(identity.String()+"\n"), 0o600), os.WriteFile(files+"/cut.key", key[:len(key)/2], 0o600), os.WriteFile(files+"/broken.key", broken, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, verb := range newPKI(&session{}).Commands() {
		if !slices.ContainsFunc(leakRuns, func(r []string) bool { return r[0] == verb.Name() }) {
			t.Errorf("%s is not looked at: it is missing in the table of this test", verb.Name())
		}
	}
	stand := strings.NewReplacer("IDENTITY", identityFile, "FILES", files, "RECIPIENT", identity.Recipient().String())
	getenv := func(name string) string { return map[string]string{"KTHWC_IDENTITY": identityFile, "CI": "true"}[name] }
	var said bytes.Buffer
	for _, r := range leakRuns {
		args := []string{"-f", dir + "/cluster.yaml", "pki"}
		for _, a := range r {
			args = append(args, stand.Replace(a))
		}
		run(t.Context(), args, stdio{strings.NewReader(""), &said, &said}, getenv)
	}
	needles := keyForms(t, dir, identity)
	needles["identity"] = []byte(identity.String()[len("AGE-SECRET-KEY-1"):])
	searched := map[string][]byte{"what was printed": said.Bytes()}
	state := dir + "/single-node.kthwc"
	if err := filepath.WalkDir(state, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || slices.Contains([]string{"000001", "000002"}, entry.Name()) { // of open keys
			return err
		}
		searched[path], err = os.ReadFile(path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for where, text := range searched {
		for what, needle := range needles {
			if bytes.Contains(text, needle) {
				t.Errorf("%s has the key of %s", where, what)
			}
		}
	}
	if len(needles) < 100 || len(searched) < 5 || said.Len() < 10_000 || !found(t, state+"/store/000002", needles) {
		t.Errorf("%d forms of keys, %d files and %d bytes were looked at", len(needles), len(searched), said.Len())
	}
}

// found says whether the search finds what is there.
func found(t *testing.T, path string, needles map[string][]byte) bool {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, needle := range needles {
		if bytes.Contains(text, needle) {
			return true
		}
	}
	return false
}

// keyForms is every key in use, as others might write it.
func keyForms(t *testing.T, dir string, identity pki.Identity) map[string][]byte {
	t.Helper()
	quiet := &session{stdio: stdio{strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{}}, file: dir + "/cluster.yaml", getenv: func(string) string { return "" }}
	b, err := quiet.compiled()
	if err != nil {
		t.Fatal(err)
	}
	store, err := quiet.store(b)
	if err != nil {
		t.Fatal(err)
	}
	store.OpenWith(func() ([]pki.Identity, error) { return []pki.Identity{identity}, nil })
	out := map[string][]byte{}
	for _, ref := range secretsOf(b) {
		text, err := store.Material(ref)
		if err != nil {
			t.Fatal(err)
		}
		raw := text
		if block, _ := pem.Decode(text); block != nil {
			lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
			for _, line := range lines[1 : len(lines)-2] { // the last one has the public key
				out[ref.String()+", PEM "+string(line[:4])] = line
			}
			out[ref.String()+", its PEM in base64"] = []byte(base64.StdEncoding.EncodeToString(text))[60:120]
			out[ref.String()+", DER in base64"] = []byte(base64.StdEncoding.EncodeToString(block.Bytes))
			raw = privateBytes(t, block.Bytes)
		}
		out[ref.String()+", raw"] = raw
		out[ref.String()+", hexadecimal"] = []byte(hex.EncodeToString(raw))
		out[ref.String()+", base64"] = []byte(base64.StdEncoding.EncodeToString(raw))
	}
	return out
}

// privateBytes is what is secret of a key.
func privateBytes(t *testing.T, der []byte) []byte {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := key.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// secretsOf names every key that the cluster wants.
func secretsOf(b *built) []secret.Ref {
	var out []secret.Ref
	for _, ca := range b.cluster.CAs {
		out = append(out, secret.CAKey(ca.Name))
	}
	for _, c := range b.cluster.Certs {
		out = append(out, secret.Key(c.Name))
	}
	for _, pair := range b.cluster.KeyPairs {
		out = append(out, secret.Key(pair.Name))
	}
	for _, key := range b.cluster.Encryption.Keys {
		out = append(out, secret.Symmetric("encryption/"+key.V))
	}
	return out
}
