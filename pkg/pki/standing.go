package pki

import (
	"fmt"
	"strings"

	"github.com/kthwc/kthwc/pkg/inventory"
	"github.com/kthwc/kthwc/pkg/secret"
)

// Standing says which versions of material a name in a rendered file stands
// for, in words: generations and states, never material.
func Standing(inv *inventory.Inventory, ref secret.Ref) string {
	if ref.Version() != 0 {
		return fmt.Sprintf("generation %d alone", ref.Version())
	}
	name := ref.Name()
	short := strings.TrimPrefix(strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, ".crt"), ".key"), ".pub"), "pki/")
	if ca, ok := strings.CutPrefix(short, "ca/"); ok {
		return standingRoots(inv, ca, strings.HasSuffix(name, ".crt"))
	}
	if pair := inv.KeyPair(short); pair != nil && pair.Primary() != nil {
		return fmt.Sprintf("generation %d", pair.Primary().Generation)
	}
	if key := inv.Key(strings.TrimPrefix(name, "keys/")); key != nil {
		return strings.TrimSpace(fmt.Sprintf("generation %d %s", key.Generation, key.State))
	}
	leaf := inv.Certificate(short)
	if leaf == nil {
		return ErrNotIssued.Error()
	}
	return fmt.Sprintf("generation %d, signed by %s of %s", leaf.Generation, leaf.Authority, signerOf(inv, leaf))
}

// standingRoots are the roots of a bundle, or the primary's generation.
func standingRoots(inv *inventory.Inventory, ca string, bundle bool) string {
	authority := inv.Authority(ca)
	if authority == nil || authority.Primary() == nil {
		return ErrNotIssued.Error()
	}
	if !bundle {
		return fmt.Sprintf("generation %d", authority.Primary().Generation)
	}
	var roots []string
	for _, k := range authority.Verifying() {
		roots = append(roots, fmt.Sprintf("generation %d %s", k.Generation, k.State))
	}
	return strings.Join(roots, ", ")
}

func signerOf(inv *inventory.Inventory, leaf *inventory.Certificate) string {
	if authority := inv.Authority(leaf.Authority); authority != nil {
		for _, k := range authority.Keyset {
			if k.SPKI == leaf.SignedBy {
				return fmt.Sprintf("generation %d", k.Generation)
			}
		}
	}
	return "a generation that was dropped"
}
