package pki

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/inventory"
	"github.com/kthwc/kthwc/pkg/origin"
)

// Verb is what becomes of one piece of material.
type Verb string

// The verbs. DoKeep and DoWait change nothing.
const (
	DoKeep    Verb = "keep"
	DoIssue   Verb = "issue"   // there is none yet
	DoRenew   Verb = "renew"   // the same again, for its time
	DoReissue Verb = "reissue" // another one, for the reasons given
	DoWait    Verb = "wait"    // it cannot be issued before something is known
	DoUnused  Verb = "unused"  // the cluster no longer wants it
)

// What an action is about.
const (
	Authority   = "authority"
	Certificate = "certificate"
	KeyPair     = "key pair"
	Key         = "key"
)

// Action is what becomes of one piece of material, and why.
type Action struct {
	Do       Verb      `json:"do"`
	Kind     string    `json:"kind"`
	Name     string    `json:"name"`
	Reasons  []Reason  `json:"reasons,omitempty"`
	NotAfter time.Time `json:"notAfter,omitzero"` // of what there is
}

// Reason is one sentence, and where it comes from.
type Reason struct {
	Text string
	From origin.Origin
}

// MarshalJSON is the sentence, and the fields that it comes from.
func (r Reason) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Text string   `json:"text"`
		From []string `json:"from,omitempty"`
	}{r.Text, r.From.Sources()})
}

// Plan is what [Issue] would do, in the order of doing it.
type Plan struct{ Actions []Action }

// Only is the plan of the pieces named alone.
func (p *Plan) Only(names ...string) *Plan {
	out := &Plan{}
	for _, a := range p.Actions {
		if slices.Contains(names, a.Name) {
			out.Actions = append(out.Actions, a)
		}
	}
	return out
}

// Pending are the actions that there is anything to say of.
func (p *Plan) Pending() []Action {
	return slices.DeleteFunc(slices.Clone(p.Actions), func(a Action) bool { return a.Do == DoKeep && len(a.Reasons) == 0 })
}

// Changes says whether there is anything to issue.
func (p *Plan) Changes() bool {
	return slices.ContainsFunc(p.Actions, func(a Action) bool { return a.Do.issues() })
}

func (v Verb) issues() bool { return v == DoIssue || v == DoRenew || v == DoReissue }

// Options says when, and what beside the rules.
type Options struct {
	Now    time.Time
	Window time.Duration   // leaves that expire within it are renewed; 0 means 30 days
	Force  map[string]bool // names of leaves to renew before their time
}

// DefaultWindow is how long before its end a leaf is renewed. A leaf that lives
// shorter than three windows is renewed in its last third.
const DefaultWindow = 30 * 24 * time.Hour

func (o Options) window(lifetime time.Duration) time.Duration {
	if o.Window == 0 {
		o.Window = DefaultWindow
	}
	return min(o.Window, lifetime/3)
}

// MakePlan compares what the cluster wants with what was issued. It needs no
// key; inv may be nil.
func MakePlan(c *compile.Cluster, inv *inventory.Inventory, o Options) *Plan {
	if inv == nil {
		inv = &inventory.Inventory{}
	}
	p := &planner{Options: o, inv: inv, issued: map[string]*inventory.Certificate{}, newRoot: map[string]bool{}}
	for i := range inv.Certificates {
		p.issued[inv.Certificates[i].Name] = &inv.Certificates[i]
	}
	for i := range c.CAs {
		p.authority(&c.CAs[i])
	}
	for i := range c.KeyPairs {
		p.keyPair(&c.KeyPairs[i])
	}
	for at, k := range c.Encryption.Keys {
		p.key(k, at == 0)
	}
	for _, cert := range c.Certs {
		p.certificate(cert)
	}
	p.unused(c)
	return &p.plan
}

type planner struct {
	Options
	inv     *inventory.Inventory
	issued  map[string]*inventory.Certificate
	newRoot map[string]bool // authorities that get their first key
	plan    Plan
}

func (p *planner) add(do Verb, kind, name string, reasons ...Reason) {
	p.plan.Actions = append(p.plan.Actions, Action{Do: do, Kind: kind, Name: name, Reasons: reasons})
}

const never = "it has never been issued"

// authority is made once. Another key is a rotation, which takes steps on hosts.
func (p *planner) authority(ca *compile.CA) {
	known := p.inv.Authority(ca.Name)
	if known == nil || known.Primary() == nil {
		p.newRoot[ca.Name] = true
		p.add(DoIssue, Authority, ca.Name, Reason{never, ca.From})
		return
	}
	root := known.Primary()
	var reasons []Reason
	if root.KeyType != ca.KeyType.V {
		reasons = append(reasons, Reason{fmt.Sprintf("its key is %s and %s is wanted: that takes a rotation", root.KeyType, ca.KeyType.V), ca.KeyType.From})
	}
	if left := root.NotAfter.Sub(p.Now); left < p.window(ca.Lifetime.V)*12 {
		reasons = append(reasons, Reason{Text: expiry(left) + ": rotate it in time"})
	}
	p.add(DoKeep, Authority, ca.Name, reasons...)
	p.last().NotAfter = root.NotAfter
}

func (p *planner) last() *Action { return &p.plan.Actions[len(p.plan.Actions)-1] }

func (p *planner) keyPair(k *compile.KeyPair) {
	if known := p.inv.KeyPair(k.Name); known == nil || known.Primary() == nil {
		p.add(DoIssue, KeyPair, k.Name, Reason{never, k.From})
		return
	}
	p.add(DoKeep, KeyPair, k.Name)
}

// hasKeys says whether something may be encrypted already.
func (p *planner) hasKeys() bool {
	return slices.ContainsFunc(p.inv.Keys, func(k inventory.Key) bool { return strings.HasPrefix(k.Name, "encryption/") })
}

func (p *planner) key(k compile.Text, first bool) {
	switch {
	case p.inv.Key("encryption/"+k.V) == nil && first && p.hasKeys():
		p.add(DoWait, Key, "encryption/"+k.V, Reason{"a new key must stand second until every API server can read with it", k.From})
		return
	case p.inv.Key("encryption/"+k.V) == nil:
		p.add(DoIssue, Key, "encryption/"+k.V, Reason{never, k.From})
		return
	}
	p.add(DoKeep, Key, "encryption/"+k.V)
}

func (p *planner) certificate(c *compile.Cert) {
	known := p.issued[c.Name]
	wait := unknown(c)
	switch {
	case known == nil && len(wait) > 0:
		p.add(DoWait, Certificate, c.Name, wait...)
		return
	case known == nil:
		p.add(DoIssue, Certificate, c.Name, Reason{never, c.From})
		return
	}
	if pair := p.inv.KeyPair(c.Name); c.KeepKey && pair != nil && len(pair.Keyset) > 1 {
		p.add(DoKeep, Certificate, c.Name, Reason{Text: "its key is being rotated"})
		return
	}
	do, reasons := p.compare(c, known)
	if do == DoReissue && len(wait) > 0 {
		do, reasons = DoWait, wait
	}
	p.add(do, Certificate, c.Name, reasons...)
	p.last().NotAfter = known.NotAfter
}

// unknown lists the names that only the cloud knows yet.
func unknown(c *compile.Cert) []Reason {
	var out []Reason
	for _, s := range c.SANs {
		if strings.HasPrefix(s.Value.V, "${cloud:") {
			out = append(out, Reason{"its name " + s.Value.V + " is not known before the address is made", s.Value.From})
		}
	}
	return out
}

// compare says what is different, and otherwise whether it is time.
func (p *planner) compare(c *compile.Cert, known *inventory.Certificate) (Verb, []Reason) {
	reasons := slices.Concat(subjectChanges(c, known, p.lifetime(c, known)), nameChanges(c, known), p.signerChanges(c, known))
	if len(reasons) > 0 {
		return DoReissue, reasons
	}
	left := known.NotAfter.Sub(p.Now)
	window := p.window(c.Lifetime.V)
	switch {
	case left < window && p.endsWithAuthority(known) && !p.Force[c.Name]:
		return DoKeep, []Reason{{Text: expiry(left) + ", as " + c.CA + " does: rotate that"}}
	case left <= 0:
		return DoRenew, []Reason{{Text: expiry(left)}}
	case left < window:
		return DoRenew, []Reason{{Text: fmt.Sprintf("%s, renewal window %s", expiry(left), Span(window))}}
	case p.Force[c.Name]:
		return DoRenew, []Reason{{Text: "asked for"}}
	}
	return DoKeep, nil
}

// lifetime is what a leaf was meant to live: one that ends with its authority
// was meant to live longer.
func (p *planner) lifetime(c *compile.Cert, known *inventory.Certificate) time.Duration {
	lives := known.NotAfter.Sub(known.NotBefore)
	if p.endsWithAuthority(known) {
		return max(lives, c.Lifetime.V)
	}
	return lives
}

// endsWithAuthority says whether another leaf of the same key of the authority
// would not live longer.
func (p *planner) endsWithAuthority(known *inventory.Certificate) bool {
	authority := p.inv.Authority(known.Authority)
	if authority == nil || authority.Primary() == nil {
		return false
	}
	root := authority.Primary()
	return root.SPKI == known.SignedBy && !known.NotAfter.Before(root.NotAfter)
}

func subjectChanges(c *compile.Cert, known *inventory.Certificate, lifetime time.Duration) []Reason {
	var out []Reason
	for _, f := range []struct {
		what, was string
		is        compile.Text
	}{
		{"common name", known.CommonName, c.CommonName}, {"organization", known.Organization, c.Org}, {"key type", known.KeyType, c.KeyType},
		{"authority", known.Authority, origin.Of(c.CA, c.From)},
		{"usages", strings.Join(known.Usages, ", "), origin.Of(strings.Join(c.Usages, ", "), c.From)},
		{"lifetime", Span(lifetime), origin.Map(c.Lifetime, Span)},
	} {
		if f.was != f.is.V && !(c.KeepKey && f.what == "key type") { // it changes by rotation
			out = append(out, Reason{fmt.Sprintf("%s %s → %s", f.what, orDash(f.was), orDash(f.is.V)), f.is.From})
		}
	}
	return out
}

// nameChanges lists what comes to the names with a plus, and what goes with a minus.
func nameChanges(c *compile.Cert, known *inventory.Certificate) []Reason {
	var out []Reason
	wanted := map[string]bool{}
	for _, s := range c.SANs {
		if wanted[s.Value.V] = true; !slices.Contains(known.Names, s.Value.V) {
			out = append(out, Reason{"SAN +" + s.Value.V, s.Value.From})
		}
	}
	for _, name := range known.Names {
		if !wanted[name] {
			out = append(out, Reason{Text: "SAN -" + name})
		}
	}
	return out
}

func (p *planner) signerChanges(c *compile.Cert, known *inventory.Certificate) []Reason {
	authority := p.inv.Authority(c.CA)
	switch {
	case known.Authority != c.CA:
		return nil // said already
	case p.newRoot[c.CA]:
		return []Reason{{Text: "its authority gets its first key"}}
	case authority.Primary().SPKI != known.SignedBy:
		return []Reason{{Text: "signed by a key of " + c.CA + " that is no longer primary"}}
	}
	return nil
}

// unused lists what was issued and is not wanted any more. It stays where it is.
func (p *planner) unused(c *compile.Cluster) {
	wanted := map[string]bool{}
	for _, cert := range c.Certs {
		wanted[cert.Name] = true
	}
	for _, known := range p.inv.Certificates {
		if !wanted[known.Name] {
			p.add(DoUnused, Certificate, known.Name, Reason{Text: "nothing in cluster.yaml wants it"})
			p.last().NotAfter = known.NotAfter
		}
	}
}

func expiry(left time.Duration) string {
	if left <= 0 {
		return "expired " + Span(-left) + " ago"
	}
	return "expires in " + Span(left)
}

// Span is a duration in days, or in hours below two of them.
func Span(d time.Duration) string {
	if d < 48*time.Hour {
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours())/24)
}
