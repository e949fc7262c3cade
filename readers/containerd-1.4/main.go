// Command containerd-reader judges config.toml as containerd 1.4 reads it.
//
//	containerd-reader config FILE
//
// It promises exit status 0 when containerd's own loader takes the file and the
// CRI plugin's section decodes into that plugin's own configuration, and prints
// that configuration. It refuses keys that nothing of containerd 1.4 reads,
// which containerd itself passes over without a word.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/BurntSushi/toml"
	server "github.com/containerd/containerd/services/server/config"
	cri "github.com/containerd/cri/pkg/config"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) != 2 || args[0] != "config" {
		return errors.New("usage: containerd-reader config FILE")
	}
	loaded := &server.Config{Plugins: map[string]toml.Primitive{}}
	if err := server.LoadConfig(args[1], loaded); err != nil {
		return err
	}
	config, err := strictly(args[1], loaded.GetVersion())
	if err != nil {
		return err
	}
	return toml.NewEncoder(out).Encode(config)
}

// criOf is the name of the CRI plugin's section, by the version of the file.
var criOf = map[int]string{1: "cri", 2: "io.containerd.grpc.v1.cri"}

// strictly decodes the file once more, and names what no part of it reads.
func strictly(file string, version int) (*cri.PluginConfig, error) {
	var whole server.Config
	known, err := toml.DecodeFile(file, &whole)
	if err != nil {
		return nil, err
	}
	config := cri.DefaultConfig()
	for name, section := range whole.Plugins {
		if name != criOf[version] {
			return nil, fmt.Errorf("no plugin is called %q in a file of version %d", name, version)
		}
		if err := known.PrimitiveDecode(section, &config); err != nil {
			return nil, err
		}
	}
	if unknown := known.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("nothing reads %v", unknown)
	}
	return &config, nil
}
