package kube

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/kubetest"
)

func TestMain(m *testing.M) { os.Exit(kubetest.Run(m)) }

// accessOf is the shared server, as a user of groups.
func accessOf(t testing.TB, user string, groups ...string) Access {
	t.Helper()
	s := kubetest.Shared(t)
	cert, key := s.Identity(t, user, groups...)
	return Access{Server: s.URL, ServerName: s.ServerName, CA: s.CA, Cert: cert, Key: key}
}

func connect(t testing.TB, a Access) *Client {
	t.Helper()
	c, err := Connect(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func super(t testing.TB) *Client {
	t.Helper()
	return connect(t, accessOf(t, "kthwc-super-admin", "system:masters"))
}

// bound is a context that a test cannot outlive.
func bound(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func expect(t testing.TB, err error, k Kind, words ...string) {
	t.Helper()
	if err == nil || KindOf(err) != k {
		t.Errorf("%v error %v, want %v", KindOf(err), err, k)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func must[T any](t testing.TB) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// namespaced makes a namespace for one test, and deletes it.
func namespaced(t *testing.T, c *Client) string {
	t.Helper()
	made := must[Object](t)(c.Create(t.Context(), Object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"generateName": "test-"}}))
	t.Cleanup(func() { _ = c.Delete(context.Background(), made.Ref()) })
	return made.Str("metadata", "name")
}

// cut ends a client's requests after some number, as a SIGKILL would: the last
// one is not sent, or its answer is not received.
type cut struct {
	mu    sync.Mutex
	next  http.RoundTripper
	left  int
	after bool // the last request does reach the server
}

var errCut = errors.New("the test ends here")

func (c *cut) RoundTrip(q *http.Request) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left--
	if c.left > 0 {
		return c.next.RoundTrip(q)
	}
	if c.left == 0 && c.after {
		if answer, err := c.next.RoundTrip(q); err == nil {
			answer.Body.Close()
		}
	}
	return nil, errCut
}

// through sends a client's requests by something else.
func through(t testing.TB, c *Client, rt http.RoundTripper) *Client {
	t.Helper()
	c.http.Transport = rt
	if err := c.speak(c.http); err != nil {
		t.Fatal(err)
	}
	return c
}

// manifest is a file of documents.
func manifest(name string, documents ...string) Manifest {
	return Manifest{Name: "manifests/" + name, Text: []byte(strings.Join(documents, "\n---\n"))}
}

func configMap(namespace, name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\ndata: {key: %q}", name, namespace, value)
}

// forgetInventory gives each test of manifests a cluster that knows nothing.
func forgetInventory(t *testing.T, c *Client) {
	t.Helper()
	clean := func() {
		if err := c.Delete(context.Background(), inventoryRef); err != nil {
			t.Error(err)
		}
	}
	clean()
	t.Cleanup(clean)
}

// brief is changes in short: "add ConfigMap ns/name".
func brief(changes []Change) []string {
	var lines []string
	for _, c := range changes {
		lines = append(lines, string(c.Do)+" "+c.Ref().String())
	}
	return lines
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
