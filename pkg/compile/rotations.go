package compile

import (
	"strconv"
	"strings"

	"github.com/kthwc/kthwc/pkg/inventory"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
)

// rotations adds what stands on hosts while keys are being replaced: public
// keys that are trusted beside the one that signs. The inventory says which.
// Bundles need nothing: their names stand for every root that is trusted.
func (r *resolver) rotations() {
	if r.facts.Inventory == nil {
		return
	}
	r.tokenKeys()
	for i := range r.c.CAs {
		r.signer(&r.c.CAs[i])
	}
}

// TokenPair is the name of the key pair that signs the tokens of service
// accounts: of a pair of its own, or in the tutorial of a certificate.
func (c *Cluster) TokenPair() (name string, certificate bool) {
	for _, p := range c.KeyPairs {
		return p.Name, false
	}
	return tokenCert, true
}

// tokenCert is the tutorial's certificate whose key signs tokens.
const tokenCert = "service-accounts"

// tokenKeys are the public keys that API servers accept beside that of the key
// which signs: one file for each, with the generation that it was made in.
func (r *resolver) tokenKeys() {
	name, certificate := r.c.TokenPair()
	pair := r.facts.Inventory.KeyPair(name)
	if pair == nil {
		return
	}
	ref := secret.PublicKey(name)
	if certificate {
		ref = secret.Cert(name)
	}
	from := origin.Join(origin.Fixed("service-account-trusted"), origin.Inventory(name))
	for _, k := range pair.Keyset {
		if k.State != inventory.Trusted {
			continue
		}
		key := TrustedKey{Ref: ref.At(k.Generation), Generation: k.Generation, From: from}
		for _, n := range r.c.controllers() {
			d := Destination{n.Name.V, r.c.generationPath("service-account-trusted", n, k.Generation), origin.Join(n.From, n.AsController)}
			key.Files = append(key.Files, d)
		}
		r.c.TokenKeys = append(r.c.TokenKeys, key)
	}
}

// generationPath is where one version of a logical file lies.
func (c *Cluster) generationPath(logical string, n *Node, generation int) string {
	return strings.ReplaceAll(c.Path(logical, n), "GENERATION", strconv.Itoa(generation))
}

// moreTokenKeys are the further values of --service-account-key-file.
func moreTokenKeys(c *Cluster, n *Node) []Text {
	var out []Text
	for _, k := range c.TokenKeys {
		out = append(out, origin.Of(c.generationPath("service-account-trusted", n, k.Generation), k.From))
	}
	return out
}

// signer gives the controller manager a file with the one root that its key
// belongs to: it refuses a certificate file with two (pkg/controller/certificates/
// signer/ca_provider.go of Kubernetes), and a bundle has two while its
// authority is being replaced.
func (r *resolver) signer(ca *CA) {
	known := r.facts.Inventory.Authority(ca.Name)
	if len(ca.Keys) == 0 || known == nil || len(known.Verifying()) < 2 {
		return
	}
	ca.Signer = TrustedKey{Ref: secret.Bundle(ca.Name).At(known.Primary().Generation), Generation: known.Primary().Generation, From: origin.Join(origin.Fixed("ca-signer"), origin.Inventory("ca/"+ca.Name))}
	for _, n := range r.c.controllers() {
		ca.Signer.Files = r.c.destinations(ca.Signer.Files, n, n.AsController, "ca/signer")
	}
	r.c.signerAlone = ca.Signer.From
}

// signerCertificate is the file of --cluster-signing-cert-file.
func signerCertificate(c *Cluster, n *Node, fixed origin.Origin) Text {
	if !c.signerAlone.IsZero() {
		return origin.Of(c.Path("ca/signer", n), origin.Join(fixed, c.signerAlone))
	}
	return origin.Of(c.Path("ca/kubernetes-client", n), fixed)
}
