// Command containerd-reader judges what kthwc renders for containerd 2 with
// containerd's own code: every plugin's own configuration, and the reader of
// registry hosts.
//
//	containerd-reader config FILE
//	containerd-reader hosts DIRECTORY REGISTRY     prints each host and what it may do
//
// It is built once per containerd minor from one source (see ../build.sh). It
// promises exit status 0 when containerd takes the input. It refuses keys and
// plugins that nothing of containerd reads, which containerd itself passes over
// with a warning or without a word.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	runc "github.com/containerd/containerd/api/types/runc/options"
	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins"
	server "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	hosts "github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/pelletier/go-toml/v2"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	switch {
	case len(args) == 2 && args[0] == "config":
		return config(args[1])
	case len(args) == 3 && args[0] == "hosts":
		return hostsOf(args[1], args[2], out)
	}
	return errors.New("usage: containerd-reader config FILE | hosts DIRECTORY REGISTRY")
}

// config loads the file as containerd does, and gives each section to the
// plugin that it is for.
func config(file string) error {
	var loaded server.Config
	if err := server.LoadConfig(context.Background(), file, &loaded); err != nil {
		return err
	}
	readers := map[string]any{}
	for _, p := range registry.Graph(func(*plugin.Registration) bool { return false }) {
		readers[p.URI()] = p.Config
	}
	for name, section := range loaded.Plugins {
		if readers[name] == nil {
			return fmt.Errorf("no plugin %q reads a configuration", name)
		}
		if err := strict(section, readers[name]); err != nil {
			return fmt.Errorf("plugin %s: %w", name, err)
		}
		if err := runtimeOptions(section); err != nil {
			return fmt.Errorf("plugin %s: %w", name, err)
		}
	}
	return nil
}

func strict(section, into any) error {
	text, err := toml.Marshal(section)
	if err != nil {
		return err
	}
	return strictText(text, into)
}

func strictText(text []byte, into any) error {
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(into)
	if missing := (*toml.StrictMissingError)(nil); errors.As(err, &missing) {
		return fmt.Errorf("nothing reads:\n%s", missing)
	}
	return err
}

// runtimeOptions are a plugin's only part without a type of its own: the
// shim's options.
func runtimeOptions(section any) error {
	var with struct {
		Containerd struct {
			Runtimes map[string]struct {
				Type    string `toml:"runtime_type"`
				Options any    `toml:"options"`
			} `toml:"runtimes"`
		} `toml:"containerd"`
	}
	text, err := toml.Marshal(section)
	if err != nil {
		return err
	}
	if err := toml.Unmarshal(text, &with); err != nil {
		return nil // a plugin of another shape
	}
	for name, r := range with.Containerd.Runtimes {
		if r.Type != "io.containerd.runc.v2" || r.Options == nil {
			continue
		}
		if err := strict(r.Options, &runc.Options{}); err != nil {
			return fmt.Errorf("options of the runtime %s: %w", name, err)
		}
	}
	return nil
}

// hostsFile is what containerd documents of hosts.toml; its own type is not
// exported.
type hostsFile struct {
	hostEntry
	Server string               `toml:"server"`
	Hosts  map[string]hostEntry `toml:"host"`
}

type hostEntry struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// hostsOf prints the hosts that containerd would ask for the registry's images,
// in their order.
func hostsOf(root, registry string, out io.Writer) error {
	text, err := os.ReadFile(filepath.Join(root, registry, "hosts.toml"))
	if err != nil {
		return err
	}
	if err := strictText(text, &hostsFile{}); err != nil {
		return err
	}
	found, err := hosts.ConfigureHosts(context.Background(), hosts.HostOptions{HostDir: hosts.HostDirFromRoot(root)})(registry)
	if err != nil {
		return err
	}
	for _, h := range found {
		fmt.Fprintf(out, "%s://%s%s%s\n", h.Scheme, h.Host, strings.TrimSuffix(h.Path, "/v2"), capabilities(h.Capabilities))
	}
	return nil
}

func capabilities(c docker.HostCapabilities) string {
	text := ""
	for _, of := range []struct {
		is   docker.HostCapabilities
		name string
	}{{docker.HostCapabilityPull, "pull"}, {docker.HostCapabilityResolve, "resolve"}, {docker.HostCapabilityPush, "push"}} {
		if c.Has(of.is) {
			text += " " + of.name
		}
	}
	return text
}
