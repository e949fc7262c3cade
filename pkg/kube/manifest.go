package kube

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

// Manifest is a file of YAML documents, each an object or a List of them. Their
// order is the order in which they are applied.
type Manifest struct {
	Name string // for messages: manifests/20-coredns.yaml
	Text []byte
}

// wanted is one object of a manifest.
type wanted struct {
	Object
	manifest string
}

// parse reads manifests into objects, in order. What is given twice, or lacks a
// name, is an error of kind Invalid that says where.
func parse(manifests []Manifest) ([]wanted, error) {
	var all []wanted
	for _, m := range manifests {
		objects, err := documents(m.Text)
		if err != nil {
			return nil, fault(Invalid, err, "%s", m.Name)
		}
		for _, o := range objects {
			all = append(all, wanted{o, m.Name})
		}
	}
	return all, check(all)
}

func documents(text []byte) ([]Object, error) {
	var objects []Object
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for number := 1; ; number++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		o, err := decode(document)
		if err != nil {
			return nil, fault(Invalid, err, "document %d cannot be read", number)
		}
		objects = append(objects, flat(o)...)
	}
}

// decode reads a document. One without anything but comments is nil.
func decode(document []byte) (o Object, err error) {
	text, err := strict.YAMLToJSONStrict(document)
	if err != nil {
		return nil, err
	}
	return o, json.Unmarshal(text, (*map[string]any)(&o))
}

// flat takes a List apart.
func flat(o Object) []Object {
	switch {
	case o == nil:
		return nil
	case o.Str("kind") == "List":
		return o.List("items")
	}
	return []Object{o}
}

func check(all []wanted) error {
	seen := map[string]string{}
	for _, w := range all {
		r := w.Ref()
		if r.APIVersion == "" || r.Kind == "" || r.Name == "" {
			return fault(Invalid, nil, "%s: an object needs apiVersion, kind and metadata.name; one has %q, %q, %q", w.manifest, r.APIVersion, r.Kind, r.Name)
		}
		if key(r) == key(inventoryRef) {
			return fault(Invalid, nil, "%s: %s is kthwc's own list of what it applied; a manifest cannot have it", w.manifest, r)
		}
		if before, twice := seen[key(r)]; twice {
			return fault(Invalid, nil, "%s is in %s and again in %s", r, before, w.manifest)
		}
		seen[key(r)] = w.manifest
	}
	return nil
}

// key tells objects apart. The version of an API does not: one object is served
// in several.
func key(r Ref) string {
	return strings.Join([]string{group(r.APIVersion), r.Kind, r.Namespace, r.Name}, "\x00")
}

func group(apiVersion string) string {
	g, _, named := strings.Cut(apiVersion, "/")
	if !named {
		return ""
	}
	return g
}

// provides is which kinds and namespaces manifests bring along: what needs
// them cannot be compared before they are there.
type provides struct {
	kinds      map[string]wanted // definitions, by "group\x00Kind"
	namespaces map[string]string // manifests, by name
}

func provided(all []wanted) provides {
	p := provides{map[string]wanted{}, map[string]string{}}
	for _, w := range all {
		switch w.Str("kind") {
		case "CustomResourceDefinition":
			p.kinds[w.Str("spec", "group")+"\x00"+w.Str("spec", "names", "kind")] = w
		case "Namespace":
			p.namespaces[w.Str("metadata", "name")] = w.manifest
		}
	}
	return p
}

// kind is the definition of an object's kind that a manifest brings.
func (p provides) kind(r Ref) (wanted, bool) {
	w, ok := p.kinds[group(r.APIVersion)+"\x00"+r.Kind]
	return w, ok
}
