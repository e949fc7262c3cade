//go:build !unix

package durable

// Lock is nothing where there is no flock: two renders at once are on their own.
func Lock(string) (unlock func(), err error) { return func() {}, nil }
