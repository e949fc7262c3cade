package verify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/kubetest"
	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/kube"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/schema"
)

func TestMain(m *testing.M) { os.Exit(kubetest.Run(m)) }

// apiOnly is a run against a real API server without any node: what verify makes
// there, it must remove again. The model is examples/lab.yaml's, at the server's
// address.
type apiOnly struct {
	*testing.T
	run    *run
	client *kube.Client
	http   *http.Client
	url    string
}

func newAPIOnly(t *testing.T) *apiOnly {
	t.Helper()
	server := kubetest.Shared(t)
	cert, key := server.Identity(t, "verify", "system:masters")
	source, err := os.ReadFile("../../examples/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc, faults := schema.Load("lab.yaml", bytes.ReplaceAll(source, []byte("10.240.0.100"), []byte("127.0.0.1")))
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	c, faults := compile.Compile(doc, compile.Facts{})
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	material := func(ref secret.Ref) ([]byte, error) {
		switch {
		case strings.HasPrefix(ref.Name(), "pki/ca/"):
			return server.CA, nil
		case ref.Sensitive():
			return key, nil
		}
		return cert, nil
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(server.URL, "https://"))
	}
	r := &run{Subject: &Subject{Cluster: c, Now: time.Now, Dial: dial, Fleet: &apply.Fleet{Wanted: &apply.Wanted{Material: material}}},
		o: Options{Image: DefaultImage, Suffix: fmt.Sprintf("%x", time.Now().UnixNano()), Patience: 3 * time.Second}, progress: func(Event) {}, report: &Report{}}
	client, err := r.connect(nil)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(server.CA)
	a := &apiOnly{T: t, run: r, client: client, url: server.URL, http: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: server.ServerName, MinVersion: tls.VersionTLS12}}}}
	t.Cleanup(client.Close)
	t.Cleanup(a.http.CloseIdleConnections)
	a.manage()
	return a
}

// manage does what the controller manager does for namespaces, until the test
// ends: the service account, and the end.
func (a *apiOnly) manage() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ; ctx.Err() == nil; pause(ctx, 50*time.Millisecond) {
			list, err := a.client.List(ctx, "v1", "Namespace", "", kube.Selection{Labels: label})
			if err != nil {
				continue
			}
			for _, o := range list {
				a.manageOne(ctx, o)
			}
		}
	}()
	a.Cleanup(func() { cancel(); <-done })
}

func (a *apiOnly) manageOne(ctx context.Context, o kube.Object) {
	name := o.Str("metadata", "name")
	if !o.Leaving() {
		_, _ = a.client.Create(ctx, object("v1", "ServiceAccount", name, "default", nil)) // it is there already but for the first time
		return
	}
	if o.Map("metadata", "annotations")["stays"] != "" {
		return
	}
	body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q},"spec":{"finalizers":[]}}`, name)
	q, err := http.NewRequestWithContext(ctx, http.MethodPut, a.url+"/api/v1/namespaces/"+name+"/finalize", strings.NewReader(body))
	if err != nil {
		return
	}
	q.Header.Set("Content-Type", "application/json")
	if answer, err := a.http.Do(q); err == nil {
		answer.Body.Close()
	}
}

// made lists what has the label, whatever run it is of.
func (a *apiOnly) made() []string {
	a.Helper()
	var out []string
	for _, k := range swept {
		list, err := a.client.List(context.Background(), k.version, k.kind, "", kube.Selection{Labels: label})
		if err != nil {
			a.Fatal(err)
		}
		for _, o := range list {
			out = append(out, o.Ref().String())
		}
	}
	return out
}

// node registers a worker that is ready and has no kubelet.
func (a *apiOnly) node(name string) {
	a.Helper()
	o := object("v1", "Node", "", name, nil)
	o["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "True"}}}
	if _, err := a.client.Create(a.Context(), o); err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() {
		if err := a.client.DeleteNode(context.Background(), name); err != nil {
			a.Error(err)
		}
	})
}

func TestNothingOfARunStays(t *testing.T) {
	a := newAPIOnly(t)
	a.node("worker-0")
	// What a run that was killed has left.
	for _, o := range []kube.Object{object("v1", "Namespace", "", spacePrefix+"killed", nil), (&probe{run: &run{space: &space{name: spacePrefix + "killed"}}}).webhook()} {
		if _, err := a.client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	a.run.smoke(t.Context())
	a.run.report.settle()
	if left := a.made(); len(left) > 0 || len(a.run.report.Leftovers) > 0 {
		t.Errorf("left are %v; the report says %v", left, a.run.report.Leftovers)
	}
	want := map[string]Layer{"worker-0: a pod runs": LayerKubelet, "worker-1: a pod runs": LayerKubelet, "a Deployment of 2": LayerControl}
	for _, x := range a.run.report.Results {
		if layer, ok := want[x.title()]; ok && x.Status == Failed && x.Layer == layer {
			delete(want, x.title())
		}
	}
	if len(want) > 0 {
		t.Errorf("not found are %v in\n%s", want, failures(a.run.report))
	}
	if a.run.report.Counts()[Skipped] == 0 {
		t.Error("checks that need a pod are not said to be skipped")
	}
}

// A run that is cancelled in the middle cleans up as well.
func TestACancelledRunCleansUp(t *testing.T) {
	a := newAPIOnly(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	existed := false
	a.run.o.Patience = time.Minute
	a.run.progress = func(e Event) {
		if e.Check == "pods" {
			existed = len(a.made()) == 1
			cancel()
		}
	}
	a.run.smoke(ctx)
	if left := a.made(); !existed || len(left) > 0 || len(a.run.report.Leftovers) > 0 {
		t.Errorf("there was one: %v; left are %v; the report says %v", existed, left, a.run.report.Leftovers)
	}
}

// What cannot be removed is named.
func TestWhatStaysIsNamed(t *testing.T) {
	a := newAPIOnly(t)
	defer func(d time.Duration) { cleanPatience = d }(cleanPatience)
	cleanPatience = 2 * time.Second
	name := spacePrefix + a.run.o.Suffix
	a.run.progress = func(e Event) {
		if e.Check != "deployment" || e.Doing != Begin {
			return
		}
		change := kube.Object{"metadata": map[string]any{"annotations": map[string]any{"stays": "yes"}}}
		if _, err := a.client.Patch(context.Background(), kube.Ref{APIVersion: "v1", Kind: "Namespace", Name: name}, change); err != nil {
			t.Error(err)
		}
	}
	a.run.smoke(t.Context())
	if left := a.run.report.Leftovers; len(left) != 1 || !strings.Contains(left[0], name) || a.run.report.OK() {
		t.Errorf("the report says %v", left)
	}
	if _, err := a.client.Patch(t.Context(), kube.Ref{APIVersion: "v1", Kind: "Namespace", Name: name}, kube.Object{"metadata": map[string]any{"annotations": nil}}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); len(a.made()) > 0 && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
	}
}

// The facts that the API has are compared with the model.
func TestFactsOfTheAPI(t *testing.T) {
	a := newAPIOnly(t)
	for _, name := range []string{"the API's Service", "the DNS Service", "nodes", "leaders"} {
		for _, c := range checks {
			if c.name == name {
				c.run(t.Context(), a.run.probe(c))
			}
		}
	}
	a.run.report.settle()
	got := failures(a.run.report)
	// The server has the model's range of Services, so its own is right; the rest
	// is not there.
	for _, want := range []string{"dns: address of the Service kube-system/kube-dns", "controlplane: DNS servers", "kubelet: worker-0: node: expected Ready, actual not registered", "controlplane: kube-scheduler leader"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "address of the Service default/kubernetes") {
		t.Errorf("the first address of the range is said to be wrong:\n%s", got)
	}
}
