package render_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/emit"
	"github.com/kthwc/kthwc/pkg/tree"
)

// An artefact is one rendered file, as its reader sees it.
type artefact struct {
	cluster *compile.Cluster
	node    *tree.Node // nil for a file of no node
	where   string
	content string
}

// saved writes the content to a file of the same name, for a reader that wants one.
func (a artefact) saved(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(a.where))
	if err := os.WriteFile(file, []byte(a.content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// minor is the version of a program of the node, without its last number.
func (a artefact) minor(program string) string {
	for _, b := range a.node.Binaries {
		if b.Name == program {
			return b.Version[:strings.LastIndex(b.Version, ".")]
		}
	}
	return ""
}

// A readback is one kind of file: which files, who reads them, and changes of
// a rendered file that the reader must refuse.
type readback struct {
	files   *regexp.Regexp
	accepts func(*testing.T, artefact) error
	broken  [][2]string
}

var readbacks = map[string]readback{
	"containerd's configuration": {regexp.MustCompile(`/containerd/config\.toml$`), containerdTakes, [][2]string{
		{"snapshotter", "snapshoter"},
		{`"overlayfs"`, "3"},
		{"SystemdCgroup", "SystemdCGroups"},
		{"cri.v1.images", "cri.v9.images"},
		{"[plugins.cri.containerd]", "[plugins.cry.containerd]"},
		{"runtime_engine", "runtime_motor"},
		{"version = 3", "version = 33"},
		{`endpoint = [`, `endpoints = [`},
	}},
	"registry hosts": {regexp.MustCompile(`/hosts\.toml$`), containerdAsks, [][2]string{
		{"capabilities", "capability"},
		{`"pull", `, ""},
		{`["pull"`, `[7, "pull"`},
		{"[host.", "[hosts."},
		{"server", "servers"},
	}},
	"etcd's flags": {regexp.MustCompile(`/etcd\.service$`), etcdTakes, [][2]string{
		{"--data-dir", "--data-directory"},
		{"--client-cert-auth=true", "--client-cert-auth=perhaps"},
		{"--initial-cluster-state=new", "--initial-cluster-state=fresh"},
		{"--listen-peer-urls=https://", "--listen-peer-urls=gopher://"},
	}},
	"CNI configuration": {regexp.MustCompile(`/cni/net\.d/`), runtimesTake, [][2]string{
		{`"isGateway"`, `"isGatewey"`},
		{`"ipMasq": true`, `"ipMasq": "yes"`},
		{`"type": "loopback"`, `"type": "lookback"`},
		{`"subnet": "10.`, `"subnet": "910.`},
		{`"cniVersion": "`, `"cniVersion": "9`},
		{`"portMappings": true`, `"portMappings": 1`},
	}},
	"kernel settings": {regexp.MustCompile(`/sysctl\.d/`), kernelTakes, [][2]string{
		{"ip_forward = 1", "ip_forwards = 1"},
		{"ip_forward = 1", "ip_forward 1"},
		{"ip_forward = 1", "ip_forward = yes"},
	}},
	"kernel modules": {regexp.MustCompile(`/modules-load\.d/`), moduleNames, [][2]string{
		{"overlay", "over lay"},
		{"overlay", "overlay # for containers"},
	}},
	"nginx sites": {regexp.MustCompile(`/nginx/sites-available/`), nginxTakes, [][2]string{
		{"proxy_pass ", "proxy_past "},
		{"listen 80;", "listen eighty;"},
		{"    location", "    } location"},
		{"https://127.0.0.1:6443", "gopher://127.0.0.1:6443"},
	}},
	"the workers' proxy": {regexp.MustCompile(`/kthwc-api-proxy\.cfg$`), haproxyTakes, [][2]string{
		{"mode tcp", "mode pct"},
		{"timeout connect 1s", "timeout connect soon"},
		{"option redispatch", "option redespatch"},
		{":6443", ":66443"},
	}},
	"names of hosts": {regexp.MustCompile(`/etc/hosts$`), resolverFinds, [][2]string{
		{"10.240.0.10 ", "10.240.0.310 "},
		{" controller-0", " controller-O"},
		{" controller-0", " #controller-0"},
	}},
	"routes to pods": {regexp.MustCompile(`/pod-routes$`), kernelRoutes, [][2]string{
		{" via ", " over "},
		{"10.200.0.0/24", "10.200.0.0/42"},
		{"10.200.0.0/24", "10.200.99.0/24"},
	}},
	"kubeconfigs": {regexp.MustCompile(`/(kubeconfig|[a-z-]+\.kubeconfig|(controller-manager|scheduler|kubelet|proxy)\.conf)$`), kubectlConnects, [][2]string{
		{"client-key-data", "client-kee-data"},
		{"certificate-authority-data", "certificate-authority-date"},
		{"clusters:", "clusters: 7 #"},
		{"current-context: ", "current-context: no-"},
		{"    server: ", "    server: x"},
	}},
}

// Every kind of file is read back by what reads it in life, and the same reader
// refuses the file with one thing broken.
func TestFilesAreReadBack(t *testing.T) {
	for name, kind := range readbacks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			artefacts := rendered(t, kind.files)
			for _, a := range artefacts {
				if err := kind.accepts(t, a); err != nil {
					t.Errorf("%s: %v", a.where, err)
				}
			}
			for _, change := range kind.broken {
				at := slices.IndexFunc(artefacts, func(a artefact) bool { return strings.Contains(a.content, change[0]) })
				if at < 0 {
					t.Errorf("no rendered file has %q to break", change[0])
					continue
				}
				a := artefacts[at]
				a.content = strings.Replace(a.content, change[0], change[1], 1)
				if kind.accepts(t, a) == nil {
					t.Errorf("%s with %q for %q was accepted", a.where, change[1], change[0])
				}
			}
		})
	}
}

// rendered lists the files of a kind, of every input; those that say the same
// once.
func rendered(t *testing.T, kind *regexp.Regexp) []artefact {
	t.Helper()
	var out []artefact
	seen := map[string]bool{}
	for _, path := range append(inputs(t), oldMirrors(t)) {
		c, all := model(t, path), build(t, path)
		for where, f := range all.All() {
			if f.Kind != tree.Regular || !kind.MatchString(where) || strings.HasSuffix(where, "/kubelet/kubelet.conf") {
				continue
			}
			a := artefact{cluster: c, where: where, content: string(f.Body.Bytes())}
			if below, ok := strings.CutPrefix(where, "nodes/"); ok {
				name, _, _ := strings.Cut(below, "/")
				a.node = all.Node(name)
			}
			if key := c.Name.V + filepath.Base(where) + a.content; !seen[key] {
				seen[key] = true
				out = append(out, a)
			}
		}
	}
	return out
}

// oldMirrors is the only input of its kind: mirrors at a containerd that has
// them in its own configuration.
func oldMirrors(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../examples/kthw-1.21.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "  containerd:\n    registryMirrors:\n      - registry: docker.io\n        endpoints: [https://mirror.example.net]\n"...)
	return artefact{where: "cluster.yaml", content: string(text)}.saved(t)
}

func containerdTakes(t *testing.T, a artefact) error {
	_, err := readers.Run(nil, readers.Path(t, "containerd-reader-"+a.minor("containerd")), "config", a.saved(t))
	return err
}

// containerdAsks compares the hosts that containerd would ask with the model's
// mirrors and, after them, the registry itself.
func containerdAsks(t *testing.T, a artefact) error {
	registry, root := filepath.Base(filepath.Dir(a.where)), t.TempDir()
	if err := os.Mkdir(filepath.Join(root, registry), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, registry, "hosts.toml"), []byte(a.content), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readers.Run(nil, readers.Path(t, "containerd-reader-"+a.minor("containerd")), "hosts", root, registry)
	if err != nil {
		return err
	}
	want := ""
	for _, m := range a.cluster.Containerd.Mirrors {
		if m.Registry.V == registry {
			for _, e := range m.Endpoints {
				want += e.V + " pull resolve\n"
			}
		}
	}
	if want += "https://" + registryItself(registry) + " pull resolve push\n"; got != want {
		return fmt.Errorf("containerd asks\n%snot\n%s", got, want)
	}
	return nil
}

// registryItself is where a registry answers that images name.
func registryItself(registry string) string {
	if registry == "docker.io" {
		return "registry-1.docker.io"
	}
	return registry
}

// etcdTakes lets etcd itself read its flags; --version ends it after that.
func etcdTakes(t *testing.T, a artefact) error {
	argv, err := execOf(a.content)
	if err != nil {
		return err
	}
	_, err = readers.Run(nil, readers.Path(t, "etcd-"+a.minor("etcd")), append(argv[1:], "--version")...)
	return err
}

func execOf(unit string) ([]string, error) {
	directives, err := emit.ParseUnit(unit)
	if err != nil {
		return nil, err
	}
	for _, d := range directives {
		if d.Key == "ExecStart" {
			return emit.ParseExec(d.Value)
		}
	}
	return nil, fmt.Errorf("no ExecStart")
}

// cniReaders are the releases of the plugins that have a reader of their own;
// the newest judges the others.
var cniReaders = map[string]string{"0.9": "0.9"}

func runtimesTake(t *testing.T, a artefact) error {
	release := cniReaders[a.minor("cni-plugins")]
	if release == "" {
		release = "1.9"
	}
	plugins := filepath.Dir(readers.Path(t, "cni-plugins-"+release+"/bridge"))
	_, err := readers.Run(nil, readers.Path(t, "cni-reader-"+release), plugins, a.saved(t))
	return err
}

// apart runs a shell script with namespaces of its own, so that what it
// changes is nobody else's.
func apart(t *testing.T, script string, args ...string) (string, error) {
	t.Helper()
	unshare := readers.Path(t, "unshare")
	if _, err := readers.Run(nil, unshare, "-rmn", "true"); err != nil {
		readers.Missing(t, "no namespaces for tests here: "+err.Error())
	}
	return readers.Run(nil, unshare, append([]string{"-rmn", "/bin/sh", "-euc", script, "sh"}, args...)...)
}

// kernelTakes sets what can be set without a module, in a network of its own;
// the rest is read all the same.
func kernelTakes(t *testing.T, a artefact) error {
	_, err := apart(t, `"$1" --strict --prefix=net.ipv4 --prefix=net.ipv6 "$2"`, readers.Path(t, "systemd-sysctl"), a.saved(t))
	return err
}

// moduleNames is modules-load.d(5): a name to a line. To ask the program would
// be to load them.
func moduleNames(t *testing.T, a artefact) error {
	if !regexp.MustCompile(`^([a-z0-9_]+\n)+$`).MatchString(a.content) {
		return fmt.Errorf("not a name to a line: %q", a.content)
	}
	return nil
}

// resolverFinds asks the machine's own resolver for every controller and the
// node itself.
func resolverFinds(t *testing.T, a artefact) error {
	getent := readers.Path(t, "getent")
	for _, n := range a.cluster.Nodes {
		if !n.Controller && n.Name.V != a.node.Name {
			continue
		}
		got, err := apart(t, `mount --bind "$2" /etc/hosts; "$1" -s files ahosts "$3"`, getent, a.saved(t), n.Name.V)
		if err != nil {
			return err
		}
		for _, address := range n.Addresses {
			if !strings.Contains(got, address.V.String()+" ") {
				return fmt.Errorf("%s is\n%snot %s", n.Name.V, got, address.V)
			}
		}
	}
	return nil
}

// kernelRoutes runs the unit's command, and looks at the routes that are there
// then.
func kernelRoutes(t *testing.T, a artefact) error {
	argv, err := execOf(string(a.node.File("/etc/systemd/system/kthwc-pod-routes.service").Body.Bytes()))
	if err != nil {
		return err
	}
	file := a.saved(t)
	script := strings.ReplaceAll(argv[2], "/etc/kubernetes/pod-routes", file)
	readers.Path(t, "ip")
	got, err := apart(t, `ip link add name near type veth peer name far; ip link set near up; ip link set far up
while read -r _ _ via; do ip route replace "$via" dev near; done < "$1"
/bin/sh -euc "$2"
ip route; ip -6 route`, file, script)
	if err != nil {
		return err
	}
	for _, n := range a.cluster.Nodes {
		for _, p := range n.PodCIDRs {
			if n.Name.V != a.node.Name && !strings.Contains(got, p.V.String()+" via ") {
				return fmt.Errorf("no route to %s:\n%s", p.V, got)
			}
		}
	}
	return nil
}

// nginxTakes puts the site where nginx includes it, with throw-away material.
func nginxTakes(t *testing.T, a artefact) error {
	nginx, dir, keys := readers.Path(t, "nginx"), t.TempDir(), newThrowAway(t)
	for name, content := range map[string][]byte{"crt": keys.cert, "key": keys.key} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.content = regexp.MustCompile(`(proxy_ssl_certificate_key) [^;]*`).ReplaceAllString(a.content, "$1 "+dir+"/key")
	a.content = regexp.MustCompile(`(proxy_ssl_(trusted_)?certificate) [^;]*`).ReplaceAllString(a.content, "$1 "+dir+"/crt")
	a.content = "pid " + dir + "/pid;\nerror_log " + dir + "/error;\nevents {}\nhttp {\naccess_log off;\n" + a.content + "}\n"
	_, err := readers.Run(nil, nginx, "-t", "-q", "-c", a.saved(t))
	return err
}

func haproxyTakes(t *testing.T, a artefact) error {
	_, err := readers.Run(nil, readers.Path(t, "haproxy"), "-c", "-q", "-f", a.saved(t))
	return err
}

// kubectlConnects gives the file throw-away keys, and lets kubectl ask a server
// that knows their authority.
func kubectlConnects(t *testing.T, a artefact) error {
	kubectl := readers.Path(t, "kubectl-1.37")
	keys := newThrowAway(t)
	a.content = keys.materialise(a.content)
	file := a.saved(t)
	server, err := readers.Run(nil, kubectl, "--kubeconfig", file, "config", "view", "--minify", "--raw", "-o", "jsonpath={.clusters[0].cluster.server}")
	if err != nil {
		return err
	}
	known := slices.ContainsFunc(a.cluster.Kubeconfig, func(k *compile.Kubeconfig) bool { return keys.materialise(k.Server.V) == server })
	if !known {
		return fmt.Errorf("the server is %q", server)
	}
	_, err = readers.Run(nil, kubectl, "--kubeconfig", file, "--server", keys.serve(t), "get", "--raw", "/healthz")
	return err
}

// throwAway is an authority and one certificate of it, for both ends.
type throwAway struct{ ca, cert, key []byte }

func newThrowAway(t *testing.T) *throwAway {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "throw-away"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	return &throwAway{public, public, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})}
}

var placeholder = regexp.MustCompile(`\$\{(secret|cloud):[^}]*\}`)

func (k *throwAway) materialise(text string) string {
	return placeholder.ReplaceAllStringFunc(text, func(name string) string {
		switch {
		case strings.HasPrefix(name, "${cloud:"):
			return "192.0.2.1"
		case strings.HasSuffix(name, ".key|base64}"):
			return base64.StdEncoding.EncodeToString(k.key)
		}
		return base64.StdEncoding.EncodeToString(k.cert)
	})
}

// serve answers whoever shows a certificate of the authority.
func (k *throwAway) serve(t *testing.T) string {
	pair, err := tls.X509KeyPair(k.cert, k.key)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(k.ca)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}
