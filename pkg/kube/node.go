package kube

import (
	"context"
	"time"
)

// Node is a node as the cluster sees it.
type Node struct {
	Name          string
	Ready         bool
	Reason        string // why it is not ready, or empty
	Unschedulable bool
	CordonedBy    string   // who of kthwc cordoned it, or empty
	Kubelet       string   // its version, v1.37.2
	Runtime       string   // containerd://2.2.1
	Kernel, OS    string   // 6.1.0, Debian GNU/Linux 12
	Architecture  string   // amd64
	InternalIPs   []string // in the node's order
	PodCIDRs      []string
	Labels        map[string]string
}

// CordonedBy is the annotation that says which nodes kthwc cordoned, and whose
// words its value has.
const CordonedBy = "kthwc.dev/cordoned-by"

func nodeRef(name string) Ref { return Ref{APIVersion: "v1", Kind: "Node", Name: name} }

// Nodes lists all nodes, by name.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	objects, err := c.List(ctx, "v1", "Node", "", Selection{})
	if err != nil {
		return nil, err
	}
	nodes := make([]Node, 0, len(objects))
	for _, o := range objects {
		nodes = append(nodes, nodeOf(o))
	}
	return nodes, nil
}

func nodeOf(o Object) Node {
	n := Node{
		Name:          o.Str("metadata", "name"),
		Unschedulable: o.Bool("spec", "unschedulable"),
		CordonedBy:    o.Str("metadata", "annotations", CordonedBy),
		Kubelet:       o.Str("status", "nodeInfo", "kubeletVersion"),
		Runtime:       o.Str("status", "nodeInfo", "containerRuntimeVersion"),
		Kernel:        o.Str("status", "nodeInfo", "kernelVersion"),
		OS:            o.Str("status", "nodeInfo", "osImage"),
		Architecture:  o.Str("status", "nodeInfo", "architecture"),
		PodCIDRs:      o.Strs("spec", "podCIDRs"),
		Labels:        o.Map("metadata", "labels"),
	}
	n.Ready, n.Reason = readyOf(o)
	for _, a := range o.List("status", "addresses") {
		if a.Str("type") == "InternalIP" {
			n.InternalIPs = append(n.InternalIPs, a.Str("address"))
		}
	}
	return n
}

// readyOf is whether a node is ready, and why not.
func readyOf(o Object) (bool, string) {
	status, reason, message := o.Condition("Ready")
	switch {
	case status == "True":
		return true, ""
	case status == "":
		return false, "its kubelet has not reported yet"
	case message == "":
		return false, printable(reason)
	}
	return false, printable(reason + ": " + message)
}

// NodeReady is whether a node is ready, and why not. A node that has not
// registered is one that is not ready.
func (c *Client) NodeReady(ctx context.Context, name string) (bool, string, error) {
	o, err := c.Get(ctx, nodeRef(name))
	if KindOf(err) == NotFound {
		return false, "it has not registered with the API server", nil
	}
	if err != nil {
		return false, "", err
	}
	ready, why := readyOf(o)
	return ready, why, nil
}

// Cordon keeps new pods from a node, and notes on it that kthwc did so; by is
// for people to read. Already is whether somebody else had cordoned it before:
// then nothing is changed, and Uncordon will leave it so. A node that kthwc
// cordoned before stays kthwc's.
func (c *Client) Cordon(ctx context.Context, name, by string) (already bool, err error) {
	err = c.change(ctx, nodeRef(name), func(o Object) Object {
		n := nodeOf(o)
		already = n.Unschedulable && n.CordonedBy == ""
		if already || n.Unschedulable {
			return nil
		}
		return Object{"metadata": annotation(CordonedBy, by), "spec": map[string]any{"unschedulable": true}}
	})
	return already, err
}

// Uncordon lets pods come to a node again if kthwc cordoned it; did is whether.
// A note on a node that somebody has uncordoned since is removed.
func (c *Client) Uncordon(ctx context.Context, name string) (did bool, err error) {
	err = c.change(ctx, nodeRef(name), func(o Object) Object {
		n := nodeOf(o)
		did = n.Unschedulable && n.CordonedBy != ""
		if n.CordonedBy == "" {
			return nil
		}
		return Object{"metadata": annotation(CordonedBy, nil), "spec": map[string]any{"unschedulable": nil}}
	})
	return did, err
}

func annotation(key string, value any) map[string]any {
	return map[string]any{"annotations": map[string]any{key: value}}
}

// change reads an object and merges a patch made of it, again where somebody
// else was faster. A nil patch changes nothing.
func (c *Client) change(ctx context.Context, r Ref, make func(Object) Object) error {
	return Wait(ctx, "the change of "+r.String(), 100*time.Millisecond, nil, func(ctx context.Context) (bool, string, error) {
		o, err := c.Get(ctx, r)
		if err != nil {
			return false, "", final(err)
		}
		patch := make(o)
		if patch == nil {
			return true, "", nil
		}
		patch["metadata"].(map[string]any)["resourceVersion"] = o.Str("metadata", "resourceVersion")
		_, err = c.Patch(ctx, r, patch)
		if KindOf(err) == Conflict {
			return false, "somebody else changes it too", nil
		}
		return true, "", final(err)
	})
}

// DeleteNode removes a node from the cluster's list. One that is not there is
// no error.
func (c *Client) DeleteNode(ctx context.Context, name string) error {
	return c.Delete(ctx, nodeRef(name))
}
