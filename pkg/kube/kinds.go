package kube

import (
	"context"
	"slices"
	"strings"
)

// kind is how the server serves a kind.
type kind struct {
	name       string // Deployment
	resource   string // deployments, or pods/eviction
	namespaced bool
	apiVersion string // of what a subresource takes, where it differs
}

// prefix is the path of a version of an API.
func prefix(apiVersion string) string {
	if strings.Contains(apiVersion, "/") {
		return "/apis/" + apiVersion
	}
	return "/api/" + apiVersion
}

// served lists the kinds of a version, which is asked for once. Where again is
// set, it is asked for again: kinds come with their definitions.
func (c *Client) served(ctx context.Context, apiVersion string, again bool) ([]kind, error) {
	c.mu.Lock()
	list, known := c.kinds[apiVersion]
	c.mu.Unlock()
	if known && !again {
		return list, nil
	}
	answer, _, err := c.do(ctx, request{verb: "GET", path: prefix(apiVersion)})
	if err != nil {
		return nil, err
	}
	list = nil
	for _, r := range answer.List("resources") {
		list = append(list, kind{name: r.Str("kind"), resource: r.Str("name"), namespaced: r.Bool("namespaced"), apiVersion: groupVersion(r)})
	}
	c.mu.Lock()
	c.kinds[apiVersion] = list
	c.mu.Unlock()
	return list, nil
}

func groupVersion(r Object) string {
	if r.Str("group") == "" {
		return r.Str("version")
	}
	return r.Str("group") + "/" + r.Str("version")
}

// resource finds how a kind is served. What is not found is asked for again.
func (c *Client) resource(ctx context.Context, apiVersion, name string) (kind, error) {
	if apiVersion == "" || name == "" {
		return kind{}, fault(Invalid, nil, "an object needs apiVersion and kind")
	}
	for _, again := range []bool{false, true} {
		list, err := c.served(ctx, apiVersion, again)
		if err != nil && KindOf(err) != NotFound {
			return kind{}, err
		}
		i := slices.IndexFunc(list, func(k kind) bool { return k.name == name && !strings.Contains(k.resource, "/") })
		if i >= 0 {
			return list[i], nil
		}
	}
	return kind{}, fault(NotFound, nil, "the API server does not know the kind %s of %s", name, apiVersion)
}

// path is where an object is, and whether its namespace fits its kind. An empty
// name is the collection.
func (c *Client) path(ctx context.Context, r Ref) (string, error) {
	if err := segments(r.Namespace, r.Name); err != nil {
		return "", err
	}
	k, err := c.resource(ctx, r.APIVersion, r.Kind)
	if err != nil {
		return "", err
	}
	p := prefix(r.APIVersion)
	switch {
	case k.namespaced && r.Namespace != "":
		p += "/namespaces/" + r.Namespace
	case k.namespaced && r.Name != "":
		return "", fault(Invalid, nil, "%s belongs to a namespace, and none is given", r)
	case !k.namespaced && r.Namespace != "":
		return "", fault(Invalid, nil, "%s is given a namespace, but its kind belongs to none", r)
	}
	p += "/" + k.resource
	if r.Name != "" {
		p += "/" + r.Name
	}
	return p, nil
}

// segments refuses names that would lead elsewhere in a path.
func segments(names ...string) error {
	for _, name := range names {
		if name == "." || name == ".." || strings.ContainsAny(name, "/%?#") {
			return fault(Invalid, nil, "%q cannot be a name", name)
		}
	}
	return nil
}
