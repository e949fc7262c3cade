package pki_test

import (
	"encoding/base64"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/tree"
)

// A fleet is what hosts have: every rendered file with the material in it. Who
// dials whom is read off the text of these files, never off the model.
type fleet struct {
	*testing.T
	c     *compile.Cluster
	s     *pki.Store
	hosts map[string]map[string]string // host, path, content
}

func newFleet(t *testing.T, name string) *fleet {
	t.Helper()
	source := example(t, name)
	c := model(t, source)
	rendered, faults := render.Render(c, render.Input{Source: []byte(source), Project: os.DirFS(filepath.Dir("../../" + name))})
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	f := &fleet{t, c, issued(t, t.TempDir()+"/store", c, time.Now()), map[string]map[string]string{}}
	for _, n := range rendered.Nodes {
		f.hosts[n.Name] = f.materialised(n.Files)
	}
	f.hosts["operator"] = f.materialised(rendered.Files)
	return f
}

func (f *fleet) materialised(files []*tree.File) map[string]string {
	out := map[string]string{}
	for _, file := range files {
		if file.Kind != tree.Regular {
			continue
		}
		text, err := file.Body.Materialise(f.s.Material)
		if err != nil {
			f.Fatal(err)
		}
		out[file.Path] = string(text)
	}
	return out
}

// A server is a listener as a unit and its configuration describe it.
type server struct {
	host, service, cert, clients string // the last two are PEM
	listens                      []string
}

// A dial is one client, what it is told to dial, and what it shows and trusts.
type dial struct {
	host, file, service, name, at string // at is host:port; name is who must answer
	trust, client                 string // PEM
}

// says gives what a pattern's only group is in a text, or nothing.
func says(text, pattern string) string {
	found := regexp.MustCompile(`(?m)` + pattern).FindStringSubmatch(text)
	if len(found) < 2 {
		return ""
	}
	return found[1]
}

// servingUnits lists where units say what a server shows, and whose clients it takes.
var servingUnits = []struct{ service, file, listens, cert, clients string }{
	{"kube-apiserver", `/kube-apiserver\.service$`, "", `--tls-cert-file=(\S+)`, `--client-ca-file=(\S+)`},
	{"etcd", `/etcd\.service$`, `--listen-client-urls=(\S+)`, ` --cert-file=(\S+)`, ` --trusted-ca-file=(\S+)`},
	{"etcd's peers", `/etcd\.service$`, `--listen-peer-urls=(\S+)`, ` --peer-cert-file=(\S+)`, ` --peer-trusted-ca-file=(\S+)`},
	{"kubelet", `/(kubelet/config|kubelet-config)\.yaml$`, "", `tlsCertFile: (\S+)`, `clientCAFile: (\S+)`},
}

func (f *fleet) servers() []server {
	var out []server
	for host, files := range f.hosts {
		for path, text := range files {
			for _, u := range servingUnits {
				if regexp.MustCompile(u.file).MatchString(path) && says(text, u.cert) != "" {
					listens := strings.Split(says(text, u.listens), ",")
					out = append(out, server{host, u.service, files[says(text, u.cert)], files[says(text, u.clients)], listens})
				}
			}
		}
	}
	return out
}

// diallingFiles lists where files say whom to dial. Paths are of the same host;
// what is no path is base64.
var diallingFiles = []struct{ service, file, urls, name, trust, client string }{
	{"etcd", `/kube-apiserver\.service$`, `--etcd-servers=(\S+)`, "", `--etcd-cafile=(\S+)`, `--etcd-certfile=(\S+)`},
	{"etcd", `/etcd\.service$`, `--listen-client-urls=(\S+)`, "", ` --trusted-ca-file=(\S+)`, "none"}, // whoever looks after it
	{"etcd's peers", `/etcd\.service$`, `--initial-cluster=(\S+)`, "", ` --peer-trusted-ca-file=(\S+)`, ` --peer-cert-file=(\S+)`},
	{"kube-apiserver", `/sites-available/`, `proxy_pass (https://[^/;]+)`, `proxy_ssl_name ([^;]+)`, `proxy_ssl_trusted_certificate ([^;]+)`, `proxy_ssl_certificate ([^;]+)`},
	{"kube-apiserver", `\.conf$|kubeconfig$`, `^ +server: (\S+)`, "", `certificate-authority-data: (\S+)`, `client-certificate-data: (\S+)`},
}

func (f *fleet) dials() []dial {
	var out []dial
	for host, files := range f.hosts {
		for path, text := range files {
			for _, d := range diallingFiles {
				if !regexp.MustCompile(d.file).MatchString(path) || says(text, d.trust) == "" {
					continue
				}
				for _, at := range urls(f, says(text, d.urls)) {
					name := says(text, d.name)
					if d.name == "" || name == "" {
						name = at.Hostname()
					}
					out = append(out, dial{host, path, d.service, name, at.Host, f.pem(host, says(text, d.trust)), f.pem(host, says(text, d.client))})
				}
			}
			out = append(out, f.fromUnit(host, path, text)...)
		}
	}
	return out
}

// fromUnit is what is dialled without a URL in a file: kubelets by what hosts
// are called, and the API server's Service by pods.
func (f *fleet) fromUnit(host, path, text string) []dial {
	var out []dial
	switch filepath.Base(path) {
	case "kube-apiserver.service":
		trust, client := f.pem(host, says(text, `--kubelet-certificate-authority=(\S+)`)), f.pem(host, says(text, `--kubelet-client-certificate=(\S+)`))
		for node := range f.hosts {
			for _, name := range called(f.hosts[node], node) {
				out = append(out, dial{host, path, "kubelet", name, node, trust, client})
			}
		}
	case "kube-controller-manager.service":
		trust := f.pem(host, says(text, `--root-ca-file=(\S+)`))
		for _, ranges := range strings.Split(says(text, `--service-cluster-ip-range=(\S+)`), ",") {
			first := netip.MustParsePrefix(ranges).Addr().Next().String()
			out = append(out, dial{"pods", path, "kube-apiserver", first, first, trust, ""})
		}
		for _, name := range []string{"kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + f.domain()} {
			out = append(out, dial{"pods", path, "kube-apiserver", name, name, trust, ""})
		}
	}
	return out
}

// called is what a host is called: its name, and the addresses of it in its own
// /etc/hosts and in its kubelet's flags.
func called(files map[string]string, node string) []string {
	if says(files["/etc/systemd/system/kubelet.service"], `ExecStart=(\S+)`) == "" {
		return nil
	}
	names := []string{node}
	for _, line := range strings.Split(files["/etc/hosts"], "\n") {
		if words := strings.Fields(line); len(words) > 1 && strings.Contains(line+" ", " "+node+" ") && !strings.HasPrefix(line, "127.") {
			names = append(names, words[0])
		}
	}
	if flag := says(files["/etc/systemd/system/kubelet.service"], `--node-ip=(\S+)`); flag != "" {
		names = append(names, strings.Split(flag, ",")...)
	}
	return names
}

// domain is the kubelets' domain of Services.
func (f *fleet) domain() string {
	for _, files := range f.hosts {
		for _, text := range files {
			if domain := says(text, `^clusterDomain: (\S+)`); domain != "" {
				return domain
			}
		}
	}
	return "cluster.local"
}

// pem is a file of the host, or what was base64.
func (f *fleet) pem(host, text string) string {
	if strings.HasPrefix(text, "/") {
		return f.hosts[host][text]
	}
	plain, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		f.Fatal(err)
	}
	return string(plain)
}

// urls reads "https://a:1,https://b:2" and "name=https://a:1,…".
func urls(t testing.TB, list string) []*url.URL {
	var out []*url.URL
	for _, text := range regexp.MustCompile(`https://[^,]+`).FindAllString(list, -1) {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

// answering are the servers that a dial reaches: on its own host, at an address
// that a server says it listens at, or behind a balancer any of them.
func answering(d dial, all []server) []server {
	var exact, some []server
	for _, s := range all {
		if s.service != d.service {
			continue
		}
		mine := strings.HasPrefix(d.at, "127.0.0.1:6443") || strings.HasPrefix(d.at, "127.0.0.1:2379")
		for _, l := range s.listens {
			if l == "https://"+d.at || mine && s.host == d.host || s.host == d.at {
				exact = append(exact, s)
				break
			}
		}
		some = append(some, s)
	}
	if len(exact) > 0 || d.service != "kube-apiserver" {
		return exact
	}
	return some
}
