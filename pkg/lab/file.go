package lab

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// writeFile gives a file its content in one step, if it has another.
func writeFile(path string, content []byte, mode fs.FileMode) (err error) {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(content) {
		return os.Chmod(path, mode)
	}
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

func all[T any](list []T, f func(T) bool) bool {
	return !slices.ContainsFunc(list, func(v T) bool { return !f(v) })
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
