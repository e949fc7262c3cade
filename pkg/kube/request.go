package kube

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/json"
)

// request is one request for objects.
type request struct {
	verb        string // GET, POST, PUT, PATCH, DELETE
	path        string
	query       url.Values
	body        any    // of JSON
	contentType string // of a PATCH
	once        bool   // a refusal is not tried again, even where the server asks for it
}

// Content types of patches.
const (
	mergePatch = "application/merge-patch+json"
	applyPatch = "application/apply-patch+yaml"
)

// do sends a request and reads the object that answers it; warnings are what
// the server wants people to know.
func (c *Client) do(ctx context.Context, r request) (o Object, warnings []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.access.Timeout)
	defer cancel()
	q := c.rest.Verb(r.verb).AbsPath(r.path).SetHeader("Accept", "application/json")
	for key, values := range r.query {
		for _, value := range values {
			q.Param(key, value)
		}
	}
	if r.once {
		q.MaxRetries(0)
	}
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return nil, nil, fault(Invalid, err, "what should be sent is not JSON")
		}
		q.SetHeader("Content-Type", contentType(r)).Body(text)
	}
	result := q.Do(ctx)
	for _, w := range result.Warnings() {
		warnings = append(warnings, printable(w.Text))
	}
	code := 0
	result.StatusCode(&code)
	body, err := result.Raw()
	if err != nil {
		e := c.failure(ctx, code, body, err)
		if strings.Contains(r.path, "/secrets") {
			e = unsaid(e)
		}
		return nil, warnings, e
	}
	if err := json.Unmarshal(body, (*map[string]any)(&o)); err != nil {
		return nil, warnings, fault(ServerFault, err, "%s answers something else than JSON", c.server())
	}
	return o, warnings, nil
}

func contentType(r request) string {
	if r.contentType != "" {
		return r.contentType
	}
	return "application/json"
}

// failure tells an answer with an error from none at all.
func (c *Client) failure(ctx context.Context, code int, body []byte, err error) *Error {
	var answer interface{ Status() metav1.Status }
	switch {
	case code >= 400:
		return c.refused(code, body)
	case errors.As(err, &answer):
		return c.refused(int(answer.Status().Code), []byte(answer.Status().Message))
	}
	return c.lost(ctx, err)
}

// mostText bounds an answer that is no object.
const mostText = 64 << 20

// text sends a GET, and gives the answer whatever its type and code are.
func (c *Client) text(ctx context.Context, path string, query url.Values) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.access.Timeout)
	defer cancel()
	u := *c.base
	u.Path, u.RawQuery = path, query.Encode()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, nil, fault(Invalid, err, "the path %q cannot be asked for", path)
	}
	answer, err := c.http.Do(q)
	if err != nil {
		return 0, nil, c.lost(ctx, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, mostText))
	if err != nil {
		return 0, nil, c.lost(ctx, err)
	}
	return answer.StatusCode, body, nil
}

// GetRaw is what the server answers to a GET of a path with an optional query,
// such as /version or /api/v1/nodes/worker-0/proxy/healthz: at most 64 MiB.
func (c *Client) GetRaw(ctx context.Context, path string) ([]byte, error) {
	u, err := url.Parse(path)
	if err != nil || u.IsAbs() || !strings.HasPrefix(u.Path, "/") {
		return nil, fault(Invalid, err, "%q is not a path of the API", path)
	}
	code, body, err := c.text(ctx, u.Path, u.Query())
	if err == nil && code != http.StatusOK {
		err = c.refused(code, body)
	}
	if err != nil {
		return nil, err
	}
	return body, nil
}

// Ready asks the server whether it is ready. The error names the checks that
// failed (kind NotReady).
func (c *Client) Ready(ctx context.Context) error {
	code, body, err := c.text(ctx, "/readyz", url.Values{"verbose": {""}})
	if err != nil || code == http.StatusOK {
		return err
	}
	failed := failedChecks(string(body))
	if len(failed) == 0 {
		return c.refused(code, body)
	}
	return fault(NotReady, nil, "%s is not ready: %s", c.server(), strings.Join(failed, ", "))
}

// failedChecks reads the lines "[-]etcd failed: reason withheld".
func failedChecks(text string) []string {
	var failed []string
	for line := range strings.Lines(text) {
		if check, ok := strings.CutPrefix(line, "[-]"); ok {
			name, _, _ := strings.Cut(check, " failed")
			failed = append(failed, strings.TrimSpace(name))
		}
	}
	slices.Sort(failed)
	return slices.Compact(failed)
}
