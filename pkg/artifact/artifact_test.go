package artifact

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var quiet = log.New(io.Discard, "", 0) // a server's complaints about clients that hang up

func mustLock(t *testing.T, c *Client, old *Lock) *Lock {
	t.Helper()
	l, err := c.Lock(t.Context(), "kubernetes", "r1", needs, old, false)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustYAML(t *testing.T, l *Lock) []byte {
	t.Helper()
	text, err := l.YAML()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Whether from a mirror or a directory, and from the official place, the bytes
// are the same, and so are the entries but for where they come from.
func TestEveryWayGivesTheSameEntries(t *testing.T) {
	all := files(t)
	s := newSite(t, all, registryOf(t, Need{"registry.k8s.io/pause", "3.10.2", "amd64"}))
	official, mirror, directory := s.client(t), s.client(t), s.client(t)
	mirror.Mirror = "https://mirror.example:8443/"
	mirror.HTTP = &http.Client{Transport: withoutPrefix{official.HTTP.Transport, "mirror.example:8443/"}}
	directory.From, directory.HTTP = directoryOf(t, all), nil
	want := mustLock(t, official, nil)
	for name, c := range map[string]*Client{"mirror": mirror, "directory": directory} {
		got := mustLock(t, c, nil)
		for i := range got.Artifacts {
			e := got.Artifacts[i]
			if strings.HasPrefix(e.URL, "https://dl.k8s.io") {
				t.Errorf("%s: the lock hides that %s came from elsewhere", name, e.Need)
			}
			got.Artifacts[i].URL, got.Artifacts[i].Checksum = want.Artifacts[i].URL, want.Artifacts[i].Checksum
		}
		if diff := cmp.Diff(string(mustYAML(t, want)), string(mustYAML(t, got))); diff != "" {
			t.Errorf("%s (-official +%s):\n%s", name, name, diff)
		}
	}
	for _, e := range want.Artifacts {
		if !e.IsImage() && e.Checksum == "" {
			t.Errorf("%s was not compared with its published checksum", e.Need)
		}
	}
}

// withoutPrefix is a mirror whose files lie at the root, under their hosts.
type withoutPrefix struct {
	http.RoundTripper
	host string
}

func (w withoutPrefix) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host+"/" != w.host {
		return nil, errors.New("a mirror was named, and " + r.URL.Host + " was asked")
	}
	host, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	next := r.Clone(r.Context())
	next.Host, next.URL.Host, next.URL.Path = host, host, "/"+path
	return w.RoundTripper.RoundTrip(next)
}

// What was locked is fetched into an empty cache, is proven, and is not asked
// for again: neither by fetch nor by lock.
func TestLockFetchVerify(t *testing.T) {
	s := newSite(t, files(t), registryOf(t, Need{"registry.k8s.io/pause", "3.10.2", "amd64"}))
	c := s.client(t)
	lock := mustLock(t, c, nil)
	parsed, err := ParseLock(mustYAML(t, lock))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lock, parsed); diff != "" {
		t.Fatal(diff)
	}
	c.Cache = newCache(t)
	if err := c.Fetch(t.Context(), parsed); err != nil {
		t.Fatal(err)
	}
	before := s.requests()
	if err := c.Fetch(t.Context(), parsed); err != nil {
		t.Fatal(err)
	}
	again := mustLock(t, c, parsed)
	if n := s.requests() - before; n != 0 {
		t.Errorf("%d requests for what is there", n)
	}
	if diff := cmp.Diff(string(mustYAML(t, lock)), string(mustYAML(t, again))); diff != "" {
		t.Error(diff)
	}
	for _, r := range c.Cache.Verify(lock) {
		if r.Fault != "" {
			t.Errorf("%s: %s", r.Entry.Need, r.Fault)
		}
	}
	onlyTruth(t, c.Cache)
	if left, _ := os.ReadDir(filepath.Join(c.Cache.dir, "partial")); len(left) > 0 {
		t.Errorf("%d files are left over", len(left))
	}
}

// Every damage to every file of the cache is found, and fetch repairs it.
func TestDamageIsFoundAndRepaired(t *testing.T) {
	c := &Client{Cache: newCache(t), From: directoryOf(t, files(t))}
	lock := mustLock(t, c, nil)
	stored, err := os.ReadDir(filepath.Join(c.Cache.dir, "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range stored {
		path := c.Cache.Path(file.Name())
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(good)
		flipped[len(flipped)/2] ^= 1
		for name, bad := range map[string][]byte{"flipped": flipped, "cut": good[:len(good)-1], "empty": {}, "gone": nil} {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if bad != nil {
				if err := os.WriteFile(path, bad, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			found, lost := 0, 0
			for _, r := range c.Cache.Verify(lock) {
				if r.Fault != "" {
					found++
				}
				if r.Lost {
					lost++
				}
			}
			if found == 0 || (lost > 0) != (bad == nil) {
				t.Errorf("%s %s: %d found, %d lost", file.Name(), name, found, lost)
			}
			if err := c.Fetch(t.Context(), lock); err != nil {
				t.Errorf("%s %s: %v", file.Name(), name, err)
			}
			onlyTruth(t, c.Cache)
		}
	}
}

// A second run waits for the first, says so once, and not for ever.
func TestTwoRunsDoNotShareACache(t *testing.T) {
	c := &Client{Cache: newCache(t), From: directoryOf(t, files(t))}
	release, err := c.Cache.use()
	if err != nil {
		t.Fatal(err)
	}
	looks, told := 0, 0
	c.Waiting = func() { told++ }
	c.Sleep = func(context.Context, time.Duration) error { looks++; return nil }
	if _, err := c.Lock(t.Context(), "c", "r", needs, nil, false); !errors.Is(err, ErrBusy) || looks != mostLooks || told != 1 {
		t.Errorf("got %v after %d looks, and was told %d times", err, looks, told)
	}
	c.Sleep = func(context.Context, time.Duration) error { release(); return nil }
	mustLock(t, c, nil)
	if told != 2 {
		t.Errorf("told %d times", told)
	}
}

// What is locked stays, also when the place has other bytes; --update looks.
func TestLockedStaysLocked(t *testing.T) {
	all := files(t)
	c := &Client{Cache: newCache(t), From: directoryOf(t, all)}
	lock := mustLock(t, c, nil)
	p, _ := placeOf(Need{"runc", "1.5.2", "amd64"})
	all[below(p.url)] = append(program("runc", "amd64"), "changed"...)
	delete(all, below(p.checksum))
	c.From = directoryOf(t, all)
	if diff := cmp.Diff(lock, mustLock(t, c, lock)); diff != "" {
		t.Error(diff)
	}
	updated, err := c.Lock(t.Context(), "kubernetes", "r1", needs, lock, true)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for i := range updated.Artifacts {
		if updated.Artifacts[i].SHA256 != lock.Artifacts[i].SHA256 {
			changed++
		}
	}
	if e, _ := updated.Find(Need{"runc", "1.5.2", "amd64"}); changed != 1 || e.Checksum != "" {
		t.Errorf("%d changed, checksum %q", changed, e.Checksum)
	}
}

// Order of files is no input: archives and images come out the same.
func TestArchivesAreDeterministic(t *testing.T) {
	files := []Packed{{"a", []byte("1")}, {"b/c", []byte("2")}, {"b", []byte("3")}, {"z", nil}}
	want := archiveOf(t, files...)
	for range 20 {
		rand.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
		if !bytes.Equal(archiveOf(t, files...), want) {
			t.Fatal("another archive")
		}
	}
	n := Need{"registry.k8s.io/pause", "3.10.2", "arm64"}
	image := imageOf(t, n)
	if !bytes.Equal(image, imageOf(t, n)) {
		t.Error("another image")
	}
	if err := checkImage(bytes.NewReader(image), n.Ref(), "arm64"); err != nil {
		t.Error(err)
	}
	for name, f := range map[string]func() error{
		"arch": func() error { return checkImage(bytes.NewReader(image), n.Ref(), "amd64") },
		"name": func() error { return checkImage(bytes.NewReader(image), "registry.k8s.io/pause:3.9", "arm64") },
		"cut":  func() error { return checkImage(bytes.NewReader(image[:len(image)/2]), n.Ref(), "arm64") },
	} {
		if f() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
