package artifact

import (
	"bytes"
	"context"
	"crypto/tls"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// needs are one of every kind.
var needs = []Need{
	{"cni-plugins", "1.9.1", "amd64"},
	{"containerd", "2.4.2", "amd64"},
	{"crictl", "1.37.0", "amd64"},
	{"ctr", "2.4.2", "amd64"},
	{"etcd", "3.7.3", "amd64"},
	{"etcdctl", "3.7.3", "amd64"},
	{"kubelet", "1.37.2", "amd64"},
	{"kubelet", "1.37.2", "arm64"},
	{"registry.k8s.io/pause", "3.10.2", "amd64"},
	{"runc", "1.5.2", "amd64"},
}

// program is enough of a program for the check: a header, and text that tells
// it from others.
func program(name, arch string) []byte {
	head := make([]byte, elfHeader)
	copy(head, elf.ELFMAG)
	head[elf.EI_CLASS], head[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	binary.LittleEndian.PutUint16(head[18:], uint16(machines[arch]))
	return append(head, strings.Repeat(name+" for "+arch+"\n", 5)...)
}

func archiveOf(tb testing.TB, files ...Packed) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := WriteArchive(&b, files...); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func imageOf(tb testing.TB, n Need) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := WriteImage(&b, Image{n.Ref(), n.Arch, []Packed{{"pause", program("pause", n.Arch)}}}); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// files are what the official places have: by host and path, without https://.
func files(tb testing.TB) map[string][]byte {
	tb.Helper()
	out := map[string][]byte{}
	for _, n := range needs {
		p, err := placeOf(n)
		if err != nil {
			tb.Fatal(err)
		}
		out[below(p.url)] = fileOf(tb, n, p)
	}
	for _, n := range needs {
		if p, _ := placeOf(n); p.checksum != "" {
			name := p.url[strings.LastIndexByte(p.url, '/')+1:]
			out[below(p.checksum)] = fmt.Appendf(nil, "%s  other\n%s  %s\n", strings.Repeat("0", 64), digestOf(out[below(p.url)])[7:], name)
		}
	}
	return out
}

func fileOf(tb testing.TB, n Need, p place) []byte {
	tb.Helper()
	one := func(name string) Packed {
		return Packed{strings.Replace(p.member, n.Name, name, 1), program(name, n.Arch)}
	}
	switch {
	case n.IsImage():
		return imageOf(tb, n)
	case n.Name == "cni-plugins":
		return archiveOf(tb, Packed{"./bridge", program("bridge", n.Arch)}, Packed{"./loopback", program("loopback", n.Arch)})
	case strings.HasPrefix(n.Name, "etcd"):
		dir, _, _ := strings.Cut(p.member, "/")
		return archiveOf(tb, Packed{dir + "/etcd", program("etcd", n.Arch)}, Packed{dir + "/etcdctl", program("etcdctl", n.Arch)})
	case n.Name == "containerd" || n.Name == "ctr":
		return archiveOf(tb, Packed{"bin/containerd", program("containerd", n.Arch)}, Packed{"bin/ctr", program("ctr", n.Arch)})
	case p.member != "":
		return archiveOf(tb, one(n.Name))
	}
	return program(n.Name, n.Arch)
}

// site is a server with files, behind TLS, that counts what it is asked for.
type site struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
}

// newSite serves the files as host and path name them; before may answer first.
func newSite(tb testing.TB, files map[string][]byte, before func(w http.ResponseWriter, r *http.Request, name string) bool) *site {
	tb.Helper()
	s := &site{}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		if r.Host != s.Listener.Addr().String() {
			name = r.Host + r.URL.Path
		}
		s.mu.Lock()
		s.asked = append(s.asked, name)
		s.mu.Unlock()
		if before != nil && before(w, r, name) {
			return
		}
		content, ok := files[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", `"`+digestOf(content)+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	s.Config.ErrorLog = quiet
	tb.Cleanup(s.Close)
	return s
}

func (s *site) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// client reaches the site under any name, as if it were the official places.
func (s *site) client(tb testing.TB) *Client {
	tb.Helper()
	transport := s.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: transport.TLSClientConfig.RootCAs, ServerName: "example.com", MinVersion: tls.VersionTLS12}
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, s.Listener.Addr().String())
	}
	tb.Cleanup(transport.CloseIdleConnections)
	return &Client{HTTP: &http.Client{Transport: transport}, Cache: newCache(tb), Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }}
}

func newCache(tb testing.TB) *Cache {
	tb.Helper()
	cache, err := OpenCache(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	return cache
}

// directoryOf writes the files as --from reads them.
func directoryOf(tb testing.TB, files map[string][]byte) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// onlyTruth fails when anything in the cache is not what its name says.
func onlyTruth(tb testing.TB, c *Cache) {
	tb.Helper()
	entries, err := os.ReadDir(filepath.Join(c.dir, "sha256"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		content, err := os.ReadFile(c.Path(e.Name()))
		if err != nil {
			tb.Fatal(err)
		}
		if digestOf(content)[7:] != e.Name() {
			tb.Errorf("the cache has other bytes under %s", e.Name())
		}
		if info, _ := e.Info(); info.Mode().Perm() != 0o644 {
			tb.Errorf("%s has mode %s", e.Name(), info.Mode())
		}
	}
}
