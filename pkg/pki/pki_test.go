package pki_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/inventory"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/schema"
)

// today is some day; tests choose their own clock.
var today = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func model(t testing.TB, source string) *compile.Cluster {
	t.Helper()
	doc, faults := schema.Load("cluster.yaml", []byte(source))
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	c, faults := compile.Compile(doc, compile.Facts{CloudAddresses: map[string]string{
		"address/api": "203.0.113.10", "instance/worker-0": "203.0.113.20", "instance/worker-1": "203.0.113.21", "instance/worker-2": "203.0.113.22",
	}})
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	return c
}

func example(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// issued makes everything that the cluster wants.
func issued(t testing.TB, dir string, c *compile.Cluster, now time.Time) *pki.Store {
	t.Helper()
	s := open(t, dir, c)
	plan := pki.MakePlan(c, facts(t, s), pki.Options{Now: now})
	if err := pki.Issue(s, c, plan, pki.Options{Now: now}, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t testing.TB, dir string, c *compile.Cluster) *pki.Store {
	t.Helper()
	s, err := pki.Open(dir, c.Name.V)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func facts(t testing.TB, s *pki.Store) *inventory.Inventory {
	t.Helper()
	inv, err := s.Inventory()
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func material(t testing.TB, s *pki.Store, ref secret.Ref) []byte {
	t.Helper()
	text, err := s.Material(ref)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var clusters = []string{
	"examples/cluster.yaml", "examples/lab.yaml", "examples/kthw-1.21.yaml", "examples/kthw-1.32.yaml",
	"golden/dual-stack/cluster.yaml", "golden/single-node/cluster.yaml",
}

// Every client of the model shakes hands with every server that it dials, as
// Go's TLS does it, with the files that the hosts have.
func TestEveryHandshake(t *testing.T) {
	for _, name := range clusters {
		t.Run(name, func(t *testing.T) {
			c := model(t, example(t, name))
			w := &world{T: t, c: c, s: issued(t, t.TempDir()+"/store", c, time.Now())}
			count := 0
			for _, d := range c.Dials {
				for _, l := range w.servers(d) {
					if l.Cert == "" || l.Cert == compile.SelfSigned || d.ServerCA == "" {
						continue
					}
					if err := w.shake(l, d.Cert, d.ServerCA, d.Name.V); err != nil {
						t.Errorf("%s on %s dials %s on %s: %v", d.Component, d.Node, l.Component, l.Node, err)
					}
					count++
				}
			}
			if count < 5 {
				t.Errorf("only %d handshakes", count)
			}
		})
	}
}

// What must not succeed does not: another authority's client, a certificate
// for the other usage, another name, a server of another authority.
func TestHandshakesThatMustFail(t *testing.T) {
	c := model(t, example(t, "examples/lab.yaml"))
	w := &world{T: t, c: c, s: issued(t, t.TempDir()+"/store", c, time.Now())}
	for _, l := range c.Listeners {
		server := w.cert(l.Cert)
		if server == nil || l.ClientCA == "" {
			continue
		}
		name := server.SANs[0].Value.V
		for _, client := range c.Certs {
			want := client.CA == l.ClientCA && slices.Contains(client.Usages, compile.ClientAuth)
			err := w.shake(&l, client.Name, server.CA, name)
			if (err == nil) != want {
				t.Errorf("%s with %s: %v", l.Component, client.Name, err)
			}
		}
		good := w.clientOf(l.ClientCA)
		if err := w.shake(&l, good, server.CA, "other.example.net"); err == nil {
			t.Errorf("%s is taken for other.example.net", l.Component)
		}
		for _, ca := range c.CAs {
			if err := w.shake(&l, good, ca.Name, name); ca.Name != server.CA && err == nil {
				t.Errorf("%s is trusted through the authority %s", l.Component, ca.Name)
			}
		}
	}
}

// world is a cluster and what was issued for it.
type world struct {
	*testing.T
	c *compile.Cluster
	s *pki.Store
}

func (w *world) cert(name string) *compile.Cert {
	for _, c := range w.c.Certs {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func (w *world) clientOf(ca string) string {
	for _, c := range w.c.Certs {
		if c.CA == ca && slices.Contains(c.Usages, compile.ClientAuth) {
			return c.Name
		}
	}
	w.Fatalf("no client of %s", ca)
	return ""
}

func (w *world) servers(d compile.Dial) []*compile.Listener {
	var out []*compile.Listener
	for i := range w.c.Listeners {
		l := &w.c.Listeners[i]
		if l.Component == d.To && (d.ToNode == "" || l.Node == d.ToNode) {
			out = append(out, l)
		}
	}
	return out
}

func (w *world) pair(name string) tls.Certificate {
	w.Helper()
	pair, err := tls.X509KeyPair(material(w, w.s, secret.Cert(name)), material(w, w.s, secret.Key(name)))
	if err != nil {
		w.Fatal(err)
	}
	return pair
}

func (w *world) pool(ca string) *x509.CertPool {
	w.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(material(w, w.s, secret.Bundle(ca))) {
		w.Fatalf("the bundle of %s has no certificate", ca)
	}
	return pool
}

// shake is one TLS handshake in memory, and one byte so that both sides have
// finished it.
func (w *world) shake(l *compile.Listener, client, serverCA, name string) error {
	return w.shakeWith(w, l, client, serverCA, name)
}

// shakeWith is a handshake with a server that has the material of another
// world: one that is at another stage of a rotation.
func (w *world) shakeWith(other *world, l *compile.Listener, client, serverCA, name string) error {
	serverSide := &tls.Config{Certificates: []tls.Certificate{other.pair(l.Cert)}}
	if l.ClientCA != "" {
		serverSide.ClientCAs, serverSide.ClientAuth = other.pool(l.ClientCA), tls.VerifyClientCertIfGiven
	}
	clientSide := &tls.Config{RootCAs: w.pool(serverCA), ServerName: name}
	if name == "" {
		clientSide.ServerName = w.cert(l.Cert).SANs[0].Value.V
	}
	if client != "" {
		clientSide.Certificates = []tls.Certificate{w.pair(client)}
		clientSide.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &clientSide.Certificates[0], nil }
	}
	a, b := net.Pipe()
	server, dialer := tls.Server(a, serverSide), tls.Client(b, clientSide)
	defer a.Close()
	defer b.Close()
	deadline := time.Now().Add(10 * time.Second)
	if err := a.SetDeadline(deadline); err != nil {
		return err
	}
	if err := b.SetDeadline(deadline); err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() {
		_, err := server.Write([]byte{1})
		served <- err
		a.Close()
	}()
	_, err := dialer.Read(make([]byte, 1))
	b.Close()
	if serveErr := <-served; serveErr != nil {
		return serveErr
	}
	return err
}

// What was issued is kept: a second plan has nothing to do, and nothing is
// issued again without a reason.
func TestNothingIsIssuedTwice(t *testing.T) {
	for _, name := range clusters {
		c := model(t, example(t, name))
		dir := t.TempDir() + "/store"
		before := facts(t, issued(t, dir, c, today))
		plan := pki.MakePlan(c, before, pki.Options{Now: today.Add(24 * time.Hour)})
		if plan.Changes() {
			t.Errorf("%s: %+v", name, changes(plan))
		}
		s := open(t, dir, c)
		if err := pki.Issue(s, c, plan, pki.Options{Now: today}, nil); err != nil || s.Generation() != 1 {
			t.Errorf("%s: a plan with nothing to do made generation %d: %v", name, s.Generation(), err)
		}
		text, err := before.YAML()
		if err != nil {
			t.Fatal(err)
		}
		read, err := inventory.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if plan := pki.MakePlan(c, read, pki.Options{Now: today}); plan.Changes() {
			t.Errorf("%s, from its file: %+v", name, changes(plan))
		}
	}
}

func changes(p *pki.Plan) []pki.Action {
	return slices.DeleteFunc(slices.Clone(p.Actions), func(a pki.Action) bool { return a.Do == pki.DoKeep })
}

// A change of cluster.yaml reissues what it touches, with the reason, and the
// old material stays in its generation.
func TestReasons(t *testing.T) {
	lab := example(t, "examples/lab.yaml")
	for _, tc := range []struct {
		name, old, new    string
		later             time.Duration
		do                pki.Verb
		certificate, text string
		count             int
	}{
		{"a name more", "    address: 10.240.0.100\n", "    address: 10.240.0.100\n    extraSANs: [api.example.net]\n", 0, pki.DoReissue, "apiserver-serving@controller-0", "SAN +api.example.net", 3},
		{"another key type", "  provider:", "  pki: {keyType: rsa-2048}\n  provider:", 0, pki.DoReissue, "kubelet-client@worker-0", "key type ecdsa-p256 → rsa-2048", 41},
		{"a shorter life", "  provider:", "  pki: {leafLifetime: 90d}\n  provider:", 0, pki.DoReissue, "etcd-peer@controller-1", "lifetime 365 d → 90 d", 39},
		{"another address", "10.240.0.21", "10.240.0.31", 0, pki.DoReissue, "kubelet-serving@worker-1", "SAN -10.240.0.21", 1},
		{"time", "", "", 340 * 24 * time.Hour, pki.DoRenew, "kubelet-client@worker-2", "expires in 24 d, renewal window 30 d", 41},
		{"a short life's last third", "", "", 5 * 24 * time.Hour, pki.DoRenew, "admin", "expires in 47 h, renewal window 2 d", 2},
		{"too late", "", "", 400 * 24 * time.Hour, pki.DoRenew, "kubelet-client@worker-2", "expired 35 d ago", 41},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir() + "/store"
			before := facts(t, issued(t, dir, model(t, lab), today))
			c := model(t, strings.Replace(lab, tc.old, tc.new, 1))
			plan := pki.MakePlan(c, before, pki.Options{Now: today.Add(tc.later)})
			at := slices.IndexFunc(plan.Actions, func(a pki.Action) bool { return a.Name == tc.certificate })
			if a := plan.Actions[at]; a.Do != tc.do || !slices.ContainsFunc(a.Reasons, func(r pki.Reason) bool { return r.Text == tc.text }) {
				t.Errorf("%+v", a)
			}
			if n := len(slices.DeleteFunc(changes(plan), func(a pki.Action) bool { return a.Do != tc.do })); n != tc.count {
				t.Errorf("%d are to %s, want %d", n, tc.do, tc.count)
			}
		})
	}
}

// A leaf does not outlive its authority: what is renewed near the authority's
// end is shorter, and is not issued again and again for that.
func TestLeavesNearTheEndOfTheirAuthority(t *testing.T) {
	source := strings.Replace(example(t, "golden/single-node/cluster.yaml"), "spec:\n", "spec:\n  pki: {caLifetime: 400d}\n", 1)
	c := model(t, source)
	dir := t.TempDir() + "/store"
	for _, days := range []int{0, 340, 341, 385, 386, 398} {
		now := today.Add(time.Duration(days) * 24 * time.Hour)
		s := issued(t, dir, c, now)
		plan := pki.MakePlan(c, facts(t, s), pki.Options{Now: now.Add(time.Hour)})
		if plan.Changes() {
			t.Errorf("day %d: issued, and an hour later again: %+v", days, changes(plan)[0])
		}
	}
}

// Old material is found in its generation after it was issued again.
func TestGenerationsAreKept(t *testing.T) {
	c := model(t, example(t, "examples/lab.yaml"))
	dir := t.TempDir() + "/store"
	first := material(t, issued(t, dir, c, today), secret.Key("admin"))
	file, err := os.ReadFile(dir + "/000001")
	if err != nil {
		t.Fatal(err)
	}
	s := issued(t, dir, c, today.Add(6*24*time.Hour))
	if s.Generation() != 2 || bytes.Equal(first, material(t, s, secret.Key("admin"))) {
		t.Errorf("generation %d", s.Generation())
	}
	again, err := os.ReadFile(dir + "/000001")
	if err != nil || !bytes.Equal(file, again) {
		t.Errorf("the first generation was changed: %v", err)
	}
}

// A store that was changed, cut off, moved or opened up is named and not used.
func TestBrokenStores(t *testing.T) {
	c := model(t, example(t, "golden/single-node/cluster.yaml"))
	whole := t.TempDir() + "/store"
	issued(t, whole, c, today)
	issued(t, whole, c, today.Add(400*24*time.Hour))
	first, _ := os.ReadFile(whole + "/000001")
	second, _ := os.ReadFile(whole + "/000002")
	other := t.TempDir() + "/store"
	issued(t, other, c, today)
	foreign, _ := os.ReadFile(other + "/000001")
	broken := map[string]map[string][]byte{
		"empty":      {"000001": nil, "000002": second},
		"missing":    {"000002": second},
		"foreign":    {"000001": foreign, "000002": second},
		"twice":      {"000001": first, "000002": first},
		"other file": {"000001": []byte("hello\n")},
		"no entries": {"000001": []byte("kthwc-store v1 cluster x generation 1 previous -\nend 00\n")},
	}
	for at := 1; at < len(first); at += len(first) / 40 {
		broken[fmt.Sprintf("cut at %d", at)] = map[string][]byte{"000001": first[:at], "000002": second}
		flipped := bytes.Clone(first)
		flipped[at] ^= 1
		broken[fmt.Sprintf("bit %d", at)] = map[string][]byte{"000001": flipped, "000002": second}
	}
	for name, files := range broken {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for file, content := range files {
			if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := pki.Open(dir, c.Name.V)
		if err == nil || !strings.Contains(err.Error(), dir+"/00000") {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "PRIVATE KEY") {
			t.Errorf("%s: the error holds content of the store", name)
		}
	}
}

func TestWideStoresAreRefused(t *testing.T) {
	c := model(t, example(t, "golden/single-node/cluster.yaml"))
	for _, wide := range []string{"", "000001"} {
		dir := t.TempDir() + "/store"
		issued(t, dir, c, today)
		if err := os.Chmod(filepath.Join(dir, wide), 0o750); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.Open(dir, c.Name.V); err == nil || !strings.Contains(err.Error(), "others may read it") {
			t.Errorf("%q: %v", wide, err)
		}
	}
	dir := t.TempDir() + "/store"
	issued(t, dir, c, today)
	if _, err := pki.Open(dir, "other"); err == nil || !strings.Contains(err.Error(), "belongs to the cluster") {
		t.Errorf("another cluster's store: %v", err)
	}
}

// Of two who issue at once one is told to run it again, and nothing is lost.
func TestTwoAtOnce(t *testing.T) {
	c := model(t, example(t, "golden/single-node/cluster.yaml"))
	dir := t.TempDir() + "/store"
	if err := pki.Create(dir); err != nil {
		t.Fatal(err)
	}
	results := make(chan error)
	for range 4 {
		s := open(t, dir, c)
		go func() {
			plan := pki.MakePlan(c, nil, pki.Options{Now: today})
			results <- pki.Issue(s, c, plan, pki.Options{Now: today}, nil)
		}()
	}
	done := 0
	for range 4 {
		if err := <-results; err == nil {
			done++
		} else if !strings.Contains(err.Error(), "changed by somebody else") {
			t.Error(err)
		}
	}
	if s := open(t, dir, c); done != 1 || s.Generation() != 1 {
		t.Errorf("%d of four issued, and the store is at generation %d", done, s.Generation())
	}
}

// Leaves of the hardened profile are for one thing, and authorities sign
// leaves alone.
func TestCertificatesAreNarrow(t *testing.T) {
	c := model(t, example(t, "examples/lab.yaml"))
	s := issued(t, t.TempDir()+"/store", c, today)
	keys := map[string]string{}
	for _, want := range c.Certs {
		leaf := parsed(t, material(t, s, secret.Cert(want.Name)))
		if leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != len(want.Usages) || leaf.IsCA || !leaf.BasicConstraintsValid {
			t.Errorf("%s: key usage %b, %v", want.Name, leaf.KeyUsage, leaf.ExtKeyUsage)
		}
		if len(want.Usages) > 1 && want.Role != "etcd-peer" {
			t.Errorf("%s is for %v", want.Name, want.Usages)
		}
		key := string(leaf.RawSubjectPublicKeyInfo)
		if keys[key] != "" {
			t.Errorf("%s and %s have one key", want.Name, keys[key])
		}
		keys[key] = want.Name
	}
	for _, ca := range c.CAs {
		root := parsed(t, material(t, s, secret.Bundle(ca.Name)))
		if !root.IsCA || !root.MaxPathLenZero || root.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
			t.Errorf("%s: %v %d %b", ca.Name, root.IsCA, root.MaxPathLen, root.KeyUsage)
		}
		if len(ca.Keys) > 0 {
			t.Errorf("the key of %s would be on hosts", ca.Name)
		}
	}
}

func parsedInventory(t testing.TB, text []byte) *inventory.Inventory {
	t.Helper()
	inv, err := inventory.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// A fatal is a test, of Go or of rapid.
type fatal interface {
	Helper()
	Fatal(args ...any)
}

func parsed(t fatal, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
