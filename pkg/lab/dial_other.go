//go:build !linux

package lab

// entered needs network namespaces, which only Linux has.
func entered[T any](int, func() (T, error)) (out T, err error) { return out, errNotUp }
