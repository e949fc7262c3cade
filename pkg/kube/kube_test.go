package kube

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kthwc/kthwc/internal/kubetest"
)

// Who we are and what we ask for: a real server's answers as sentences.
func TestAnswers(t *testing.T) {
	c := super(t)
	ctx := bound(t, time.Minute)
	t.Run("ready", func(t *testing.T) {
		if err := c.Ready(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Run("raw", func(t *testing.T) {
		if text, err := c.GetRaw(ctx, "/version?pretty=false"); err != nil || !strings.Contains(string(text), `"v1.37`) {
			t.Errorf("%s %v", text, err)
		}
		_, err := c.GetRaw(ctx, "/api/v1/nodes/none/proxy/healthz")
		expect(t, err, NotFound, "none")
		_, err = c.GetRaw(ctx, "https://elsewhere/")
		expect(t, err, Invalid)
	})
	t.Run("not there", func(t *testing.T) {
		_, err := c.Get(ctx, Ref{"v1", "ConfigMap", "default", "none"})
		expect(t, err, NotFound, `configmaps "none" not found`)
		_, err = c.Get(ctx, Ref{"kthwc.dev/v1", "Nothing", "default", "none"})
		expect(t, err, NotFound, "does not know the kind Nothing of kthwc.dev/v1")
		_, err = c.Get(ctx, Ref{"v1", "Nothing", "default", "none"})
		expect(t, err, NotFound, "does not know the kind Nothing")
	})
	t.Run("names", func(t *testing.T) {
		_, err := c.Get(ctx, Ref{"v1", "ConfigMap", "default", "../../namespaces/default"})
		expect(t, err, Invalid, "cannot be a name")
		_, err = c.Get(ctx, Ref{"v1", "ConfigMap", "", "x"})
		expect(t, err, Invalid, "none is given")
		_, err = c.Get(ctx, Ref{"v1", "Node", "default", "x"})
		expect(t, err, Invalid, "belongs to none")
	})
	t.Run("twice", func(t *testing.T) {
		_, err := c.Create(ctx, Object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "default"}})
		expect(t, err, Exists)
	})
	t.Run("invalid", func(t *testing.T) {
		_, err := c.Create(ctx, Object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "UPPER"}})
		expect(t, err, Invalid, "metadata.name")
	})
	t.Run("forbidden", func(t *testing.T) {
		nobody := connect(t, accessOf(t, "kthwc-admin", "kthwc:cluster-admins"))
		_, err := nobody.Create(ctx, Object{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "x", "namespace": "default"}})
		expect(t, err, Forbidden, "forbidden: user kthwc-admin may not create pods in default")
		_, err = nobody.Nodes(ctx)
		expect(t, err, Forbidden, "may not list nodes")
		_, err = nobody.GetRaw(ctx, "/metrics")
		expect(t, err, Forbidden, "user kthwc-admin may not get /metrics")
	})
}

// Objects are made, listed in pages, changed and deleted.
func TestObjects(t *testing.T) {
	c, ctx := super(t), bound(t, time.Minute)
	ns := namespaced(t, c)
	for i := range 3 {
		must[Object](t)(c.Create(ctx, Object{"apiVersion": "v1", "kind": "ConfigMap",
			"metadata": map[string]any{"name": fmt.Sprint("c", i), "namespace": ns, "labels": map[string]any{"n": fmt.Sprint(i)}}}))
	}
	all := must[[]Object](t)(c.List(ctx, "v1", "ConfigMap", ns, Selection{}))
	one := must[[]Object](t)(c.List(ctx, "v1", "ConfigMap", ns, Selection{Labels: "n=1"}))
	if len(all) < 3 || len(one) != 1 || one[0].Ref() != (Ref{"v1", "ConfigMap", ns, "c1"}) {
		t.Errorf("%d, %v", len(all), one)
	}
	changed := must[Object](t)(c.Patch(ctx, one[0].Ref(), Object{"data": map[string]any{"a": "b"}, "metadata": map[string]any{"labels": nil}}))
	if changed.Str("data", "a") != "b" || len(changed.Map("metadata", "labels")) != 0 {
		t.Error(changed)
	}
	for range 2 { // the second time there is none
		if err := c.Delete(ctx, one[0].Ref()); err != nil {
			t.Error(err)
		}
	}
}

// A list has all its pages.
func TestListPages(t *testing.T) {
	c := super(t)
	ns := namespaced(t, c)
	const count = pageSize + 2
	var making sync.WaitGroup
	for worker := range 4 {
		making.Go(func() {
			for i := worker; i < count; i += 4 {
				_, err := c.Create(t.Context(), Object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": fmt.Sprint("c", i), "namespace": ns}})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	making.Wait()
	if all := must[[]Object](t)(c.List(t.Context(), "v1", "ConfigMap", ns, Selection{})); len(all) != count {
		t.Errorf("%d of %d", len(all), count)
	}
}

// What cannot be reached or trusted is told apart.
func TestUnreachable(t *testing.T) {
	good := accessOf(t, "kthwc-super-admin", "system:masters")
	ctx := bound(t, time.Minute)
	t.Run("nobody listens", func(t *testing.T) {
		a := good
		a.Server = "https://127.0.0.1:1"
		expect(t, connect(t, a).Ready(ctx), Unreachable, "the API server at 127.0.0.1:1 does not answer: connection refused")
	})
	t.Run("the way is closed", func(t *testing.T) {
		a := good
		a.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, os.ErrDeadlineExceeded }
		expect(t, connect(t, a).Ready(ctx), TimedOut)
		_, err := connect(t, a).Nodes(ctx)
		expect(t, err, TimedOut)
	})
	t.Run("silence", func(t *testing.T) {
		a := good
		a.Timeout = 200 * time.Millisecond
		a.Dial = silence(t)
		began := time.Now()
		_, err := connect(t, a).Nodes(ctx)
		expect(t, err, TimedOut, "does not answer in time")
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
	})
	t.Run("another name", func(t *testing.T) {
		a := good
		a.ServerName = "elsewhere"
		expect(t, connect(t, a).Ready(ctx), Untrusted, "not for the name elsewhere")
	})
	t.Run("another authority", func(t *testing.T) {
		a := good
		a.CA = good.Cert
		expect(t, connect(t, a).Ready(ctx), Untrusted, "an authority that is not the cluster's")
	})
	t.Run("no TLS", func(t *testing.T) {
		s := httptest.NewServer(http.NotFoundHandler())
		defer s.Close()
		a := good
		a.Server = "https://" + s.Listener.Addr().String()
		expect(t, connect(t, a).Ready(ctx), Untrusted, "does not speak TLS")
	})
	t.Run("unknown client", func(t *testing.T) {
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert}
		s.StartTLS()
		defer s.Close()
		a := good
		a.Server, a.ServerName, a.CA = s.URL, "example.com", pemOf(s.Certificate().Raw)
		expect(t, connect(t, a).Ready(ctx), Unauthorized, "user kthwc-super-admin", "kthwc kubeconfig")
	})
	t.Run("cancelled", func(t *testing.T) {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		err := connect(t, good).Ready(ended)
		expect(t, err, Cancelled)
	})
}

// silence is a way to somebody who never says anything.
func silence(t *testing.T) Dial {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
	}
}

// A server that has another authority for clients does not know us.
func TestUnauthorized(t *testing.T) {
	a := accessOf(t, "kthwc-super-admin", "system:masters")
	a.Cert, a.Key = kubetest.Stranger(t, "kthwc-super-admin", "system:masters")
	c := connect(t, a)
	_, err := c.Nodes(bound(t, time.Minute))
	expect(t, err, Unauthorized, "does not know who we are (user kthwc-super-admin, group system:masters, valid until ")
	expect(t, c.Ready(bound(t, time.Minute)), Unauthorized)
}

// What cannot be used is refused before there is traffic.
func TestConnectRefuses(t *testing.T) {
	good := accessOf(t, "somebody")
	for name, change := range map[string]func(*Access){
		"http":        func(a *Access) { a.Server = "http://127.0.0.1" },
		"no address":  func(a *Access) { a.Server = "127.0.0.1:6443" },
		"no roots":    func(a *Access) { a.CA = nil },
		"another key": func(a *Access) { a.Key = accessOf(t, "another").Key },
	} {
		t.Run(name, func(t *testing.T) {
			a := good
			change(&a)
			_, err := Connect(a)
			expect(t, err, Invalid)
			if err != nil && strings.Contains(err.Error(), "PRIVATE KEY") {
				t.Error("the key is in the error")
			}
		})
	}
}

// Everything goes by Dial, streams too.
func TestDialIsTheOnlyWay(t *testing.T) {
	a := accessOf(t, "kthwc-super-admin", "system:masters")
	real := strings.TrimPrefix(a.Server, "https://")
	var dialled atomic.Int64
	a.Server = "https://192.0.2.1:6443"
	a.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != "192.0.2.1:6443" {
			return nil, fmt.Errorf("dialled %s", address)
		}
		dialled.Add(1)
		return new(net.Dialer).DialContext(ctx, network, real)
	}
	c, ctx := connect(t, a), bound(t, time.Minute)
	for name, try := range map[string]func() error{
		"request": func() error { _, err := c.Get(ctx, Ref{"v1", "Pod", "default", "none"}); return err },
		"text":    func() error { _, err := c.Logs(ctx, "default", "none", ""); return err },
		"exec":    func() error { _, _, _, err := c.Exec(ctx, "default", "none", "", []string{"true"}, nil); return err },
		"exec by SPDY": func() error {
			_, err := c.execSPDY(ctx, &execution{path: "/api/v1/namespaces/default/pods/none/exec", query: execQuery("", []string{"true"}, false)})
			return err
		},
		"forward": func() error { _, err := c.PortForward(ctx, "default", "none", 80); return err },
		"forward by SPDY": func() error {
			_, err := c.forwardSPDY(ctx, "/api/v1/namespaces/default/pods/none/portforward")
			return err
		},
	} {
		c.Close()
		before := dialled.Load()
		expect(t, try(), NotFound, `pods "none" not found`)
		if dialled.Load() == before {
			t.Errorf("%s did not dial", name)
		}
	}
}

// The checks that failed are named.
func TestNotReady(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, "[+]ping ok\n[-]etcd failed: reason withheld\n[-]shutdown failed: reason withheld\nreadyz check failed\n")
	}))
	s.StartTLS()
	defer s.Close()
	a := accessOf(t, "somebody")
	a.Server, a.ServerName, a.CA = s.URL, "example.com", pemOf(s.Certificate().Raw)
	err := connect(t, a).Ready(t.Context())
	expect(t, err, NotReady, "is not ready: etcd, shutdown")
	if !NotReady.Transient() || Forbidden.Transient() {
		t.Error("what may help to wait for is wrong")
	}
}

// What a server says cannot move a terminal's cursor.
func TestPrintable(t *testing.T) {
	c := super(t)
	err := c.refused(418, []byte("\x1b[2Jteapot\u202e"))
	if got := err.Error(); got != `\x1b[2Jteapot\u202e` {
		t.Errorf("%q", got)
	}
}

// Waiting names what is awaited, tells each change once, and ends in time.
func TestWait(t *testing.T) {
	states := []string{"a", "a", "b"}
	var told []string
	n := 0
	try := func(context.Context) (bool, string, error) {
		if n == len(states) {
			return true, "", nil
		}
		n++
		return false, states[n-1], nil
	}
	progress := func(awaited, state string) { told = append(told, awaited+": "+state) }
	if err := Wait(t.Context(), "rain", time.Millisecond, progress, try); err != nil {
		t.Fatal(err)
	}
	if want := []string{"rain: a", "rain: b"}; !slices.Equal(told, want) {
		t.Error(cmp.Diff(want, told))
	}
	dry := func(context.Context) (bool, string, error) { return false, "the sky is blue", nil }
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	expect(t, Wait(ctx, "rain", time.Millisecond, nil, dry), TimedOut, "rain did not happen in time: the sky is blue")
	gone := fault(Forbidden, nil, "no")
	expect(t, Wait(t.Context(), "rain", time.Millisecond, nil, func(context.Context) (bool, string, error) { return false, "", gone }), Forbidden)
	once := 0
	err := Wait(t.Context(), "rain", time.Millisecond, nil, func(context.Context) (bool, string, error) {
		once++
		return once > 2, "", map[bool]error{true: fault(Unreachable, nil, "no")}[once < 3]
	})
	if err != nil || once != 3 {
		t.Error(err, once)
	}
}

// An object that is not there yet is waited for.
func TestWaitFor(t *testing.T) {
	c := super(t)
	ns := namespaced(t, c)
	r := Ref{"v1", "ConfigMap", ns, "late"}
	there := func(o Object) (bool, string) { return o != nil, "it is not there" }
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	expect(t, c.WaitFor(short, r, "the late one", nil, there), TimedOut, "the late one did not happen in time: it is not there")
	time.AfterFunc(200*time.Millisecond, func() {
		_, _ = c.Create(context.Background(), Object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "late", "namespace": ns}})
	})
	if err := c.WaitFor(bound(t, time.Minute), r, "the late one", nil, there); err != nil {
		t.Error(err)
	}
}
