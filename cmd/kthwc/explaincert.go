package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/internal/names"
	"github.com/kthwc/kthwc/pkg/certmap"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/inventory"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/pki"
)

// materialVerbs are what `kthwc explain` says of material.
var materialVerbs = []struct {
	use, short, example string
	kinds               []string
}{
	{"cert", "Say what a certificate is for: its names, who shows it, who judges it, and where it lies", "apiserver-serving@controller-0", []string{pki.Certificate}},
	{"ca", "Say what an authority is for: whom it vouches for, who trusts it, and where its bundle lies", "kubernetes-client", []string{pki.Authority}},
	{"key", "Say what a key is for: who works with it, and where it lies", "service-account", []string{pki.KeyPair, pki.Key, pki.Certificate}},
}

func newExplainMaterial(s *session) []*cobra.Command {
	var out []*cobra.Command
	for _, verb := range materialVerbs {
		out = append(out, &cobra.Command{
			Use:               verb.use + " NAME",
			Short:             verb.short,
			Example:           "  kthwc explain " + verb.use + " " + verb.example,
			Args:              cobra.ExactArgs(1),
			ValidArgsFunction: s.completeUses(verb.kinds...),
			RunE:              func(_ *cobra.Command, args []string) error { return s.explainMaterial(verb.use, args[0], verb.kinds) },
		})
	}
	return out
}

func (s *session) explainMaterial(verb, name string, kinds []string) error {
	b, err := s.compiled()
	if err != nil {
		return err
	}
	uses := slices.DeleteFunc(pki.Uses(b.cluster), func(u pki.Use) bool { return !slices.Contains(kinds, u.Kind) })
	at := slices.IndexFunc(uses, func(u pki.Use) bool { return u.Name == name })
	if at < 0 {
		return notMaterial(verb, name, uses)
	}
	e := &explainer{session: s, b: b, use: &uses[at], inv: b.facts.Inventory}
	if verb == "key" {
		e.keysOnly()
	}
	e.all()
	return nil
}

// notMaterial refuses a name; the name of a role is shown what it stands for.
func notMaterial(verb, name string, uses []pki.Use) error {
	var alike []string
	for _, u := range uses {
		if u.Role == name {
			alike = append(alike, u.Name)
		}
	}
	if len(alike) > 0 {
		return &exitError{exitUsage, fmt.Sprintf("%q is several: %s", name, names.Ranges(alike)), "name one of them"}
	}
	what := map[string]string{"cert": "certificate", "ca": "authority", "key": "key"}[verb]
	return &exitError{exitUsage, fmt.Sprintf("no %s is called %q", what, name), "`kthwc pki map` lists them"}
}

// explainer writes what is known of one piece of material.
type explainer struct {
	*session
	b   *built
	use *pki.Use
	inv *inventory.Inventory
	key bool // only of the private key
}

func (e *explainer) line(indent int, format string, args ...any) {
	fmt.Fprintf(e.out, "%s%s\n", strings.Repeat(" ", indent), fmt.Sprintf(format, args...))
}

// keysOnly leaves out the files that hold no key.
func (e *explainer) keysOnly() {
	if e.use.Kind == pki.Certificate {
		e.key = true
		e.use.Files = slices.DeleteFunc(e.use.Files, func(f pki.Holder) bool { return f.Holds == pki.HoldsCertificate })
	}
}

func (e *explainer) all() {
	if e.key {
		e.line(0, "the key of %s: %s", e.use.Name, e.use.Why)
	} else {
		e.line(0, "%s: %s", e.use.Name, e.use.Why)
	}
	switch e.use.Kind {
	case pki.Certificate:
		e.certificate()
	case pki.Authority:
		e.authority()
	}
	item := certmap.Items([]pki.Use{*e.use})[0]
	e.showings(item.Arrows)
	e.files(item.Files)
	e.restarts()
	e.issued()
}

// certificate is what the certificate will say, and why.
func (e *explainer) certificate() {
	at := slices.IndexFunc(e.b.cluster.Certs, func(c *compile.Cert) bool { return c.Name == e.use.Name })
	c := e.b.cluster.Certs[at]
	subject := "CN=" + c.CommonName.V
	if c.Org.V != "" {
		subject += ", O=" + c.Org.V
	}
	e.line(2, "subject    %s", subject)
	e.line(2, "authority  %s", c.CA)
	e.line(2, "usages     %s", strings.Join(c.Usages, ", "))
	e.line(2, "key        %s", c.KeyType.V)
	e.line(2, "lifetime   %s", pki.Span(c.Lifetime.V))
	e.because(2, c.From)
	if e.key || len(c.SANs) == 0 {
		return
	}
	e.line(0, "names")
	for _, san := range c.SANs {
		e.line(2, "%s: %s", san.Value.V, compile.Reason(san.Why))
		if dialled := e.dialledBy(san.Value.V); dialled != "" {
			e.line(4, "dialled by %s", dialled)
		}
		e.because(4, san.Value.From)
	}
}

// dialledBy are those who want to see a name in the certificate.
func (e *explainer) dialledBy(name string) string {
	var by []string
	for _, one := range e.use.Showings {
		if one.As == compile.ServerAuth && one.Name == name {
			by = append(by, one.To.String())
		}
	}
	return names.Ranges(names.Sorted(by))
}

func (e *explainer) because(indent int, from origin.Origin) {
	for _, source := range from.Sources() {
		if e.b.doc.Written(source) {
			e.line(indent, "because %s %s", e.b.doc.Pos(source), source)
		}
	}
}

func (e *explainer) authority() {
	at := slices.IndexFunc(e.b.cluster.CAs, func(ca compile.CA) bool { return ca.Name == e.use.Name })
	ca := e.b.cluster.CAs[at]
	e.line(2, "subject    CN=%s", ca.CommonName.V)
	e.line(2, "key        %s", ca.KeyType.V)
	e.line(2, "lifetime   %s", pki.Span(ca.Lifetime.V))
	if len(ca.Keys) == 0 {
		e.line(2, "its key is in your store and on no host")
	}
	e.line(0, "signs")
	var signed []string
	for _, c := range e.b.cluster.Certs {
		if c.CA == ca.Name {
			signed = append(signed, c.Name)
		}
	}
	e.line(2, "%s", names.Ranges(signed))
}

// showings say who shows it to whom, and why.
func (e *explainer) showings(arrows []certmap.Arrow) {
	if e.use.Apart != "" {
		e.line(0, "apart")
		e.line(2, "%s", e.use.Apart)
		return
	}
	e.line(0, "shown")
	for i := range arrows {
		e.line(2, "%s: %s", arrows[i].Role(), arrows[i].Sentence())
		e.line(4, "%s", arrows[i].Why)
	}
}

func (e *explainer) files(files []certmap.File) {
	if len(files) == 0 {
		return
	}
	e.line(0, "files")
	for _, f := range files {
		e.line(2, "%s (%s)", f.Where, f.Holds)
		for _, r := range f.Readers {
			e.line(4, "%s %s: %s", r.Component, r.Fields, r.Pickup)
			e.line(6, "%s", strings.Join(r.References, "; "))
		}
	}
}

func (e *explainer) restarts() {
	if e.key || len(e.use.Files) == 0 {
		return
	}
	var parties []string
	for _, p := range e.use.Restarts() {
		parties = append(parties, p.String())
	}
	e.line(0, "when it changes")
	if len(parties) == 0 {
		e.line(2, "nothing is restarted")
		return
	}
	e.line(2, "restart %s", names.Ranges(names.Sorted(parties)))
}

// issued is what there is, and what becomes of it.
func (e *explainer) issued() {
	e.line(0, "issued")
	known := false
	switch e.use.Kind {
	case pki.Certificate:
		if c := e.inv.Certificate(e.use.Name); c != nil {
			known = true
			e.facts("", &c.Facts)
		}
	case pki.Authority:
		if a := e.inv.Authority(e.use.Name); a != nil {
			for i := range a.Keyset {
				known = true
				e.facts(a.Keyset[i].State+": ", &a.Keyset[i].Facts)
			}
		}
	case pki.KeyPair:
		if k := e.inv.KeyPair(e.use.Name); k != nil {
			for _, public := range k.Keyset {
				known = true
				e.line(2, "%s: %s, public key SHA-256 %s", public.State, public.KeyType, public.SPKI)
			}
		}
	case pki.Key:
		known = e.inv.Key(strings.TrimPrefix(e.use.Name, "keys/")) != nil
		if known {
			e.line(2, "it is in the store; it does not expire")
		}
	}
	e.plan(known)
}

func (e *explainer) facts(label string, f *inventory.Facts) {
	e.line(2, "%sserial %s, valid until %s, %s left", label, f.Serial, f.NotAfter.Format("2006-01-02"), pki.Span(f.NotAfter.Sub(e.now())))
}

// plan is what issuing would do now.
func (e *explainer) plan(known bool) {
	for _, a := range pki.MakePlan(e.b.cluster, e.inv, pki.Options{Now: e.now()}).Only(e.use.Name).Actions {
		if a.Kind != e.use.Kind || a.Do == pki.DoKeep && known && len(a.Reasons) == 0 {
			continue
		}
		for _, r := range a.Reasons {
			e.line(2, "%s: %s%s", a.Do, r.Text, e.b.whence(r))
		}
	}
}
