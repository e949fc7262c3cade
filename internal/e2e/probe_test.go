package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// How the probe asks.
const (
	probeEvery  = 100 * time.Millisecond
	probeAnswer = 5 * time.Second // a request that takes longer has failed

	mostPatience = 2 * time.Second // a server that asks for more is away
)

// probe is a client of the API behind the balancer that never rests: it writes
// over connections that it keeps, and reads over a new one each time. What it
// reads must be at least what was written before it asked. A request that fails
// is sent once more, as clients do: at once, or when the server has asked to; one
// that fails twice is an outage.
type probe struct {
	url    string
	stop   context.CancelFunc
	done   sync.WaitGroup
	acked  atomic.Int64 // the number that was written last
	writes tally
	reads  tally
}

// tally counts one kind of request.
type tally struct {
	mu       sync.Mutex
	requests int
	again    int           // that were sent twice
	last     time.Time     // when there was an answer
	gap      time.Duration // the longest time between two answers
	outages  []string
}

const configMap = "/api/v1/namespaces/default/configmaps"

// probe begins to ask, where the operator's kubeconfig says.
func (o *operator) probe(t *testing.T) *probe {
	t.Helper()
	server, config, err := credentials(o.state("admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	keeps := &http.Client{Timeout: probeAnswer, Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	fresh := &http.Client{Timeout: probeAnswer, Transport: &http.Transport{TLSClientConfig: config.Clone(), DisableKeepAlives: true}}
	p := &probe{url: server + configMap}
	name := fmt.Sprintf("probe-%d", time.Now().UnixNano())
	if _, err := ask(t.Context(), keeps, http.MethodPost, p.url, `{"metadata":{"name":"`+name+`"},"data":{"n":"0"}}`); err != nil {
		t.Fatalf("the probe cannot begin: %v", err)
	}
	p.url += "/" + name
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	p.stop = cancel
	p.done.Go(func() { p.writes.every(ctx, func() error { return p.write(ctx, keeps) }) })
	p.done.Go(func() { p.reads.every(ctx, func() error { return p.read(ctx, fresh) }) })
	t.Cleanup(cancel)
	return p
}

// every asks ten times a second until the context ends.
func (c *tally) every(ctx context.Context, once func() error) {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for c.last = time.Now(); ; {
		c.request(ctx, once)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (c *tally) request(ctx context.Context, once func() error) {
	err := once()
	again := err != nil
	if again && ctx.Err() == nil {
		var later *laterError
		if errors.As(err, &later) {
			time.Sleep(later.after)
		}
		err = once()
	}
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	if again {
		c.again++
	}
	now := time.Now()
	if err != nil {
		c.outages = append(c.outages, now.Format("15:04:05.000 ")+err.Error())
		return
	}
	c.gap = max(c.gap, now.Sub(c.last))
	c.last = now
}

func (p *probe) write(ctx context.Context, c *http.Client) error {
	n := p.acked.Load() + 1
	_, err := ask(ctx, c, http.MethodPatch, p.url, fmt.Sprintf(`{"data":{"n":"%d"}}`, n))
	if err == nil {
		p.acked.Store(n)
	}
	return err
}

func (p *probe) read(ctx context.Context, c *http.Client) error {
	atLeast := p.acked.Load()
	body, err := ask(ctx, c, http.MethodGet, p.url, "")
	if err != nil {
		return err
	}
	var is struct{ Data map[string]string }
	if err := json.Unmarshal(body, &is); err != nil {
		return fmt.Errorf("%w: %.200s", err, body)
	}
	if n, err := strconv.ParseInt(is.Data["n"], 10, 64); err != nil || n < atLeast {
		return fmt.Errorf("it has %q, and %d was written before", is.Data["n"], atLeast)
	}
	return nil
}

func ask(ctx context.Context, c *http.Client, method, url, body string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", map[string]string{http.MethodPatch: "application/merge-patch+json"}[method])
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %.300s", method, url, response.Status, text)
		if seconds, wrong := strconv.Atoi(response.Header.Get("Retry-After")); wrong == nil {
			err = &laterError{err, min(time.Duration(seconds)*time.Second, mostPatience)}
		}
	}
	return text, err
}

// laterError is an answer that says when to ask again.
type laterError struct {
	error
	after time.Duration
}

// end stops the probe, says what it saw, and fails if there was an outage.
func (p *probe) end(t *testing.T) {
	t.Helper()
	p.stop()
	p.done.Wait()
	for kind, c := range map[string]*tally{"writes over kept connections": &p.writes, "reads over new connections": &p.reads} {
		t.Logf("%d %s, %d sent twice, longest gap %.1f s", c.requests, kind, c.again, c.gap.Seconds())
		if c.requests < 10 {
			t.Errorf("only %d %s: nothing was proven", c.requests, kind)
		}
		if n := len(c.outages); n > 0 {
			t.Errorf("%d of %d %s failed, also when sent again:\n%s", n, c.requests, kind, strings.Join(c.outages[:min(n, 5)], "\n"))
		}
	}
}

// credentials are what a kubeconfig says: where the API is, and who asks.
func credentials(file string) (server string, _ *tls.Config, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", nil, err
	}
	var is struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				Name   string `json:"tls-server-name"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(text, &is); err != nil || len(is.Clusters) != 1 || len(is.Users) != 1 {
		return "", nil, fmt.Errorf("%s has not one cluster and one user (%w)", file, err)
	}
	pair, err := tls.X509KeyPair(is.Users[0].User.Cert, is.Users[0].User.Key)
	if err != nil {
		return "", nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(is.Clusters[0].Cluster.CA) {
		return "", nil, fmt.Errorf("%s has no authority", file)
	}
	at := is.Clusters[0].Cluster
	return at.Server, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: at.Name, RootCAs: roots, Certificates: []tls.Certificate{pair}}, nil
}
