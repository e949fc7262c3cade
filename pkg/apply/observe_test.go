package apply

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/pkg/tree"
)

// host makes a directory that stands for a host's /.
func host(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"etc/with space", "var/lib/kthwc", "etc/empty"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, content := range map[string]string{
		"etc/machine-id": "0123\n", "etc/os-release": "ID=debian\nVERSION_ID=\"12\"\n", "etc/with space/a 'quoted' file": "x", "etc/nothing": "",
		"etc/fstab":               "# /dev/x none swap\n/dev/sda1 / ext4\n/dev/sda2 none swap sw 0 0\n",
		"var/lib/kthwc/confirmed": `{"kind":"Manifest"}` + "\n",
	} {
		if err := os.WriteFile(filepath.Join(root, path), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("a target\nwith a line", filepath.Join(root, "etc/link")), os.Symlink("nowhere", filepath.Join(root, "etc/dangling"))); err != nil {
		t.Fatal(err)
	}
	return root
}

var everything = []string{"/etc/with space/a 'quoted' file", "/etc/nothing", "/etc/empty", "/etc/link", "/etc/dangling", "/etc/absent", "/etc/nothing/below", "/absent/below", "/etc/machine-id"}

func TestObserve(t *testing.T) {
	for _, shell := range []string{"sh", "bash"} {
		root := host(t)
		s, err := Observe(context.Background(), local{shell}, Query{Paths: everything, Packages: []string{"dpkg", "no-such-package"}, Users: []string{"root", "no-such-user"}, Contents: []string{"/etc/os-release"}, Root: root})
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte("x"))
		if e := s.Entries[everything[0]]; e.Kind != tree.Regular || e.Mode != 0o640 || e.Size != 1 || e.Digest != hex.EncodeToString(sum[:]) {
			t.Errorf("%+v", e)
		}
		if e := s.Entries["/etc/link"]; e.Kind != tree.Symlink || e.Target != "a target\nwith a line" {
			t.Errorf("%+v", e)
		}
		if e := s.Entries["/etc/empty"]; e.Kind != tree.Dir {
			t.Errorf("%+v", e)
		}
		for _, absent := range []string{"/etc/absent", "/etc/nothing/below", "/absent/below"} {
			if _, there := s.Entries[absent]; there || s.Unknown[absent] != "" {
				t.Errorf("%s is not simply absent: %q", absent, s.Unknown[absent])
			}
		}
		f := s.Facts
		if f.Machine != "0123" || f.OS != "debian" || f.OSVersion != "12" || f.FreeBytes == 0 || f.Boot == "" || !f.Tools["tar"] || len(f.SwapAtBoot) != 1 || f.SwapAtBoot[0] != "/dev/sda2" {
			t.Errorf("%+v", f)
		}
		if s.Contents["/etc/os-release"] != "ID=debian\nVERSION_ID=\"12\"\n" {
			t.Errorf("%q", s.Contents)
		}
		if string(s.Confirmed) != `{"kind":"Manifest"}` || !s.Packages["dpkg"] || s.Packages["no-such-package"] || !maps.Equal(s.Users, map[string]bool{"root": true}) {
			t.Errorf("%q %v %v", s.Confirmed, s.Packages, s.Users)
		}
	}
}

// More paths than one command line holds are looked at all the same, each with
// its digest.
func TestObserveManyPaths(t *testing.T) {
	root := host(t)
	q := Query{Root: root}
	for i := range 2500 {
		path := fmt.Sprintf("/etc/empty/%060d", i)
		if err := os.WriteFile(root+path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		q.Paths = append(q.Paths, path)
	}
	s, err := Observe(context.Background(), local{"sh"}, q)
	if err != nil || len(s.Unknown) > 0 {
		t.Fatal(err, s)
	}
	nothing := sha256.Sum256(nil)
	for _, path := range q.Paths {
		if e := s.Entries[path]; e.Digest != hex.EncodeToString(nothing[:]) || e.Mode != 0o600 || e.Kind != tree.Regular {
			t.Fatalf("%s: %+v", path, e)
		}
	}
}

// A file that was there and could not be read, because it went meanwhile, is
// unknown: neither absent nor another one.
func TestVanishedFileIsUnknown(t *testing.T) {
	q := Query{Paths: []string{"/a", "/b"}}
	s, err := parse(Result{Stdout: answer("f\x00600\x00root\x00root\x001\x00\x00/a\x00", "sha256sum: /a: No such file or directory\nfind: '/b': Permission denied\n")}, "m", q)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range q.Paths {
		if _, there := s.Entries[path]; there || s.Unknown[path] == "" {
			t.Errorf("%s: %+v", path, s)
		}
	}
	for _, bad := range []string{"f\x00600\x00root\x00", "f\x00rw\x00root\x00root\x001\x00\x00/a\x00", strings.Repeat("0", 64) + "  /never-named\x00"} {
		if s, err := parse(Result{Stdout: answer(bad, "")}, "m", q); !errors.Is(err, ErrIncomplete) {
			t.Errorf("%q: %+v, %v", bad, s, err)
		}
	}
}

// answer is a whole answer of a host, with what it says of paths, and of those
// that it could not look at.
func answer(paths, failed string) []byte {
	out := "\nm facts\nboot=1\nnow=1\n\nm paths\n" + paths + "\nm errors\n" + failed
	for _, empty := range []string{"contents", "blobs", "images", "journal", "units", "packages", "users", "modules", "settings", "ports", "confirmed", "end"} {
		out += "\nm " + empty + "\n"
	}
	return []byte(out)
}

// Ports that are listened on are found with ss(8) and without.
func TestPorts(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		for _, ss := range []string{"ss", "/nonexistent/ss"} {
			script := strings.Replace(observeScript, "command -v ss ", "command -v "+ss+" ", 1)
			r, err := local{"sh"}.Run(t.Context(), Command{Script: script, Args: []string{"mark", host(t)}, Stdin: strings.NewReader(strings.Repeat(".\n", 8))})
			if err != nil {
				t.Fatal(err)
			}
			if s, err := parse(r, "mark", Query{}); err != nil || !s.Ports[port] || s.Ports[1] {
				t.Errorf("%s by %s: %d is not among %v, %v", address, ss, port, s.Ports, err)
			}
		}
		l.Close()
	}
}

// An answer that was cut off, anywhere, says nothing: nothing is taken for absent.
func TestHalfAnswersAreUnknown(t *testing.T) {
	q := Query{Paths: everything, Root: host(t)}
	input, err := q.input()
	if err != nil {
		t.Fatal(err)
	}
	r, err := local{"sh"}.Run(context.Background(), Command{Script: observeScript, Args: []string{"mark", q.Root}, Stdin: strings.NewReader(input)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parse(r, "mark", q); err != nil {
		t.Fatal(err)
	}
	end := bytes.LastIndex(r.Stdout, []byte("\nmark end"))
	for at := range end + len("\nmark end") {
		cut := r
		cut.Stdout = r.Stdout[:at]
		if s, err := parse(cut, "mark", q); !errors.Is(err, ErrIncomplete) {
			t.Fatalf("cut at %d of %d: %+v, %v", at, len(r.Stdout), s, err)
		}
	}
	failed := r
	failed.Status = 1
	if _, err := parse(failed, "mark", q); !errors.Is(err, ErrIncomplete) {
		t.Errorf("a script that failed: %v", err)
	}
}

// What a host may not be asked, or may not answer, is an error and no panic.
func FuzzParse(f *testing.F) {
	f.Add([]byte("\nm facts\nboot=1\nnow=1\n\nm paths\nd\x00755\x00root\x00root\x001\x00\x00/etc\x00\nm errors\n\nm contents\n\nm blobs\n\nm images\n\nm journal\nepoch\t3\n\nm units\nId=a.service\n\nm packages\n\nm users\nroot:x:0:0::/:/bin/sh\n\nm modules\nloaded overlay\n\nm settings\n/proc/sys/a\x001\n\nm ports\nhexadecimal 1F90\n22\n\nm confirmed\n\nm end\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		s, err := parse(Result{Stdout: out}, "m", Query{Paths: []string{"/etc"}})
		if err == nil && s == nil {
			t.Fatal("neither a state nor an error")
		}
	})
}

func TestPathsThatCannotBeAsked(t *testing.T) {
	for _, path := range []string{".", "/a\nb", "/a\x00b"} {
		if _, err := Observe(context.Background(), local{"sh"}, Query{Paths: []string{path}}); err == nil {
			t.Errorf("%q was asked", path)
		}
	}
}
