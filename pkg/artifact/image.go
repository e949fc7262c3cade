package artifact

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// The media types of the Open Container Initiative that are written.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// maxDocument bounds the JSON documents of an image.
const maxDocument = 4 << 20

// descriptor names a blob of an image.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// document is an index or a manifest: what of both is read here.
type document struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType,omitempty"`
	Config        *descriptor  `json:"config,omitempty"`
	Layers        []descriptor `json:"layers,omitempty"`
	Manifests     []descriptor `json:"manifests,omitempty"`
}

// imageConfig is how an image's program is run, and for what machine.
type imageConfig struct {
	platform
	Config struct {
		Entrypoint []string `json:"Entrypoint"`
		WorkingDir string   `json:"WorkingDir"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// Image is a container image of static programs.
type Image struct {
	Ref   string // "registry.k8s.io/pause:3.10.2"
	Arch  string
	Files []Packed // the first is what runs
}

// WriteImage writes the image as an OCI layout in a tar, which `ctr images
// import` reads. Equal images give equal bytes.
func WriteImage(w io.Writer, image Image) error {
	if len(image.Files) == 0 {
		return errors.New("an image needs a program")
	}
	var layer bytes.Buffer
	if err := writeTar(&layer, 0o755, image.Files); err != nil {
		return err
	}
	var config imageConfig
	config.platform = platform{image.Arch, "linux"}
	config.Config.Entrypoint = []string{"/" + image.Files[0].Name}
	config.Config.WorkingDir = "/"
	config.RootFS.Type, config.RootFS.DiffIDs = "layers", []string{digestOf(layer.Bytes())}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	configAt := describe(typeConfig, text)
	manifest, err := json.Marshal(document{SchemaVersion: 2, MediaType: typeManifest, Config: &configAt, Layers: []descriptor{describe(typeLayer, layer.Bytes())}})
	if err != nil {
		return err
	}
	return writeLayout(w, image.Ref, image.Arch, describe(typeManifest, manifest), manifest, text, layer.Bytes())
}

// writeLayout writes a manifest and the blobs that it names.
func writeLayout(w io.Writer, ref, arch string, manifest descriptor, blobs ...[]byte) error {
	_, tag, _ := cutRef(ref)
	manifest.Annotations = map[string]string{"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": tag}
	manifest.Platform = &platform{arch, "linux"}
	index, err := json.Marshal(document{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{manifest}})
	if err != nil {
		return err
	}
	files := []Packed{{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", index}}
	known := map[string]bool{}
	for _, blob := range blobs {
		if d := digestOf(blob); !known[d] {
			known[d] = true
			files = append(files, Packed{blobName(d), blob})
		}
	}
	return writeTar(w, 0o644, files)
}

func describe(mediaType string, content []byte) descriptor {
	return descriptor{MediaType: mediaType, Digest: digestOf(content), Size: int64(len(content))}
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// blobName is where a layout has a blob.
func blobName(digest string) string { return path.Join("blobs", strings.Replace(digest, ":", "/", 1)) }

// cutRef cuts registry/name:tag. A reference without a registry is Docker's
// short form, which no rendered file has.
func cutRef(ref string) (name, tag string, err error) {
	at := strings.LastIndexByte(ref, ':')
	registry, _, hasName := strings.Cut(ref, "/")
	if at < 0 || strings.Contains(ref[at:], "/") || !hasName || !strings.ContainsAny(registry, ".:") || strings.Contains(ref, "@") {
		return "", "", fmt.Errorf("the image %q is not written as registry/name:tag", ref)
	}
	return ref[:at], ref[at+1:], nil
}

// checkImage proves that an archive is an OCI layout of one image for the
// architecture, and that every blob is what its name says.
func checkImage(archive io.Reader, ref, arch string) error {
	documents, sizes, err := readLayout(archive)
	if err != nil {
		return err
	}
	var index, manifest document
	var config imageConfig
	if err := parse(documents, "index.json", &index); err != nil {
		return err
	}
	if len(index.Manifests) != 1 {
		return fmt.Errorf("it has %d images, not one", len(index.Manifests))
	}
	if name := index.Manifests[0].Annotations["io.containerd.image.name"]; name != ref {
		return fmt.Errorf("it is the image %q, not %s", name, ref)
	}
	if err := parse(documents, blobName(index.Manifests[0].Digest), &manifest); err != nil {
		return err
	}
	if manifest.Config == nil {
		return errors.New("its manifest names no configuration")
	}
	if err := parse(documents, blobName(manifest.Config.Digest), &config); err != nil {
		return err
	}
	if config.Architecture != arch || config.OS != "linux" {
		return fmt.Errorf("it is for %s/%s, not linux/%s", config.OS, config.Architecture, arch)
	}
	for _, l := range manifest.Layers {
		if size, ok := sizes[blobName(l.Digest)]; !ok || size != l.Size {
			return fmt.Errorf("its layer %s is missing or cut off", l.Digest)
		}
	}
	return nil
}

// readLayout reads the documents of a layout, and checks and measures the blobs.
func readLayout(archive io.Reader) (documents map[string][]byte, sizes map[string]int64, err error) {
	reader := tar.NewReader(archive)
	documents, sizes = map[string][]byte{}, map[string]int64{}
	for range maxMembers {
		header, err := reader.Next()
		if err == io.EOF {
			return documents, sizes, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("it is not an archive of an image: %w", err)
		}
		if header.Typeflag != tar.TypeReg || header.Size > maxMember {
			continue
		}
		hash, head := sha256.New(), &bytes.Buffer{}
		n, err := io.Copy(hash, io.TeeReader(reader, &capped{head, maxDocument}))
		if err != nil {
			return nil, nil, fmt.Errorf("the archive is damaged: %w", err)
		}
		name := path.Clean(header.Name)
		if blob, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && blob != hex.EncodeToString(hash.Sum(nil)) {
			return nil, nil, fmt.Errorf("its blob %s has other content than its name says", blob)
		}
		sizes[name] = n
		if n < maxDocument {
			documents[name] = head.Bytes()
		}
	}
	return nil, nil, fmt.Errorf("it has more than %d files", maxMembers)
}

// capped keeps the first bytes and forgets the rest.
type capped struct {
	to   *bytes.Buffer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	c.to.Write(p[:n]) // a buffer does not fail
	return len(p), nil
}

func parse(documents map[string][]byte, name string, into any) error {
	text, ok := documents[name]
	if !ok {
		return fmt.Errorf("it has no %s", name)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("its %s cannot be read: %w", name, err)
	}
	return nil
}
