package artifact

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// unpack puts what is installed of an archive into the cache, and proves all of
// an entry that a digest alone does not: machine, kind, and that it is there.
func (c *Client) unpack(e Entry, member string) ([]Member, error) {
	if member == "" {
		return nil, c.prove(e)
	}
	archive, err := os.Open(c.Cache.Path(e.SHA256))
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	var out []Member
	err = eachMember(archive, member, func(name string, from io.Reader) error {
		got, err := c.Cache.put(from, content{})
		out = append(out, Member{name, got.SHA256, got.Size})
		return err
	})
	if err != nil {
		return nil, fault("the file is not what this release has: try again, or check the mirror or directory that it came from", "%s: %s", e.URL, err)
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Path, b.Path) })
	e.Members = out
	return out, errors.Join(c.prove(e), e.check())
}

// unpackAgain brings the members of a lock's entry back from its archive.
func (c *Client) unpackAgain(e Entry, member string) error {
	got, err := c.unpack(e, member)
	if err != nil {
		return err
	}
	if !slices.Equal(got, e.Members) {
		return mismatch("the lock was edited: take the committed file back, or lock again with --update", "the archive %s has other members than kthwc.lock says", e.URL)
	}
	return nil
}

// prove looks into the cached files of an entry: programs are for its
// architecture, an image is itself.
func (c *Client) prove(e Entry) error {
	for _, m := range e.Installed() {
		check := func(f io.Reader) error { return checkHead(f, e.Arch) }
		if e.IsImage() {
			check = func(f io.Reader) error { return checkImage(f, e.Ref(), e.Arch) }
		}
		if err := c.proveFile(e, m, check); err != nil {
			return err
		}
	}
	return nil
}

// checkHead reads the beginning of a program and checks it.
func checkHead(f io.Reader, arch string) error {
	head := make([]byte, elfHeader)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	return checkProgram(head[:n], arch)
}

func (c *Client) proveFile(e Entry, m Member, check func(io.Reader) error) error {
	f, err := os.Open(c.Cache.Path(m.SHA256))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := check(f); err != nil {
		return mismatch("check the mirror or directory that it came from, and `arch` of the nodes in cluster.yaml", "%s of %s: %s", m.Path, e.URL, err)
	}
	return nil
}

// Result is what verifying found for one artefact.
type Result struct {
	Entry Entry
	Fault string // empty: every byte is what the lock says
	Lost  bool   // the cache does not have it: fetch brings it
}

// Verify hashes everything that the lock names, and looks into it again.
func (c *Cache) Verify(l *Lock) []Result {
	var out []Result
	for _, e := range l.Artifacts {
		r := Result{Entry: e}
		err := c.verify(e)
		if err != nil {
			r.Fault, r.Lost = err.Error(), errors.Is(err, os.ErrNotExist)
		}
		if r.Lost {
			r.Fault = "not in the cache"
		}
		out = append(out, r)
	}
	return out
}

func (c *Cache) verify(e Entry) error {
	if err := c.rehash("the download", content{e.SHA256, e.Size}); err != nil {
		return err
	}
	for _, m := range e.Members {
		if err := c.rehash(m.Path, content{m.SHA256, m.Size}); err != nil {
			return err
		}
	}
	return (&Client{Cache: c}).prove(e)
}

func (c *Cache) rehash(name string, want content) error {
	f, err := os.Open(c.Path(want.SHA256))
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := hashed(f)
	if err == nil && got != want {
		err = fmt.Errorf("%s in the cache has %s, not %s", name, got, want)
	}
	return err
}
