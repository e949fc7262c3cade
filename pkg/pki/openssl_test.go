package pki_test

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/secret"
)

// openssl is the program, with a directory for what it reads.
type openssl struct {
	testing.TB
	program, dir string
	known        map[string]error
}

func newOpenSSL(t testing.TB) *openssl {
	return &openssl{t, readers.Path(t, "openssl"), t.TempDir(), map[string]error{}}
}

func (o *openssl) file(content string) string {
	name := filepath.Join(o.dir, fmt.Sprintf("%x.pem", sha256.Sum256([]byte(content))))
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		o.Fatal(err)
	}
	return name
}

// verify asks whether a certificate is good for a purpose, as strictly as
// openssl can; the name is of a server, and may be empty.
func (o *openssl) verify(trust, leaf, purpose, name string) error {
	args := []string{"verify", "-x509_strict", "-auth_level", "2", "-no-CApath", "-no-CAstore", "-CAfile", o.file(trust), "-purpose", purpose}
	if _, err := netip.ParseAddr(name); err == nil {
		args = append(args, "-verify_ip", name)
	} else if name != "" {
		args = append(args, "-verify_hostname", name)
	}
	args = append(args, o.file(leaf))
	key := strings.Join(args, " ")
	if err, done := o.known[key]; done {
		return err
	}
	_, err := readers.Run(nil, o.program, args...)
	o.known[key] = err
	return err
}

// What any rendered file dials is answered by a server whose certificate
// openssl takes for that name, and the server takes the client's.
func TestOpenSSLVerifiesWhatIsDialled(t *testing.T) {
	for _, name := range everyCluster(t) {
		t.Run(name, func(t *testing.T) {
			f, o := newFleet(t, name), newOpenSSL(t)
			servers, services := f.servers(), map[string]int{}
			for _, d := range f.dials() {
				reached := answering(d, servers)
				if len(reached) == 0 {
					t.Errorf("%s of %s dials %s: nobody is there", d.file, d.host, d.at)
				}
				for _, s := range reached {
					services[s.service]++
					if err := o.verify(d.trust, s.cert, "sslserver", d.name); err != nil {
						t.Errorf("%s of %s dials %s, and %s on %s answers: %v", d.file, d.host, d.name, s.service, s.host, err)
					}
					if o.verify(d.trust, s.cert, "sslserver", "other.example.net") == nil {
						t.Errorf("%s on %s is taken for other.example.net", s.service, s.host)
					}
					if d.client == "" {
						continue
					}
					if err := o.verify(s.clients, d.client, "sslclient", ""); err != nil {
						t.Errorf("%s on %s does not take the client of %s on %s: %v", s.service, s.host, d.file, d.host, err)
					}
				}
			}
			for _, u := range servingUnits {
				if services[u.service] == 0 {
					t.Errorf("nobody dials %s", u.service)
				}
			}
			f.allDialled()
		})
	}
}

// notOurs are URLs in files of hosts that nobody dials for the cluster.
var notOurs = map[string]string{
	"--service-account-issuer":      "a name that tokens carry",
	"--advertise-client-urls":       "what --listen-client-urls has too",
	"--initial-advertise-peer-urls": "what --initial-cluster has too",
	"--listen-peer-urls":            "what --initial-cluster has too",
	"Documentation=":                "for people",
	"[host.":                        "a registry",
	"server = ":                     "a registry",
}

// allDialled finds URLs that no row above has read.
func (f *fleet) allDialled() {
	f.Helper()
	known := map[string]bool{}
	for _, d := range f.dials() {
		known[d.host+d.file+d.at] = true
	}
	for host, files := range f.hosts {
		for path, text := range files {
			if host == "operator" && !strings.HasPrefix(path, "client/") {
				continue
			}
			for _, line := range strings.Split(text, "\n") {
				for _, u := range urls(f, strings.NewReplacer(`"`, ",", "'", ",", ";", ",", "]", ",", " \\", ",").Replace(line)) {
					excuse := slices.ContainsFunc(keys(notOurs), func(prefix string) bool { return strings.Contains(line, prefix) })
					if !known[host+path+u.Host] && !excuse {
						f.Errorf("%s of %s has %s, which no row of this test reads", path, host, u)
					}
				}
			}
		}
	}
}

func keys(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	return out
}

// A leaf of every role is good for each of its usages by its authority, and by
// no other authority; and for no other usage.
func TestOpenSSLVerifiesEveryChain(t *testing.T) {
	purposes := map[string]string{compile.ServerAuth: "sslserver", compile.ClientAuth: "sslclient"}
	for _, name := range []string{"examples/lab.yaml", "examples/kthw-1.21.yaml"} {
		c := model(t, example(t, name))
		s, o := issued(t, t.TempDir()+"/store", c, time.Now()), newOpenSSL(t)
		roles := map[string]bool{}
		for _, cert := range c.Certs {
			if roles[cert.Role] {
				continue
			}
			roles[cert.Role] = true
			leaf := string(material(t, s, secret.Cert(cert.Name)))
			for usage, purpose := range purposes {
				for _, ca := range c.CAs {
					want := cert.CA == ca.Name && slices.Contains(cert.Usages, usage)
					if err := o.verify(string(material(t, s, secret.Bundle(ca.Name))), leaf, purpose, ""); (err == nil) != want {
						t.Errorf("%s: %s by %s: %v", name, cert.Name, ca.Name, err)
					}
				}
			}
		}
	}
}

// The single authority of the tutorial signs the name that its own pods ask
// for, which the guide's certificate lacks.
func TestTutorialHasTheServicesFullName(t *testing.T) {
	c := model(t, example(t, "examples/kthw-1.21.yaml"))
	s, o := issued(t, t.TempDir()+"/store", c, time.Now()), newOpenSSL(t)
	trust, leaf := string(material(t, s, secret.Bundle("ca"))), string(material(t, s, secret.Cert("kubernetes")))
	for name, want := range map[string]bool{"kubernetes.default.svc.cluster.local": true, "10.32.0.1": true, "kubernetes.default.svc.cluster": false, "kubernetes.svc.cluster.local": false} {
		if err := o.verify(trust, leaf, "sslserver", name); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var secretKey = regexp.MustCompile(`\.key$|-key\.pem$`)

// openssl reads every key that lies on a host, and it is the one of the
// certificate beside it.
func TestOpenSSLReadsEveryKey(t *testing.T) {
	for _, name := range []string{"examples/lab.yaml", "examples/kthw-1.21.yaml", "golden/customised/cluster.yaml"} {
		f, o := newFleet(t, name), newOpenSSL(t)
		count := 0
		for host, files := range f.hosts {
			for path, text := range files {
				if !secretKey.MatchString(path) {
					continue
				}
				count++
				public, err := readers.Run(nil, o.program, "pkey", "-check", "-pubout", "-in", o.file(text))
				if err != nil {
					t.Errorf("%s of %s: %v", path, host, err)
					continue
				}
				if !strings.HasSuffix(public, o.publicBeside(files, path)) {
					t.Errorf("%s of %s is the key of another certificate", path, host)
				}
			}
		}
		if count < 10 {
			t.Errorf("%s: only %d keys", name, count)
		}
	}
}

// publicBeside is the public key that the file beside a key has.
func (o *openssl) publicBeside(files map[string]string, path string) string {
	beside := strings.NewReplacer("-key.pem", ".pem", ".key", ".crt").Replace(path)
	text, ok := files[beside]
	if !ok {
		return files[strings.TrimSuffix(path, ".key")+".pub"]
	}
	public, err := readers.Run([]byte(text), o.program, "x509", "-pubkey", "-noout")
	if err != nil {
		o.Fatal(err)
	}
	return public
}
