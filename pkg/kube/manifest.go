package kube

import (
	"context"
)

// Manifest is a file of YAML documents, each an object or a List of them. Their
// order is the order in which they are applied.
type Manifest struct {
	Name string // for messages: manifests/20-coredns.yaml
	Text []byte
}

// Do says what becomes of an object.
type Do string

// What can become of an object.
const (
	Add     Do = "add"
	Alter   Do = "change"
	Remove  Do = "delete"
	Same    Do = "same"
	Release Do = "release" // no manifest has it any more, but it is not ours to delete: only forgotten
	Unknown Do = "unknown" // Error says why it could not be found out, or not be done
)

// Change is what becomes of one object, or became of it.
type Change struct {
	Do                                          Do
	Manifest, APIVersion, Kind, Namespace, Name string
	What                                        []string // what differs: "spec.replicas 2 → 3"; of a Secret never a value
	Owners                                      []string // other field managers from whom fields are taken: "kubectl-client-side-apply: .spec.replicas"
	Warnings                                    []string // of the API server, such as that a version is deprecated
	Error                                       string
}

// Ref names the object.
func (c Change) Ref() Ref { return Ref{c.APIVersion, c.Kind, c.Namespace, c.Name} }

// Plan compares manifests with the cluster: the server says what each object
// would become (a dry run), and the inventory which objects no manifest has any
// more. It changes nothing. The changes are in the order of the manifests, then
// what is deleted. An object that cannot be compared is Unknown, and only what
// makes all comparison impossible is an error.
func (c *Client) Plan(ctx context.Context, cluster string, manifests []Manifest) ([]Change, error) {
	return nil, fault(Invalid, nil, "manifests cannot be compared yet")
}

// Apply makes the cluster have what the manifests say, by server-side apply
// with field manager [Manager], and deletes what the inventory has and no
// manifest. It ends with the first object that fails; nothing is deleted then.
// Each object that was dealt with is given to done (may be nil), in order.
// The inventory is written before an object is made and after it is deleted:
// ended at any moment, the next Apply completes what this one began.
func (c *Client) Apply(ctx context.Context, cluster string, manifests []Manifest, done func(Change)) error {
	return fault(Invalid, nil, "manifests cannot be applied yet")
}

// Drain evicts the pods of a cordoned node, as kubectl drain does: disruption
// budgets are waited for, what DaemonSets run stays, data in emptyDir is lost,
// and pods that nobody will make again are evicted too, but named. It ends when
// they are gone, or with the context: the error then names the pods that are
// left, and what each waits for. Progress is told each change.
func (c *Client) Drain(ctx context.Context, name string, progress func(string)) error {
	return fault(Invalid, nil, "nodes cannot be drained yet")
}
