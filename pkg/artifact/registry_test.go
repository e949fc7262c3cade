package artifact

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
)

// registryOf answers as the registry of one image would.
func registryOf(tb testing.TB, n Need) func(http.ResponseWriter, *http.Request, string) bool {
	tb.Helper()
	blobs, manifest := registryBlobs(tb, n)
	index, err := json.Marshal(document{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{
		{MediaType: typeManifest, Digest: "sha256:" + strings.Repeat("1", 64), Size: 3, Platform: &platform{"s390x", "linux"}},
		{MediaType: typeManifest, Digest: manifest, Size: int64(len(blobs[manifest])), Platform: &platform{n.Arch, "linux"}},
	}})
	if err != nil {
		tb.Fatal(err)
	}
	return func(w http.ResponseWriter, _ *http.Request, name string) bool {
		rest, ok := strings.CutPrefix("https://"+name, repository(n))
		if !ok {
			return false
		}
		digest := rest[strings.LastIndexByte(rest, '/')+1:]
		switch content, known := blobs[digest]; {
		case rest == "/manifests/"+n.Version:
			w.Header().Set("Content-Type", typeIndex)
			_, _ = w.Write(index)
		case known:
			w.Header().Set("Content-Type", typeManifest)
			_, _ = w.Write(content)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
		return true
	}
}

// registryBlobs takes an image apart, and names its manifest.
func registryBlobs(tb testing.TB, n Need) (blobs map[string][]byte, manifest string) {
	tb.Helper()
	documents, _, err := readLayout(strings.NewReader(string(imageOf(tb, n))))
	if err != nil {
		tb.Fatal(err)
	}
	blobs = map[string][]byte{}
	for _, content := range documents {
		blobs[digestOf(content)] = content
	}
	var index document
	if err := json.Unmarshal(documents["index.json"], &index); err != nil {
		tb.Fatal(err)
	}
	return blobs, index.Manifests[0].Digest
}

// The lock names the manifest by digest, so a tag that moves changes nothing;
// a registry that lies, or has no such image, is refused.
func TestRegistry(t *testing.T) {
	n := Need{"registry.k8s.io/pause", "3.10.2", "amd64"}
	answer := registryOf(t, n)
	moved, lying := false, false
	s := newSite(t, nil, func(w http.ResponseWriter, r *http.Request, name string) bool {
		switch {
		case moved && strings.HasSuffix(name, "/manifests/3.10.2"):
			t.Error("the tag was asked for")
		case lying && strings.Contains(name, "/manifests/sha256:"):
			_, _ = w.Write([]byte(`{"config":{}}`))
			return true
		case lying && strings.Contains(name, "/blobs/"):
			_, _ = w.Write([]byte("other"))
			return true
		}
		return answer(w, r, name)
	})
	c := s.client(t)
	lock, err := c.Lock(t.Context(), "c", "r", []Need{n}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if e := lock.Artifacts[0]; !manifestPattern.MatchString(e.URL) || e.SHA256 != digestOf(imageOf(t, n))[7:] {
		t.Errorf("locked as %+v", e)
	}
	if stored, _ := os.ReadDir(c.Cache.dir + "/sha256"); len(stored) != 1 {
		t.Errorf("%d files are kept, not the archive alone", len(stored))
	}
	moved = true
	c.Cache = newCache(t)
	if err := c.Fetch(t.Context(), lock); err != nil {
		t.Fatal(err)
	}
	lying, c.Cache = true, newCache(t)
	says(t, "fetch", c.Fetch(t.Context(), lock), "answered with a manifest of another digest", "registry", true)
	moved, lying = false, false
	_, err = c.Lock(t.Context(), "c", "r", []Need{{n.Name, n.Version, "arm64"}}, nil, false)
	says(t, "lock", err, "has no image for linux/arm64", "another architecture", false)
}
