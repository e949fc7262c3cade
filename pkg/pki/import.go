package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/kthwc/kthwc/pkg/compile"
)

// An Import is material that was made elsewhere: what an action is about, its
// name there, and its files. A key pair and a symmetric key have no Cert.
type Import struct {
	Kind, Name string
	Cert, Key  File
}

// A File is a file's name, for errors, and its content.
type File struct {
	Name    string
	Content []byte
}

// An ImportError says which file is wrong, why, and what to do. It quotes
// nothing of the file.
type ImportError struct{ File, Why, Help string }

func (e *ImportError) Error() string {
	if e.File == "" {
		return e.Why
	}
	return e.File + ": " + e.Why
}

// Import takes what was made elsewhere into the store, as one new generation.
// It refuses what the cluster does not want, what does not fit together, what
// is out of date, and a second key where only a rotation makes one. It gives
// the names of what is new: material that is in the store already is not.
func (s *Store) Import(c *compile.Cluster, now time.Time, list []Import) ([]string, error) {
	i := &importer{store: s, model: c, now: now, roots: map[string][]*x509.Certificate{}}
	for _, kind := range []string{Authority, Certificate, KeyPair, Key} { // authorities first: they prove the others
		for _, m := range list {
			if m.Kind == kind {
				if err := i.one(m); err != nil {
					return nil, err
				}
			}
		}
	}
	if len(i.entries) == 0 {
		return nil, nil
	}
	return i.names, s.commit(i.entries)
}

type importer struct {
	store   *Store
	model   *compile.Cluster
	now     time.Time
	roots   map[string][]*x509.Certificate // of the authorities that are imported
	entries []entry
	names   []string
}

func (i *importer) one(m Import) error {
	if !slices.Contains(wantedNames(i.model, m.Kind), m.Name) {
		return &ImportError{"", fmt.Sprintf("the cluster wants no %s called %q", m.Kind, m.Name), "it wants " + strings.Join(wantedNames(i.model, m.Kind), ", ")}
	}
	entries, err := map[string]func(Import) ([]entry, error){Authority: i.authority, Certificate: i.certificate, KeyPair: i.keyPair, Key: i.symmetric}[m.Kind](m)
	if err != nil {
		return err
	}
	same, err := i.same(entries)
	if err != nil || same {
		return err
	}
	if _, exists := i.store.current(entries[0].name); exists && m.Kind != Certificate {
		return &ImportError{m.Key.Name, fmt.Sprintf("the store has another %s %s", m.Kind, m.Name), "what that one signed or encrypted would not be accepted any more: import into an empty store"}
	}
	i.entries, i.names = append(i.entries, entries...), append(i.names, m.Name)
	return nil
}

// wantedNames is what may be imported.
func wantedNames(c *compile.Cluster, kind string) []string {
	var out []string
	for _, a := range MakePlan(c, nil, Options{}).Actions {
		if a.Kind == kind {
			out = append(out, a.Name)
		}
	}
	return out
}

// same says whether the store has all of it in use.
func (i *importer) same(entries []entry) (bool, error) {
	for _, e := range entries {
		have, ok := i.store.current(e.name)
		if !ok {
			return false, nil
		}
		was, is := have.data, e.data
		if e.private() {
			var err error
			if was, err = have.fingerprint(); err != nil {
				return false, err
			}
			if is, err = e.fingerprint(); err != nil {
				return false, err
			}
		}
		if !bytes.Equal(was, is) {
			return false, nil
		}
	}
	return true, nil
}

func (i *importer) authority(m Import) ([]entry, error) {
	c, key, err := i.pair(m)
	if err != nil {
		return nil, err
	}
	if !c.IsCA || c.CheckSignatureFrom(c) != nil {
		return nil, &ImportError{m.Cert.Name, "it is no authority that signed itself", "import the root: an authority that another one signed is not trusted by itself"}
	}
	i.roots[m.Name] = append(i.roots[m.Name], c)
	return pair("pki/ca/"+m.Name, c.Raw, key)
}

func (i *importer) certificate(m Import) ([]entry, error) {
	c, key, err := i.pair(m)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(i.model.Certs, func(c *compile.Cert) bool { return c.Name == m.Name })
	authority := i.model.Certs[at].CA
	roots, err := i.rootsOf(authority)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(roots, func(root *x509.Certificate) bool { return c.CheckSignatureFrom(root) == nil }) {
		return nil, &ImportError{m.Cert.Name, fmt.Sprintf("the authority %s of the store did not sign it", authority), "import the authority that did with --ca, into an empty store; or let `kthwc pki issue` make the certificate"}
	}
	return pair("pki/"+m.Name, c.Raw, key)
}

// rootsOf is the authority as it is imported, or as the store trusts it.
func (i *importer) rootsOf(authority string) ([]*x509.Certificate, error) {
	if roots := i.roots[authority]; len(roots) > 0 {
		return roots, nil
	}
	text, err := i.store.bundle(authority)
	if err != nil {
		return nil, &ImportError{"", err.Error(), "import it first: kthwc pki import --ca --name " + authority + " --cert FILE --key FILE"}
	}
	var roots []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		roots = append(roots, root)
	}
	return roots, nil
}

// pair reads a certificate and its key, and proves that they are of each other
// and in date.
func (i *importer) pair(m Import) (*x509.Certificate, crypto.Signer, error) {
	c, err := readCertificate(m.Cert)
	if err != nil {
		return nil, nil, err
	}
	key, err := readKey(m.Key)
	if err != nil {
		return nil, nil, err
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !public.Equal(c.PublicKey):
		return nil, nil, &ImportError{m.Key.Name, "it is not the key of the certificate " + m.Cert.Name, "look which files belong together: both have the same public key"}
	case i.now.After(c.NotAfter):
		return nil, nil, &ImportError{m.Cert.Name, "it expired on " + c.NotAfter.Format(time.DateOnly), "let `kthwc pki issue` make another"}
	case i.now.Before(c.NotBefore):
		return nil, nil, &ImportError{m.Cert.Name, "it is not valid before " + c.NotBefore.Format(time.RFC3339), "look at this machine's clock"}
	}
	return c, key, nil
}

func (i *importer) keyPair(m Import) ([]entry, error) {
	key, err := readKey(m.Key)
	if err != nil {
		return nil, err
	}
	return keyPairEntries(m.Name, key)
}

func (i *importer) symmetric(m Import) ([]entry, error) {
	data, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(m.Key.Content)))
	if err != nil || !slices.Contains([]int{16, 24, 32}, len(data)) {
		return nil, &ImportError{m.Key.Name, "it is no key of 16, 24 or 32 bytes in base64", "it holds what stands after secret: in encryption-config.yaml"}
	}
	return []entry{{name: "keys/" + m.Name, kind: symmetricType, data: data}}, nil
}

// blocks is the PEM blocks of a file; EC PARAMETERS, which openssl writes
// before a key, are not among them.
func blocks(f File) ([]*pem.Block, error) {
	var out []*pem.Block
	for block, rest := pem.Decode(f.Content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "EC PARAMETERS" {
			out = append(out, block)
		}
	}
	if len(out) == 0 {
		return nil, &ImportError{f.Name, "there is no PEM in it", "it begins with -----BEGIN and ends with -----END, whole lines each"}
	}
	if got, want := bytes.Count(f.Content, []byte("-----BEGIN ")), bytes.Count(f.Content, []byte("-----BEGIN EC PARAMETERS")); got-want != len(out) {
		return nil, &ImportError{f.Name, "part of its PEM cannot be read", "copy the file again as a whole"}
	}
	return out, nil
}

func readCertificate(f File) (*x509.Certificate, error) {
	list, err := blocks(f)
	if err != nil {
		return nil, err
	}
	if len(list) != 1 || list[0].Type != certificateType {
		return nil, &ImportError{f.Name, "it is not one certificate and nothing else", "give the certificate alone, without those that signed it"}
	}
	c, err := x509.ParseCertificate(list[0].Bytes)
	if err != nil {
		return nil, &ImportError{f.Name, "its certificate cannot be read", "openssl x509 -in " + f.Name + " -noout -text says more"}
	}
	return c, nil
}

// keyForms is how private keys are written, by the type of their block.
var keyForms = map[string]func([]byte) (any, error){
	privateKeyType:    x509.ParsePKCS8PrivateKey,
	"RSA PRIVATE KEY": func(der []byte) (any, error) { return x509.ParsePKCS1PrivateKey(der) },
	"EC PRIVATE KEY":  func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) },
}

func readKey(f File) (crypto.Signer, error) {
	list, err := blocks(f)
	if err != nil {
		return nil, err
	}
	block := list[0]
	if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
		return nil, &ImportError{f.Name, "it has a passphrase", "openssl pkey -in " + f.Name + " writes it without one; `kthwc pki init --recipient` encrypts it in the store"}
	}
	parse := keyForms[block.Type]
	if len(list) != 1 || parse == nil {
		return nil, &ImportError{f.Name, "it is not one private key and nothing else", "give the key alone: PKCS #8, PKCS #1 (RSA) or SEC 1 (EC)"}
	}
	key, err := parse(block.Bytes)
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, &ImportError{f.Name, "its private key cannot be read", "openssl pkey -in " + f.Name + " -check -noout says more"}
	}
	return signer, nil
}

// fileNames are the names that the tutorial gives to files, where they are not
// those of the material.
var fileNames = map[string][]string{
	"service-accounts": {"service-account"},
	"kubernetes":       {"kube-api-server"},
	"service-account":  {"service-accounts"},
}

// ImportsOf finds the tutorial's files in a directory: NAME.pem and
// NAME-key.pem, or NAME.crt and NAME.key, of everything that the cluster
// wants, and the keys in encryption-config.yaml.
func ImportsOf(c *compile.Cluster, dir string) ([]Import, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	d := &directory{root: root, dir: dir}
	for _, name := range wantedNames(c, Authority) {
		d.find(Authority, name, name)
	}
	for _, cert := range c.Certs {
		stem := cert.Name
		if cert.Role == "kubelet" {
			stem = cert.Node
		}
		d.find(Certificate, cert.Name, stem)
	}
	for _, name := range wantedNames(c, KeyPair) {
		d.find(KeyPair, name, name)
	}
	d.encryption(wantedNames(c, Key))
	if d.err == nil && len(d.found) == 0 {
		return nil, &ImportError{dir, "there is no file of the tutorial's in it", "it has ca.pem and ca-key.pem, or ca.crt and ca.key"}
	}
	return d.found, d.err
}

type directory struct {
	root  *os.Root
	dir   string
	found []Import
	err   error
}

// read gives a file; nothing where it is not there.
func (d *directory) read(name string) (File, bool) {
	content, err := d.root.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) && d.err == nil {
		d.err = err
	}
	return File{filepath.Join(d.dir, name), content}, err == nil
}

func (d *directory) find(kind, name, stem string) {
	for _, stem := range append([]string{stem}, fileNames[stem]...) {
		for _, ends := range [][2]string{{".pem", "-key.pem"}, {".crt", ".key"}} {
			cert, hasCert := d.read(stem + ends[0])
			key, hasKey := d.read(stem + ends[1])
			if hasKey && (hasCert || kind == KeyPair) {
				d.found = append(d.found, Import{kind, name, cert, key})
				return
			}
			if hasCert && kind == Authority && d.err == nil {
				d.err = &ImportError{cert.Name, "its key is not beside it: " + stem + ends[1], "copy it there: nothing can be signed without it"}
			}
		}
	}
}

// encryption takes the keys that the API server's file has under the names
// that are wanted.
func (d *directory) encryption(wanted []string) {
	file, ok := d.read("encryption-config.yaml")
	if !ok {
		return
	}
	var content struct {
		Resources []struct {
			Providers []map[string]struct {
				Keys []struct{ Name, Secret string }
			}
		}
	}
	if yaml.Unmarshal(file.Content, &content) != nil {
		d.err = errors.Join(d.err, &ImportError{file.Name, "it cannot be read", "it is the file of the API server's --encryption-provider-config"})
	}
	for _, r := range content.Resources {
		for _, p := range r.Providers {
			for _, provider := range p {
				for _, k := range provider.Keys {
					if name := "encryption/" + k.Name; slices.Contains(wanted, name) {
						d.found = append(d.found, Import{Kind: Key, Name: name, Key: File{file.Name, []byte(k.Secret)}})
					}
				}
			}
		}
	}
}
