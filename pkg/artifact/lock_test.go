package artifact

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is refused in a lock that was edited: each line, and why.
func TestLockIsStrict(t *testing.T) {
	c := &Client{Cache: newCache(t), From: directoryOf(t, files(t))}
	text := string(mustYAML(t, mustLock(t, c, nil)))
	for _, test := range []struct{ old, new, want string }{
		{"kind: ArtifactLock", "kind: Cluster", "it is of kind"},
		{"cluster:", "clusters:", "field clusters not found"},
		{"arch: amd64", "arch: riscv64", "no program or image has such a name"},
		{"name: crictl", "name: ../crictl", "no program or image has such a name"},
		{"name: crictl", "name: aaa", "is out of order, or there twice"},
		{"name: ctr", "name: containerd", "is out of order, or there twice"},
		{"url: dir:dl.k8s.io/", "url: dir:../dl.k8s.io/", "leads out of the directory"},
		{"url: dir:dl.k8s.io/", "url: http://dl.k8s.io/", "is not an https address"},
		{"url: dir:dl.k8s.io/", "url: https://me:secret@dl.k8s.io/", "is not an https address"},
		{"path: bin/ctr", "path: ../bin/ctr", "leads out of the archive"},
		{"path: loopback", "path: x/bridge", "is there twice"},
		{"sha256: ", "sha256: xyz", "is not a SHA-256 digest"},
		{"size: ", "size: -", "is not between 1 and"},
	} {
		edited := strings.Replace(text, test.old, test.new, 1)
		if edited == text {
			t.Fatalf("%q is not in\n%s", test.old, text)
		}
		if _, err := ParseLock([]byte(edited)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.new, err, test.want)
		}
	}
}

func TestLockFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.kthwc", LockName)
	if _, err := ReadLock(path); err == nil || !strings.Contains(err.(*Fault).Help, "artifacts lock") {
		t.Errorf("got %v", err)
	}
	want := mustLock(t, &Client{Cache: newCache(t), From: directoryOf(t, files(t))}, nil)
	for range 2 {
		if err := WriteLock(path, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	more := append([]Need{{"runc", "1.9.0", "amd64"}}, needs...)
	if missing := got.Missing(more); len(missing) != 1 || missing[0].Version != "1.9.0" {
		t.Errorf("missing: %v", missing)
	}
}

// Forms that projects publish checksums in.
func TestDigestIn(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	for _, test := range []struct{ text, want string }{
		{a, a},
		{strings.ToUpper(a) + "\r\n", a},
		{b + "  other\n" + a + "  file\n", a},
		{b + " *other\n" + a + " *file\n", a},
		{a + "  ./build/file\n", a},
		{"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n" + b + "  x\n" + a + "  file\n-----BEGIN PGP SIGNATURE-----\n", a},
		{b + "  other\n", ""},
		{"Not Found", ""},
		{a + "b", ""},
	} {
		if got := digestIn(test.text, "file"); got != test.want {
			t.Errorf("%q: %q", test.text, got)
		}
	}
}

// FuzzLock: whatever is accepted is written as it was read, and leads nowhere.
func FuzzLock(f *testing.F) {
	c := &Client{Cache: newCache(f), From: directoryOf(f, files(f))}
	l, err := c.Lock(f.Context(), "kubernetes", "r1", needs, nil, false)
	if err != nil {
		f.Fatal(err)
	}
	text, err := l.YAML()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("apiVersion: kthwc.dev/v1alpha1\nkind: ArtifactLock\nartifacts: []\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := ParseLock(text)
		if err != nil {
			return
		}
		out, err := l.YAML()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseLock(out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if second, _ := again.YAML(); !bytes.Equal(out, second) {
			t.Fatalf("written as\n%s\nand then as\n%s", out, second)
		}
		for _, e := range l.Artifacts {
			if place, local := strings.CutPrefix(e.URL, fromDirectory); local && !filepath.IsLocal(place) || !local && !strings.HasPrefix(e.URL, "https://") {
				t.Errorf("accepted %q", e.URL)
			}
		}
	})
}

// FuzzArchive: no bytes make unpacking leave its directory or run on.
func FuzzArchive(f *testing.F) {
	f.Add(archiveOf(f, Packed{"bridge", program("bridge", "amd64")}), "bridge")
	f.Add(archiveOf(f, Packed{"../bridge", nil}), everyProgram)
	f.Add(imageOf(f, Need{"registry.k8s.io/pause", "3.10.2", "amd64"}), "pause")
	f.Fuzz(func(t *testing.T, archive []byte, member string) {
		seen := map[string]bool{}
		err := eachMember(bytes.NewReader(archive), member, func(name string, content io.Reader) error {
			if seen[name] || member == everyProgram && !filepath.IsLocal(name) {
				t.Errorf("unpacked %q", name)
			}
			seen[name] = true
			_, err := io.Copy(io.Discard, content)
			return err
		})
		if err == nil && len(seen) == 0 {
			t.Error("nothing was found, and nothing said")
		}
		_ = checkImage(bytes.NewReader(archive), member, "amd64")
	})
}
