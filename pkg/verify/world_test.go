package verify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

// A world is every TLS listener of an example as a server on loopback, with the
// certificates that were issued for it, and hosts that reach them by the
// addresses of the model.
type world struct {
	*testing.T
	c        *compile.Cluster
	store    *pki.Store
	run      *run
	machines map[string]*machine

	mu      sync.Mutex
	servers map[string]string // "node host:port" -> where it really listens
	cut     map[string]error  // "host:port" -> how dialling it fails
	denied  map[string]bool   // rights that nobody has, as right.String says
}

// machine is a host of the world. Its files are not there: what scripts print
// is what the test says.
type machine struct {
	w     *world
	node  string
	names map[string]string // what is resolved, beside node names
	says  map[string]string // script -> output
}

func (m *machine) Close() error { return nil }

func (m *machine) Forward(ctx context.Context, _, address string) (net.Conn, error) {
	return m.w.dial(ctx, m.node, address)
}

func (m *machine) Run(_ context.Context, c apply.Command) (apply.Result, error) {
	if c.Script == lookupScript {
		var out strings.Builder
		for _, name := range c.Args {
			fmt.Fprintln(&out, m.names[name])
		}
		return apply.Result{Stdout: []byte(out.String())}, nil
	}
	said, ok := m.says[c.Script]
	if !ok {
		return apply.Result{Status: 1, Stderr: []byte("no such thing here")}, nil
	}
	return apply.Result{Stdout: []byte(said)}, nil
}

// dial reaches a server of the world by its address in the model.
func (w *world) dial(ctx context.Context, from, at string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return nil, err
	}
	if m := w.machines[from]; m != nil && m.names[host] != "" {
		host = m.names[host]
	}
	node := from
	if ip, err := netip.ParseAddr(host); err == nil && !ip.IsLoopback() {
		node = ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.cut[net.JoinHostPort(host, port)]; err != nil {
		return nil, err
	}
	real, ok := w.servers[node+" "+net.JoinHostPort(host, port)]
	if !ok {
		return nil, errors.New("connection refused")
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", real)
}

// newWorld makes the world of an example.
func newWorld(t *testing.T, name string) *world {
	t.Helper()
	return newWorlds(t)(t, name)
}

// newWorlds gives worlds that share what was issued for their example, as long
// as the test runs.
func newWorlds(parent *testing.T) func(*testing.T, string) *world {
	stores := map[string]*pki.Store{}
	return func(t *testing.T, name string) *world {
		t.Helper()
		c, tree := built(t, name)
		if stores[name] == nil {
			stores[name] = issue(parent, c)
		}
		return worldOf(t, c, tree, stores[name])
	}
}

// built is an example's model and tree.
func built(t *testing.T, name string) (*compile.Cluster, *tree.Tree) {
	t.Helper()
	source, err := os.ReadFile(filepath.Join("../../examples", name))
	if err != nil {
		t.Fatal(err)
	}
	doc, faults := schema.Load(name, source)
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	c, faults := compile.Compile(doc, compile.Facts{})
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	rendered, faults := render.Render(c, render.Input{Source: source, Project: os.DirFS(t.TempDir())})
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	return c, rendered
}

func worldOf(t *testing.T, c *compile.Cluster, rendered *tree.Tree, store *pki.Store) *world {
	w := &world{T: t, c: c, store: store, machines: map[string]*machine{}, servers: map[string]string{}, cut: map[string]error{}, denied: map[string]bool{}}
	subject := &Subject{Cluster: c, Now: time.Now, Dial: func(ctx context.Context, _, address string) (net.Conn, error) { return w.dial(ctx, "", address) },
		Fleet: &apply.Fleet{Wanted: &apply.Wanted{Tree: rendered, Material: w.store.Material}, Conns: map[string]apply.Conn{}, Errs: map[string]error{}}}
	w.run = &run{Subject: subject, progress: func(Event) {}, report: &Report{}, states: map[string]*apply.State{}, hosts: map[string]apply.Host{}}
	w.populate()
	return w
}

func issue(t *testing.T, c *compile.Cluster) *pki.Store {
	t.Helper()
	store, err := pki.Open(filepath.Join(t.TempDir(), "store"), c.Name.V)
	if err != nil {
		t.Fatal(err)
	}
	inv, err := store.Inventory()
	if err != nil {
		t.Fatal(err)
	}
	o := pki.Options{Now: time.Now()}
	if err := pki.Issue(store, c, pki.MakePlan(c, inv, o), o, nil); err != nil {
		t.Fatal(err)
	}
	return store
}

// populate makes hosts, and a server for each listener; the balancer and the
// workers' proxies lead to the first API server.
func (w *world) populate() {
	for _, n := range w.c.Nodes {
		names := map[string]string{}
		for _, other := range w.c.Nodes {
			names[other.Name.V] = primary(other)
		}
		if api := w.c.API.Address.V.Name; api != "" {
			names[api] = primary(w.run.controllers()[0])
		}
		m := &machine{w: w, node: n.Name.V, names: names, says: map[string]string{}}
		w.machines[n.Name.V] = m
		w.run.Conns[n.Name.V] = m
		w.run.states[n.Name.V] = &apply.State{Ports: map[int]bool{}}
	}
	for _, l := range w.c.Listeners {
		if l.Node != "" {
			w.run.states[l.Node].Ports[l.Port.V] = true
		}
		if l.Node != "" && l.Component != "sshd" {
			w.serve(l, w.config(l))
		}
	}
	first := w.run.controllers()[0]
	api := w.servers[" "+address(primary(first), 6443)]
	w.servers[" "+address(w.c.API.Address.V.String(), w.c.API.Port.V)] = api
	for _, n := range w.run.workers() {
		w.servers[n.Name.V+" "+address("127.0.0.1", compile.ProxyPort)] = api
	}
}

// config is how a listener speaks TLS; nil: plain.
func (w *world) config(l compile.Listener) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert}
	switch {
	case l.Cert == "":
		return nil
	case l.Cert == compile.SelfSigned:
		config.Certificates = []tls.Certificate{selfSigned(w.T)}
		return config
	}
	config.Certificates = []tls.Certificate{w.pair(l.Cert)}
	config.ClientCAs = w.pool(l.ClientCA)
	if strings.HasPrefix(l.Component, "etcd") {
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config
}

func (w *world) pair(name string) tls.Certificate { return w.pairOf(w.store, name) }

func (w *world) pairOf(store *pki.Store, name string) tls.Certificate {
	w.Helper()
	cert, err := store.Material(secret.Cert(name))
	if err != nil {
		w.Fatal(err)
	}
	key, err := store.Material(secret.Key(name))
	if err != nil {
		w.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		w.Fatal(err)
	}
	return pair
}

func (w *world) pool(ca string) *x509.CertPool {
	pool := x509.NewCertPool()
	if text, err := w.store.Material(secret.Bundle(ca)); err == nil {
		pool.AppendCertsFromPEM(text)
	}
	return pool
}

// selfSigned is the certificate of httptest's own server.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return s.TLS.Certificates[0]
}

// serve puts a server at a listener's address.
func (w *world) serve(l compile.Listener, config *tls.Config) {
	s := httptest.NewUnstartedServer(w.handler(l, config))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if config == nil {
		s.Start()
	} else {
		s.TLS = config
		s.StartTLS()
	}
	w.Cleanup(s.Close)
	host := l.Host.V
	node := l.Node
	if ip, err := netip.ParseAddr(host); err == nil && !ip.IsLoopback() {
		node = ""
		if ip.IsUnspecified() {
			host = primary(w.run.node(l.Node))
			w.servers[l.Node+" "+address("127.0.0.1", l.Port.V)] = s.Listener.Addr().String()
		}
	}
	w.servers[node+" "+address(host, l.Port.V)] = s.Listener.Addr().String()
}

// handler answers as the component does, as far as verify asks.
func (w *world) handler(l compile.Listener, config *tls.Config) http.Handler {
	var clients *x509.CertPool
	if config != nil {
		clients = config.ClientCAs
	}
	return http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		user, known := "", false
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && clients != nil {
			leaf := r.TLS.PeerCertificates[0]
			_, err := leaf.Verify(x509.VerifyOptions{Roots: clients, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
			user, known = leaf.Subject.CommonName, err == nil
		}
		answer := answers[l.Component]
		if answer == nil {
			fmt.Fprint(out, "ok")
			return
		}
		answer(w, l, user, known, out, r)
	})
}

// answers are what components say.
var answers = map[string]func(w *world, l compile.Listener, user string, known bool, out http.ResponseWriter, r *http.Request){
	"etcd": func(_ *world, _ compile.Listener, _ string, _ bool, out http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/version" {
			fmt.Fprint(out, `{"etcdserver":"3.7.3"}`)
			return
		}
		fmt.Fprint(out, `{"health":"true","reason":""}`)
	},
	"etcd-peer": func(w *world, _ compile.Listener, _ string, _ bool, out http.ResponseWriter, _ *http.Request) {
		var list []map[string]any
		for _, m := range w.c.Etcd.Members {
			list = append(list, map[string]any{"id": m.ID, "name": m.Name.V, "peerURLs": []string{m.PeerURL.V}})
		}
		out.Header().Set("X-Etcd-Cluster-ID", fmt.Sprintf("%x", w.c.Etcd.ClusterID))
		_ = json.NewEncoder(out).Encode(list)
	},
	"kubelet": func(w *world, l compile.Listener, user string, known bool, out http.ResponseWriter, r *http.Request) {
		switch {
		case l.Cert == "": // the health port
			fmt.Fprint(out, "ok")
		case !known:
			http.Error(out, "Unauthorized", http.StatusUnauthorized)
		case user != w.c.KubeletClient.V || w.denied["kubelet"]:
			http.Error(out, fmt.Sprintf("Forbidden (user=%s, verb=get, resource=nodes, subresource=proxy)", user), http.StatusForbidden)
		default:
			fmt.Fprint(out, `{"kind":"PodList","apiVersion":"v1","items":[]}`)
		}
		_ = r
	},
	"kube-apiserver": (*world).apiserver,
}

func (w *world) apiserver(_ compile.Listener, user string, known bool, out http.ResponseWriter, r *http.Request) {
	if !known {
		status := http.StatusUnauthorized
		if w.run.anonymous(w.run.controllers()[0]) {
			status = http.StatusForbidden
		}
		http.Error(out, http.StatusText(status), status)
		return
	}
	body, _ := io.ReadAll(r.Body)
	switch {
	case r.URL.Path == selfReview:
		out.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(out).Encode(map[string]any{"status": map[string]any{"userInfo": map[string]any{"username": user}}})
	case strings.HasSuffix(r.URL.Path, "/selfsubjectaccessreviews"):
		allowed := true
		for _, what := range slices.Sorted(maps.Keys(w.denied)) {
			allowed = allowed && !strings.Contains(string(body), what)
		}
		out.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(out).Encode(map[string]any{"status": map[string]any{"allowed": allowed}})
	case r.URL.Path == "/version":
		fmt.Fprintf(out, `{"gitVersion": "v%s"}`, w.c.Kubernetes.V)
	default:
		fmt.Fprint(out, "[+]ping ok\n[+]etcd ok\nreadyz check passed\n")
	}
}

// check runs one row of the table.
func (w *world) check(name string) {
	w.Helper()
	for _, c := range checks {
		if c.name == name {
			c.run(w.Context(), w.run.probe(c))
			return
		}
	}
	w.Fatalf("no check is called %q", name)
}

// wire runs all checks that need nothing but connections.
func (w *world) wire() *Report {
	for _, name := range []string{"names", "connections", "proofs of servers", "served certificates", "proofs of clients", "strangers", "rights", "etcd IDs", "etcd health", "API servers", "health"} {
		w.check(name)
	}
	w.run.report.settle()
	return w.run.report
}

// failures are the failures of a report, a line for each.
func failures(r *Report) string {
	var out []string
	for _, x := range r.Results {
		if x.Status == Failed {
			out = append(out, fmt.Sprintf("%s: %s: expected %s, actual %s (%s)", x.Layer, x.title(), x.Expected, x.Actual, x.Cause))
		}
	}
	return strings.Join(out, "\n")
}
