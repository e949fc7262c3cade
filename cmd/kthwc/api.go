package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/kube"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

// apiClient is the cluster's API, reached through the hosts themselves.
type apiClient struct {
	h       *hosts
	client  *kube.Client
	through string // the controller
}

// identities are who speaks to the API: the operator; and who bypasses its
// authorization, where the operators' binding is not there yet.
const (
	operatorCert   = "admin"
	superAdminCert = "super-admin"
)

// api connects to the first API server that is ready.
func (h *hosts) api(ctx context.Context, conns map[string]apply.Conn) (*apiClient, error) {
	var errs []error
	for _, n := range h.tree.Nodes {
		p, ok := apiProbe(n)
		if !ok || conns[n.Name] == nil {
			continue
		}
		c, err := h.clientOn(conns[n.Name], p, operatorCert)
		if err == nil {
			err = c.Ready(ctx)
		}
		if err == nil {
			return &apiClient{h, c, n.Name}, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", n.Name, err))
	}
	if len(errs) == 0 {
		errs = append(errs, errors.New("no controller is connected"))
	}
	return nil, errors.Join(errs...)
}

func apiProbe(n *tree.Node) (tree.Probe, bool) {
	for _, u := range n.Units {
		if u.Gate == "apiserver" && len(u.Probes) > 0 {
			return u.Probes[0], true
		}
	}
	return tree.Probe{}, false
}

// clientOn speaks to the API server of a host, from that host.
func (h *hosts) clientOn(c apply.Conn, p tree.Probe, identity string) (*kube.Client, error) {
	a := kube.Access{Server: p.URL[:len(p.URL)-len("/readyz")], Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		return c.Forward(ctx, network, address)
	}}
	for _, piece := range []struct {
		into *[]byte
		ref  secret.Ref
	}{{&a.CA, p.CA}, {&a.Cert, secret.Cert(identity)}, {&a.Key, secret.Key(identity)}} {
		var err error
		if *piece.into, err = h.Material(piece.ref); err != nil {
			return nil, fmt.Errorf("%s: %w", piece.ref, err)
		}
	}
	return kube.Connect(a)
}

func (h *hosts) manifests() []kube.Manifest {
	texts := apply.Manifests(h.tree)
	var out []kube.Manifest
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		out = append(out, kube.Manifest{Name: "manifests/" + name, Text: texts[name]})
	}
	return out
}

// Manifests applies them. Before the operators' binding is there, the first
// manifest, which has it, is applied by who needs none.
func (a *apiClient) Manifests(ctx context.Context, done func(apply.ManifestChange)) error {
	all := a.h.manifests()
	told := func(c kube.Change) { done(changeOf(c)) }
	err := a.client.Apply(ctx, a.h.tree.Cluster, all, told)
	if err == nil {
		return a.giveBack(ctx)
	}
	if kube.KindOf(err) != kube.Forbidden || a.h.cluster.Profile.V != schema.Hardened {
		return err
	}
	p, _ := apiProbe(a.h.tree.Node(a.through))
	super, err := a.h.clientOn(a.h.Conns[a.through], p, superAdminCert)
	if err != nil {
		return fmt.Errorf("the operators have no binding yet: %w", err)
	}
	return super.Apply(ctx, a.h.tree.Cluster, all, told)
}

func changeOf(c kube.Change) apply.ManifestChange {
	return apply.ManifestChange{Do: string(c.Do), Manifest: c.Manifest, Kind: c.Kind, Namespace: c.Namespace, Name: c.Name, What: c.What}
}

// planned is what would become of the objects of the API; nothing is known where
// it does not answer.
func (h *hosts) planned(ctx context.Context, p *apply.Plan) ([]apply.ManifestChange, error) {
	a, err := h.api(ctx, h.Conns)
	if err != nil {
		return nil, err
	}
	nodes, err := a.client.Nodes(ctx)
	if err != nil && kube.KindOf(err) != kube.Forbidden {
		return nil, err
	}
	out := h.leftovers(nodes, p)
	changes, err := a.client.Plan(ctx, h.tree.Cluster, h.manifests())
	if kube.KindOf(err) == kube.Forbidden {
		probe, _ := apiProbe(h.tree.Node(a.through))
		super, err2 := h.clientOn(h.Conns[a.through], probe, superAdminCert)
		if err2 != nil {
			return nil, errors.Join(err, err2)
		}
		changes, err = super.Plan(ctx, h.tree.Cluster, h.manifests())
	}
	for _, c := range changes {
		if c.Do != kube.Same {
			out = append(out, changeOf(c))
		}
	}
	return out, err
}

// leftovers are nodes that an interrupted apply has left cordoned, to be given
// back; and, as warnings, nodes that the cluster has and cluster.yaml has not.
func (h *hosts) leftovers(nodes []kube.Node, p *apply.Plan) []apply.ManifestChange {
	var out []apply.ManifestChange
	for _, n := range nodes {
		if h.tree.Node(n.Name) == nil {
			p.Warnings = append(p.Warnings, fmt.Sprintf("the cluster has the node %s, and cluster.yaml has not: drain it, kubectl delete node %[1]s, and reset its host while cluster.yaml still has it", n.Name))
		}
		if n.CordonedBy != "" {
			out = append(out, apply.ManifestChange{Do: apply.Modify, Kind: "Node", Name: n.Name, What: []string{"uncordon: an interrupted apply has left it cordoned"}})
		}
	}
	return out
}

// giveBack uncordons what earlier runs have left.
func (a *apiClient) giveBack(ctx context.Context) error {
	nodes, err := a.client.Nodes(ctx)
	for _, n := range nodes {
		if n.CordonedBy != "" && err == nil {
			err = a.Uncordon(ctx, n.Name)
		}
	}
	return err
}

func (a *apiClient) NodeReady(ctx context.Context, node string) (bool, string, error) {
	return a.client.NodeReady(ctx, node)
}

func (a *apiClient) Cordon(ctx context.Context, node string) error {
	_, err := a.client.Cordon(ctx, node, "kthwc apply")
	return err
}

func (a *apiClient) Drain(ctx context.Context, node string, progress func(string)) error {
	return a.client.Drain(ctx, node, progress)
}

func (a *apiClient) Uncordon(ctx context.Context, node string) error {
	_, err := a.client.Uncordon(ctx, node)
	return err
}
