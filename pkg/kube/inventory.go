package kube

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
)

// inventoryRef is the ConfigMap that holds what was applied.
var inventoryRef = Ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: "kube-system", Name: "kthwc-inventory"}

// entry is one object that was applied, or was about to be.
type entry struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	UID        string `json:"uid,omitempty"`   // empty: it was about to be made
	Found      bool   `json:"found,omitempty"` // it was there before we applied it, and is never deleted
}

func (e entry) ref() Ref { return Ref{e.APIVersion, e.Kind, e.Namespace, e.Name} }

// inventory is what kthwc applied to a cluster, in the order of applying.
type inventory struct {
	entries []entry
	written string // the data as the cluster has them, empty where there are none
	version string // the resourceVersion that they were read at
}

// readInventory reads the cluster's inventory. None is an empty one; that of
// another cluster is an error.
func (c *Client) readInventory(ctx context.Context, cluster string) (*inventory, error) {
	o, err := c.Get(ctx, inventoryRef)
	if KindOf(err) == NotFound {
		return &inventory{}, nil
	}
	if err != nil {
		return nil, err
	}
	if name := o.Str("data", "cluster"); name != cluster {
		e := fault(Invalid, nil, "%s is the cluster %q: its inventory says so; %q was meant", c.server(), name, cluster)
		e.Help = "give the address of the right cluster; if it was renamed, change data.cluster of ConfigMap kube-system/kthwc-inventory"
		return nil, e
	}
	inv := &inventory{written: o.Str("data", "objects"), version: o.Str("metadata", "resourceVersion")}
	if err := json.Unmarshal([]byte(inv.written), &inv.entries); err != nil {
		e := fault(Invalid, err, "the inventory cannot be read")
		e.Help = "ConfigMap kube-system/kthwc-inventory was changed by hand; delete it: then nothing that is there now will ever be deleted by kthwc"
		return nil, e
	}
	return inv, nil
}

// text is the entries as they are stored: JSON, one to a line.
func (inv *inventory) text() (string, error) {
	var b strings.Builder
	for i, e := range inv.entries {
		line, err := json.Marshal(e)
		if err != nil {
			return "", err
		}
		b.WriteString(map[bool]string{true: "[\n", false: ",\n"}[i == 0])
		b.Write(line)
	}
	if len(inv.entries) == 0 {
		return "[]\n", nil
	}
	return b.String() + "\n]\n", nil
}

// save writes the inventory where it differs from what the cluster has. When
// somebody else wrote it since, the error is of kind Conflict.
func (c *Client) save(ctx context.Context, cluster string, inv *inventory) error {
	text, err := inv.text()
	if err != nil || text == inv.written {
		return err
	}
	o, err := c.store(ctx, inv.version, Object{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": inventoryRef.Name, "namespace": inventoryRef.Namespace},
		"data":     map[string]any{"cluster": cluster, "objects": text},
	})
	if k := KindOf(err); k == Conflict || k == Exists {
		e := fault(Conflict, nil, "somebody else applies manifests to the cluster at the same time").because(err)
		e.Help = "wait until that is done, and run it again"
		return e
	}
	if err != nil {
		return err
	}
	inv.written, inv.version = text, o.Str("metadata", "resourceVersion")
	return nil
}

// store makes the ConfigMap, or replaces the version that was read.
func (c *Client) store(ctx context.Context, version string, o Object) (Object, error) {
	if version != "" {
		o["metadata"].(map[string]any)["resourceVersion"] = version
		return c.send(ctx, "PUT", inventoryRef, nil, o)
	}
	made, err := c.Create(ctx, o)
	if KindOf(err) != NotFound {
		return made, err
	}
	// An API server that has just started has not made its namespaces yet.
	_, err = c.Create(ctx, Object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": inventoryRef.Namespace}})
	if err != nil && KindOf(err) != Exists {
		return nil, err
	}
	return c.Create(ctx, o)
}

// find is the entry of an object, or nil.
func (inv *inventory) find(r Ref) *entry {
	i := slices.IndexFunc(inv.entries, func(e entry) bool { return key(e.ref()) == key(r) })
	if i < 0 {
		return nil
	}
	return &inv.entries[i]
}

// rest are the entries that no manifest has, the last applied first.
func (inv *inventory) rest(all []wanted) []entry {
	keys := map[string]bool{}
	for _, w := range all {
		keys[key(w.Ref())] = true
	}
	var left []entry
	for _, e := range slices.Backward(inv.entries) {
		if !keys[key(e.ref())] {
			left = append(left, e)
		}
	}
	return left
}

// forget drops the entry of an object.
func (inv *inventory) forget(r Ref) {
	inv.entries = slices.DeleteFunc(inv.entries, func(e entry) bool { return key(e.ref()) == key(r) })
}
