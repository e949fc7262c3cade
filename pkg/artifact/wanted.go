package artifact

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v3"

	"github.com/kthwc/kthwc/pkg/tree"
)

// Need is a program or an image that a cluster runs, for one architecture.
type Need struct {
	Name    string `yaml:"name"`    // "kubelet", or "registry.k8s.io/pause"
	Version string `yaml:"version"` // without a v; of an image the tag
	Arch    string `yaml:"arch"`    // "amd64" or "arm64"
}

// IsImage says whether the need is an image: only their names have a registry.
func (n Need) IsImage() bool { return strings.Contains(n.Name, "/") }

// Ref is an image as containers name it.
func (n Need) Ref() string { return n.Name + ":" + n.Version }

func (n Need) String() string { return n.Name + " " + n.Version + " " + n.Arch }

func (n Need) compare(o Need) int {
	return cmp.Or(cmp.Compare(n.Name, o.Name), cmp.Compare(n.Version, o.Version), cmp.Compare(n.Arch, o.Arch))
}

// Wanted lists what the nodes of a tree run: the programs that its MANIFEST
// names, sandbox images, and the images of its manifests for every architecture
// that has a container runtime. It is sorted, and nothing is in it twice.
func Wanted(t *tree.Tree) ([]Need, error) {
	images, err := manifestImages(t)
	var out []Need
	for _, n := range t.Nodes {
		for _, b := range n.Binaries {
			out = append(out, Need{b.Name, b.Version, b.Arch})
			if b.Name != "containerd" {
				continue
			}
			sandbox, fault := sandboxImages(n)
			err = errors.Join(err, fault)
			for _, ref := range slices.Concat(images, sandbox) {
				name, tag, fault := cutRef(ref)
				err = errors.Join(err, fault)
				out = append(out, Need{name, tag, b.Arch})
			}
		}
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out, Need.compare)
	return slices.Compact(out), nil
}

// manifestImages are the images of all containers in manifests/.
func manifestImages(t *tree.Tree) ([]string, error) {
	var out []string
	for _, f := range t.Files {
		if f.Body == nil || !strings.HasPrefix(f.Path, "manifests/") {
			continue
		}
		for decoder := yaml.NewDecoder(bytes.NewReader(f.Body.Bytes())); ; {
			var object any
			err := decoder.Decode(&object)
			if err == io.EOF {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.Path, err)
			}
			out = append(out, containerImages(object)...)
		}
	}
	return out, nil
}

// containerImages finds the images of containers, however deep they are.
func containerImages(object any) []string {
	var out []string
	switch v := object.(type) {
	case []any:
		for _, e := range v {
			out = append(out, containerImages(e)...)
		}
	case map[string]any:
		for key, e := range v {
			if containers, ok := e.([]any); ok && (key == "containers" || key == "initContainers") {
				out = append(out, imagesOf(containers)...)
			}
			out = append(out, containerImages(e)...)
		}
	}
	return out
}

func imagesOf(containers []any) []string {
	var out []string
	for _, c := range containers {
		fields, _ := c.(map[string]any)
		if image, ok := fields["image"].(string); ok {
			out = append(out, image)
		}
	}
	return out
}

// sandboxImages are the images that containerd's configuration names for the
// sandbox of every pod, in any of its versions.
func sandboxImages(n *tree.Node) ([]string, error) {
	var out []string
	for _, f := range n.Files {
		if f.Body == nil || !strings.HasSuffix(f.Path, "/containerd/config.toml") {
			continue
		}
		var config map[string]any
		if err := toml.Unmarshal(f.Body.Bytes(), &config); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", n.Name, f.Path, err)
		}
		out = append(out, sandboxes(config)...)
	}
	return out, nil
}

func sandboxes(table map[string]any) []string {
	var out []string
	for key, v := range table {
		switch v := v.(type) {
		case map[string]any:
			out = append(out, sandboxes(v)...)
		case string:
			if key == "sandbox" || key == "sandbox_image" {
				out = append(out, v)
			}
		}
	}
	return out
}
