package pki_test

import (
	"crypto/x509"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kthwc/kthwc/internal/raceless"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/schema"
)

// A shape is what varies of a cluster.yaml.
type shape struct {
	profile, keyType     string
	leafDays, caDays     int
	names                []string
	controllers, workers int
	dual                 bool
	api, first           int // last numbers of addresses: the API's, and the first worker's
	domain               string
}

func shapes() *rapid.Generator[shape] {
	return rapid.Custom(func(t *rapid.T) shape {
		s := shape{
			profile:  rapid.SampledFrom([]string{"hardened", "tutorial"}).Draw(t, "profile"),
			keyType:  rapid.SampledFrom(append(slices.Repeat([]string{"ecdsa-p256", "ecdsa-p256", "ecdsa-p384"}, 10), "rsa-2048")).Draw(t, "key type"),
			leafDays: rapid.IntRange(30, 700).Draw(t, "leaf days"), caDays: rapid.IntRange(800, 5000).Draw(t, "ca days"),
			names:       rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"api.example.net", "a.example.net", "192.0.2.7"}), 0, 3, rapid.ID).Draw(t, "names"),
			controllers: rapid.SampledFrom([]int{1, 3}).Draw(t, "controllers"), workers: rapid.IntRange(1, 4).Draw(t, "workers"),
			dual: rapid.Bool().Draw(t, "dual"), api: 100, first: 20, domain: "cluster.local",
		}
		if s.keyType == "rsa-2048" { // slow to make
			s.controllers, s.workers = 1, 1
		}
		return s
	})
}

// source is the cluster.yaml of a shape.
func (s shape) source() string {
	pair := func(four, six string) string {
		if s.dual {
			return fmt.Sprintf("[%s, %q]", four, six)
		}
		return four
	}
	mask := ""
	if s.dual {
		mask = "\n    podCIDRMaskSize: [24, 64]"
	}
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: kthwc.dev/v1alpha1
kind: Cluster
metadata: {name: random}
spec:
  profile: %s
  pki: {keyType: %s, leafLifetime: %dd, caLifetime: %dd}
  network:
    nodeCIDR: %s
    podCIDR: %s%s
    serviceCIDR: %s
    clusterDomain: %s
  api: {endpoint: external, address: 10.240.0.%d, extraSANs: [%s]}
  provider: {static: {}}
  access: {operatorCIDRs: [10.240.0.0/24]}
  nodes:
`, s.profile, s.keyType, s.leafDays, s.caDays, pair("10.240.0.0/24", "fd00:10:240::/64"), pair("10.200.0.0/16", "fd00:10:200::/56"), mask,
		pair("10.32.0.0/24", "fd00:10:32::/112"), s.domain, s.api, quoted(s.names))
	for role, count := range map[string]int{"controller": s.controllers, "worker": s.workers} {
		for i := range count {
			number := 10 + i
			if role == "worker" {
				number = 20 + i
			}
			if role == "worker" && i == 0 {
				number = s.first
			}
			fmt.Fprintf(&b, "    - {name: %s-%d, roles: [%s], address: %s}\n", role, i, role, pair(fmt.Sprintf("10.240.0.%d", number), fmt.Sprintf("fd00:10:240::%d", number)))
		}
	}
	return b.String()
}

func quoted(names []string) string {
	var out []string
	for _, n := range names {
		out = append(out, fmt.Sprintf("%q", n))
	}
	return strings.Join(out, ", ")
}

// aChange is one field that changes, and which certificates it must touch:
// those whose names match, by profile.
type aChange struct {
	name               string
	of                 func(*shape)
	do                 pki.Verb
	hardened, tutorial string
}

var oneField = []aChange{
	{"nothing", func(*shape) {}, pki.DoReissue, `^$`, `^$`},
	{"a name more", func(s *shape) { s.names = append(slices.Clone(s.names), "more.example.net") }, pki.DoReissue, `^apiserver-serving@`, `^kubernetes$`},
	{"the API's address", func(s *shape) { s.api = 101 }, pki.DoReissue, `^apiserver-serving@`, `^kubernetes$`},
	{"the domain", func(s *shape) { s.domain = "k8s.example.net" }, pki.DoReissue, `^apiserver-serving@`, `^kubernetes$`},
	{"a worker's address", func(s *shape) { s.first = 77 }, pki.DoReissue, `^kubelet-serving@worker-0$`, `^kubelet@worker-0$`},
	{"the lifetime", func(s *shape) { s.leafDays += 7 }, pki.DoReissue, `@`, `.`},
	{"the key type", func(s *shape) {
		s.keyType = map[bool]string{true: "ecdsa-p384", false: "ecdsa-p256"}[s.keyType == "ecdsa-p256"]
	}, pki.DoReissue, `.`, `^(admin|kube)`}, // another key for tokens would make every token worthless: that takes a rotation
	{"the authorities' lifetime", func(s *shape) { s.caDays += 7 }, pki.DoReissue, `^$`, `^$`},
}

// Whatever the cluster, what was issued for it is what is wanted: nothing is to
// do, every leaf is good for its usages; and one changed field touches exactly
// the certificates that have it, after which nothing is to do again.
func TestPlansNameWhatAChangeTouches(t *testing.T) {
	raceless.Only(t)
	root := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		s, change := shapes().Draw(t, "shape"), rapid.SampledFrom(oneField).Draw(t, "change")
		dir, err := os.MkdirTemp(root, "store")
		check(t, err)
		c := compiledFrom(t, s)
		store := issueIn(t, dir, c)
		verifies(t, store, c)
		change.of(&s)
		next := compiledFrom(t, s)
		inv, err := store.Inventory()
		check(t, err)
		touched := map[string]bool{}
		for _, a := range pki.MakePlan(next, inv, pki.Options{Now: today}).Actions {
			if a.Do != pki.DoKeep {
				touched[a.Name] = a.Kind == pki.Certificate && a.Do == change.do
			}
		}
		pattern := regexp.MustCompile(map[string]string{"hardened": change.hardened, "tutorial": change.tutorial}[s.profile])
		for _, cert := range next.Certs {
			if touched[cert.Name] != pattern.MatchString(cert.Name) {
				t.Fatalf("%s: %s is touched: %v", change.name, cert.Name, touched[cert.Name])
			}
			delete(touched, cert.Name)
		}
		if len(touched) > 0 {
			t.Fatalf("%s touches %v", change.name, touched)
		}
		verifies(t, issueIn(t, dir, next), next)
	})
}

func check(t *rapid.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func compiledFrom(t *rapid.T, s shape) *compile.Cluster {
	t.Helper()
	doc, faults := schema.Load("cluster.yaml", []byte(s.source()))
	check(t, faults.Err())
	c, faults := compile.Compile(doc, compile.Facts{})
	check(t, faults.Err())
	return c
}

// issueIn issues, and sees that a plan then has nothing to do.
func issueIn(t *rapid.T, dir string, c *compile.Cluster) *pki.Store {
	t.Helper()
	s, err := pki.Open(dir, c.Name.V)
	check(t, err)
	inv, err := s.Inventory()
	check(t, err)
	check(t, pki.Issue(s, c, pki.MakePlan(c, inv, pki.Options{Now: today}), pki.Options{Now: today}, nil))
	inv, err = s.Inventory()
	check(t, err)
	if plan := pki.MakePlan(c, inv, pki.Options{Now: today}); plan.Changes() {
		t.Fatalf("issued, and still to do: %+v", changes(plan))
	}
	return s
}

// verifies asks Go for the chain of every leaf, for each usage and name.
func verifies(t *rapid.T, s *pki.Store, c *compile.Cluster) {
	t.Helper()
	read := func(ref secret.Ref) []byte {
		text, err := s.Material(ref)
		check(t, err)
		return text
	}
	pools := map[string]*x509.CertPool{}
	for _, ca := range c.CAs {
		pools[ca.Name] = x509.NewCertPool()
		pools[ca.Name].AppendCertsFromPEM(read(secret.Bundle(ca.Name)))
	}
	usages := map[string]x509.ExtKeyUsage{compile.ServerAuth: x509.ExtKeyUsageServerAuth, compile.ClientAuth: x509.ExtKeyUsageClientAuth}
	for _, want := range c.Certs {
		leaf := parsed(t, read(secret.Cert(want.Name)))
		for name, usage := range usages {
			for _, at := range []time.Time{leaf.NotBefore, leaf.NotAfter} {
				_, err := leaf.Verify(x509.VerifyOptions{Roots: pools[want.CA], CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
				if (err == nil) != slices.Contains(want.Usages, name) {
					t.Fatalf("%s for %s: %v", want.Name, name, err)
				}
			}
		}
		for _, san := range want.SANs {
			check(t, leaf.VerifyHostname(san.Value.V))
		}
	}
}
