package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/cloudflare/cfssl/config"
	"github.com/cloudflare/cfssl/csr"
	"github.com/cloudflare/cfssl/log"
	"github.com/cloudflare/cfssl/signer"
	"github.com/cloudflare/cfssl/signer/local"
	"golang.org/x/sync/errgroup"

	"github.com/kthwc/kthwc/pkg/compile"
)

func init() { log.Level = log.LevelFatal + 1 } // cfssl would write to standard error

// skew is how much earlier than now a certificate becomes valid: clocks of
// hosts differ.
const skew = 5 * time.Minute

// keyTypes are the kinds of key that cluster.yaml may name.
var keyTypes = map[string]csr.KeyRequest{
	"ecdsa-p256": {A: "ecdsa", S: 256}, "ecdsa-p384": {A: "ecdsa", S: 384},
	"rsa-2048": {A: "rsa", S: 2048}, "rsa-4096": {A: "rsa", S: 4096},
}

// Issue carries out a plan: everything that it makes becomes one new
// generation of the store. It reports each piece by done, from one goroutine
// at a time; done may be nil.
func Issue(s *Store, c *compile.Cluster, p *Plan, o Options, done func(Action)) error {
	i := &issuer{store: s, now: o.Now, roots: map[string]*root{}, model: c}
	if done == nil {
		done = func(Action) {}
	}
	if err := i.newRoots(p, done); err != nil {
		return err
	}
	made, err := i.all(p, done)
	if err != nil {
		return err
	}
	entries := slices.Concat(append([][]entry{i.entries}, made...)...)
	if len(entries) == 0 {
		return nil
	}
	return s.commit(entries)
}

// root is an authority that can sign.
type root struct {
	certificate *x509.Certificate
	signer      *local.Signer
}

type issuer struct {
	store   *Store
	model   *compile.Cluster
	now     time.Time
	roots   map[string]*root
	entries []entry
	newKeys bool // also where a renewal would keep the key
}

// newRoots makes the authorities that there are not yet: the rest is signed by them.
func (i *issuer) newRoots(p *Plan, done func(Action)) error {
	for _, a := range p.Actions {
		if a.Kind != Authority || a.Do != DoIssue {
			continue
		}
		at := slices.IndexFunc(i.model.CAs, func(ca compile.CA) bool { return ca.Name == a.Name })
		if err := i.newRoot(&i.model.CAs[at]); err != nil {
			return fmt.Errorf("make the authority %s: %w", a.Name, err)
		}
		done(a)
	}
	return nil
}

func (i *issuer) newRoot(ca *compile.CA) error {
	key, err := newKey(ca.KeyType.V)
	if err != nil {
		return err
	}
	request, err := csr.Generate(key, &csr.CertificateRequest{CN: ca.CommonName.V, Names: organization(ca.Org.V), CA: &csr.CAConfig{PathLength: 0, PathLenZero: true}})
	if err != nil {
		return err
	}
	policy := policyOf([]string{"cert sign", "crl sign"})
	policy.Default.CAConstraint = config.CAConstraint{IsCA: true, MaxPathLen: 0, MaxPathLenZero: true}
	signer, err := local.NewSigner(key, nil, signatureOf(key), policy)
	if err != nil {
		return err
	}
	certificate, err := i.sign(signer, request, nil, ca.Lifetime.V, time.Time{})
	if err != nil {
		return err
	}
	entries, err := pair("pki/ca/"+ca.Name, certificate, key)
	if err != nil {
		return err
	}
	i.entries = append(i.entries, entries...)
	return i.use(ca.Name, certificate, key)
}

// use makes an authority ready to sign.
func (i *issuer) use(name string, der []byte, key crypto.Signer) error {
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	s, err := local.NewSigner(key, certificate, signatureOf(key), policyOf([]string{"digital signature"}))
	i.roots[name] = &root{certificate, s}
	return err
}

func signatureOf(key crypto.Signer) x509.SignatureAlgorithm { return signer.DefaultSigAlgo(key) }

func policyOf(usages []string) *config.Signing {
	return &config.Signing{Default: &config.SigningProfile{Usage: usages, Expiry: time.Hour, ExpiryString: "1h"}, Profiles: map[string]*config.SigningProfile{}}
}

// organization is the subject beside the common name.
func organization(org string) []csr.Name {
	if org == "" {
		return nil
	}
	return []csr.Name{{O: org}}
}

func newKey(kind string) (crypto.Signer, error) {
	request, ok := keyTypes[kind]
	if !ok {
		return nil, fmt.Errorf("no kind of key %q", kind)
	}
	key, err := request.Generate()
	if err != nil {
		return nil, err
	}
	return key.(crypto.Signer), nil
}

// sign gives DER. No certificate outlives its authority.
func (i *issuer) sign(s *local.Signer, request []byte, hosts []string, lifetime time.Duration, limit time.Time) ([]byte, error) {
	from := i.now.Add(-skew).UTC().Truncate(time.Second)
	until := from.Add(lifetime)
	if !limit.IsZero() && until.After(limit) {
		until = limit
	}
	text, err := s.Sign(signer.SignRequest{Hosts: hosts, Request: string(request), NotBefore: from, NotAfter: until})
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the signer gave no certificate")
	}
	return block.Bytes, nil
}

func pair(name string, certificate []byte, key crypto.Signer) ([]entry, error) {
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return []entry{{name: name + ".crt", kind: certificateType, data: certificate}, {name: name + ".key", kind: privateKeyType, data: private}}, nil
}

// all makes everything but authorities, on every processor, in the plan's order.
func (i *issuer) all(p *Plan, done func(Action)) ([][]entry, error) {
	wanted := map[string]*compile.Cert{}
	for _, c := range i.model.Certs {
		wanted[c.Name] = c
	}
	made := make([][]entry, len(p.Actions))
	finished := make(chan Action)
	var running errgroup.Group
	running.SetLimit(runtime.GOMAXPROCS(0))
	if err := i.loadRoots(p, wanted); err != nil {
		return nil, err
	}
	go func() {
		defer close(finished)
		for at, a := range p.Actions {
			if !a.Do.issues() || a.Kind == Authority {
				continue
			}
			running.Go(func() error {
				entries, err := i.one(a, wanted[a.Name])
				if err != nil {
					return fmt.Errorf("make the %s %s: %w", a.Kind, a.Name, err)
				}
				made[at] = entries
				finished <- a
				return nil
			})
		}
		_ = running.Wait()
	}()
	for a := range finished {
		done(a)
	}
	return made, running.Wait()
}

// loadRoots takes the authorities that the plan needs from the store.
func (i *issuer) loadRoots(p *Plan, wanted map[string]*compile.Cert) error {
	for _, a := range p.Actions {
		c := wanted[a.Name]
		if a.Kind != Certificate || !a.Do.issues() || i.roots[c.CA] != nil {
			continue
		}
		key, err := i.privateKey("pki/ca/" + c.CA + ".key")
		if err != nil {
			return err
		}
		certificate, ok := i.store.current("pki/ca/" + c.CA + ".crt")
		if !ok {
			return fmt.Errorf("the certificate of the authority %s %w", c.CA, ErrNotIssued)
		}
		if err := i.use(c.CA, certificate.data, key); err != nil {
			return fmt.Errorf("use the authority %s: %w", c.CA, err)
		}
	}
	return nil
}

func (i *issuer) privateKey(name string) (crypto.Signer, error) {
	e, ok := i.store.current(name)
	if !ok {
		return nil, fmt.Errorf("%s %w: nothing can be signed without it", name, ErrNotIssued)
	}
	open, err := i.store.opened(e)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(open.data)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read", name) // the error may quote the key
	}
	return key.(crypto.Signer), nil
}

func (i *issuer) one(a Action, c *compile.Cert) ([]entry, error) {
	switch a.Kind {
	case Key:
		data := make([]byte, 32) // what aescbc, aesgcm and secretbox take
		_, err := rand.Read(data)
		return []entry{{name: "keys/" + a.Name, kind: symmetricType, data: data}}, err
	case KeyPair:
		return i.keyPair(a.Name)
	}
	return i.certificate(c)
}

func (i *issuer) keyPair(name string) ([]entry, error) {
	key, err := newKey(i.model.PKI.KeyType.V)
	if err != nil {
		return nil, err
	}
	return keyPairEntries(name, key)
}

func keyPairEntries(name string, key crypto.Signer) ([]entry, error) {
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	return []entry{{name: "pki/" + name + ".key", kind: privateKeyType, data: private}, {name: "pki/" + name + ".pub", kind: publicKeyType, data: public}}, err
}

func (i *issuer) certificate(c *compile.Cert) ([]entry, error) {
	key, kept, err := i.keyFor(c)
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, s := range c.SANs {
		hosts = append(hosts, s.Value.V)
	}
	request, err := csr.Generate(key, &csr.CertificateRequest{CN: c.CommonName.V, Names: organization(c.Org.V)})
	if err != nil {
		return nil, err
	}
	r := i.roots[c.CA]
	s, err := withUsages(r, c.Usages, key)
	if err != nil {
		return nil, err
	}
	certificate, err := i.sign(s, request, hosts, c.Lifetime.V, r.certificate.NotAfter)
	if err != nil {
		return nil, err
	}
	if err := proves(certificate, c, r); err != nil {
		return nil, err
	}
	entries, err := pair("pki/"+c.Name, certificate, key)
	if kept {
		entries = append(entries, i.store.moved(c.Name)...)
	}
	return entries, err
}

// keyFor is a new key, or the one that there is where a renewal keeps it.
func (i *issuer) keyFor(c *compile.Cert) (key crypto.Signer, kept bool, err error) {
	if _, known := i.store.current("pki/" + c.Name + ".key"); c.KeepKey && known && !i.newKeys {
		key, err = i.privateKey("pki/" + c.Name + ".key")
		return key, true, err
	}
	key, err = newKey(c.KeyType.V)
	return key, false, err
}

// withUsages is a signer of the authority for the usages of one certificate. A
// server with an RSA key may be sent keys under it (RFC 5246 section 7.4.2).
func withUsages(r *root, usages []string, key crypto.Signer) (*local.Signer, error) {
	all := append([]string{"digital signature"}, usages...)
	if _, isRSA := key.(*rsa.PrivateKey); isRSA && slices.Contains(usages, compile.ServerAuth) {
		all = append(all, "key encipherment")
	}
	s := *r.signer
	s.SetPolicy(policyOf(all))
	return &s, nil
}

// proves looks at what was signed with other eyes than the signer's: the chain
// to the root, the names and the subject.
func proves(der []byte, c *compile.Cert, r *root) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if err := leaf.CheckSignatureFrom(r.certificate); err != nil {
		return err
	}
	if !bytes.Equal(leaf.AuthorityKeyId, r.certificate.SubjectKeyId) {
		return errors.New("it does not say which key signed it")
	}
	for _, s := range c.SANs {
		if err := leaf.VerifyHostname(s.Value.V); err != nil {
			return err
		}
	}
	if want := (pkix.Name{CommonName: c.CommonName.V, Organization: list(c.Org.V)}); leaf.Subject.String() != want.String() {
		return fmt.Errorf("the subject is %s, not %s", leaf.Subject, want)
	}
	return nil
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}
