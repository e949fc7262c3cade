package verify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/secret"
)

// served asserts that every TLS listener of the model shows the certificate
// that was issued for it: key, names, authority, time.
func served(ctx context.Context, p *probe) {
	list := slices.DeleteFunc(slices.Clone(p.Cluster.Listeners), func(l compile.Listener) bool {
		return l.Cert == "" || l.Node == "" || p.Conns[l.Node] == nil
	})
	each(list, func(l compile.Listener) { p.at().servedBy(ctx, l) })
}

// dialled is where a listener is reached from its own machine.
func (r *run) dialled(l compile.Listener) string {
	host := l.Host.V
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = primary(r.node(l.Node))
	}
	return address(host, l.Port.V)
}

func (p *probe) servedBy(ctx context.Context, l compile.Listener) {
	at := p.dialled(l)
	name := fmt.Sprintf("certificate of %s at %s", l.Component, at)
	want := l.Cert
	if l.Cert == compile.SelfSigned {
		want = "one that " + l.Component + " made for itself"
	}
	chain, err := p.shown(ctx, l.Node, at)
	if err != nil {
		b := p.unreached(compile.Dial{Node: l.Node, To: l.Component, ToNode: l.Node, Port: l.Port, Host: l.Host}, err)
		p.fail(l.Node, name, want, said(err), b)
		return
	}
	if l.Cert == compile.SelfSigned {
		p.equal(l.Node, name, want, selfMade(chain[0], want), blame{cause: "it was given a certificate", help: "look at extraArgs: --tls-cert-file"})
		return
	}
	if wrong := p.wrong(l.Cert, chain); wrong != "" {
		p.fail(l.Node, name, want, wrong, blame{cause: "the component has another certificate than the one that was issued, or has not read the new one yet",
			help: fmt.Sprintf("on %s: systemctl restart %s, where the file is right; kthwc apply brings the file", l.Node, components[l.Component].unit)})
		return
	}
	p.ok(l.Node, name, want)
}

func selfMade(c *x509.Certificate, want string) string {
	if c.Subject.String() == c.Issuer.String() || strings.Contains(c.Issuer.CommonName, "-ca@") {
		return want
	}
	return "issued by " + c.Issuer.String()
}

// errShown ends a handshake when the server has shown its certificate: whom it
// takes as a client is another check's.
var errShown = errors.New("seen enough")

// shown is what a server shows, without a word on whether it is right.
func (r *run) shown(ctx context.Context, from, at string) ([]*x509.Certificate, error) {
	conn, err := r.open(ctx, from, at)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var chain []*x509.Certificate
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
		for _, der := range raw {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return err
			}
			chain = append(chain, c)
		}
		return errShown
	}}
	_, err = secure(ctx, conn, config)
	if len(chain) > 0 {
		return chain, nil
	}
	return nil, err
}

// wrong compares a chain with the certificate called name; "" where it is that
// one, and good now.
func (r *run) wrong(name string, chain []*x509.Certificate) string {
	issued := certificate(r.material(secret.Cert(name)))
	i := slices.IndexFunc(r.Cluster.Certs, func(c *compile.Cert) bool { return c.Name == name })
	if issued == nil || i < 0 {
		return "unknown: " + name + " is not in the store"
	}
	leaf, model := chain[0], r.Cluster.Certs[i]
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, issued.RawSubjectPublicKeyInfo) {
		return fmt.Sprintf("another key: subject %s, issuer %s", leaf.Subject, leaf.Issuer)
	}
	for _, san := range model.SANs {
		if err := leaf.VerifyHostname(san.Value.V); err != nil {
			return "it is not for " + san.Value.V
		}
	}
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(r.material(secret.Bundle(model.CA)))
	for _, c := range chain[1:] {
		others.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, CurrentTime: r.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		return said(err)
	}
	return ""
}

// certificate is the first certificate of a PEM text; nil if there is none.
func certificate(text []byte) *x509.Certificate {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return c
}
