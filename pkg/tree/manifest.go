package tree

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
)

// Manifest is MANIFEST.json: everything of a tree that files on disk cannot
// say. Entries refer to Sources by the hash of their own content, so that equal
// bodies share one list.
type Manifest struct {
	APIVersion string              `json:"apiVersion"`
	Kind       string              `json:"kind"`
	Cluster    string              `json:"cluster"`
	Files      []Entry             `json:"files"`
	Nodes      []ManifestNode      `json:"nodes"`
	Sources    map[string][]string `json:"sources"` // "1-3 fixed:x", "4 spec.a, row:b"
}

// Entry is one path.
type Entry struct {
	Path    string   `json:"path"`
	Kind    Kind     `json:"kind"`
	Mode    string   `json:"mode,omitempty"`
	Owner   string   `json:"owner,omitempty"`
	Group   string   `json:"group,omitempty"`
	Target  string   `json:"target,omitempty"`
	Digest  string   `json:"digest,omitempty"` // of the text with placeholders
	Block   bool     `json:"block,omitempty"`
	Readers []string `json:"readers,omitempty"`
	Secrets []string `json:"secrets,omitempty"`
	From    []string `json:"from"`
	Source  string   `json:"source,omitempty"` // key into Sources
}

// ManifestNode is one host.
type ManifestNode struct {
	Name       string             `json:"name"`
	From       []string           `json:"from"`
	Roles      []string           `json:"roles"`
	Connection ManifestConnection `json:"connection"`
	Swap       string             `json:"swap"`
	SwapFrom   []string           `json:"swapFrom"`
	Users      []ManifestFact     `json:"users,omitempty"`
	Packages   []ManifestFact     `json:"packages,omitempty"`
	Binaries   []ManifestFact     `json:"binaries,omitempty"`
	Units      []ManifestUnit     `json:"units"`
	Entries    []Entry            `json:"entries"`
}

// ManifestConnection is how the operator reaches a node.
type ManifestConnection struct {
	Address string   `json:"address"`
	Port    int      `json:"port"`
	User    string   `json:"user"`
	HostKey string   `json:"hostKey,omitempty"`
	Bastion string   `json:"bastion,omitempty"`
	From    []string `json:"from"`
}

// ManifestFact is a user, a package or a binary.
type ManifestFact struct {
	Name    string   `json:"name"`
	Version string   `json:"version,omitempty"`
	Arch    string   `json:"arch,omitempty"`
	Path    string   `json:"path,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	From    []string `json:"from"`
}

// ManifestUnit is a systemd unit.
type ManifestUnit struct {
	Name    string          `json:"name"`
	Enabled bool            `json:"enabled"`
	Started bool            `json:"started"`
	Gate    string          `json:"gate,omitempty"`
	Probes  []ManifestProbe `json:"probes,omitempty"`
	From    []string        `json:"from"`
}

// ManifestProbe is a Probe; its material stands as placeholders.
type ManifestProbe struct {
	URL    string   `json:"url"`
	Host   string   `json:"host,omitempty"`
	Want   []string `json:"want,omitempty"`
	CA     string   `json:"ca,omitempty"`
	Cert   string   `json:"cert,omitempty"`
	Key    string   `json:"key,omitempty"`
	Serves string   `json:"serves,omitempty"`
	First  bool     `json:"first,omitempty"`
}

func manifestProbes(probes []Probe) []ManifestProbe {
	name := func(r secret.Ref) string {
		if r.IsZero() {
			return ""
		}
		return r.String()
	}
	var out []ManifestProbe
	for _, p := range probes {
		out = append(out, ManifestProbe{p.URL, p.Host, p.Want, name(p.CA), name(p.Cert), name(p.Key), name(p.Serves), p.First})
	}
	return out
}

func (m ManifestProbe) probe() (Probe, error) {
	p := Probe{URL: m.URL, Host: m.Host, Want: m.Want, First: m.First}
	for _, r := range []struct {
		into *secret.Ref
		text string
	}{{&p.CA, m.CA}, {&p.Cert, m.Cert}, {&p.Key, m.Key}, {&p.Serves, m.Serves}} {
		if r.text == "" {
			continue
		}
		var err error
		if *r.into, err = secret.Parse(r.text); err != nil {
			return Probe{}, err
		}
	}
	return p, nil
}

// Manifest describes the tree.
func (t *Tree) Manifest() *Manifest {
	m := &Manifest{APIVersion: "kthwc.dev/v1alpha1", Kind: "Manifest", Cluster: t.Cluster, Sources: map[string][]string{}}
	known := map[*Body][2]string{}
	for _, f := range t.Files {
		m.Files = append(m.Files, m.entry(f, known))
	}
	for _, n := range t.Nodes {
		m.Nodes = append(m.Nodes, m.node(n, known))
	}
	return m
}

func (m *Manifest) node(n *Node, known map[*Body][2]string) ManifestNode {
	c := n.Connection
	out := ManifestNode{Name: n.Name, From: n.From.Sources(), Roles: n.Roles, Swap: n.Swap, SwapFrom: n.SwapFrom.Sources(),
		Connection: ManifestConnection{c.Address, c.Port, c.User, c.HostKey, c.Bastion, c.From.Sources()}}
	for _, u := range n.Users {
		out.Users = append(out.Users, ManifestFact{Name: u.Name, Path: u.Home, From: u.From.Sources()})
	}
	for _, p := range n.Packages {
		out.Packages = append(out.Packages, ManifestFact{Name: p.Name, Reason: p.Reason, From: p.From.Sources()})
	}
	for _, b := range n.Binaries {
		out.Binaries = append(out.Binaries, ManifestFact{Name: b.Name, Version: b.Version, Arch: b.Arch, Path: b.Path, From: b.From.Sources()})
	}
	for _, u := range n.Units {
		out.Units = append(out.Units, ManifestUnit{u.Name, u.Enabled, u.Started, u.Gate, manifestProbes(u.Probes), u.From.Sources()})
	}
	for _, f := range n.Files {
		out.Entries = append(out.Entries, m.entry(f, known))
	}
	return out
}

func (m *Manifest) entry(f *File, known map[*Body][2]string) Entry {
	e := Entry{Path: f.Path, Kind: f.Kind, Owner: f.Owner, Group: f.Group, Target: f.Target, Block: f.Block, Readers: f.Readers, From: origin.Join(f.From, f.Metadata).Sources()}
	if f.Mode != 0 {
		e.Mode = fmt.Sprintf("%04o", f.Mode)
	}
	if f.Body == nil {
		return e
	}
	for _, r := range f.Body.Refs() {
		e.Secrets = append(e.Secrets, r.Versioned())
	}
	keys, ok := known[f.Body]
	if !ok {
		lines := f.Body.sources()
		keys = [2]string{Digest(f.Body.Bytes()), Digest([]byte(strings.Join(lines, "\n")))[:12]}
		known[f.Body], m.Sources[keys[1]] = keys, lines
	}
	e.Digest, e.Source = keys[0], keys[1]
	return e
}

// Digest is the SHA-256 of content in hexadecimal.
func Digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// sources lists the origins of the lines, runs of one origin together.
func (b *Body) sources() []string {
	var out []string
	for i := 0; i < len(b.Lines); {
		j := i + 1
		for j < len(b.Lines) && b.Lines[j].From == b.Lines[i].From {
			j++
		}
		where := fmt.Sprint(i + 1)
		if j > i+1 {
			where = fmt.Sprintf("%d-%d", i+1, j)
		}
		out = append(out, where+" "+b.Lines[i].From.String())
		i = j
	}
	return out
}

// JSON is the manifest's text.
func (m *Manifest) JSON() ([]byte, error) {
	text, err := json.MarshalIndent(m, "", " ")
	return append(text, '\n'), err
}
