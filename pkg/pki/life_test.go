package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/emit"
)

// installed puts a host's files below a directory of its own.
func (f *fleet) installed(host string) string {
	f.Helper()
	root := f.TempDir()
	for path, text := range f.hosts[host] {
		file := filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			f.Fatal(err)
		}
	}
	return root
}

var hostPath = regexp.MustCompile(`/(etc|var/lib)/(kubernetes|etcd)\b`)

// below leads paths of a host below the directory that it is installed in.
func below(root, text string) string { return hostPath.ReplaceAllString(text, root+"$0") }

// hostWith is a host that has a file.
func (f *fleet) hostWith(path string) string {
	f.Helper()
	for host, files := range f.hosts {
		if files[path] != "" {
			return host
		}
	}
	f.Fatalf("no host has %s", path)
	return ""
}

// apiServer listens on loopback as the API server of a host does, with the
// files that its unit names, and tells clients who they are.
func (f *fleet) apiServer(clientAuth tls.ClientAuthType) *httptest.Server {
	f.Helper()
	const unit = "/etc/systemd/system/kube-apiserver.service"
	files := f.hosts[f.hostWith(unit)]
	file := func(flag string) []byte { return []byte(files[says(files[unit], flag+`=(\S+)`)]) }
	pair, err := tls.X509KeyPair(file("--tls-cert-file"), file("--tls-private-key-file"))
	if err != nil {
		f.Fatal(err)
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(file("--client-ca-file")) {
		f.Fatal("no authority of clients")
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, c := range r.TLS.PeerCertificates {
			fmt.Fprint(w, c.Subject.CommonName)
		}
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: clientAuth, ClientCAs: clients}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	f.Cleanup(s.Close)
	return s
}

var kubeconfigFile = regexp.MustCompile(`(\.conf|kubeconfig)$`)

// kubectl uses each kubeconfig as it is on its host against a server that has
// the API server's files: each knows the other, and the user is the file's. A
// client of another cluster is turned away, and so is the server.
func TestKubectlUsesIssuedKubeconfigs(t *testing.T) {
	kubectl := readers.Path(t, "kubectl-1.37")
	for _, name := range []string{"examples/lab.yaml", "examples/kthw-1.21.yaml", "golden/customised/cluster.yaml"} {
		t.Run(name, func(t *testing.T) {
			f, other := newFleet(t, name), newFleet(t, name)
			server, stranger := f.apiServer(tls.RequireAndVerifyClientCert), other.apiServer(tls.RequestClientCert)
			seen := map[string]bool{}
			for host, files := range f.hosts {
				for path, text := range files {
					user := says(text, `^    user: (\S+)`)
					if !kubeconfigFile.MatchString(path) || says(text, `client-key-data: (\S)`) == "" || seen[user] {
						continue
					}
					seen[user] = true
					file := saved(t, text)
					dials := urls(t, says(text, `^ +server: (\S+)`))[0].Hostname()
					ask := func(file, server string) (string, error) {
						return readers.Run(nil, kubectl, "--kubeconfig", file, "--server", server, "--tls-server-name", dials, "get", "--raw", "/healthz")
					}
					if got, err := ask(file, server.URL); err != nil || got != user {
						t.Errorf("%s of %s: the user is %q, not %q: %v", path, host, got, user, err)
					}
					if _, err := ask(file, stranger.URL); err == nil {
						t.Errorf("%s of %s takes another cluster's API server", path, host)
					}
					foreign := strings.Replace(other.hosts[host][path], says(other.hosts[host][path], `certificate-authority-data: (\S+)`), says(text, `certificate-authority-data: (\S+)`), 1)
					if _, err := ask(saved(t, foreign), server.URL); err == nil {
						t.Errorf("%s of %s of another cluster is let in", path, host)
					}
				}
			}
			if len(seen) < 4 {
				t.Errorf("only %d users", len(seen))
			}
		})
	}
}

func saved(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// The API server's own loader takes the encryption configuration with its key,
// and what it stores cannot be read without.
func TestAPIServersEncryptWithIssuedKeys(t *testing.T) {
	reader := readers.Path(t, "encryption-reader-1.37")
	for name, want := range map[string]string{
		"examples/lab.yaml":              "secrets k8s:enc:secretbox:v1:key1:\n",
		"examples/lab-tutorial.yaml":     "secrets k8s:enc:aescbc:v1:key1:\n",
		"golden/customised/cluster.yaml": "configmaps k8s:enc:aescbc:v1:key2:\nsecrets k8s:enc:aescbc:v1:key2:\n",
	} {
		f := newFleet(t, name)
		unit := "/etc/systemd/system/kube-apiserver.service"
		files := f.hosts[f.hostWith(unit)]
		config := files[says(files[unit], `--encryption-provider-config=(\S+)`)]
		readers.Judge(t, []byte(config), readers.Path(t, "k8s-reader-1.37"), "decode")
		if got, err := readers.Run([]byte(config), reader); err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		key := says(config, `secret: (\S+)`)
		for what, broken := range map[string]string{
			"a short key":         strings.Replace(config, key, key[4:], 1),
			"plain text":          strings.Replace(config, "providers:\n", "providers:\n  - identity: {}\n", 1),
			"an unknown provider": strings.NewReplacer("secretbox:", "saltbox:", "aescbc:", "saltbox:").Replace(config),
		} {
			if _, err := readers.Run([]byte(broken), reader); err == nil {
				t.Errorf("%s: %s was taken", name, what)
			}
		}
	}
}

// nginx runs the site of a controller with its files: it asks the API server
// as the site says, and gives its answer without TLS.
func TestNginxAsksWithIssuedFiles(t *testing.T) {
	nginx := readers.Path(t, "nginx")
	for name, want := range map[string]string{"examples/lab.yaml": "kthwc-healthz", "examples/kthw-1.21.yaml": ""} {
		f := newFleet(t, name)
		server := f.apiServer(tls.VerifyClientCertIfGiven)
		site := "/etc/nginx/sites-available/kubernetes.default.svc.cluster.local"
		host := f.hostWith(site)
		root, at := f.installed(host), free(t)
		text := below(root, f.hosts[host][site])
		text = strings.NewReplacer("listen 80;", "listen "+at+";", "127.0.0.1:6443", server.Listener.Addr().String()).Replace(text)
		config := filepath.Join(root, "nginx.conf")
		text = "pid " + root + "/pid;\nerror_log " + root + "/error;\ndaemon off;\nevents {}\nhttp {\naccess_log off;\n" + temporary(root) + text + "}\n"
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readers.Run(nil, nginx, "-t", "-q", "-c", config); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		start(t, nginx, "-c", config)
		if got := eventually(t, http.DefaultClient, "http://"+at+"/healthz"); got != want {
			t.Errorf("%s: the API server was asked by %q, not %q", name, got, want)
		}
	}
}

// temporary keeps nginx' scratch files in a directory of the test.
func temporary(root string) string {
	out := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		out += kind + "_temp_path " + root + "/" + kind + ";\n"
	}
	return out
}

// etcd itself runs with its unit's arguments and the files of its host, as one
// member: of all certificates only those of the right authority and usage are
// let in, at each of its doors.
func TestEtcdTakesIssuedFiles(t *testing.T) {
	etcd := readers.Path(t, "etcd-3.7")
	if !apart(t, "192.0.2.10", "10.240.0.10") {
		return
	}
	for _, name := range []string{"golden/single-node/cluster.yaml", "examples/lab-server.yaml"} {
		t.Run(name, func(t *testing.T) {
			f, other := newFleet(t, name), newFleet(t, name)
			const path = "/etc/systemd/system/etcd.service"
			host := f.hostWith(path)
			unit := f.hosts[host][path]
			start(t, etcd, f.arguments(unit, f.installed(host))...)
			for _, door := range urls(t, says(unit, `--listen-client-urls=(\S+)`)) {
				f.guarded(other, door, "/health", "true", func(*compile.Cert) bool { return true })
			}
			for _, door := range urls(t, says(unit, `--listen-peer-urls=(\S+)`)) {
				f.guarded(other, door, "/version", "3.7", func(c *compile.Cert) bool { return itself(c, door.Hostname()) })
			}
		})
	}
}

// itself says what etcd asks of peers beside: whose certificate has names must
// call from one of them.
func itself(c *compile.Cert, address string) bool {
	return len(c.SANs) == 0 || slices.ContainsFunc(c.SANs, func(s compile.SAN) bool { return s.Value.V == address })
}

// guarded tries a door of a server with every certificate there is.
func (f *fleet) guarded(other *fleet, door *url.URL, path, answer string, beside func(*compile.Cert) bool) {
	f.Helper()
	w, foreign := &world{f.T, f.c, f.s}, &world{f.T, other.c, other.s}
	l := f.c.Listeners[slices.IndexFunc(f.c.Listeners, func(l compile.Listener) bool { return fmt.Sprint(l.Port.V) == door.Port() && l.Cert != "" })]
	ask := func(from *world, client string) *http.Client {
		return newClient(w.pool(w.cert(l.Cert).CA), door.Hostname(), from, client)
	}
	welcome := func(c *compile.Cert) bool {
		return c.CA == l.ClientCA && slices.Contains(c.Usages, compile.ClientAuth) && beside(c)
	}
	address, good := door.String()+path, f.c.Certs[slices.IndexFunc(f.c.Certs, welcome)].Name
	if got := eventually(f, ask(w, good), address); !strings.Contains(got, answer) {
		f.Fatalf("%s says %s", address, got)
	}
	for _, client := range f.c.Certs {
		if _, err := get(ask(w, client.Name), address); (err == nil) != welcome(client) {
			f.Errorf("%s at %s: %v", client.Name, address, err)
		}
	}
	for what, client := range map[string]*http.Client{"another cluster's " + good: ask(foreign, good), "nobody": ask(w, "")} {
		if _, err := get(client, address); err == nil {
			f.Errorf("%s is let in at %s", what, address)
		}
	}
}

// apart runs the test once more in a network of its own, where the loopback has
// the addresses too, and says whether this is that run.
func apart(t *testing.T, addresses ...string) bool {
	t.Helper()
	if os.Getenv("KTHWC_APART") != "" {
		return true
	}
	unshare := readers.Path(t, "unshare")
	readers.Path(t, "ip")
	if _, err := readers.Run(nil, unshare, "-rn", "true"); err != nil {
		readers.Missing(t, "no namespaces for tests here: "+err.Error())
	}
	script := "ip link set lo up\n"
	for _, a := range addresses {
		script += "ip address add " + a + "/32 dev lo\n"
	}
	cmd := exec.Command(unshare, "-rn", "/bin/sh", "-euc", script+`exec "$@"`, "sh", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), "KTHWC_APART=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// arguments are those of the unit, with its files below a directory.
func (f *fleet) arguments(unit, root string) []string {
	f.Helper()
	directives, err := emit.ParseUnit(unit)
	if err != nil {
		f.Fatal(err)
	}
	at := slices.IndexFunc(directives, func(d emit.Directive) bool { return d.Key == "ExecStart" })
	argv, err := emit.ParseExec(directives[at].Value)
	if err != nil {
		f.Fatal(err)
	}
	for i := range argv {
		argv[i] = below(root, argv[i])
	}
	return argv[1:]
}

func newClient(trust *x509.CertPool, name string, from *world, client string) *http.Client {
	config := &tls.Config{RootCAs: trust, ServerName: name}
	if client != "" {
		pair := from.pair(client)
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 10 * time.Second}
}

func get(client *http.Client, address string) (string, error) {
	response, err := client.Get(address)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}

// eventually asks until there is an answer.
func eventually(t testing.TB, client *http.Client, address string) string {
	t.Helper()
	var last error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		body, err := get(client, address)
		if err == nil {
			return body
		}
		last = err
	}
	t.Fatalf("%s does not answer: %v", address, last)
	return ""
}

// free is an address on loopback that nobody listens at.
func free(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs a program until the end of the test.
func start(t testing.TB, program string, args ...string) {
	t.Helper()
	said, err := os.Create(filepath.Join(t.TempDir(), "said"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if text, err := os.ReadFile(said.Name()); t.Failed() && err == nil {
			t.Logf("%s said:\n%s", filepath.Base(program), text)
		}
	})
}
