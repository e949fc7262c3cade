package render

import (
	"fmt"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

func (r *renderer) clusterFile(path string, body *tree.Body, from origin.Origin) {
	r.put(&tree.File{Path: path, Kind: tree.Regular, Mode: 0o644, Owner: "root", Group: "root", Body: body, From: from})
}

// client is the operator's own kubeconfig.
func (r *renderer) client() {
	for _, k := range r.kubeconfigs[""] {
		r.put(&tree.File{Path: k.Path, Kind: tree.Regular, Mode: 0o600, Owner: "root", Group: "root", Body: r.kubeconfig(k), From: k.From})
	}
}

// certificates lists what must be issued, for reviewers and for the PKI.
func (r *renderer) certificates() {
	from := fixed("certificates")
	var cas, certs []emit.Value
	for _, ca := range r.c.CAs {
		m := emit.NewMap(ca.From).Fixed("name", ca.Name, ca.From).Str("commonName", ca.CommonName).Str("keyType", ca.KeyType).Str("lifetime", days(ca.Lifetime))
		cas = append(cas, m.Set("bundles", r.destinations(ca.Bundles, ca.From)))
	}
	for _, c := range r.c.Certs {
		certs = append(certs, r.certificate(c))
	}
	m := emit.NewMap(from).List("authorities", from, cas...).List("certificates", from, certs...)
	r.clusterFile("pki/certificates.yaml", r.yaml(m), from)
}

func (r *renderer) certificate(c *compile.Cert) emit.Value {
	m := emit.NewMap(c.From).Fixed("name", c.Name, c.From).Fixed("authority", c.CA, c.From).Str("commonName", c.CommonName).
		Str("keyType", c.KeyType).Str("lifetime", days(c.Lifetime))
	if c.Org.V != "" {
		m.Str("organization", c.Org)
	}
	var names, usages []emit.Value
	for _, s := range c.SANs {
		names = append(names, emit.Scalar{V: s.Value.V, From: s.Value.From})
	}
	for _, u := range c.Usages {
		usages = append(usages, emit.Scalar{V: u, From: c.From})
	}
	if len(names) > 0 {
		m.List("names", c.From, names...)
	}
	m.List("usages", c.From, usages...)
	if len(c.CertFiles) > 0 {
		m.Set("certificateFiles", r.destinations(c.CertFiles, c.From)).Set("keyFiles", r.destinations(c.KeyFiles, c.From))
	}
	return emit.Inherit(m, c.From)
}

func days(d origin.Value[time.Duration]) compile.Text {
	return origin.Map(d, func(d time.Duration) string { return fmt.Sprintf("%dd", int(d.Hours())/24) })
}

// destinations are there because their nodes are, with these roles.
func (r *renderer) destinations(files []compile.Destination, from origin.Origin) *emit.List {
	l := &emit.List{From: from}
	for _, d := range files {
		l.Items = append(l.Items, emit.Scalar{V: d.Node + ":" + d.Path, From: origin.Join(from, d.From)})
	}
	return l
}
