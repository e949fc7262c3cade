package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// Bounds of what is unpacked: a small archive can hold a large file.
const (
	maxMember   = 1 << 30
	maxUnpacked = 4 << 30
	maxMembers  = 256
	maxEntries  = 10_000
)

// everyProgram, as a member's path, means every executable file of the archive.
const everyProgram = "*"

// Member is a file of an archive that is installed.
type Member struct {
	Path   string `yaml:"path"` // as the archive spells it, cleaned
	SHA256 string `yaml:"sha256"`
	Size   int64  `yaml:"size"`
}

// eachMember calls use with the regular files of a tar.gz that are wanted: one
// path, or [everyProgram]. What leads out of the archive, links, and what is
// larger than its bound is refused. Names come cleaned: "./bridge" is "bridge".
func eachMember(archive io.Reader, wanted string, use func(name string, content io.Reader) error) error {
	unzipped, err := gzip.NewReader(archive)
	if err != nil {
		return fmt.Errorf("it is not a gzip archive: %w", err)
	}
	reader := tar.NewReader(io.LimitReader(unzipped, maxUnpacked))
	var seen []string
	for entries := 0; ; entries++ {
		header, err := reader.Next()
		switch {
		case err == io.EOF:
			return missing(wanted, seen)
		case err != nil:
			return fmt.Errorf("the archive is damaged: %w", err)
		case entries > maxEntries || len(seen) > maxMembers:
			return fmt.Errorf("the archive has more than %d files", min(entries, maxMembers))
		}
		name := path.Clean(header.Name)
		if !wants(wanted, name, header) {
			continue
		}
		if err := acceptable(name, header, seen); err != nil {
			return err
		}
		if err := use(name, io.LimitReader(reader, maxMember)); err != nil {
			return err
		}
		seen = append(seen, name)
	}
}

// wants says whether an entry is one that is looked for.
func wants(wanted, name string, h *tar.Header) bool {
	if wanted == everyProgram {
		return h.Typeflag == tar.TypeReg && h.Mode&0o111 != 0
	}
	return name == wanted
}

// acceptable refuses an entry that no release has.
func acceptable(name string, h *tar.Header, seen []string) error {
	switch {
	case h.Typeflag != tar.TypeReg:
		return fmt.Errorf("%s in the archive is a link or a device, not a file", name)
	case path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") || strings.ContainsAny(name, "\x00\n\\"):
		return fmt.Errorf("%q in the archive leads out of the directory that it is unpacked in", h.Name)
	case h.Size > maxMember:
		return fmt.Errorf("%s in the archive has %d bytes; more than %d are not unpacked", name, h.Size, maxMember)
	case slices.Contains(seen, name):
		return fmt.Errorf("%s is in the archive twice", name)
	}
	return nil
}

func missing(wanted string, seen []string) error {
	switch {
	case len(seen) > 0:
		return nil
	case wanted == everyProgram:
		return errors.New("the archive has no executable file")
	}
	return fmt.Errorf("the archive has no file %s", wanted)
}

// Packed is a file for [WriteArchive] and [WriteImage].
type Packed struct {
	Name    string // below the archive's root, with slashes
	Content []byte
}

// WriteArchive writes executable files as a tar.gz. Equal files give equal
// bytes: owners, times and the order of files come from nowhere else.
func WriteArchive(w io.Writer, files ...Packed) error {
	zipped, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	return errors.Join(writeTar(zipped, 0o755, files), zipped.Close())
}

// writeTar writes files as a tar, in the order of their names.
func writeTar(w io.Writer, mode int64, files []Packed) error {
	out := tar.NewWriter(w)
	for _, f := range slices.SortedFunc(slices.Values(files), func(a, b Packed) int { return strings.Compare(a.Name, b.Name) }) {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Mode: mode, Size: int64(len(f.Content)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, bytes.NewReader(f.Content)); err != nil {
			return err
		}
	}
	return out.Close()
}
