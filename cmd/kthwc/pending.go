package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/internal/names"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/inventory"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/schema"
)

// published is inventory.yaml, which takes no key; nil where there is none.
func (s *session) published(cluster string) (*inventory.Inventory, error) {
	file := s.inventoryFile(cluster)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	inv, err := inventory.Parse(text)
	if err != nil {
		return nil, &exitError{exitFailure, file + ": " + err.Error(), "`kthwc pki inventory --write` writes it again from the store"}
	}
	return inv, nil
}

// materialChanges is what becomes of certificates and keys.
type materialChanges struct {
	groups []*group
	known  bool // that anything was issued
}

// issuedIfAny is the public facts, where there are any. Files can be compared
// without them, so those that cannot be read are said and left out.
func (s *session) issuedIfAny(cluster string) *inventory.Inventory {
	inv, err := s.published(cluster)
	if err != nil {
		fmt.Fprintf(s.err, "certificates: not compared: %v\n", err)
	}
	return inv
}

// pending compares the cluster with the facts that it was compiled with.
func (s *session) pending(b *built) materialChanges {
	inv := b.facts.Inventory
	if inv == nil || inv.Generation == 0 {
		return materialChanges{}
	}
	plan := pki.MakePlan(b.cluster, inv, pki.Options{Now: s.now()})
	return materialChanges{b.alike(plan.Pending()), true}
}

// pendingIn compares the cluster of a rendered directory.
func (s *session) pendingIn(dir string) (materialChanges, error) {
	source := filepath.Join(dir, "input/cluster.yaml")
	text, err := os.ReadFile(source)
	if err != nil {
		return materialChanges{}, err
	}
	inv := s.issuedIfAny(schema.Peek(source, text).Text("metadata.name"))
	if inv == nil {
		return materialChanges{}, nil
	}
	b := &built{facts: compile.Facts{Inventory: inv}}
	b.doc, b.faults = schema.Load(source, text)
	if b.doc != nil {
		b.cluster, b.faults = compile.Compile(b.doc, b.facts)
	}
	if b.cluster == nil || b.faults.HasErrors() {
		fmt.Fprintf(s.err, "certificates: not compared: %s has mistakes\n", source)
		return materialChanges{}, nil
	}
	return s.pending(b), nil
}

// plurals are kinds of material, several of them.
var plurals = map[string]string{pki.Authority: "authorities", pki.Certificate: "certificates", pki.KeyPair: "key pairs", pki.Key: "keys"}

// becomes is a verb behind a number.
var becomes = map[pki.Verb]string{
	pki.DoIssue: "to issue", pki.DoReissue: "to reissue", pki.DoRenew: "to renew", pki.DoWait: "wait", pki.DoUnused: "unused", pki.DoKeep: "kept",
}

// printPending writes one line for what is alike.
func printPending(w io.Writer, groups []*group) {
	for _, g := range groups {
		fmt.Fprintf(w, "%s: %d %s: %s: %s\n", plurals[g.kind], len(g.names), becomes[g.do], names.Ranges(g.names), strings.Join(g.reasons, "; "))
	}
}

// pendingGroup is a group as JSON has it.
type pendingGroup struct {
	Do      pki.Verb `json:"do"`
	Kind    string   `json:"kind"`
	Names   []string `json:"names"`
	Reasons []string `json:"reasons"`
}

func pendingJSON(groups []*group) []pendingGroup {
	out := []pendingGroup{}
	for _, g := range groups {
		out = append(out, pendingGroup{g.do, g.kind, slices.Clone(g.names), slices.Clone(g.reasons)})
	}
	return out
}

// summarise says after rendering what is to be issued.
func (s *session) summarise(b *built) {
	m := s.pending(b)
	if m.known && len(m.groups) == 0 {
		fmt.Fprintln(s.err, "certificates: as issued")
	}
	printPending(s.err, m.groups)
}
