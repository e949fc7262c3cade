package artifact

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strings"
)

// manifestPattern is the address of an image's manifest at a registry.
var manifestPattern = regexp.MustCompile(`^https://[^/]+/v2/.+/manifests/sha256:[0-9a-f]{64}$`)

// acceptManifests are the forms that registries have indexes and manifests in.
var acceptManifests = http.Header{"Accept": {typeIndex + ", " + typeManifest +
	", application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"}}

// maxImage bounds an image that is put together in memory.
const maxImage = 512 << 20

// repository is the address of an image's repository at its registry.
func repository(n Need) string {
	host, name, _ := strings.Cut(n.Name, "/")
	return "https://" + host + "/v2/" + name
}

// manifestAddress asks a registry which manifest a tag means for an architecture.
func (c *Client) manifestAddress(ctx context.Context, n Need) (string, error) {
	address := repository(n) + "/manifests/" + n.Version
	text, _, err := c.text(ctx, address, acceptManifests)
	if err != nil {
		return "", err
	}
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		return "", fault("open the address in a browser", "%s is not a manifest: %s", address, err)
	}
	if len(d.Manifests) == 0 {
		return repository(n) + "/manifests/" + digestOf(text), nil
	}
	for _, m := range d.Manifests {
		if m.Platform != nil && m.Platform.OS == "linux" && m.Platform.Architecture == n.Arch {
			return repository(n) + "/manifests/" + m.Digest, nil
		}
	}
	return "", fault("use another tag, or nodes of another architecture", "%s has no image for linux/%s", address, n.Arch)
}

// pull brings the image that a manifest names into the cache, as an archive.
// Registries name blobs by digest, so what came is what the manifest means.
func (c *Client) pull(ctx context.Context, n Need, address string, want content) (content, error) {
	text, kind, err := c.text(ctx, address, acceptManifests)
	if err != nil {
		return content{}, err
	}
	if !strings.HasSuffix(address, "/"+digestOf(text)) {
		return content{}, mismatch("try again; if it stays, tell whoever keeps the registry", "%s answered with a manifest of another digest, %s", address, digestOf(text))
	}
	var d document
	if err := json.Unmarshal(text, &d); err != nil || d.Config == nil {
		return content{}, fault("open the address in a browser", "%s is not the manifest of an image", address)
	}
	blobs, err := c.blobs(ctx, n, append([]descriptor{*d.Config}, d.Layers...))
	if err != nil {
		return content{}, err
	}
	manifest := describe(kind, text)
	if d.MediaType != "" {
		manifest.MediaType = d.MediaType
	}
	var archive bytes.Buffer
	if err := writeLayout(&archive, n.Ref(), n.Arch, manifest, append([][]byte{text}, blobs...)...); err != nil {
		return content{}, err
	}
	return c.Cache.put(&archive, want)
}

// blobs gets the parts of an image. They are part of the archive afterwards, and
// not kept by themselves.
func (c *Client) blobs(ctx context.Context, n Need, wanted []descriptor) ([][]byte, error) {
	var out [][]byte
	var sum int64
	for _, b := range wanted {
		digest, ok := strings.CutPrefix(b.Digest, "sha256:")
		if sum += b.Size; !ok || checkContent(digest, b.Size, maxImage) != nil || sum > maxImage {
			return nil, fault("save the image as an archive, and use --from", "the image %s has a part that is not named by SHA-256, or is larger than %d bytes", n.Ref(), maxImage)
		}
		if _, err := c.download(ctx, repository(n)+"/blobs/"+b.Digest, content{digest, b.Size}); err != nil {
			return nil, err
		}
		text, err := os.ReadFile(c.Cache.Path(digest))
		if err != nil {
			return nil, err
		}
		if err := os.Remove(c.Cache.Path(digest)); err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, nil
}
