// Command pack writes programs as the archives and images that `kthwc artifacts
// lock --from` reads, and says which versions a minor of Kubernetes wants. Equal
// programs give equal bytes.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/kthwc/kthwc/pkg/artifact"
	"github.com/kthwc/kthwc/schema"
)

const usage = `pack archive OUT DIRECTORY-IN-ARCHIVE PROGRAM...
pack image OUT REFERENCE ARCH PROGRAM...
pack setting MINOR NAME`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 3 && args[0] == "setting" {
		return setting(args[1], args[2])
	}
	if len(args) < 4 {
		return fmt.Errorf("usage:\n%s", usage)
	}
	var b bytes.Buffer
	var err error
	switch rest := args[2:]; args[0] {
	case "archive":
		err = archive(&b, rest[0], rest[1:])
	case "image":
		err = image(&b, rest[0], rest[1], rest[2:])
	default:
		err = fmt.Errorf("usage:\n%s", usage)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(args[1], b.Bytes(), 0o644)
}

// setting prints what the table of versions has.
func setting(minor, name string) error {
	release, err := schema.ReleaseOf(minor)
	if err != nil {
		return err
	}
	value := release.Setting(name).V
	if value == "" {
		return fmt.Errorf("the table of versions has no %s", name)
	}
	_, err = fmt.Println(value)
	return err
}

func archive(b *bytes.Buffer, dir string, programs []string) error {
	files, err := read(dir, programs)
	if err != nil {
		return err
	}
	return artifact.WriteArchive(b, files...)
}

func image(b *bytes.Buffer, ref, arch string, programs []string) error {
	files, err := read(".", programs)
	if err != nil {
		return err
	}
	return artifact.WriteImage(b, artifact.Image{Ref: ref, Arch: arch, Files: files})
}

// read gives programs the places that they have in an archive.
func read(dir string, programs []string) ([]artifact.Packed, error) {
	var out []artifact.Packed
	for _, p := range programs {
		content, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		out = append(out, artifact.Packed{Name: path.Join(dir, filepath.Base(p)), Content: content})
	}
	return out, nil
}
