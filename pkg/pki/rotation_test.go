package pki_test

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/kthwc/kthwc/internal/raceless"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

// moment is a cluster at one stage of a rotation: what the hosts would have.
type moment struct {
	world
	stage int
	tree  *tree.Tree
}

// rotator takes a cluster through a rotation.
type rotator struct {
	*testing.T
	dir, source string
}

// at is the cluster as it is now.
func (r *rotator) at(stage int) *moment {
	r.Helper()
	s, err := pki.Open(r.dir, model(r, r.source).Name.V)
	if err != nil {
		r.Fatal(err)
	}
	doc, _ := schema.Load("cluster.yaml", []byte(r.source))
	c, faults := compile.Compile(doc, compile.Facts{Inventory: facts(r, s), CloudAddresses: map[string]string{"address/api": "203.0.113.10"}})
	if err := faults.Err(); err != nil {
		r.Fatal(err)
	}
	out, faults := render.Render(c, render.Input{Source: []byte(r.source)})
	if err := faults.Err(); err != nil {
		r.Fatal(err)
	}
	return &moment{world{r.T, c, s}, stage, out}
}

// advance takes the store through a stage, with every gate open.
func (r *rotator) advance(k pki.Keyset, stage int, emergency bool) *moment {
	r.Helper()
	now := r.at(stage)
	rotation, err := pki.MakeRotation(now.c, facts(r, now.s), k, emergency)
	if err != nil {
		r.Fatal(err)
	}
	if err := rotation.Check(stage, pki.Applied); err != nil {
		r.Fatal(err)
	}
	if err := rotation.Advance(open(r, r.dir, now.c), now.c, stage, time.Now()); err != nil {
		r.Fatal(err)
	}
	return r.at(stage)
}

func newRotator(t *testing.T, source string) *rotator {
	t.Helper()
	dir := t.TempDir() + "/store"
	issued(t, dir, model(t, source), time.Now())
	return &rotator{t, dir, source}
}

// quick is a cluster whose keys are made in no time, which RSA keys are not.
func quick(source string) string {
	return strings.Replace(source, "  provider:", "  pki: {keyType: ecdsa-p256}\n  provider:", 1)
}

// stages are the moments of a whole rotation, the one before it first.
func (r *rotator) stages(k pki.Keyset) []*moment {
	r.Helper()
	out := []*moment{r.at(0)}
	for stage := 1; stage <= 4; stage++ {
		out = append(out, r.advance(k, stage, false))
	}
	return out
}

// failures are the connections of the cluster that do not come about when
// clients are at one moment and servers at another.
func failures(client, server *moment) (failed []string, count int) {
	for _, d := range client.c.Dials {
		for _, l := range client.servers(d) {
			if l.Cert == "" || l.Cert == compile.SelfSigned || d.ServerCA == "" {
				continue
			}
			count++
			if err := client.shakeWith(&server.world, l, d.Cert, d.ServerCA, d.Name.V); err != nil {
				failed = append(failed, fmt.Sprintf("%s on %s dials %s on %s: %v", d.Component, d.Node, l.Component, l.Node, err))
			}
		}
	}
	return failed, count
}

// While an authority is replaced, every client shakes hands with every server
// at every stage, whichever of them are at this stage already and which at the
// one before. A stage that were skipped would be noticed.
func TestEveryHandshakeInEveryMix(t *testing.T) {
	raceless.Only(t)
	for _, name := range []string{"examples/lab.yaml", "examples/lab-tutorial.yaml"} {
		for _, ca := range model(t, example(t, name)).CAs {
			t.Run(filepath.Base(name)+" "+ca.Name, func(t *testing.T) {
				r := newRotator(t, quick(example(t, name)))
				moments := r.stages(pki.Keyset{Kind: pki.RotateCA, Name: ca.Name})
				for i, m := range moments {
					for _, other := range moments[max(i-1, 0):min(i+2, len(moments))] {
						failed, count := failures(m, other)
						if len(failed) > 0 || count < 5 {
							t.Errorf("clients at stage %d, servers at %d: %d of %d fail: %.500s", m.stage, other.stage, len(failed), count, strings.Join(failed, "\n"))
						}
					}
				}
				if ca.Name == "front-proxy" {
					return // nobody dials with it yet
				}
				if failed, _ := failures(moments[0], moments[2]); len(failed) == 0 {
					if back, _ := failures(moments[2], moments[0]); len(back) == 0 {
						t.Error("hosts that skipped the stage of trust still understand each other: this test sees nothing")
					}
				}
			})
		}
	}
}

// After a rotation nothing that the old key signed is accepted, and nothing of
// it is on a host.
func TestTheOldRootIsGone(t *testing.T) {
	r := newRotator(t, example(t, "examples/lab.yaml"))
	moments := r.stages(pki.Keyset{Kind: pki.RotateCA, Name: "etcd"})
	old, last := moments[0], moments[4]
	failed, _ := failures(old, last)
	if !slices.ContainsFunc(failed, func(f string) bool { return strings.Contains(f, "dials etcd") }) {
		t.Error("clients with the old key are still served")
	}
	if before, after := material(t, old.s, secret.Bundle("etcd")), material(t, last.s, secret.Bundle("etcd")); strings.Contains(string(after), string(before)) {
		t.Error("the old root is still in the bundle")
	}
	if string(material(t, last.s, secret.Bundle("etcd").At(1))) != string(material(t, old.s, secret.Bundle("etcd"))) {
		t.Error("the old root is not in its generation any more")
	}
}

// An emergency trusts the old key no longer in one stage, from wherever the
// rotation is.
func TestEmergency(t *testing.T) {
	for before := range 3 {
		r := newRotator(t, example(t, "golden/single-node/cluster.yaml"))
		k := pki.Keyset{Kind: pki.RotateCA, Name: "kubernetes-client"}
		for stage := 1; stage <= before; stage++ {
			r.advance(k, stage, false)
		}
		m := r.advance(k, 3, true)
		if failed, _ := failures(m, m); len(failed) > 0 {
			t.Errorf("after stage %d: %v", before, failed)
		}
		if n := strings.Count(string(material(t, m.s, secret.Bundle("kubernetes-client"))), "BEGIN"); n != 1 {
			t.Errorf("after stage %d: %d roots are trusted", before, n)
		}
		plan, err := pki.MakeRotation(m.c, facts(t, m.s), k, true)
		if err != nil || plan.Outage == "" || plan.Done != 3 {
			t.Errorf("%+v, %v", plan, err)
		}
	}
}

// What cannot be right is refused, and the store stays as it is.
func TestStagesAreNotSkipped(t *testing.T) {
	r := newRotator(t, example(t, "golden/single-node/cluster.yaml"))
	k := pki.Keyset{Kind: pki.RotateCA, Name: "etcd"}
	for done := 0; done <= 4; done++ {
		m := r.at(done)
		rotation, err := pki.MakeRotation(m.c, facts(t, m.s), k, false)
		if err != nil {
			t.Fatal(err)
		}
		for stage := -1; stage <= 6; stage++ {
			for _, confirm := range []string{"", pki.Applied} {
				want := stage == done%4+1 && (confirm == pki.Applied || stage == 1)
				if err := rotation.Check(stage, confirm); (err == nil) != want {
					t.Errorf("after %d stages, stage %d, confirmed %q: %v", done, stage, confirm, err)
				}
			}
		}
		if done < 4 {
			r.advance(k, done+1, false)
		}
	}
}

// Promoting and issuing are two generations. Stopped between them, the stage
// is not done: nobody is cut off, and the same stage completes it.
func TestPromotionIsResumed(t *testing.T) {
	r := newRotator(t, example(t, "golden/single-node/cluster.yaml"))
	k := pki.Keyset{Kind: pki.RotateCA, Name: "etcd"}
	one := r.advance(k, 1, false)
	if err := open(t, r.dir, one.c).Promote(one.c, k); err != nil {
		t.Fatal(err)
	}
	half := r.at(2)
	if failed, _ := failures(half, half); len(failed) > 0 {
		t.Error(failed)
	}
	rotation, _ := pki.MakeRotation(half.c, facts(t, half.s), k, false)
	if err := rotation.Check(3, pki.Applied); err == nil || !strings.Contains(err.Error(), "etcd-server@") {
		t.Errorf("leaves of the old key would be cut off: %v", err)
	}
	two := r.advance(k, 2, false)
	if failed, _ := failures(two, half); len(failed) > 0 {
		t.Error(failed)
	}
	r.advance(k, 3, false)
}

// A leaf that is renewed in the middle of a rotation is signed by the key that
// signs then, which hosts at the stage before trust too.
func TestLeavesAreSignedByThePrimary(t *testing.T) {
	r := newRotator(t, example(t, "golden/single-node/cluster.yaml"))
	before := r.at(0)
	for stage := 1; stage <= 3; stage++ {
		r.advance(pki.Keyset{Kind: pki.RotateCA, Name: "etcd"}, stage, false)
		for _, cert := range before.c.Certs {
			if cert.CA == "etcd" {
				r.advance(pki.Keyset{Kind: pki.RotateLeaf, Name: cert.Name}, 1, false)
			}
		}
		now := r.at(stage)
		for _, pair := range [][2]*moment{{before, now}, {now, before}, {now, now}} {
			if failed, _ := failures(pair[0], pair[1]); len(failed) > 0 {
				t.Errorf("stage %d: %.300s", stage, strings.Join(failed, "\n"))
			}
		}
		before = now
	}
}

// Rotations are done one at a time.
func TestOneRotationAtATime(t *testing.T) {
	r := newRotator(t, example(t, "golden/single-node/cluster.yaml"))
	m := r.advance(pki.Keyset{Kind: pki.RotateServiceAccount}, 1, false)
	other, err := pki.MakeRotation(m.c, facts(t, m.s), pki.Keyset{Kind: pki.RotateCA, Name: "etcd"}, false)
	if err != nil || other.Check(1, pki.Applied) == nil {
		t.Errorf("%v: another rotation began", err)
	}
}

// A token that was signed at any stage is accepted by every API server at that
// stage, the one before and the one after; after the last, old ones are not.
func TestTokensAreAcceptedInEveryMix(t *testing.T) {
	for _, name := range []string{"examples/lab.yaml", "examples/lab-tutorial.yaml"} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			r := newRotator(t, example(t, name))
			moments := r.stages(pki.Keyset{Kind: pki.RotateServiceAccount})
			for i, m := range moments {
				signed := m.token()
				for j, other := range moments {
					want := i < 2 && j < 3 || i >= 2 && j >= 1 // the neighbours of i, and more
					if got := other.accepts(signed); got != want {
						t.Errorf("a token of stage %d at stage %d: accepted %v", i, j, got)
					}
				}
			}
			if n := len(moments[1].flags("kube-apiserver", "service-account-key-file")); n != 2 {
				t.Errorf("%d public keys at stage 1", n)
			}
		})
	}
}

// flags are the values of a component's flag on the first controller, as they
// stand in its unit.
func (m *moment) flags(component, flag string) []string {
	m.Helper()
	n := m.tree.Nodes[0]
	var out []string
	for _, l := range n.File("/etc/systemd/system/" + component + ".service").Body.Lines {
		if v, ok := strings.CutPrefix(strings.TrimSpace(strings.TrimSuffix(l.String(), "\\")), "--"+flag+"="); ok {
			out = append(out, v)
		}
	}
	return out
}

// onHost is a file of the first controller as it is there.
func (m *moment) onHost(path string) []byte {
	m.Helper()
	f := m.tree.Nodes[0].File(path)
	if f == nil {
		m.Fatalf("there is no %s at stage %d", path, m.stage)
	}
	content, err := f.Body.Materialise(m.s.Material)
	if err != nil {
		m.Fatal(err)
	}
	return content
}

type token struct{ digest, signature []byte }

// token is signed with the key that the API server signs with.
func (m *moment) token() token {
	m.Helper()
	block, _ := pem.Decode(m.onHost(m.flags("kube-apiserver", "service-account-signing-key-file")[0]))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		m.Fatal(err)
	}
	digest := sha256.Sum256([]byte(`{"alg":"x"}.{"sub":"system:serviceaccount:default:default"}`))
	var signature []byte
	if rsaKey, ok := key.(*rsa.PrivateKey); ok {
		signature, err = rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, digest[:])
	} else {
		signature, err = jose(key.(*ecdsa.PrivateKey), digest[:])
	}
	if err != nil {
		m.Fatal(err)
	}
	return token{digest[:], signature}
}

// jose is the signature of RFC 7518 section 3.4: two numbers of one length.
func jose(key *ecdsa.PrivateKey, digest []byte) ([]byte, error) {
	r, s, err := ecdsa.Sign(rand.Reader, key, digest)
	if err != nil {
		return nil, err
	}
	size := (key.Params().BitSize + 7) / 8
	return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...), nil
}

// accepts says whether one of the public keys that the API server reads
// verifies the token.
func (m *moment) accepts(t token) bool {
	m.Helper()
	return slices.ContainsFunc(m.flags("kube-apiserver", "service-account-key-file"), func(path string) bool {
		block, _ := pem.Decode(m.onHost(path))
		var public any
		if block.Type == "CERTIFICATE" {
			public = parsed(m, m.onHost(path)).PublicKey
		} else {
			key, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				m.Fatal(err)
			}
			public = key
		}
		switch k := public.(type) {
		case *rsa.PublicKey:
			return rsa.VerifyPKCS1v15(k, crypto.SHA256, t.digest, t.signature) == nil
		case *ecdsa.PublicKey:
			half := len(t.signature) / 2
			return ecdsa.Verify(k, t.digest, new(big.Int).SetBytes(t.signature[:half]), new(big.Int).SetBytes(t.signature[half:]))
		}
		return false
	})
}

// The certificate whose key signs the tutorial's tokens is renewed with its
// key; the authority's rotation renews it too.
func TestRenewalKeepsTheTokenKey(t *testing.T) {
	for _, rotated := range []bool{false, true} {
		r := newRotator(t, quick(example(t, "examples/lab-tutorial.yaml")))
		if rotated {
			r.stages(pki.Keyset{Kind: pki.RotateServiceAccount})
		}
		before := r.at(0)
		after := r.advance(pki.Keyset{Kind: pki.RotateLeaf, Name: "service-accounts"}, 1, false)
		if !after.accepts(before.token()) || !before.accepts(after.token()) {
			t.Errorf("rotated %v: tokens are refused after a renewal", rotated)
		}
		if string(material(t, before.s, secret.Cert("service-accounts"))) == string(material(t, after.s, secret.Cert("service-accounts"))) {
			t.Error("nothing was renewed")
		}
		k := pki.Keyset{Kind: pki.RotateCA, Name: "ca"}
		for stage := 1; stage <= 2; stage++ {
			after = r.advance(k, stage, false)
			if !after.accepts(before.token()) {
				t.Errorf("stage %d of the authority's rotation refuses tokens", stage)
			}
		}
	}
}

// The controller manager of the tutorial signs with a certificate file of one
// root, which belongs to the key beside it, at every stage: it refuses a file
// with two.
func TestTheSignerHasOneRoot(t *testing.T) {
	r := newRotator(t, quick(example(t, "examples/lab-tutorial.yaml")))
	for _, m := range r.stages(pki.Keyset{Kind: pki.RotateCA, Name: "ca"}) {
		certificate := m.onHost(m.flags("kube-controller-manager", "cluster-signing-cert-file")[0])
		key, _ := pem.Decode(m.onHost(m.flags("kube-controller-manager", "cluster-signing-key-file")[0]))
		private, err := x509.ParsePKCS8PrivateKey(key.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		type comparable interface{ Equal(crypto.PublicKey) bool }
		if strings.Count(string(certificate), "BEGIN") != 1 || !parsed(t, certificate).PublicKey.(comparable).Equal(private.(crypto.Signer).Public()) {
			t.Errorf("stage %d: the certificate file is not the one root of the key", m.stage)
		}
	}
}

// What an API server wrote at any stage, the others read at that stage, the one
// before and the one after.
func TestEncryptedDataIsReadInEveryMix(t *testing.T) {
	lab := example(t, "examples/lab.yaml")
	keys := func(list string) string {
		return strings.Replace(lab, "  provider:", "  encryption: {provider: aesgcm, keys: ["+list+"]}\n  provider:", 1)
	}
	r := newRotator(t, keys("key1"))
	k := pki.Keyset{Kind: pki.RotateEncryption}
	moments := []*moment{r.at(0)}
	for stage, list := range []string{"key1, key2", "key2, key1", "key2", "key2"} {
		r.source = keys(list)
		moments = append(moments, r.advance(k, stage+1, false))
	}
	for i, m := range moments {
		written := m.encrypt("a secret")
		for _, other := range moments[max(i-1, 0):min(i+2, len(moments))] {
			if text, err := other.decrypt(written); text != "a secret" || err != nil {
				t.Errorf("written at stage %d, read at %d: %v", i, other.stage, err)
			}
		}
	}
	if _, err := moments[0].decrypt(moments[2].encrypt("a secret")); err == nil {
		t.Error("the new key is known before the first stage: this test sees nothing")
	}
	if _, err := moments[3].decrypt(moments[1].encrypt("a secret")); err == nil {
		t.Error("the old key is known after the third stage")
	}
}

// The file and the store go together: a stage is refused until cluster.yaml
// lists what it needs, and a key that was never issued cannot come first.
func TestEncryptionKeysAreListedInStep(t *testing.T) {
	lab := example(t, "examples/lab.yaml")
	keys := func(list string) string {
		return strings.Replace(lab, "  provider:", "  encryption: {keys: ["+list+"]}\n  provider:", 1)
	}
	right := []string{"key1, key2", "key2, key1", "key2"}
	for stage := 1; stage <= 3; stage++ {
		for _, wrong := range []string{"key1", "key2, key1", "key1, key2", "key2", "key3, key1"} {
			if wrong == right[stage-1] {
				continue
			}
			r := newRotator(t, keys("key1"))
			for done := 1; done < stage; done++ {
				r.source = keys(right[done-1])
				r.advance(pki.Keyset{Kind: pki.RotateEncryption}, done, false)
			}
			c := model(t, keys(wrong))
			rotation, err := pki.MakeRotation(c, facts(t, open(t, r.dir, c)), pki.Keyset{Kind: pki.RotateEncryption}, false)
			if err != nil || rotation.Check(stage, pki.Applied) == nil {
				t.Errorf("stage %d began with [%s]: %v", stage, wrong, err)
			}
		}
	}
	two := newRotator(t, keys("b, a"))
	for _, k := range []pki.Keyset{{Kind: pki.RotateEncryption}, {Kind: pki.RotateCA, Name: "etcd"}} {
		two.source = keys("b, a, c")
		c := model(t, two.source)
		rotation, err := pki.MakeRotation(c, facts(t, open(t, two.dir, c)), k, false)
		if err != nil || rotation.Done != 0 || rotation.Check(1, "") != nil {
			t.Errorf("two keys from the beginning are taken for a rotation: %+v", rotation)
		}
	}
	two.advance(pki.Keyset{Kind: pki.RotateEncryption}, 1, false)
	two.source = keys("c, b, a")
	two.advance(pki.Keyset{Kind: pki.RotateEncryption}, 2, false)
	r := newRotator(t, keys("key1"))
	c := model(t, keys("key2, key1"))
	plan := pki.MakePlan(c, facts(t, open(t, r.dir, c)), pki.Options{Now: time.Now()})
	if at := slices.IndexFunc(plan.Actions, func(a pki.Action) bool { return a.Name == "encryption/key2" }); plan.Actions[at].Do != pki.DoWait {
		t.Errorf("a new key that is listed first is to %s", plan.Actions[at].Do)
	}
}

// encryptionKeys are the keys of the rendered EncryptionConfiguration, in its
// order; the first encrypts. identity must be last.
func (m *moment) encryptionKeys() [][2]string {
	m.Helper()
	var config struct {
		Resources []struct {
			Providers []map[string]struct {
				Keys []struct{ Name, Secret string }
			}
		}
	}
	if err := yaml.Unmarshal(m.onHost("/etc/kubernetes/encryption-config.yaml"), &config); err != nil {
		m.Fatal(err)
	}
	providers := config.Resources[0].Providers
	if _, ok := providers[len(providers)-1]["identity"]; !ok {
		m.Error("identity is not last")
	}
	var out [][2]string
	for _, k := range providers[0]["aesgcm"].Keys {
		out = append(out, [2]string{k.Name, k.Secret})
	}
	return out
}

// encrypt writes as the API server does: a prefix with the name of the first
// key, and AES-GCM.
func (m *moment) encrypt(text string) string {
	m.Helper()
	first := m.encryptionKeys()[0]
	aead := m.aead(first[1])
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		m.Fatal(err)
	}
	return "k8s:enc:aesgcm:v1:" + first[0] + ":" + string(aead.Seal(nonce, nonce, []byte(text), nil))
}

// decrypt reads with the key that the prefix names.
func (m *moment) decrypt(stored string) (string, error) {
	m.Helper()
	for _, k := range m.encryptionKeys() {
		if data, ok := strings.CutPrefix(stored, "k8s:enc:aesgcm:v1:"+k[0]+":"); ok {
			aead := m.aead(k[1])
			text, err := aead.Open(nil, []byte(data[:aead.NonceSize()]), []byte(data[aead.NonceSize():]), nil)
			return string(text), err
		}
	}
	return "", errors.New("no key has this prefix")
}

func (m *moment) aead(encoded string) cipher.AEAD {
	m.Helper()
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		m.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		m.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		m.Fatal(err)
	}
	return aead
}

// Whoever looks at the inventory alone sees how far a rotation is: the store
// and the file that is committed say the same.
func TestPositionIsInTheInventory(t *testing.T) {
	r := newRotator(t, example(t, "golden/single-node/cluster.yaml"))
	for _, k := range []pki.Keyset{{Kind: pki.RotateCA, Name: "etcd-peer"}, {Kind: pki.RotateServiceAccount}} {
		for done, m := range r.stages(k) {
			text, err := facts(t, m.s).YAML()
			if err != nil {
				t.Fatal(err)
			}
			rotation, err := pki.MakeRotation(m.c, parsedInventory(t, text), k, false)
			if err != nil || rotation.Done != done%4 {
				t.Errorf("%s after %d stages: %d are done, %v", k.Kind, done, rotation.Done, err)
			}
			if strings.Contains(string(text), "PRIVATE") {
				t.Error("the inventory holds a key")
			}
		}
	}
	files, _ := os.ReadDir(r.dir)
	if len(files) < 8 {
		t.Errorf("only %d files in the store: a stage left no generation", len(files))
	}
}
