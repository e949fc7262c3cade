package perturb

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// edit sets the field at path to value: a YAML text, or "" to remove it.
type edit struct{ path, value string }

// apply makes the edits in a copy of source and keeps nothing else of its
// layout: positions are not part of what is rendered.
func apply(source []byte, edits ...edit) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(source, &doc); err != nil {
		return nil, err
	}
	for _, e := range edits {
		if err := set(doc.Content[0], steps(e.path), e.value); err != nil {
			return nil, fmt.Errorf("%s: %w", e.path, err)
		}
	}
	return yaml.Marshal(&doc)
}

// steps splits "spec.nodes[worker-0].labels["a.b/c"]" at its dots and brackets.
func steps(path string) []string {
	var out []string
	for path != "" {
		switch {
		case strings.HasPrefix(path, `["`):
			end := strings.Index(path, `"]`)
			out, path = append(out, path[2:end]), path[end+2:]
		case path[0] == '[':
			end := strings.IndexByte(path, ']')
			out, path = append(out, path[:end]), path[end+1:]
		default:
			end := strings.IndexAny(path[1:], ".[") + 1
			if end == 0 {
				end = len(path)
			}
			out, path = append(out, strings.TrimPrefix(path[:end], ".")), path[end:]
		}
	}
	return out
}

func set(at *yaml.Node, steps []string, value string) error {
	if len(steps) == 0 {
		return nil
	}
	child, index := find(at, steps[0])
	last := len(steps) == 1
	switch {
	case child == nil && at.Kind == yaml.MappingNode && value != "":
		at.Content = append(at.Content, scalar(steps[0]), &yaml.Node{Kind: yaml.MappingNode})
		child, index = find(at, steps[0])
	case child == nil:
		return fmt.Errorf("no %q here", steps[0])
	}
	if !last {
		return set(child, steps[1:], value)
	}
	if value == "" {
		remove(at, index)
		return nil
	}
	var parsed yaml.Node
	if err := yaml.Unmarshal([]byte(value), &parsed); err != nil {
		return err
	}
	at.Content[index] = parsed.Content[0]
	return nil
}

func scalar(text string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: text} }

func remove(at *yaml.Node, index int) {
	first := index
	if at.Kind == yaml.MappingNode {
		first--
	}
	at.Content = append(at.Content[:first:first], at.Content[index+1:]...)
}

// find gives the child that a step names, and its index in the content.
func find(at *yaml.Node, step string) (*yaml.Node, int) {
	if at.Kind == yaml.MappingNode {
		for i := 0; i < len(at.Content); i += 2 {
			if at.Content[i].Value == step {
				return at.Content[i+1], i + 1
			}
		}
		return nil, 0
	}
	key := strings.TrimSuffix(strings.TrimPrefix(step, "["), "]")
	for i, item := range at.Content {
		name, _ := find(item, "name")
		if item.Kind == yaml.MappingNode && name != nil && name.Value == key {
			return item, i
		}
	}
	if i, err := strconv.Atoi(key); err == nil && i < len(at.Content) {
		return at.Content[i], i
	}
	return nil, 0
}
