// Command gen writes the generated pages of docs/. It is run by `make docs`, in
// the directory of package docs.
package main

import (
	"log"
	"os"
	"path/filepath"

	"github.com/kthwc/kthwc/internal/docs"
)

const project = "../.."

func main() {
	log.SetFlags(0)
	pages, err := docs.Files(os.DirFS(project))
	if err != nil {
		log.Fatal(err)
	}
	for path, text := range pages {
		at := filepath.Join(project, "docs", filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			log.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			log.Fatal(err)
		}
	}
}
