package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	text "github.com/kthwc/kthwc/internal/printable"
)

// Kind says what failed, for callers that choose an exit code or a next step.
type Kind int

// What can fail. The table reasons below says what the user does about each.
const (
	Unclassified Kind = iota
	Unreachable       // nobody answers at the address
	TimedOut          // no answer, or not the awaited one, in time
	Untrusted         // the server's certificate is not the one that we expect
	Unauthorized      // the server does not know who we are
	Forbidden         // the server knows us, and we may not
	NotFound          // there is no such object, or no such kind
	Exists            // there is one already
	Conflict          // somebody else changed it meanwhile
	Invalid           // what we sent, or were given, is wrong
	Busy              // the server asks us to come later, or a disruption budget forbids
	ServerFault       // the server failed
	NotReady          // the server answers that it is not ready
	Cancelled         // the caller's context was cancelled
)

// reasons: a name for logs, what the user does about it, and whether the same
// again may help.
var reasons = [...]struct {
	name, help string
	transient  bool
}{
	Unclassified: {"unclassified", "", false},
	Unreachable:  {"unreachable", "check that kube-apiserver runs there, and that no firewall stands between", true},
	TimedOut:     {"timed-out", "", true},
	Untrusted:    {"untrusted", "check that the address is the cluster's, and that the server has the certificate that kthwc issued", false},
	Unauthorized: {"unauthorized", "have the certificate issued again: kthwc kubeconfig", false},
	Forbidden:    {"forbidden", "", false},
	NotFound:     {"not-found", "", false},
	Exists:       {"exists", "", false},
	Conflict:     {"conflict", "", true},
	Invalid:      {"invalid", "", false},
	Busy:         {"busy", "", true},
	ServerFault:  {"server-fault", "look at the log of kube-apiserver", true},
	NotReady:     {"not-ready", "", true},
	Cancelled:    {"cancelled", "", false},
}

// String is the kind's name in logs and documentation.
func (k Kind) String() string { return reasons[k].name }

// Transient is whether the same request may succeed a little later.
func (k Kind) Transient() bool { return reasons[k].transient }

// Error is everything that this package reports.
type Error struct {
	Kind Kind
	What string // a sentence without a period
	Help string // what the user does about it, may be empty
	Err  error  // the cause, may be nil; its text is in What already

	status metav1.Status // what the server said, for our own decisions
}

// Error is the sentence, then the help on a line of its own.
func (e *Error) Error() string {
	if e.Help == "" {
		return e.What
	}
	return e.What + "\n  help: " + e.Help
}

// Unwrap gives the cause, so that context.Canceled and net errors are found.
func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of an error of this package, or Unclassified.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Unclassified
}

// fault makes an error with the kind's own help. The cause's text is appended.
func fault(k Kind, cause error, format string, args ...any) *Error {
	what := fmt.Sprintf(format, args...)
	if cause != nil {
		what += ": " + sentence(cause)
	}
	return &Error{Kind: k, What: printable(what), Help: reasons[k].help, Err: cause}
}

// sentence is a cause without its own help.
func sentence(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.What
	}
	return err.Error()
}

// lost is the error of a request that got no answer.
func (c *Client) lost(ctx context.Context, err error) *Error {
	if ended := ctx.Err(); ended != nil && errors.Is(ended, context.Canceled) {
		return fault(Cancelled, nil, "the request to %s was cancelled", c.server()).because(ended)
	}
	if e := c.untrusted(err); e != nil {
		return e.because(err)
	}
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return fault(TimedOut, nil, "%s does not answer in time", c.server()).because(err)
	}
	return fault(Unreachable, nil, "%s does not answer: %s", c.server(), rootCause(err)).because(err)
}

func (e *Error) because(err error) *Error {
	e.Err = err
	return e
}

// untrusted is the error for a certificate that is not the expected one, or nil.
func (c *Client) untrusted(err error) *Error {
	var verification *tls.CertificateVerificationError
	var alert *net.OpError
	switch {
	case errors.As(err, &verification):
		return fault(Untrusted, nil, "the certificate of %s is refused: %s", c.server(), whyRefused(verification.Err))
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fault(Untrusted, nil, "%s does not speak TLS", c.server())
	case errors.As(err, &alert) && alert.Op == "remote error":
		return fault(Unauthorized, nil, "%s refuses our certificate (%s): %s", c.server(), c.identity(), alert.Err)
	}
	return nil
}

// whyRefused puts x509's reasons into words.
func whyRefused(err error) string {
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &name):
		return "it is not for the name " + name.Host
	case errors.As(err, &authority):
		return "it was issued by an authority that is not the cluster's"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "it is valid from " + day(invalid.Cert.NotBefore) + " to " + day(invalid.Cert.NotAfter) + " only"
	}
	return err.Error()
}

func day(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// identity is who we are, for errors.
func (c *Client) identity() string {
	who := "user " + c.Who()
	if groups := c.leaf.Subject.Organization; len(groups) > 0 {
		who += ", group " + strings.Join(groups, ", ")
	}
	return who + ", valid until " + day(c.leaf.NotAfter)
}

// rootCause drops the layers that only repeat the address.
func rootCause(err error) string {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number.Error()
	}
	var name *net.DNSError
	if errors.As(err, &name) {
		return "the name " + name.Name + " has no address"
	}
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err.Error()
}

// codes: what a status of HTTP means where the server gives no better reason.
var codes = map[int]Kind{
	http.StatusBadRequest:            Invalid,
	http.StatusUnauthorized:          Unauthorized,
	http.StatusForbidden:             Forbidden,
	http.StatusNotFound:              NotFound,
	http.StatusMethodNotAllowed:      Invalid,
	http.StatusConflict:              Conflict,
	http.StatusGone:                  Conflict,
	http.StatusRequestEntityTooLarge: Invalid,
	http.StatusUnsupportedMediaType:  Invalid,
	http.StatusUnprocessableEntity:   Invalid,
	http.StatusTooManyRequests:       Busy,
	http.StatusGatewayTimeout:        TimedOut,
}

// refused is the error of a request that the server answered with an error.
func (c *Client) refused(code int, body []byte) *Error {
	status := readStatus(code, body)
	k, known := codes[code]
	switch {
	case status.Reason == metav1.StatusReasonAlreadyExists:
		k = Exists
	case misfit.MatchString(status.Message):
		k = Invalid
	case !known && code >= 500:
		k = ServerFault
	}
	e := fault(k, nil, "%s", c.words(k, status))
	e.status = status
	return e
}

// misfit is what the server says of a field of the wrong type, as if it were
// its own failure.
var misfit = regexp.MustCompile(`^failed to (create typed patch object|convert new object)`)

// unsaid is an error without the server's words, which may have a Secret's values.
func unsaid(e *Error) *Error {
	if e.Kind != Invalid && e.Kind != ServerFault {
		return e
	}
	return fault(e.Kind, nil, "the API server refuses the Secret; its reason is not shown, because it may contain the Secret's values")
}

// said is the server's own words about an error, zero where it said none.
func said(err error) metav1.Status {
	var e *Error
	if errors.As(err, &e) {
		return e.status
	}
	return metav1.Status{}
}

// readStatus is the server's Status object, or one made of its words.
func readStatus(code int, body []byte) metav1.Status {
	var status metav1.Status
	if json.Unmarshal(body, &status) != nil || status.Kind != "Status" || status.Message == "" {
		status = metav1.Status{Message: strings.TrimSpace(string(body))}
	}
	if status.Message == "" {
		status.Message = http.StatusText(code)
	}
	status.Code = int32(code)
	return status
}

// forbidden is how the server says that somebody may not do something.
var forbidden = regexp.MustCompile(`User "([^"]*)" cannot (\S+) (?:resource "([^"]*)"|path "([^"]*)")(?:.*?in the namespace "([^"]*)")?`)

// words is the sentence for a refusal.
func (c *Client) words(k Kind, status metav1.Status) string {
	switch k {
	case Unauthorized:
		return fmt.Sprintf("%s does not know who we are (%s)", c.server(), c.identity())
	case Forbidden:
		return mayNot(status.Message)
	case ServerFault, Busy:
		return c.server() + " says: " + status.Message
	}
	return status.Message
}

func mayNot(message string) string {
	m := forbidden.FindStringSubmatch(message)
	if m == nil {
		return "forbidden: " + strings.TrimPrefix(message, "forbidden: ")
	}
	s := fmt.Sprintf("forbidden: user %s may not %s %s%s", m[1], m[2], m[3], m[4])
	if m[5] != "" {
		s += " in " + m[5]
	}
	return s
}

// printable escapes what a server said.
func printable(s string) string { return text.Short(s, 4000) }
