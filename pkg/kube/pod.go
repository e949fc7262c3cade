package kube

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// podPath is the path of a part of a pod.
func podPath(namespace, pod, part string) (string, error) {
	if namespace == "" || pod == "" {
		return "", fault(Invalid, nil, "a pod needs a namespace and a name")
	}
	return "/api/v1/namespaces/" + namespace + "/pods/" + pod + "/" + part, segments(namespace, pod)
}

// Logs has the last 10000 lines of a container's log: at most 4 MiB. An empty
// container is the pod's only one.
func (c *Client) Logs(ctx context.Context, namespace, pod, container string) ([]byte, error) {
	path, err := podPath(namespace, pod, "log")
	if err != nil {
		return nil, err
	}
	query := url.Values{"tailLines": {"10000"}, "limitBytes": {strconv.Itoa(4 << 20)}}
	if container != "" {
		query.Set("container", container)
	}
	code, body, err := c.text(ctx, path, query)
	if err == nil && code != http.StatusOK {
		err = c.refused(code, body)
	}
	if err != nil {
		return nil, err
	}
	return body, nil
}
