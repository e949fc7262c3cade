// Command gen evaluates versions.cue into versions.json, and writes what the
// components' own option sets say into flagsets/.
//
//	go run ./gen             versions.json from versions.cue
//	go run ./gen -readers D  flagsets/*.txt from the reader programs in D
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/schema"
)

var components = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"}

func main() {
	log.SetFlags(0)
	readers := flag.String("readers", "", "directory of the reader programs; writes flagsets instead of versions.json")
	flag.Parse()
	if *readers != "" {
		for _, c := range components {
			if err := flagSet(*readers, c); err != nil {
				log.Fatal(err)
			}
		}
		return
	}
	text, err := schema.EvaluateVersions()
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("versions.json", text, 0o644); err != nil {
		log.Fatal(err)
	}
}

// flagSet writes one line for each flag of the component: its name and the
// minors whose reader knows it.
func flagSet(readers, component string) error {
	minors := map[string][]string{}
	for _, minor := range schema.Supported() {
		program := filepath.Join(readers, "k8s-reader-"+minor)
		if _, err := os.Stat(program); err != nil {
			log.Printf("%s is not built: flagsets say nothing of %s", program, minor)
			continue
		}
		out, err := exec.Command(program, "flags", component).Output()
		if err != nil {
			return fmt.Errorf("%s flags %s: %w", minor, component, err)
		}
		for line := range strings.Lines(string(out)) {
			name, _, _ := strings.Cut(line, "\t")
			minors[name] = append(minors[name], minor)
		}
	}
	names := make([]string, 0, len(minors))
	for name := range minors {
		names = append(names, name)
	}
	slices.Sort(names)
	var b bytes.Buffer
	for _, name := range names {
		fmt.Fprintf(&b, "%s %s\n", name, strings.Join(minors[name], " "))
	}
	return os.WriteFile(filepath.Join("flagsets", component+".txt"), b.Bytes(), 0o644)
}
