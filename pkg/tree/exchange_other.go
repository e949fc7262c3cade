//go:build !linux

package tree

// exchange is by two renames: no other system has an exchange that Go can name.
func exchange(w *writer) error { return twoRenames(w) }
