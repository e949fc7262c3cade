package tree_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

func sample(t *testing.T, text string) *tree.Tree {
	t.Helper()
	body := &tree.Body{}
	body.Add(origin.Field("spec.a"), text)
	body.AddParts(origin.Fixed("x"), tree.Part{Text: "key: "}, tree.Part{Ref: secret.Key("admin").Base64()})
	n := &tree.Node{Name: "box"}
	out := &tree.Tree{Cluster: "c", Nodes: []*tree.Node{n}}
	for _, f := range []*tree.File{
		{Path: "/etc/x", Kind: tree.Regular, Mode: 0o600, Body: body},
		{Path: "/etc/link", Kind: tree.Symlink, Target: "/etc/x"},
		{Path: "/etc/gone", Kind: tree.Absent},
	} {
		if err := n.Put(f); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestPathsAreGivenOnceAndClean(t *testing.T) {
	n := sample(t, "x").Nodes[0]
	for _, path := range []string{"/etc/x", "/etc/../y", "../y", "/a//b", "/a\nb", "/a\x00", "/..", "/", "", "y"} {
		if err := n.Put(&tree.File{Path: path}); err == nil {
			t.Errorf("%q was accepted", path)
		}
	}
}

func TestFilesOfNoNodeStayBelow(t *testing.T) {
	for _, path := range []string{"/etc/x", "..", "../y", ".", "", "a/../../y", "a\nb"} {
		if err := sample(t, "x").Put(&tree.File{Path: path}); err == nil {
			t.Errorf("%q was accepted", path)
		}
	}
}

func TestALineIsOneLine(t *testing.T) {
	for _, text := range []string{"a\nb", "a\x00b"} {
		plain, inPart := &tree.Body{}, &tree.Body{}
		plain.Add(origin.Fixed("x"), text)
		inPart.AddParts(origin.Fixed("x"), tree.Part{Text: text})
		for _, body := range []*tree.Body{plain, inPart} {
			if err := sample(t, "x").Nodes[0].Put(&tree.File{Path: "/y", Kind: tree.Regular, Body: body}); err == nil {
				t.Errorf("%q was accepted as a line", text)
			}
		}
	}
}

func TestWriteReplacesOnlyItsOwn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(tree.Write(dir, sample(t, "one"), tree.WriteOptions{}))
	must(tree.Write(dir, sample(t, "two"), tree.WriteOptions{}))
	file := filepath.Join(dir, "nodes/box/etc/x")
	content, err := os.ReadFile(file)
	must(err)
	if string(content) != "two\nkey: ${secret:pki/admin.key|base64}\n" {
		t.Errorf("the file says %q", content)
	}
	if _, err := os.Lstat(filepath.Join(dir, "nodes/box/etc/link")); !os.IsNotExist(err) {
		t.Error("a link was made on disk")
	}
	must(os.WriteFile(file, []byte("by hand\n"), 0o644))
	var refused *tree.RefusedError
	if err := tree.Write(dir, sample(t, "three"), tree.WriteOptions{}); !errors.As(err, &refused) {
		t.Errorf("a hand edit was replaced: %v", err)
	}
	must(tree.Write(dir, sample(t, "three"), tree.WriteOptions{Force: true}))
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestWriteRefusesForeignDirectories(t *testing.T) {
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "precious"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{".", "/", "..", foreign, filepath.Join(foreign, "precious")} {
		var refused *tree.RefusedError
		if err := tree.Write(dir, sample(t, "x"), tree.WriteOptions{}); !errors.As(err, &refused) || refused.Help == "" {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if _, err := os.Stat(filepath.Join(foreign, "precious")); err != nil {
		t.Error(err)
	}
}

func TestManifestSaysWhatFilesCannot(t *testing.T) {
	m := sample(t, "x").Manifest()
	entries := map[string]tree.Entry{}
	for _, e := range m.Nodes[0].Entries {
		entries[e.Path] = e
	}
	if e := entries["/etc/x"]; e.Mode != "0600" || len(e.Secrets) != 1 || e.Secrets[0] != "pki/admin.key" {
		t.Errorf("%+v", e)
	}
	if got := m.Sources[entries["/etc/x"].Source]; len(got) != 2 || got[0] != "1 spec.a" || got[1] != "2 fixed:x" {
		t.Errorf("sources are %q", got)
	}
	if e := entries["/etc/link"]; e.Kind != tree.Symlink || e.Target != "/etc/x" {
		t.Errorf("%+v", e)
	}
}
