package kube

import (
	"context"
	"net/url"
	"strconv"
)

// Get reads an object. One that is not there is an error of kind NotFound.
func (c *Client) Get(ctx context.Context, r Ref) (Object, error) {
	return c.send(ctx, "GET", r, nil, nil)
}

// Selection narrows a list by labels and fields, as kubectl's -l and
// --field-selector do. The zero value takes all.
type Selection struct{ Labels, Fields string }

// pageSize is how many objects come with one answer.
const pageSize = 500

// List reads all objects of a kind in a namespace, or in all where it is empty.
func (c *Client) List(ctx context.Context, apiVersion, kind, namespace string, s Selection) ([]Object, error) {
	p, err := c.path(ctx, Ref{APIVersion: apiVersion, Kind: kind, Namespace: namespace})
	if err != nil {
		return nil, err
	}
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	for key, value := range map[string]string{"labelSelector": s.Labels, "fieldSelector": s.Fields} {
		if value != "" {
			query.Set(key, value)
		}
	}
	var all []Object
	for {
		page, _, err := c.do(ctx, request{verb: "GET", path: p, query: query})
		if err != nil {
			return nil, err
		}
		for _, item := range page.List("items") {
			// A list says once what each item is.
			item["apiVersion"], item["kind"] = apiVersion, kind
			all = append(all, item)
		}
		next := page.Str("metadata", "continue")
		if next == "" {
			return all, nil
		}
		query.Set("continue", next)
	}
}

// Create makes an object. One that is there already is an error of kind Exists.
// metadata.generateName works: the answer has the name.
func (c *Client) Create(ctx context.Context, o Object) (Object, error) {
	r := o.Ref()
	collection, err := c.path(ctx, Ref{APIVersion: r.APIVersion, Kind: r.Kind, Namespace: r.Namespace})
	if err != nil {
		return nil, err
	}
	made, _, err := c.do(ctx, request{verb: "POST", path: collection, body: o})
	return made, err
}

// Patch merges a change into an object (RFC 7386): what is null is removed.
func (c *Client) Patch(ctx context.Context, r Ref, change Object) (Object, error) {
	p, err := c.path(ctx, r)
	if err != nil {
		return nil, err
	}
	o, _, err := c.do(ctx, request{verb: "PATCH", path: p, body: change, contentType: mergePatch})
	return o, err
}

// Delete asks for the end of an object; what belongs to it goes in the
// background. One that is not there is none to delete, and no error.
func (c *Client) Delete(ctx context.Context, r Ref) error { return c.remove(ctx, r, "") }

// remove deletes an object, where a UID is given only the one that has it: else
// the error is of kind Conflict.
func (c *Client) remove(ctx context.Context, r Ref, uid string) error {
	options := Object{"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
	if uid != "" {
		options["preconditions"] = map[string]any{"uid": uid}
	}
	_, err := c.send(ctx, "DELETE", r, nil, options)
	if KindOf(err) == NotFound {
		return nil
	}
	return err
}

func (c *Client) send(ctx context.Context, verb string, r Ref, query url.Values, body any) (Object, error) {
	p, err := c.path(ctx, r)
	if err != nil {
		return nil, err
	}
	o, _, err := c.do(ctx, request{verb: verb, path: p, query: query, body: body})
	return o, err
}
