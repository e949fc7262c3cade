package pki

import (
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/origin"
)

// Use is what a cluster does with one piece of material.
type Use struct {
	Kind      string    `json:"kind"` // Authority, KeyPair, Key or Certificate
	Name      string    `json:"name"`
	Role      string    `json:"role"`                // the same for every node
	Authority string    `json:"authority,omitempty"` // of a certificate
	Node      string    `json:"node,omitempty"`      // "" for the operator's, and for what all share
	Why       string    `json:"why"`
	Showings  []Showing `json:"showings,omitempty"` // of an authority: those that are judged by it
	Apart     string    `json:"apart,omitempty"`    // why nobody in the cluster shows it or is shown it; "" if somebody is
	Files     []Holder  `json:"files,omitempty"`
	Waits     []Reason  `json:"waits,omitempty"` // why it cannot be issued yet
}

// Showing is one party proving who it is, and another judging it.
type Showing struct {
	Certificate string `json:"certificate"` // or the key pair
	As          string `json:"as"`          // compile.ServerAuth, compile.ClientAuth or TokenSigning
	By          Party  `json:"by"`
	To          Party  `json:"to"`
	Name        string `json:"name,omitempty"`   // that the certificate must have
	Bundle      string `json:"bundle,omitempty"` // authority that it is judged by; "" = the other does not look
	Why         string `json:"why"`
}

// TokenSigning is how key pairs of service accounts are used.
const TokenSigning = "token signing"

// Party is a component on a node, or somebody who is on none: then Node is
// empty.
type Party struct {
	Component string `json:"component"`
	Node      string `json:"node,omitempty"`
}

// String is component@node.
func (p Party) String() string {
	if p.Node == "" {
		return p.Component
	}
	return p.Component + "@" + p.Node
}

// What a file holds.
const (
	HoldsCertificate = "certificate"
	HoldsKey         = "key"
	HoldsBundle      = "bundle"
	HoldsPublicKey   = "public key"
	HoldsKubeconfig  = "kubeconfig"
	HoldsEncryption  = "encryption configuration"
)

// Holder is one file that holds the material. Node is empty for one that is on
// the operator's own machine.
type Holder struct {
	Node    string        `json:"node,omitempty"`
	Path    string        `json:"path"`
	Holds   string        `json:"holds"`
	Readers []Reader      `json:"readers"`
	From    origin.Origin `json:"-"`
}

// Reader is one field by which a component on the file's node finds the file,
// and how it learns of a change.
type Reader struct {
	Component string `json:"component"` // unit without its suffix, or a program that people run
	Field     string `json:"field"`     // "--tls-cert-file", "tlsCertFile", "proxy_ssl_certificate"
	In        string `json:"in,omitempty"`
	Pickup    Pickup `json:"pickup"`
	Reference string `json:"reference"` // where that is seen
}

// Restarts are the components that must be restarted when the material has
// changed, each once.
func (u *Use) Restarts() []Party {
	var out []Party
	for _, f := range u.Files {
		for _, r := range f.Readers {
			if p := (Party{r.Component, f.Node}); r.Pickup == Restart && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// Uses says of every authority, key pair, key and certificate who shows it to
// whom, who judges it by what, where it lies, and who reads it there. It reads
// the model alone: what overlays change in rendered files it cannot know.
func Uses(c *compile.Cluster) []Use {
	s := &survey{c: c, readers: map[spot][]Reader{}, showings: map[string][]Showing{}, known: map[Showing]bool{}, embedded: map[string][]*compile.Kubeconfig{}}
	for _, k := range c.Kubeconfig {
		s.embedded[k.Cert] = append(s.embedded[k.Cert], k)
	}
	for _, n := range c.Nodes {
		s.read(n)
	}
	s.dials()
	var out []Use
	for i := range c.CAs {
		out = append(out, s.authority(&c.CAs[i]))
	}
	for i := range c.KeyPairs {
		out = append(out, s.keyPair(&c.KeyPairs[i]))
	}
	for _, k := range c.Encryption.Keys {
		out = append(out, s.key(k))
	}
	for _, cert := range c.Certs {
		out = append(out, s.certificate(cert))
	}
	return out
}

// spot is a path on a node.
type spot struct{ node, path string }

// survey is the state of one Uses.
type survey struct {
	c        *compile.Cluster
	readers  map[spot][]Reader
	showings map[string][]Showing // by certificate
	all      []Showing
	known    map[Showing]bool
	embedded map[string][]*compile.Kubeconfig // by certificate
}

// read notes every path that the node's components are given.
func (s *survey) read(n *compile.Node) {
	flags := map[string]map[string]string{}
	if n.Controller {
		s.flags(n, flags, controllerPrograms)
		s.fields(n, controllerFields)
	}
	if n.Worker {
		s.flags(n, flags, workerPrograms)
		s.fields(n, workerFields)
	}
}

func (s *survey) flags(n *compile.Node, flags map[string]map[string]string, programs []string) {
	for _, name := range programs {
		component := s.c.Component(name, n)
		flags[name] = map[string]string{}
		for _, f := range component.Flags {
			flags[name][f.Name] = f.Value.V
		}
		for _, f := range component.Flags {
			for _, path := range strings.Split(f.Value.V, ",") {
				if strings.HasPrefix(path, "/") {
					s.add(n, path, name, "--"+f.Name, s.c.Path("unit/"+name, n), flags[name])
				}
			}
		}
	}
}

func (s *survey) fields(n *compile.Node, rows []fieldRow) {
	for _, row := range rows {
		path := s.c.Path(row.logical, n)
		if patched, ok := s.patched(row); ok {
			path = patched
		}
		if path != "" {
			s.add(n, path, row.component, row.field, s.c.Path(row.in, n), nil)
		}
	}
}

// patched is the value that the user's configPatches give a field.
func (s *survey) patched(row fieldRow) (path string, ok bool) {
	for _, p := range s.c.Patches {
		if p.Target != row.target {
			continue
		}
		var v any = p.Value
		for _, key := range strings.Split(row.field, ".") {
			m, _ := v.(map[string]any)
			v = m[key]
		}
		if text, isText := v.(string); isText {
			path, ok = text, true
		}
	}
	return path, ok
}

func (s *survey) add(n *compile.Node, path, component, field, in string, flags map[string]string) {
	at := spot{n.Name.V, path}
	pickup, reference := pickupOf(component, field, flags)
	s.readers[at] = append(s.readers[at], Reader{component, field, in, pickup, reference})
}

// passers pass bytes on: the handshake is between those behind and before them.
var passers = map[string]bool{compile.Balancer: true, "kthwc-api-proxy": true}

// programs are the components that answer under another name than their unit's.
var programs = map[string]string{"etcd-peer": "etcd"}

func party(component, node string) Party {
	if p := programs[component]; p != "" {
		component = p
	}
	return Party{component, node}
}

// dials notes both ends of every connection that has TLS.
func (s *survey) dials() {
	servers := map[spot][]*compile.Listener{}
	for i := range s.c.Listeners {
		l := &s.c.Listeners[i]
		if l.Cert != "" && l.Cert != compile.SelfSigned {
			for _, node := range []string{l.Node, ""} {
				servers[spot{node, l.Component}] = append(servers[spot{node, l.Component}], l)
			}
		}
	}
	for i := range s.c.Dials {
		d := &s.c.Dials[i]
		if passers[d.Component] {
			continue
		}
		for _, l := range servers[spot{d.ToNode, d.To}] {
			s.connection(d, l)
		}
	}
}

func (s *survey) connection(d *compile.Dial, l *compile.Listener) {
	client, server, why := party(d.Component, d.Node), party(l.Component, l.Node), compile.Reason(d.Why)
	s.show(Showing{l.Cert, compile.ServerAuth, server, client, d.Name.V, d.ServerCA, why})
	if d.Cert != "" && l.ClientCA != "" {
		s.show(Showing{d.Cert, compile.ClientAuth, client, server, "", l.ClientCA, why})
	}
}

func (s *survey) show(one Showing) {
	if !s.known[one] {
		s.known[one] = true
		s.showings[one.Certificate] = append(s.showings[one.Certificate], one)
		s.all = append(s.all, one)
	}
}

func (s *survey) authority(ca *compile.CA) Use {
	u := Use{Kind: Authority, Name: ca.Name, Role: ca.Name, Why: compile.Reason(ca.Why)}
	for _, one := range s.all {
		if one.Bundle == ca.Name {
			u.Showings = append(u.Showings, one)
		}
	}
	u.Files = s.files(HoldsBundle, ca.Bundles)
	for _, k := range s.c.Kubeconfig {
		if k.CA == ca.Name {
			u.Files = append(u.Files, s.kubeconfig(k))
		}
	}
	u.Files = append(u.Files, s.files(HoldsKey, ca.Keys)...)
	return u.finished()
}

func (s *survey) keyPair(k *compile.KeyPair) Use {
	u := Use{Kind: KeyPair, Name: k.Name, Role: k.Name, Why: compile.Reason("service-account")}
	u.Files = append(s.files(HoldsPublicKey, k.PublicFiles), s.files(HoldsKey, k.KeyFiles)...)
	u.tokens()
	return u.finished()
}

func (s *survey) key(k compile.Text) Use {
	u := Use{Kind: Key, Name: "encryption/" + k.V, Role: "encryption", Why: "Encrypts what API servers write to etcd."}
	var files []compile.Destination
	for _, m := range s.c.Etcd.Members {
		files = append(files, compile.Destination{Node: m.Name.V, Path: s.c.Path("encryption-config", m.Node), From: k.From})
	}
	u.Files = s.files(HoldsEncryption, files)
	return u.finished()
}

func (s *survey) certificate(cert *compile.Cert) Use {
	u := Use{
		Kind: Certificate, Name: cert.Name, Role: cert.Role, Authority: cert.CA, Node: cert.Node,
		Why: compile.Reason("cert-" + cert.Role), Showings: slices.Clone(s.showings[cert.Name]), Waits: unknown(cert),
	}
	u.Files = append(s.files(HoldsCertificate, cert.CertFiles), s.files(HoldsKey, cert.KeyFiles)...)
	for _, k := range s.embedded[cert.Name] {
		u.Files = append(u.Files, s.kubeconfig(k))
	}
	u.tokens()
	return u.finished()
}

func (s *survey) files(holds string, at []compile.Destination) []Holder {
	out := make([]Holder, 0, len(at))
	for _, d := range at {
		out = append(out, Holder{d.Node, d.Path, holds, s.readers[spot{d.Node, d.Path}], d.From})
	}
	return out
}

// kubeconfig is the file that embeds material; the operator's is kubectl's.
func (s *survey) kubeconfig(k *compile.Kubeconfig) Holder {
	readers := s.readers[spot{k.Node, k.Path}]
	if k.Node == "" {
		pickup, reference := pickupOf("kubectl", "--kubeconfig", nil)
		readers = []Reader{{"kubectl", "--kubeconfig", "", pickup, reference}}
	}
	return Holder{k.Node, k.Path, HoldsKubeconfig, readers, k.From}
}

// What signs tokens of service accounts, and what judges them.
var (
	signFields   = []string{"--service-account-signing-key-file", "--service-account-private-key-file"}
	verifyFields = []string{"--service-account-key-file"}
)

// tokens notes who signs tokens with the key, and who judges them.
func (u *Use) tokens() {
	for _, by := range u.readBy(signFields) {
		for _, to := range u.readBy(verifyFields) {
			u.Showings = append(u.Showings, Showing{Certificate: u.Name, As: TokenSigning, By: by, To: to, Why: "Pods prove who they are with tokens that this key has signed."})
		}
	}
}

func (u *Use) readBy(fields []string) []Party {
	var out []Party
	for _, f := range u.Files {
		for _, r := range f.Readers {
			if p := (Party{r.Component, f.Node}); slices.Contains(fields, r.Field) && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// apart says why nobody in the cluster shows a piece of material, or is shown it.
var apart = map[string]string{
	"front-proxy":        "Extension API servers judge by it, once there are any: API servers publish it for them in the ConfigMap kube-system/extension-apiserver-authentication.",
	"front-proxy-client": "API servers show it to extension API servers, once there are any.",
	"super-admin":        "You show it once, to bind the operators' group; it is in no kubeconfig and on no host.",
	"etcd-peer":          "A single member has nobody to show it to; a second one would have.",
	"encryption":         "It is shown to nobody: API servers encrypt and decrypt with it, and etcd never sees it.",
}

func (u Use) finished() Use {
	if len(u.Showings) == 0 {
		u.Apart = apart[u.Role]
	}
	return u
}
