package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var kubelet = Need{"kubelet", "1.37.2", "amd64"}

const kubeletAt = "dl.k8s.io/v1.37.2/bin/linux/amd64/kubelet"

// page is a web page in the place of a file.
func page(kind string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		fmt.Fprint(w, "\n <!DOCTYPE html><html><body>Welcome to the airport</body></html>")
	}
}

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func redirect(to string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

func body(content []byte) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}

// Each fault of the way or of the server is one sentence and one help; nothing
// wrong is in the cache. The same where it was locked (fetch) and where not.
func TestFaults(t *testing.T) {
	good := program("kubelet", "amd64")
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	tests := []struct {
		name       string
		serve      func(http.ResponseWriter, *http.Request)
		lock, help string // what Lock says; empty: it cannot know
		fetch      string // what Fetch says; empty: the same
		mismatch   bool   // of Fetch
	}{
		{"wrong digest", body(flipped), "sha256 says that kubelet has SHA-256", "report it", "kthwc.lock says 154 bytes", true},
		{"wrong size", body(good[:100]), "sha256 says that kubelet has SHA-256", "report it", "has 100 bytes; kthwc.lock says 154", true},
		{"page", page("text/html; charset=utf-8"), "answered with a web page, not with the file", "sign in", "", false},
		{"page with a false type", page("application/octet-stream"), "answered with a web page", "sign in", "", false},
		{"not there", status(404), "is not there (404 Not Found)", "may not be released for this architecture", "", false},
		{"forbidden", status(403), "is forbidden", "--from or --mirror", "", false},
		{"portal's own answer", status(511), "sign-in page of the network", "browser", "", false},
		{"teapot", status(418), "answered 418", "browser", "", false},
		{"busy for ever", status(503), "gave up after 5 tries; the last one: the server answered 503", "run it again", "", false},
		{"redirect to http", redirect("http://dl.k8s.io/x"), "redirects to http://dl.k8s.io, where anybody on the way can change the file", "--mirror", "", false},
		{"portal", redirect("https://portal.example/login"), "answered with a web page", "sign in", "", false},
		{"circle", redirect("https://" + kubeletAt), "redirects in a circle", "check the address", "", false},
		{"always cut off", cutAt(good, 100), "gave up after 5 tries; the last one: the connection broke after 100 bytes", "run it again", "gave up after 5 tries", false},
		{"no length", noLength(good[:120]), "does not say how long the file is", "--from", "gave up after 5 tries; the last one: it ended after 120 of 154 bytes", false},
		{"endless", chunks(good, 100), "sha256 says that kubelet has SHA-256", "report it", "sends more than 154 bytes", true},
		{"stalled", stall(good[:100]), "no bytes came for too long", "run it again", "", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			all := files(t)
			s := newSite(t, all, func(w http.ResponseWriter, r *http.Request, name string) bool {
				switch name {
				case kubeletAt:
					test.serve(w, r)
				case "portal.example/login":
					page("text/html")(w, r)
				default:
					return false
				}
				return true
			})
			c := s.client(t)
			if test.name == "stalled" {
				c.Stall, c.Attempts = 50*time.Millisecond, 2
			}
			_, err := c.Lock(t.Context(), "c", "r", []Need{kubelet}, nil, false)
			says(t, "lock", err, test.lock, test.help, strings.Contains(test.lock, "SHA-256"))
			fetch := test.fetch
			if fetch == "" {
				fetch = test.lock
			}
			c.Cache = newCache(t)
			err = c.Fetch(t.Context(), lockOf(t, all, kubelet))
			says(t, "fetch", err, fetch, "", test.mismatch)
			onlyTruth(t, c.Cache)
		})
	}
}

// lockOf is the lock of one need, from a directory with good files.
func lockOf(t *testing.T, all map[string][]byte, n Need) *Lock {
	t.Helper()
	c := &Client{Cache: newCache(t), From: directoryOf(t, all)}
	l, err := c.Lock(t.Context(), "c", "r", []Need{n}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := placeOf(n)
	l.Artifacts[0].URL = p.url
	return l
}

func says(t *testing.T, verb string, err error, what, help string, mismatch bool) {
	t.Helper()
	var f *Fault
	if !errors.As(err, &f) {
		t.Fatalf("%s: %v is no fault that a person can act on", verb, err)
	}
	if !strings.Contains(f.What, what) || !strings.Contains(f.Help, help) || f.Help == "" || f.Mismatch != mismatch {
		t.Errorf("%s says (mismatch %t):\n  %s\n  help: %s\nnot:\n  %s\n  help: %s", verb, f.Mismatch, f.What, f.Help, what, help)
	}
	if strings.Contains(f.What, "\n") {
		t.Errorf("%s says more than a sentence: %q", verb, f.What)
	}
}

// cutAt breaks the connection after so many bytes, on every request.
func cutAt(content []byte, at int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(content[:at])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// noLength answers as servers of old did: the end of the connection is the end.
func noLength(content []byte) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n%s", content)
	}
}

// chunks sends without a length, and more than there is.
func chunks(content []byte, times int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		for range times {
			_, _ = w.Write(content)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// stall sends something, and then nothing until the client is gone.
func stall(content []byte) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "154")
		_, _ = w.Write(content)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

// A server that nobody vouches for, and one that speaks no TLS at all.
func TestStrangers(t *testing.T) {
	s := newSite(t, files(t), nil)
	c := s.client(t)
	c.HTTP.Transport.(*http.Transport).TLSClientConfig.RootCAs = nil
	_, err := c.Lock(t.Context(), "c", "r", []Need{kubelet}, nil, false)
	says(t, "lock", err, "the server's certificate is not trusted", "sign-in page", false)

	plain := httptest.NewServer(http.HandlerFunc(page("text/html")))
	defer plain.Close()
	c = s.client(t)
	c.Mirror = strings.Replace(plain.URL, "http:", "https:", 1)
	c.HTTP = &http.Client{Transport: &http.Transport{}}
	_, err = c.Lock(t.Context(), "c", "r", []Need{kubelet}, nil, false)
	says(t, "lock", err, "the server does not speak TLS", "sign-in page", false)

	c.Mirror = plain.URL
	if _, err := c.Lock(t.Context(), "c", "r", []Need{kubelet}, nil, false); err == nil || !strings.Contains(err.Error(), "is not an https address") {
		t.Errorf("a mirror without TLS: %v", err)
	}
}

// The connection breaks after every number of bytes there is, at servers that
// send the rest and at those that begin again; the end is always the file.
func TestCutAtEveryByte(t *testing.T) {
	good := program("kubelet", "amd64")
	cut := -1
	ranges := true
	s := newSite(t, files(t), func(w http.ResponseWriter, r *http.Request, name string) bool {
		if name != kubeletAt {
			return false
		}
		if at := cut; at >= 0 {
			cut = -1
			w.Header().Set("ETag", `"`+digestOf(good)+`"`)
			cutAt(good, at)(w, r)
		}
		if !ranges {
			r.Header.Del("Range")
		}
		return false
	})
	lock := lockOf(t, files(t), kubelet)
	c := s.client(t)
	for at := range good {
		for _, ranges = range []bool{true, false} {
			c.Cache = newCache(t)
			cut = at
			if err := c.Fetch(t.Context(), lock); err != nil {
				t.Fatalf("fetch, cut after %d bytes: %v", at, err)
			}
			c.Cache = newCache(t)
			cut = at
			if l, err := c.Lock(t.Context(), "c", "r", []Need{kubelet}, nil, false); err != nil || l.Artifacts[0].SHA256 != lock.Artifacts[0].SHA256 {
				t.Fatalf("lock, cut after %d bytes: %v", at, err)
			}
			onlyTruth(t, c.Cache)
		}
	}
}

// What an ended run left, right or wrong, is gone on with or thrown away.
func TestLeftovers(t *testing.T) {
	good := program("kubelet", "amd64")
	s := newSite(t, files(t), nil)
	lock := lockOf(t, files(t), kubelet)
	for at := 0; at <= len(good)+1; at += 7 {
		for name, left := range map[string][]byte{"right": append(bytes.Clone(good), 'x')[:at:at], "wrong": bytes.Repeat([]byte("x"), at)} {
			c := s.client(t)
			if err := os.WriteFile(filepath.Join(c.Cache.dir, "partial", lock.Artifacts[0].SHA256), left, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := c.Fetch(t.Context(), lock); err != nil {
				t.Errorf("%d bytes that are %s: %v", at, name, err)
			}
			onlyTruth(t, c.Cache)
		}
	}
}

// A run that is ended stops, and leaves what the next one goes on with.
func TestEndedRun(t *testing.T) {
	good := program("kubelet", "amd64")
	ctx, cancel := context.WithCancel(t.Context())
	ended := false
	s := newSite(t, files(t), func(w http.ResponseWriter, r *http.Request, name string) bool {
		if name == kubeletAt && !ended {
			ended = true
			context.AfterFunc(r.Context(), func() {})
			w.Header().Set("Content-Length", strconv.Itoa(len(good)))
			_, _ = w.Write(good[:120])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return true
		}
		return false
	})
	c := s.client(t)
	c.Progress = func(done, _ int64) {
		if done == 120 {
			cancel()
		}
	}
	lock := lockOf(t, files(t), kubelet)
	if err := c.Fetch(ctx, lock); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	c.Progress = nil
	if err := c.Fetch(t.Context(), lock); err != nil {
		t.Fatal(err)
	}
	onlyTruth(t, c.Cache)
}

// raw writes an archive as it is told, whatever the names are.
func raw(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	out := tar.NewWriter(zipped)
	for _, h := range headers {
		content := program("x", "amd64")
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		if err := out.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := out.Write(content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(out.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What lies in an archive or is a program is looked at before it is locked.
func TestWhatIsNotARelease(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755} }
	cni, crictl := Need{"cni-plugins", "1.9.1", "amd64"}, Need{"crictl", "1.37.0", "amd64"}
	pause := Need{"registry.k8s.io/pause", "3.10.2", "amd64"}
	other := pause
	other.Arch = "arm64"
	whole := raw(t, file("crictl"))
	tests := []struct {
		name    string
		need    Need
		content []byte
		want    string
	}{
		{"another machine", kubelet, program("kubelet", "arm64"), "it is a program for arm64, and the nodes are amd64"},
		{"no program", kubelet, []byte("#!/bin/sh\nexit 0 # and more\n"), `it is not a program for Linux (it begins with "#!/bin/sh\nex")`},
		{"another machine in an archive", crictl, archiveOf(t, Packed{"crictl", program("crictl", "arm64")}), "crictl of dir:"},
		{"no member", crictl, raw(t, file("critest")), "the archive has no file crictl"},
		{"no programs", cni, raw(t, tar.Header{Typeflag: tar.TypeReg, Name: "README.md", Mode: 0o644}), "the archive has no executable file"},
		{"a link", crictl, raw(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "crictl", Linkname: "/etc/shadow"}), "is a link or a device"},
		{"out of it", cni, raw(t, file("../../bin/sh")), "leads out of the directory"},
		{"from the root", cni, raw(t, file("/bin/sh")), "leads out of the directory"},
		{"twice", cni, raw(t, file("bridge"), file("./bridge")), "bridge is in the archive twice"},
		{"one name twice", cni, raw(t, file("a/bridge"), file("b/bridge")), "is there twice"},
		{"no archive", crictl, program("crictl", "amd64"), "it is not a gzip archive"},
		{"cut off", crictl, whole[:len(whole)/2], "the archive is damaged"},
		{"no image", pause, program("pause", "amd64"), "it is not an archive of an image"},
		{"an image of another machine", pause, imageOf(t, Need{pause.Name, pause.Version, "arm64"}), "it is for linux/arm64, not linux/amd64"},
		{"another image", pause, imageOf(t, Need{"registry.k8s.io/pause", "3.9", "amd64"}), `it is the image "registry.k8s.io/pause:3.9"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, _ := placeOf(test.need)
			c := &Client{Cache: newCache(t), From: directoryOf(t, map[string][]byte{below(p.url): test.content})}
			_, err := c.Lock(t.Context(), "c", "r", []Need{test.need}, nil, false)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	c := &Client{Cache: newCache(t), From: t.TempDir()}
	_, err := c.Lock(t.Context(), "c", "r", []Need{kubelet}, nil, false)
	says(t, "lock", err, "has no "+kubeletAt, "make lab-artifacts", false)
	l := lockOf(t, files(t), kubelet)
	l.Artifacts[0].URL = fromDirectory + kubeletAt
	says(t, "fetch", (&Client{Cache: newCache(t)}).Fetch(t.Context(), l), "it was locked from a directory", "--from", false)
}
