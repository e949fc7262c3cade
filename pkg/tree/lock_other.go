//go:build !unix

package tree

// lock is nothing where there is no flock: two renders at once are on their own.
func lock(string) (unlock func(), err error) { return func() {}, nil }
