package artifact

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// maxText bounds a file of checksums and a document of a registry.
const maxText = 4 << 20

var errStalled = errors.New("no bytes came for too long")

// download is one file on its way into the cache.
type download struct {
	c         *Client
	url       string
	want      content // zero: whatever is there
	file      *os.File
	validator string // the strong ETag of what the file has so far
}

// download brings what an address has into the cache. What an earlier run left
// of the same digest is gone on with; if that does not end in the digest, it is
// thrown away and everything is asked for once more.
func (c *Client) download(ctx context.Context, address string, want content) (content, error) {
	key := sha256.Sum256([]byte(address))
	name := hex.EncodeToString(key[:])
	if want.SHA256 != "" {
		name = want.SHA256
	}
	path := filepath.Join(c.Cache.dir, "partial", name)
	left, _ := os.Stat(path) // not there: nothing is left
	if left != nil && want.SHA256 == "" {
		left = nil
		if err := os.Remove(path); err != nil {
			return content{}, err
		}
	}
	got, err := c.downloadTo(ctx, path, address, want)
	var other *otherBytes
	if errors.As(err, &other) && left != nil {
		got, err = c.downloadTo(ctx, path, address, want)
	}
	if errors.As(err, &other) {
		return got, mismatch("somebody changed the file, or the lock was made from another one (--from, --mirror); find out which before you lock again with --update",
			"%s has %s; kthwc.lock says %s", address, other.got, other.want)
	}
	return got, err
}

// downloadTo fills the file until it is whole, and moves it into the cache. A
// file that is whole and wrong is removed.
func (c *Client) downloadTo(ctx context.Context, path, address string, want content) (content, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return content{}, err
	}
	defer file.Close()
	d := &download{c: c, url: address, want: want, file: file}
	if err := c.retry(ctx, address, func() error { return d.attempt(ctx) }); err != nil {
		return content{}, err
	}
	got, err := c.Cache.adopt(path, want)
	if err != nil {
		_ = os.Remove(path)
	}
	return got, err
}

// retry calls a GET again while its failure may pass.
func (c *Client) retry(ctx context.Context, address string, try func() error) error {
	var err error
	for i := range c.attempts() {
		if i > 0 {
			if stopped := c.sleep(ctx, time.Second<<(i-1)); stopped != nil {
				return stopped
			}
		}
		err = try()
		var again passing
		if err == nil || !errors.As(err, &again) {
			return err
		}
	}
	return fault("run it again when the way there is better: what came so far is kept", "%s: gave up after %d tries; the last one: %s", address, c.attempts(), err)
}

// attempt asks for what the file does not have yet.
func (d *download) attempt(ctx context.Context) error {
	offset, err := d.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if offset > 0 && d.want.Size == 0 && d.validator == "" || d.want.Size > 0 && offset > d.want.Size {
		if offset, err = d.restart(); err != nil {
			return err
		}
	}
	if offset > 0 && offset == d.want.Size {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	response, err := d.c.get(ctx, d.url, d.rangeFrom(offset))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if offset, err = d.begin(response, offset); err != nil {
		return err
	}
	body := bufio.NewReaderSize(&counted{from: response.Body, touch: d.c.watch(cancel), report: d.c.Progress, done: offset, total: max(d.want.Size, offset+response.ContentLength)}, 64<<10)
	if head, _ := body.Peek(512); offset == 0 && isPage(head) { // an error comes again when the rest is read
		return webPage(d.url)
	}
	if err := d.checkLength(response, offset); err != nil {
		return err
	}
	return d.copy(ctx, body, offset)
}

func (d *download) restart() (int64, error) {
	d.validator = ""
	if err := d.file.Truncate(0); err != nil {
		return 0, err
	}
	return d.file.Seek(0, io.SeekStart)
}

func (d *download) rangeFrom(offset int64) http.Header {
	h := http.Header{}
	if offset > 0 {
		h.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		if d.validator != "" {
			h.Set("If-Range", d.validator)
		}
	}
	return h
}

// begin looks at what was answered: the rest, or everything again.
func (d *download) begin(r *http.Response, offset int64) (int64, error) {
	switch {
	case r.StatusCode == http.StatusPartialContent && strings.HasPrefix(r.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)):
		return offset, nil
	case r.StatusCode == http.StatusPartialContent, r.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		_, err := d.restart()
		return 0, errors.Join(passing{errors.New("the server sent another part than it was asked for")}, err)
	}
	start, err := d.restart()
	if tag := r.Header.Get("ETag"); !strings.HasPrefix(tag, "W/") {
		d.validator = tag
	}
	return start, err
}

// checkLength refuses before the first byte what cannot be right.
func (d *download) checkLength(r *http.Response, offset int64) error {
	total := offset + r.ContentLength
	switch {
	case r.ContentLength < 0 && d.want.Size == 0 && r.ProtoMajor == 1 && len(r.TransferEncoding) == 0:
		return fault("ask whoever keeps the server, or use --from with a file that you know", "%s does not say how long the file is: one that was cut off could not be told from it", d.url)
	case r.ContentLength < 0:
		return nil
	case d.want.Size > 0 && total != d.want.Size:
		return mismatch("somebody changed the file, or the lock was made from another one (--from, --mirror); find out which before you lock again with --update",
			"%s has %d bytes; kthwc.lock says %d", d.url, total, d.want.Size)
	case total > maxDownload:
		return fault("check the address", "%s has %d bytes; nothing larger than %d is taken", d.url, total, maxDownload)
	}
	return nil
}

// copy writes the body after what is there.
func (d *download) copy(ctx context.Context, body io.Reader, offset int64) error {
	most := int64(maxDownload)
	if d.want.Size > 0 {
		most = d.want.Size
	}
	n, err := io.Copy(d.file, io.LimitReader(body, most-offset+1))
	switch {
	case err != nil && ctx.Err() != nil:
		return d.c.interrupted(ctx)
	case err != nil:
		return passing{fmt.Errorf("the connection broke after %d bytes: %w", offset+n, err)}
	case offset+n > most:
		return mismatch("check the address and the lock", "%s sends more than %d bytes", d.url, most)
	case d.want.Size > 0 && offset+n < d.want.Size:
		return passing{fmt.Errorf("it ended after %d of %d bytes", offset+n, d.want.Size)}
	}
	return nil
}

// interrupted tells a stalled body, which may be tried again, from a run that
// was ended.
func (c *Client) interrupted(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
		return passing{fmt.Errorf("%w (%s)", cause, c.stall())}
	}
	return ctx.Err()
}

// watch cancels when touch was not called for too long.
func (c *Client) watch(cancel context.CancelCauseFunc) (touch func()) {
	timer := time.AfterFunc(c.stall(), func() { cancel(errStalled) })
	return func() { timer.Reset(c.stall()) }
}

// counted is a reader that tells how far it is.
type counted struct {
	from        io.Reader
	touch       func()
	report      func(done, total int64)
	done, total int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.touch()
	c.done += int64(n)
	if c.report != nil {
		c.report(c.done, c.total)
	}
	return n, err
}

// text reads a small file.
func (c *Client) text(ctx context.Context, address string, header http.Header) (text []byte, kind string, err error) {
	err = c.retry(ctx, address, func() error {
		ctx, cancel := context.WithTimeoutCause(ctx, c.stall(), errStalled)
		defer cancel()
		r, err := c.get(ctx, address, header)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if text, err = io.ReadAll(io.LimitReader(r.Body, maxText+1)); err != nil {
			return passing{err}
		}
		if isPage(text) {
			return webPage(address)
		}
		if len(text) > maxText {
			return fault("check the address", "%s has more than %d bytes", address, maxText)
		}
		kind = r.Header.Get("Content-Type")
		return nil
	})
	return text, kind, err
}

// get asks once. What it gives is an answer with a body; every other answer is
// an error that says what to do.
func (c *Client) get(ctx context.Context, address string, header http.Header) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if err := checkAddress(address); err != nil {
		return nil, err
	}
	request.Header = header.Clone()
	if request.Header == nil {
		request.Header = http.Header{}
	}
	request.Header.Set("Accept-Encoding", "identity") // the bytes as they are
	request.Header.Set("User-Agent", "kthwc")
	response, err := c.secure().Do(request)
	if err != nil {
		return nil, c.unreached(ctx, address, err)
	}
	if err := answered(address, response); err != nil {
		_ = response.Body.Close()
		return nil, err
	}
	return response, nil
}

// secure is the client that follows redirects to https only.
func (c *Client) secure() *http.Client {
	client := *c.HTTP
	client.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		switch {
		case next.URL.Scheme != "https":
			return fault("use another network, or --mirror with a place that stays with https",
				"%s redirects to %s://%s, where anybody on the way can change the file", via[0].URL.Redacted(), next.URL.Scheme, next.URL.Host)
		case len(via) >= 10:
			return fault("check the address", "%s redirects in a circle", via[0].URL.Redacted())
		}
		return nil
	}
	return &client
}

// unreached is why there was no answer. Addresses of redirects can hold a
// ticket, so only the one that was asked for is printed.
func (c *Client) unreached(ctx context.Context, address string, err error) error {
	var f *Fault
	var wrapped *url.Error
	var certificate *tls.CertificateVerificationError
	var plain tls.RecordHeaderError
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	switch {
	case errors.As(err, &f):
		return f
	case ctx.Err() != nil:
		return c.interrupted(ctx)
	case errors.As(err, &certificate):
		return fault("a sign-in page of the network or a proxy that opens TLS may stand between: sign in, or add the proxy's authority to this machine's trust; a mirror of your own is named by --mirror",
			"%s: the server's certificate is not trusted: %s", address, certificate.Err)
	case errors.As(err, &plain), errors.Is(err, http.ErrSchemeMismatch):
		return fault("a sign-in page of the network may stand between: open the address in a browser", "%s: the server does not speak TLS", address)
	}
	return passing{err}
}

// answers that mean more than their number. Others below 500 are faults too.
var answers = map[int]struct{ what, help string }{
	http.StatusNotFound:                      {"is not there", "this version may not be released for this architecture; see `kthwc versions`, or copy the file and use --from or --mirror"},
	http.StatusGone:                          {"is there no longer", "use --from or --mirror with a copy"},
	http.StatusUnauthorized:                  {"asks for a sign-in", "kthwc has none: copy the file or image and use --from or --mirror"},
	http.StatusForbidden:                     {"is forbidden", "a proxy or the server refuses it: copy the file and use --from or --mirror"},
	http.StatusProxyAuthRequired:             {"is behind a proxy that asks for a sign-in", "put the proxy's user into HTTPS_PROXY"},
	http.StatusNetworkAuthenticationRequired: {"is behind a sign-in page of the network", "sign in with a browser, then run it again"},
}

// errNotThere is what a missing file is, whatever else is said of it.
var errNotThere = errors.New("not there")

type notThere struct{ *Fault }

func (n notThere) Unwrap() []error { return []error{n.Fault, errNotThere} }

// answered refuses everything but the file.
func answered(address string, r *http.Response) error {
	code := r.StatusCode
	if a, ok := answers[code]; ok {
		f := &Fault{What: fmt.Sprintf("%s %s (%s)", address, a.what, r.Status), Help: a.help}
		if code == http.StatusNotFound || code == http.StatusGone {
			return notThere{f}
		}
		return f
	}
	switch {
	case code == http.StatusTooManyRequests || code >= 500:
		return passing{fmt.Errorf("the server answered %s", r.Status)}
	case code == http.StatusRequestedRangeNotSatisfiable:
		return nil
	case code != http.StatusOK && code != http.StatusPartialContent:
		return fault("open the address in a browser", "%s answered %s", address, r.Status)
	case strings.HasPrefix(r.Header.Get("Content-Type"), "text/html"):
		return webPage(address)
	}
	return nil
}

func isPage(head []byte) bool {
	return strings.HasPrefix(http.DetectContentType(bytes.TrimLeft(head, " \t\r\n")), "text/html")
}

func webPage(address string) error {
	return fault("a proxy or the network's sign-in page may stand between: open the address in a browser, sign in, then run it again",
		"%s answered with a web page, not with the file", address)
}
