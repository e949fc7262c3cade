package apply

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kthwc/kthwc/internal/printable"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

//go:embed unit.sh
var unitScript string

// gate is one unit of one host that must come to do its work.
type gate struct {
	node     string
	conn     Conn
	unit     tree.Unit
	material secret.Source
	before   string // invocation that it must have left behind; "" for whichever
	first    bool
	waiting  func(what string)
	restarts int  // that systemd had counted when it was first looked at: they are not held against it
	patient  bool // nor are later ones
}

// Bounds of a gate.
const (
	pollEvery    = 300 * time.Millisecond
	probeTime    = 5 * time.Second
	mostRestarts = 3 // systemd has started it again so often meanwhile: it will not come up
	logLines     = 10
	logWidth     = 120
)

// GateError is a unit that did not come to do its work: the condition that was
// waited for, what was seen last, and the end of its log.
type GateError struct {
	Node, Unit, Last string
	Log              string
}

func (e *GateError) Error() string {
	text := fmt.Sprintf("%s on %s: %s", e.Unit, e.Node, e.Last)
	if e.Log != "" {
		text += "\n  its log ends with:\n    " + strings.ReplaceAll(e.Log, "\n", "\n    ")
	}
	return text
}

// pass waits until the unit works, twice in a row and as the same process: one that
// dies and is started again may answer meanwhile. The condition and its last error
// are told while it waits.
func (g *gate) pass(run context.Context, most time.Duration) error {
	ctx, cancel := context.WithTimeout(run, most)
	defer cancel()
	began, last := time.Now(), errors.New("nothing was seen yet")
	for worked := ""; ; {
		process, err := g.look(ctx)
		if err != nil && ctx.Err() == nil {
			last = err
		}
		var final *finalError
		switch {
		case err == nil && process == worked:
			return nil
		case err == nil:
			worked = process
		case errors.As(err, &final):
			return g.failed(err)
		default:
			worked = ""
			g.waiting(err.Error())
		}
		select {
		case <-ctx.Done():
			if err := run.Err(); errors.Is(err, context.Canceled) { // nobody waits any more
				return fmt.Errorf("%s on %s: %w", g.unit.Name, g.node, err)
			}
			return g.failed(fmt.Errorf("not within %v: %w", min(most, time.Since(began).Round(time.Second)), last))
		case <-time.After(pollEvery):
		}
	}
}

// finalError ends a gate: waiting does not help.
type finalError struct{ error }

// failed adds the end of the unit's log.
func (g *gate) failed(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out := &GateError{Node: g.node, Unit: g.unit.Name, Last: err.Error()}
	if r, err := g.conn.Run(ctx, Command{Script: unitScript, Args: []string{"log", g.unit.Name, strconv.Itoa(logLines)}}); err == nil {
		out.Log = shortened(string(bytes.TrimSpace(r.Stdout)))
	}
	return out
}

// shortened is a log whose lines fit on a screen.
func shortened(log string) string {
	lines := strings.Split(log, "\n")
	for i, l := range lines {
		if r := []rune(l); len(r) > logWidth {
			l = string(r[:logWidth-1]) + "…"
		}
		lines[i] = printable.Text(l)
	}
	return strings.Join(lines, "\n")
}

// look asks systemd, and then the unit itself. It gives the process that works.
func (g *gate) look(ctx context.Context) (process string, err error) {
	r, err := g.conn.Run(ctx, Command{Script: unitScript, Args: []string{"show", g.unit.Name}})
	if err != nil {
		return "", err
	}
	is := map[string]string{}
	for line := range strings.Lines(string(r.Stdout)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		is[key] = value
	}
	restarts := 0
	if counted, err := strconv.Atoi(is["NRestarts"]); err == nil && !g.patient {
		g.restarts = min(g.restarts, counted)
		restarts = counted - g.restarts
	}
	switch {
	case is["ActiveState"] == "failed":
		return "", &finalError{fmt.Errorf("systemd says failed (%s, status %s)", is["Result"], is["ExecMainStatus"])}
	case restarts >= mostRestarts && is["SubState"] == "auto-restart":
		return "", &finalError{fmt.Errorf("it has ended %d times (%s, status %s)", restarts, is["Result"], is["ExecMainStatus"])}
	case is["ActiveState"] != "active":
		return "", fmt.Errorf("systemd says %s (%s)", is["ActiveState"], is["SubState"])
	case g.before != "" && is["InvocationID"] == g.before:
		return "", errors.New("it is still the process from before")
	}
	for _, p := range g.unit.Probes {
		if p.First && !g.first {
			continue
		}
		if err := Ask(ctx, g.conn, p, g.material); err != nil {
			return "", err
		}
	}
	return is["InvocationID"] + " " + is["NRestarts"], nil
}

// Ask puts a question to a unit from its own host: it must answer 200, say what
// is wanted, and serve the certificate that it shall.
func Ask(ctx context.Context, c Conn, p tree.Probe, material secret.Source) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	config, err := probeTLS(p, material)
	if err != nil {
		return err
	}
	transport := &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: config,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.Forward(ctx, network, address)
		},
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return err
	}
	request.Host = p.Host
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", p.URL, inner(err))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("%s: %w", p.URL, err)
	}
	return judge(p, response, body)
}

func judge(p tree.Probe, response *http.Response, body []byte) error {
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %s", p.URL, response.Status, notOK(body))
	}
	var said bytes.Buffer
	_ = response.Header.Write(&said) // to memory
	said.Write(body)
	for _, want := range p.Want {
		if !bytes.Contains(said.Bytes(), []byte(want)) {
			return fmt.Errorf("%s does not say %s: %.200s", p.URL, want, printable.Text(said.String()))
		}
	}
	return nil
}

// notOK is what an answer complains of: Kubernetes marks the checks that failed.
func notOK(body []byte) string {
	var out []string
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "[-]") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	if len(out) == 0 {
		return fmt.Sprintf("%.200s", printable.Text(strings.TrimSpace(string(body))))
	}
	return printable.Text(strings.Join(out, ", "))
}

// inner is an error without the method and address that http puts around it.
func inner(err error) error {
	if e := errors.Unwrap(err); e != nil {
		return e
	}
	return err
}

// probeTLS is how the question is put: with the authority that the server must be
// of, the certificate that is shown to it, and the one that it must serve. A
// component that makes its own certificate at each start is asked over its own
// host's loopback, and known by that.
func probeTLS(p tree.Probe, material secret.Source) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if p.CA.IsZero() {
		config.InsecureSkipVerify = true //nolint:gosec // nobody can know a certificate that is made at start; the address is loopback
		return config, nil
	}
	roots, err := material(p.CA)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.CA, err)
	}
	config.RootCAs = x509.NewCertPool()
	config.RootCAs.AppendCertsFromPEM(roots)
	if !p.Cert.IsZero() {
		if config.Certificates, err = pair(p, material); err != nil {
			return nil, err
		}
	}
	if p.Serves.IsZero() {
		return config, nil
	}
	want, err := fingerprint(p.Serves, material)
	if err != nil {
		return nil, err
	}
	config.VerifyConnection = func(s tls.ConnectionState) error {
		if got := sha256.Sum256(s.PeerCertificates[0].Raw); got != want {
			return fmt.Errorf("it still serves another certificate than %s (serial %x)", p.Serves.Name(), s.PeerCertificates[0].SerialNumber)
		}
		return nil
	}
	return config, nil
}

func pair(p tree.Probe, material secret.Source) ([]tls.Certificate, error) {
	cert, err := material(p.Cert)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Cert, err)
	}
	key, err := material(p.Key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Key, err)
	}
	both, err := tls.X509KeyPair(cert, key)
	return []tls.Certificate{both}, err
}

// fingerprint is that of a certificate: of its whole, because a renewed one may
// keep its key.
func fingerprint(ref secret.Ref, material secret.Source) ([sha256.Size]byte, error) {
	text, err := material(ref)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("%s: %w", ref, err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return [sha256.Size]byte{}, fmt.Errorf("%s is no certificate", ref)
	}
	return sha256.Sum256(block.Bytes), nil
}
