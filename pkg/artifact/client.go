package artifact

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// ErrBusy is that another run writes to the cache, and has for a quarter of an hour.
var ErrBusy = errors.New("another run of kthwc uses the cache")

// How often a cache that another run writes to is looked at again, and for how long.
const (
	lookEvery = 200 * time.Millisecond
	mostLooks = int(15 * time.Minute / lookEvery)
)

// Client gets artefacts: from the official places, or from a mirror or a
// directory that has the same files below directories named like the hosts
// (dl.k8s.io/v1.37.2/bin/linux/amd64/kubelet); images lie there as archives
// (registry.k8s.io/pause/3.10.2-linux-amd64.tar).
type Client struct {
	HTTP   *http.Client
	Cache  *Cache
	Mirror string // "https://…"; may be empty
	From   string // a directory; may be empty

	Waiting  func()                                     // once, when another run uses the cache and is waited for; may be nil
	Starting func(n Need, address string)               // before an artefact is got; may be nil
	Progress func(done, total int64)                    // while it is got; may be nil
	Attempts int                                        // of a GET; 0 is 5
	Stall    time.Duration                              // how long no byte may come; 0 is a minute
	Sleep    func(context.Context, time.Duration) error // between attempts; nil waits

	downloaded map[string]content // by address, in this run
}

func (c *Client) attempts() int        { return cmp.Or(c.Attempts, 5) }
func (c *Client) stall() time.Duration { return cmp.Or(c.Stall, time.Minute) }

func (c *Client) sleep(ctx context.Context, d time.Duration) error {
	if c.Sleep != nil {
		return c.Sleep(ctx, d)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// address is where something that lies at an official place is got from.
func (c *Client) address(official string) string {
	switch {
	case official == "":
		return ""
	case c.From != "":
		return fromDirectory + below(official)
	case c.Mirror != "":
		return strings.TrimSuffix(c.Mirror, "/") + "/" + below(official)
	}
	return official
}

// use takes the cache, after whoever has it.
func (c *Client) use(ctx context.Context) (release func(), err error) {
	for look := 0; ; look++ {
		release, err := c.Cache.use()
		if !errors.Is(err, ErrBusy) || look == mostLooks {
			return release, err
		}
		if look == 0 && c.Waiting != nil {
			c.Waiting()
		}
		if err := c.sleep(ctx, lookEvery); err != nil {
			return nil, err
		}
	}
}

// Lock gives the lock of the needs. Entries that old has stay as they are: what
// was locked once is not looked up again, unless update is set. Everything new
// is got, compared with the checksum that is published beside it, and in the
// cache afterwards.
func (c *Client) Lock(ctx context.Context, cluster, schema string, needs []Need, old *Lock, update bool) (*Lock, error) {
	release, err := c.use(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	c.downloaded = map[string]content{}
	out := &Lock{APIVersion: lockVersion, Kind: lockKind, Cluster: cluster, Schema: schema, Artifacts: []Entry{}}
	for _, n := range needs {
		e, locked := Entry{}, false
		if old != nil && !update {
			e, locked = old.Find(n)
		}
		if !locked {
			if e, err = c.lockOne(ctx, n); err != nil {
				return nil, about(n, err)
			}
		}
		out.Artifacts = append(out.Artifacts, e)
	}
	slices.SortFunc(out.Artifacts, func(a, b Entry) int { return a.compare(b.Need) })
	return out, nil
}

// about says which artefact a fault is about.
func about(n Need, err error) error {
	var f *Fault
	if errors.As(err, &f) {
		return &Fault{fmt.Sprintf("%s: %s", n, f.What), f.Help, f.Mismatch}
	}
	return fmt.Errorf("%s: %w", n, err)
}

func (c *Client) lockOne(ctx context.Context, n Need) (Entry, error) {
	if err := n.checkNeed(); err != nil {
		return Entry{}, err
	}
	p, err := placeOf(n)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Need: n, URL: c.address(p.url)}
	if n.IsImage() && c.From == "" && c.Mirror == "" {
		if e.URL, err = c.manifestAddress(ctx, n); err != nil {
			return Entry{}, err
		}
	}
	got, err := c.bring(ctx, n, e.URL, content{})
	if err != nil {
		return Entry{}, err
	}
	e.SHA256, e.Size = got.SHA256, got.Size
	if e.Checksum, err = c.published(ctx, p, got); err != nil {
		return Entry{}, err
	}
	e.Members, err = c.unpack(e, p.member)
	return e, err
}

// Fetch brings everything that the lock names into the cache. What is there is
// hashed, and not asked for again unless it is damaged.
func (c *Client) Fetch(ctx context.Context, l *Lock) error {
	release, err := c.use(ctx)
	if err != nil {
		return err
	}
	defer release()
	c.downloaded = map[string]content{}
	for _, e := range l.Artifacts {
		if err := c.fetchOne(ctx, e); err != nil {
			return about(e.Need, err)
		}
	}
	return nil
}

func (c *Client) fetchOne(ctx context.Context, e Entry) error {
	p, err := placeOf(e.Need)
	if err != nil {
		return err
	}
	address := e.URL
	if c.From != "" || c.Mirror != "" {
		address = c.address(p.url)
	}
	whole := content{e.SHA256, e.Size}
	if c.Cache.rehash("", whole) != nil {
		if _, err := c.bring(ctx, e.Need, address, whole); err != nil {
			return err
		}
	}
	if c.Cache.verify(e) == nil {
		return nil
	}
	return c.unpackAgain(e, p.member)
}

// bring gets the bytes of an address into the cache, wherever it leads.
func (c *Client) bring(ctx context.Context, n Need, address string, want content) (got content, err error) {
	if got, ok := c.downloaded[address]; ok && (want == content{} || got == want) {
		return got, nil
	}
	if c.Starting != nil {
		c.Starting(n, address)
	}
	place, local := strings.CutPrefix(address, fromDirectory)
	switch {
	case local:
		got, err = c.copyFrom(place, want)
	case n.IsImage() && manifestPattern.MatchString(address):
		got, err = c.pull(ctx, n, address, want)
	default:
		got, err = c.download(ctx, address, want)
	}
	if err == nil {
		c.downloaded[address] = got
	}
	return got, err
}

// copyFrom takes a file of the directory.
func (c *Client) copyFrom(place string, want content) (content, error) {
	if c.From == "" {
		return content{}, fault("pass --from with the directory that it was locked from, or lock it again from the official place with --update", "it was locked from a directory, as %s", place)
	}
	path := filepath.Join(c.From, filepath.FromSlash(place))
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return content{}, fault("put the file of https://"+place+" there, or build it: make lab-artifacts", "%s has no %s", c.From, place)
	}
	if err != nil {
		return content{}, err
	}
	defer f.Close()
	got, err := c.Cache.put(f, want)
	var other *otherBytes
	if errors.As(err, &other) {
		return got, mismatch("it was built or copied anew: lock it again with --update if that was meant", "%s has %s; kthwc.lock says %s", path, other.got, other.want)
	}
	return got, err
}

// published compares with the checksum that lies beside a file, and gives its
// address. Where none was published there is none.
func (c *Client) published(ctx context.Context, p place, got content) (string, error) {
	address := c.address(p.checksum)
	if address == "" {
		return "", nil
	}
	text, err := c.checksums(ctx, address)
	if errors.Is(err, errNotThere) || errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	name := p.url[strings.LastIndexByte(p.url, '/')+1:]
	digest := digestIn(string(text), name)
	if digest == "" {
		return "", fault("open the address in a browser", "%s has no SHA-256 digest of %s", address, name)
	}
	if digest != got.SHA256 {
		return "", mismatch("try again; if it stays, the file was changed after its release: report it there, and do not use it",
			"%s says that %s has SHA-256 %s; what came has %s", address, name, digest, got.SHA256)
	}
	return address, nil
}

func (c *Client) checksums(ctx context.Context, address string) ([]byte, error) {
	place, local := strings.CutPrefix(address, fromDirectory)
	if !local {
		text, _, err := c.text(ctx, address, nil)
		return text, err
	}
	f, err := os.Open(filepath.Join(c.From, filepath.FromSlash(place)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxText))
}

var digestLine = regexp.MustCompile(`(?m)^([0-9a-fA-F]{64})(?:[ \t]+\*?(\S+))?[ \t]*\r?$`)

// digestIn finds a file's digest among lines of checksums; a digest that
// stands alone is the file's.
func digestIn(text, name string) string {
	for _, m := range digestLine.FindAllStringSubmatch(text, -1) {
		if m[2] == "" || m[2][strings.LastIndexByte(m[2], '/')+1:] == name {
			return strings.ToLower(m[1])
		}
	}
	return ""
}
