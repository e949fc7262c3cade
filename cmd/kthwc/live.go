package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kthwc/kthwc/internal/printable"
	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/diff"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

// diffLive compares what is on the hosts with what shall be, line by line. It
// gives how many changes there are.
func (h *hosts) diffLive(ctx context.Context, format string, expand bool) (int, error) {
	found, err := h.Observe(ctx, false)
	if err != nil {
		return 0, err
	}
	p, err := h.MakePlan(found, apply.Scope{Nodes: h.nodes})
	if err != nil {
		return 0, err
	}
	for _, host := range p.Hosts {
		if host.Unknown != "" {
			return 0, &exitError{exitRefused, host.Node + ": " + host.Unknown, "--on leaves it out"}
		}
	}
	live, shall := &tree.Tree{Cluster: h.tree.Cluster}, &tree.Tree{Cluster: h.tree.Cluster}
	was := h.doc
	for i := range p.Hosts {
		n := h.tree.Node(p.Hosts[i].Node)
		state := found[n.Name].State
		if b := h.s.asApplied(state.Applied()); b != nil {
			was = b.doc
		}
		is, want, err := h.sides(ctx, n, &p.Hosts[i], state)
		if err != nil {
			return 0, err
		}
		live.Nodes, shall.Nodes = append(live.Nodes, is), append(shall.Nodes, want)
	}
	changes := diff.Trees(diff.Side{Tree: live, Doc: was}, diff.Side{Tree: shall, Doc: h.doc})
	changes = slices.DeleteFunc(changes, func(c diff.Change) bool { return c.What == "manifest" })
	return len(changes), h.s.changes(changes, materialChanges{}, h.cluster.Release, format, expand)
}

// sides are a node's paths that differ, as they are and as they shall be. Secrets
// are a digest on both sides, certificates what they say.
func (h *hosts) sides(ctx context.Context, n *tree.Node, p *apply.HostPlan, state *apply.State) (is, want *tree.Node, err error) {
	a, b := *n, *n
	is, want = &a, &b
	is.Files, want.Files = nil, nil
	texts, err := h.texts(ctx, n.Name, p)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range p.Changes {
		f := n.File(c.Path)
		if f == nil && c.Kind == tree.Symlink {
			continue // a program: plan says which
		}
		if e, there := state.Entries[c.Path]; there || c.Do == apply.Delete {
			now := &tree.File{Path: c.Path, Kind: c.Kind, Mode: e.Mode, Owner: e.Owner, Group: e.Group, Target: e.Target}
			if there && e.Kind != "" {
				now.Kind = e.Kind
			}
			if now.Kind == tree.Regular {
				now.Body = h.shown(f, texts[c.Path], c.Secret)
			}
			is.Files = append(is.Files, now)
		}
		if f != nil && f.Kind != tree.Absent {
			shall := *f
			if shall.Body, err = h.wanted(f, c.Secret, texts[c.Path]); err != nil {
				return nil, nil, err
			}
			want.Files = append(want.Files, &shall)
		}
	}
	return is, want, nil
}

// texts are the contents of a host's files that differ.
func (h *hosts) texts(ctx context.Context, node string, p *apply.HostPlan) (map[string]string, error) {
	var q apply.Query
	for _, c := range p.Changes {
		if c.Do != apply.Add && c.Kind == tree.Regular {
			q.Contents = append(q.Contents, c.Path)
		}
	}
	if len(q.Contents) == 0 {
		return nil, nil
	}
	s, err := apply.Observe(ctx, h.Conns[node], q)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", node, err)
	}
	return s.Contents, nil
}

// wanted is a body as it is compared: material is joined where it is public.
func (h *hosts) wanted(f *tree.File, sensitive bool, live string) (*tree.Body, error) {
	if f.Kind != tree.Regular || len(f.Body.Refs()) == 0 && !f.Block {
		return f.Body, nil
	}
	if f.Block {
		content, err := f.Body.Materialise(h.Material)
		return textBody([]byte(apply.WithBlock(live, string(content)))), err
	}
	content, err := f.Body.Materialise(h.Material)
	if err != nil {
		return f.Body, nil //nolint:nilerr // not issued yet: the placeholder says what comes
	}
	return h.shown(f, string(content), sensitive), nil
}

// shown is content as it may be printed.
func (h *hosts) shown(f *tree.File, content string, sensitive bool) *tree.Body {
	secretly := sensitive || f == nil && looksSecret(content) || f != nil && f.Body != nil && slices.ContainsFunc(f.Body.Refs(), secret.Ref.Sensitive)
	switch {
	case secretly:
		return textBody([]byte(fmt.Sprintf("secret: %d bytes, SHA-256 %.16x\n", len(content), sha256.Sum256([]byte(content)))))
	case strings.Contains(content, "-----BEGIN CERTIFICATE-----"):
		return textBody([]byte(certificates([]byte(content))))
	}
	return textBody([]byte(content))
}

// looksSecret errs on the safe side for files that nothing is known of any more.
func looksSecret(content string) bool {
	return strings.Contains(content, "PRIVATE KEY") || strings.Contains(content, "client-key-data") || strings.Contains(content, "secret:")
}

// certificates says what PEM certificates say, one a line.
func certificates(text []byte) string {
	var b strings.Builder
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			fmt.Fprintf(&b, "%s that cannot be read\n", strings.ToLower(block.Type))
			continue
		}
		fmt.Fprintf(&b, "certificate %s, serial %x, until %s, key SHA-256 %.16x\n", c.Subject, c.SerialNumber, c.NotAfter.UTC().Format(time.DateOnly), sha256.Sum256(c.RawSubjectPublicKeyInfo))
	}
	return b.String()
}

func textBody(content []byte) *tree.Body {
	b := &tree.Body{}
	for line := range strings.Lines(string(content)) {
		b.Add(origin.Origin{}, printable.Text(strings.TrimSuffix(line, "\n")))
	}
	return b
}
