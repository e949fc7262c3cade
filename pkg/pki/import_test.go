package pki_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/pkg/secret"
)

// keyForm is a way to write a private key: the type of its block.
type keyForm string

const (
	pkcs8       keyForm = "PRIVATE KEY"
	traditional keyForm = "PKCS #1 or SEC 1"
)

func (f keyForm) of(t testing.TB, text []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if f == pkcs8 {
		return text
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		parameters := []byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n")
		return append(parameters, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})...)
	}
	t.Fatalf("%T", key)
	return nil
}

// tutorialFiles writes what a store has as the tutorial's files.
func tutorialFiles(t testing.TB, s *pki.Store, c *compile.Cluster, f keyForm, cert, key string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, ca := range c.CAs {
		write(ca.Name+cert, material(t, s, secret.Bundle(ca.Name)))
		write(ca.Name+key, f.of(t, material(t, s, secret.CAKey(ca.Name))))
	}
	for _, leaf := range c.Certs {
		stem := leaf.Name
		if leaf.Role == "kubelet" {
			stem = leaf.Node
		}
		write(stem+cert, material(t, s, secret.Cert(leaf.Name)))
		write(stem+key, f.of(t, material(t, s, secret.Key(leaf.Name))))
	}
	for _, pair := range c.KeyPairs {
		write(pair.Name+key, f.of(t, material(t, s, secret.Key(pair.Name))))
	}
	text := "kind: EncryptionConfig\napiVersion: v1\nresources:\n  - resources: [secrets]\n    providers:\n      - aescbc:\n          keys:\n"
	for _, k := range c.Encryption.Keys {
		text += fmt.Sprintf("            - name: %s\n              secret: %s\n", k.V, base64.StdEncoding.EncodeToString(material(t, s, secret.Symmetric("encryption/"+k.V))))
	}
	write("encryption-config.yaml", []byte(text+"      - identity: {}\n"))
	return dir
}

// What was issued, written as files and imported elsewhere, is what it was,
// and nothing has to be issued again.
func TestImportKeepsWhatWasIssued(t *testing.T) {
	for _, tc := range []struct {
		cluster, cert, key string
		form               keyForm
	}{
		{"examples/kthw-1.21.yaml", ".pem", "-key.pem", traditional},
		{"examples/kthw-1.32.yaml", ".crt", ".key", pkcs8},
		{"golden/single-node/cluster.yaml", ".crt", ".key", traditional},
	} {
		for _, to := range [][]string{nil, {someone.Recipient().String()}} {
			c := model(t, example(t, tc.cluster))
			first := issued(t, t.TempDir()+"/store", c, today)
			list, err := pki.ImportsOf(c, tutorialFiles(t, first, c, tc.form, tc.cert, tc.key))
			if err != nil {
				t.Fatal(err)
			}
			second := open(t, t.TempDir()+"/store", c)
			if to != nil {
				if err := second.SetRecipients(to); err != nil {
					t.Fatal(err)
				}
				second.OpenWith(identity(someone))
			}
			if _, err := second.Import(c, today, list); err != nil {
				t.Fatal(err)
			}
			if plan := pki.MakePlan(c, facts(t, second), pki.Options{Now: today}); plan.Changes() {
				t.Errorf("%s: %+v", tc.cluster, changes(plan))
			}
			for _, ref := range sensitive(c) {
				if string(material(t, first, ref)) != string(material(t, second, ref)) {
					t.Errorf("%s: %s is another key", tc.cluster, ref)
				}
			}
			before := second.Generation()
			if names, err := second.Import(c, today, list); err != nil || len(names) > 0 || second.Generation() != before {
				t.Errorf("%s, again: %v, %v", tc.cluster, names, err)
			}
		}
	}
}

// What does not fit is refused, with the file, a reason and a way on, and
// without a byte of any key; the store stays as it is.
func TestImportRefuses(t *testing.T) {
	c := model(t, example(t, "golden/single-node/cluster.yaml"))
	other := issued(t, t.TempDir()+"/store", c, today)
	s := issued(t, t.TempDir()+"/store", c, today)
	pem := func(store *pki.Store, ref secret.Ref) pki.File {
		return pki.File{Name: "some.pem", Content: material(t, store, ref)}
	}
	admin := pki.Import{Kind: pki.Certificate, Name: "admin", Cert: pem(s, secret.Cert("admin")), Key: pem(s, secret.Key("admin"))}
	cut := func(f pki.File) pki.File { return pki.File{Name: f.Name, Content: f.Content[:len(f.Content)/2]} }
	text := func(s string) pki.File { return pki.File{Name: "some.pem", Content: []byte(s)} }
	with := func(change func(*pki.Import)) pki.Import { m := admin; change(&m); return m }
	for why, m := range map[string]pki.Import{
		"wants no certificate called":          with(func(m *pki.Import) { m.Name = "kubelet-client@worker-9" }),
		"wants no authority called":            with(func(m *pki.Import) { m.Kind = pki.Authority }),
		"it is not the key of the certificate": with(func(m *pki.Import) { m.Key = pem(s, secret.Key("super-admin")) }),
		"of the store did not sign it":         {Kind: pki.Certificate, Name: "admin", Cert: pem(other, secret.Cert("admin")), Key: pem(other, secret.Key("admin"))},
		"there is no PEM in it":                with(func(m *pki.Import) { m.Cert = cut(m.Cert) }),
		"part of its PEM cannot be read":       with(func(m *pki.Import) { m.Key.Content = append(m.Key.Content, cut(m.Key).Content...) }),
		"it is not one certificate":            with(func(m *pki.Import) { m.Cert = m.Key }),
		"it is not one private key":            with(func(m *pki.Import) { m.Key = m.Cert }),
		"its private key cannot be read":       with(func(m *pki.Import) { m.Key = text(strings.Replace(string(m.Key.Content), "\nMI", "\nMJ", 1)) }),
		"it has a passphrase": with(func(m *pki.Import) {
			m.Key = text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
		}),
		"the store has another authority":       {Kind: pki.Authority, Name: "etcd", Cert: pem(other, secret.Bundle("etcd")), Key: pem(other, secret.CAKey("etcd"))},
		"it is no authority that signed itself": {Kind: pki.Authority, Name: "etcd", Cert: admin.Cert, Key: admin.Key},
		"the store has another key pair":        {Kind: pki.KeyPair, Name: "service-account", Key: pem(other, secret.Key("service-account"))},
		"it is no key of 16, 24 or 32 bytes":    {Kind: pki.Key, Name: "encryption/key1", Key: text("c2hvcnQ=")},
		"the store has another key encryption":  {Kind: pki.Key, Name: "encryption/key1", Key: text(base64.StdEncoding.EncodeToString(make([]byte, 32)))},
	} {
		refused(t, s, c, today, m, why)
	}
	refused(t, s, c, today.Add(8*24*time.Hour), admin, "it expired on 2026-12-02")
	refused(t, s, c, today.Add(-time.Hour), admin, "it is not valid before")
	refused(t, open(t, t.TempDir()+"/store", c), c, today, admin, "has not been issued yet")
}

func refused(t *testing.T, s *pki.Store, c *compile.Cluster, now time.Time, m pki.Import, why string) {
	t.Helper()
	before := s.Generation()
	_, err := s.Import(c, now, []pki.Import{m})
	var wrong *pki.ImportError
	if !errors.As(err, &wrong) || !strings.Contains(wrong.Why, why) || wrong.Help == "" || s.Generation() != before {
		t.Errorf("want %q, got %v", why, err)
		return
	}
	for _, line := range strings.Split(string(m.Key.Content), "\n") {
		if len(line) > 7 && strings.Contains(wrong.Error()+wrong.Help, line) {
			t.Errorf("%s: the error quotes the key", why)
		}
	}
}

// Files that openssl made, as in the tutorial's newer edition, are taken, and
// the plan gives the reasons where they differ.
func TestImportOfOpenssl(t *testing.T) {
	openssl := readers.Path(t, "openssl")
	dir := t.TempDir()
	for _, args := range []string{
		"req -x509 -newkey rsa:2048 -nodes -sha512 -days 3653 -subj /CN=CA/C=US -keyout ca.key -out ca.crt -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign,cRLSign",
		"req -newkey rsa:2048 -nodes -subj /CN=admin/O=system:masters -keyout admin.key -out admin.csr -addext extendedKeyUsage=clientAuth",
		"x509 -req -days 3653 -in admin.csr -copy_extensions copyall -sha256 -CA ca.crt -CAkey ca.key -CAcreateserial -out admin.crt",
		"ecparam -name prime256v1 -genkey -out kube-scheduler.key",
		"req -new -key kube-scheduler.key -subj /CN=system:kube-scheduler -out scheduler.csr",
		"x509 -req -days 30 -in scheduler.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out kube-scheduler.crt",
	} {
		cmd := exec.Command(openssl, strings.Fields(args)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args, err, out)
		}
	}
	c := model(t, example(t, "examples/kthw-1.32.yaml"))
	list, err := pki.ImportsOf(c, dir)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir()+"/store", c)
	names, err := s.Import(c, time.Now(), list)
	if err != nil || fmt.Sprint(names) != "[ca admin kube-scheduler]" {
		t.Fatalf("%v, %v", names, err)
	}
	plan := pki.MakePlan(c, facts(t, s), pki.Options{Now: time.Now()})
	for _, a := range plan.Actions {
		switch a.Name {
		case "ca":
			if a.Do != pki.DoKeep {
				t.Errorf("%+v", a)
			}
		case "admin", "kube-scheduler":
			if a.Do != pki.DoReissue || len(a.Reasons) == 0 {
				t.Errorf("%+v", a)
			}
		}
	}
	if err := pki.Issue(s, c, plan, pki.Options{Now: time.Now()}, nil); err != nil {
		t.Error(err)
	}
}
