package pki

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/inventory"
)

// A Rotation is the replacement of one keyset or leaf in stages. How far it has
// got is read off the inventory, never off saved progress.
type Rotation struct {
	Kind      string    `json:"kind"`
	Name      string    `json:"name"`
	Done      int       `json:"done"` // stages that the store has done; 0 also when nothing is under way
	Versions  []Version `json:"versions"`
	Emergency bool      `json:"emergency,omitempty"`
	Outage    string    `json:"outage,omitempty"` // of an emergency: how long what fails
	Stages    []Stage   `json:"stages"`
	Blocked   []string  `json:"blocked,omitempty"` // why the next stage cannot be begun yet
}

// A Version is one key of a keyset.
type Version struct {
	Name       string `json:"name,omitempty"` // of an encryption key
	Generation int    `json:"generation"`
	State      string `json:"state,omitempty"`
}

// A Stage is one change of the store, with what it takes on hosts before the
// next one.
type Stage struct {
	Number  int    `json:"number"`
	Name    string `json:"name"`  // trust, promote, distrust, drop; issue of a leaf; replace in an emergency
	State   string `json:"state"` // done, current (the store has it, hosts may not), next or later
	Does    string `json:"does"`  // to the store
	Confirm bool   `json:"confirm,omitempty"`
	Steps   []Step `json:"steps,omitempty"`
}

// A Step is what happens on hosts, and what proves that it has happened.
type Step struct {
	Who  string   `json:"who"`             // component, or whoever has to act
	On   []string `json:"nodes,omitempty"` // in this order
	Do   string   `json:"do"`
	Gate string   `json:"gate,omitempty"` // what is probed before the next step
	Why  string   `json:"why,omitempty"`
}

// The states of a stage.
const (
	StageDone    = "done"
	StageCurrent = "current"
	StageNext    = "next"
	StageLater   = "later"
)

// Applied is what a person says once a stage is on every host and its gates
// have passed.
const Applied = "applied"

// MakeRotation says how a keyset is replaced, and how far that is. It needs no
// key. The error says what is wrong with the name.
func MakeRotation(c *compile.Cluster, inv *inventory.Inventory, k Keyset, emergency bool) (*Rotation, error) {
	if inv == nil {
		inv = &inventory.Inventory{}
	}
	k, err := named(c, k)
	if err != nil {
		return nil, err
	}
	r := &Rotation{Kind: k.Kind, Name: k.Name, Emergency: emergency}
	if k.Kind == RotateLeaf {
		r.leaf(c, inv)
		return r, nil
	}
	r.Versions = versionsOf(c, inv, k)
	r.Done = position(r.Versions)
	r.Stages = stagesOf(c, k)
	if emergency {
		r.inEmergency(c, k)
	}
	r.mark()
	r.Blocked = blocked(c, inv, k, r)
	return r, nil
}

// A NameError says that there is nothing of a name to rotate.
type NameError struct{ Why, Help string }

func (e *NameError) Error() string { return e.Why }

// named completes a name that needs no saying, and refuses one that is not there.
func named(c *compile.Cluster, k Keyset) (Keyset, error) {
	switch k.Kind {
	case RotateCA:
		var known []string
		for _, ca := range c.CAs {
			known = append(known, ca.Name)
		}
		if !slices.Contains(known, k.Name) {
			return k, &NameError{fmt.Sprintf("no authority is called %q", k.Name), "the authorities are " + strings.Join(known, ", ")}
		}
	case RotateServiceAccount:
		k.Name, _ = c.TokenPair()
	case RotateEncryption:
		k.Name = ""
	case RotateLeaf:
		if !slices.ContainsFunc(c.Certs, func(cert *compile.Cert) bool { return cert.Name == k.Name }) {
			return k, &NameError{fmt.Sprintf("no certificate is called %q", k.Name), "`kthwc pki list` lists them"}
		}
	default:
		return k, &NameError{fmt.Sprintf("%q cannot be rotated", k.Kind), "write ca, service-account, encryption or leaf"}
	}
	return k, nil
}

// versionsOf are the keys of a keyset, the oldest first; none if nothing was
// issued.
func versionsOf(c *compile.Cluster, inv *inventory.Inventory, k Keyset) []Version {
	var out []Version
	switch k.Kind {
	case RotateCA:
		if a := inv.Authority(k.Name); a != nil {
			for _, v := range a.Keyset {
				out = append(out, Version{Generation: v.Generation, State: v.State})
			}
		}
	case RotateServiceAccount:
		out = tokenVersions(inv, k.Name)
	case RotateEncryption:
		out = encryptionVersions(c, inv)
	}
	slices.SortStableFunc(out, func(a, b Version) int { return cmp.Compare(a.Generation, b.Generation) })
	return out
}

// tokenVersions are those of the key pair. The tutorial's certificate is one
// only once it was rotated.
func tokenVersions(inv *inventory.Inventory, name string) []Version {
	var out []Version
	pair, leaf := inv.KeyPair(name), inv.Certificate(name)
	switch {
	case pair != nil:
		for _, v := range pair.Keyset {
			out = append(out, Version{Generation: v.Generation, State: v.State})
		}
	case leaf != nil:
		out = append(out, Version{Generation: leaf.Generation, State: inventory.Primary})
	}
	return out
}

// encryptionVersions are the keys that a rotation has recorded, and those that
// cluster.yaml lists. Before the first rotation the oldest is the primary.
func encryptionVersions(c *compile.Cluster, inv *inventory.Inventory) []Version {
	var out []Version
	for _, k := range inv.Keys {
		name, ok := strings.CutPrefix(k.Name, "encryption/")
		if ok && (k.State != "" || lists(c, name)) {
			out = append(out, Version{name, k.Generation, k.State})
		}
	}
	slices.SortStableFunc(out, func(a, b Version) int {
		return cmp.Or(cmp.Compare(a.Generation, b.Generation), cmp.Compare(place(c, a.Name), place(c, b.Name)))
	})
	hasPrimary := slices.ContainsFunc(out, func(v Version) bool { return v.State == inventory.Primary })
	for i := range out {
		switch {
		case out[i].State != "":
		case hasPrimary:
			out[i].State = inventory.Trusted
		default:
			out[i].State, hasPrimary = inventory.Primary, true
		}
	}
	return out
}

// place is where spec.encryption.keys lists a key; -1 if it does not.
func place(c *compile.Cluster, key string) int {
	return slices.IndexFunc(c.Encryption.Keys, func(k compile.Text) bool { return k.V == key })
}

func lists(c *compile.Cluster, key string) bool { return place(c, key) >= 0 }

// position is how many stages the store has done. Keys that were made together,
// as the first encryption keys may be, are no rotation.
func position(versions []Version) int {
	primary := 0
	for _, v := range versions {
		if v.State == inventory.Primary {
			primary = v.Generation
		}
	}
	done := 0
	for _, v := range versions {
		switch {
		case v.State == inventory.Distrusted:
			return 3
		case v.State == inventory.Trusted && v.Generation > primary:
			return 1
		case v.State == inventory.Trusted && v.Generation < primary:
			done = 2
		}
	}
	return done
}

// mark gives the stages their states.
func (r *Rotation) mark() {
	for i := range r.Stages {
		s := &r.Stages[i]
		switch {
		case s.Number < r.Done:
			s.State = StageDone
		case s.Number == r.Done:
			s.State = StageCurrent
		case s.Number == r.Next():
			s.State = StageNext
		default:
			s.State = StageLater
		}
	}
}

// Next is the number of the stage that comes next; the last stage leaves
// nothing behind, so the first follows it.
func (r *Rotation) Next() int {
	for _, s := range r.Stages {
		if s.Number > r.Done {
			return s.Number
		}
	}
	return 0
}

// Stage is the stage of a number; nil if there is none.
func (r *Rotation) Stage(number int) *Stage {
	for i := range r.Stages {
		if r.Stages[i].Number == number {
			return &r.Stages[i]
		}
	}
	return nil
}

// blocked lists what stands against the next stage and can be seen here.
func blocked(c *compile.Cluster, inv *inventory.Inventory, k Keyset, r *Rotation) []string {
	if len(r.Versions) == 0 {
		return []string{"nothing has been issued yet: `kthwc pki issue`"}
	}
	switch {
	case r.Emergency && k.Kind == RotateEncryption:
		return []string{r.Outage}
	case r.Emergency:
		return nil
	case r.Done == 0:
		return append(others(c, inv, k), r.order(c, 1)...)
	case r.Done == 1:
		return r.order(c, 2)
	case r.Done == 2:
		return append(signedByOld(c, inv, k), r.order(c, 3)...)
	}
	return nil
}

// others lists rotations that are under way: they are done one at a time.
func others(c *compile.Cluster, inv *inventory.Inventory, k Keyset) []string {
	var out []string
	for _, other := range keysets(c) {
		if done := position(versionsOf(c, inv, other)); done > 0 && other.key() != k.key() {
			out = append(out, fmt.Sprintf("the rotation of %s is at stage %d: finish it first", other.key(), done))
		}
	}
	return out
}

func keysets(c *compile.Cluster) []Keyset {
	name, _ := c.TokenPair()
	out := []Keyset{{RotateServiceAccount, name}, {Kind: RotateEncryption}}
	for _, ca := range c.CAs {
		out = append(out, Keyset{RotateCA, ca.Name})
	}
	return out
}

// signedByOld lists the leaves that distrusting would cut off.
func signedByOld(c *compile.Cluster, inv *inventory.Inventory, k Keyset) []string {
	authority := inv.Authority(k.Name)
	if k.Kind != RotateCA || authority == nil {
		return nil
	}
	var names []string
	for _, cert := range c.Certs {
		leaf := inv.Certificate(cert.Name)
		if leaf != nil && cert.CA == k.Name && leaf.SignedBy != authority.Primary().SPKI {
			names = append(names, cert.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("still signed by the old key: %s; `kthwc pki issue` issues them, and they must be applied", strings.Join(names, ", "))}
}

// order compares spec.encryption.keys, which hosts get, with what a stage needs.
func (r *Rotation) order(c *compile.Cluster, stage int) []string {
	if r.Kind != RotateEncryption {
		return nil
	}
	keys := c.Encryption.Keys
	newest, old := r.Versions[len(r.Versions)-1].Name, r.primary()
	switch {
	case stage == 1 && len(keys) < 2:
		return []string{"list the new key second in spec.encryption.keys of cluster.yaml"}
	case stage == 1 && keys[0].V != old:
		return []string{fmt.Sprintf("%s must stay first in spec.encryption.keys until every API server has the new key", old)}
	case stage == 2 && (keys[0].V != newest || !lists(c, old)):
		return []string{fmt.Sprintf("list %s first in spec.encryption.keys of cluster.yaml, and %s after it", newest, old)}
	case stage == 3:
		return r.stillListed(c)
	}
	return nil
}

// stillListed are former keys that hosts would keep.
func (r *Rotation) stillListed(c *compile.Cluster) []string {
	var out []string
	for _, v := range r.Versions {
		if v.State == inventory.Trusted && lists(c, v.Name) {
			out = append(out, fmt.Sprintf("take %s out of spec.encryption.keys of cluster.yaml", v.Name))
		}
	}
	return out
}

// primary is the name of the encryption key that encrypts.
func (r *Rotation) primary() string {
	for _, v := range r.Versions {
		if v.State == inventory.Primary {
			return v.Name
		}
	}
	return ""
}

// A GateError says why a stage was not begun, and what opens the way.
type GateError struct{ Why, Help string }

func (e *GateError) Error() string { return e.Why }

// Check refuses a stage that is not the next one, or that something stands
// against. confirm is what a person says of the stage before.
func (r *Rotation) Check(stage int, confirm string) error {
	next := r.Stage(r.Next())
	resumed := r.Kind == RotateCA && !r.Emergency && stage == 2 && r.Done == 2 && len(r.Blocked) > 0
	switch {
	case resumed:
		return nil
	case stage != r.Next():
		return &GateError{fmt.Sprintf("stage %d is not next: %s", stage, r.At()), fmt.Sprintf("the next is --stage %d; --plan prints them all", r.Next())}
	case len(r.Blocked) > 0:
		return &GateError{fmt.Sprintf("stage %d cannot be begun: %s", stage, strings.Join(r.Blocked, "; ")), "--plan prints what each stage needs"}
	case next.Confirm && confirm != Applied:
		return &GateError{fmt.Sprintf("stage %d (%s) needs stage %d on every host, with its gates passed: that cannot be seen from here", stage, next.Name, r.Done), "once it is so, add --confirm " + Applied}
	}
	return nil
}

// At is how far the rotation is, in words.
func (r *Rotation) At() string {
	if r.Done == 0 {
		return "no rotation is under way"
	}
	return fmt.Sprintf("the store is at stage %d (%s)", r.Done, r.Stage(r.Done).Name)
}

// Advance takes the store through one stage that Check allows.
func (r *Rotation) Advance(s *Store, c *compile.Cluster, stage int, now time.Time) error {
	k := Keyset{r.Kind, r.Name}
	switch {
	case r.Kind == RotateLeaf:
		return issueAgain(s, c, now, func(cert *compile.Cert) bool { return cert.Name == r.Name }, true)
	case r.Emergency && stage == replaceStage:
		return r.replace(s, c, k, now)
	case stage == 1:
		return s.Trust(c, k, now)
	case stage == 2 && r.Done == 1:
		if err := s.Promote(c, k); err != nil {
			return err
		}
		return r.issueLeaves(s, c, now)
	case stage == 2:
		return r.issueLeaves(s, c, now)
	case stage == 3:
		return s.Distrust(c, k)
	}
	return s.Drop(c, k)
}

// replace skips the overlap: what is left between the generations is completed
// by the stages of the ordinary rotation.
func (r *Rotation) replace(s *Store, c *compile.Cluster, k Keyset, now time.Time) error {
	if r.Done < 1 {
		if err := s.Trust(c, k, now); err != nil {
			return err
		}
	}
	if r.Done < 2 {
		if err := s.Promote(c, k); err != nil {
			return err
		}
	}
	if err := r.issueLeaves(s, c, now); err != nil {
		return err
	}
	return s.Distrust(c, k)
}

// issueLeaves issues every leaf of an authority by its new key.
func (r *Rotation) issueLeaves(s *Store, c *compile.Cluster, now time.Time) error {
	if r.Kind != RotateCA {
		return nil
	}
	return issueAgain(s, c, now, func(cert *compile.Cert) bool { return cert.CA == r.Name }, false)
}

// issueAgain issues the leaves that are due among those chosen, or all of them.
func issueAgain(s *Store, c *compile.Cluster, now time.Time, chosen func(*compile.Cert) bool, all bool) error {
	inv, err := s.Inventory()
	if err != nil {
		return err
	}
	o := Options{Now: now, Force: map[string]bool{}}
	var names []string
	for _, cert := range c.Certs {
		if chosen(cert) {
			names = append(names, cert.Name)
			o.Force[cert.Name] = all
		}
	}
	return Issue(s, c, MakePlan(c, inv, o).Only(names...), o, nil)
}
