package apply

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/tree"
)

// The kernel of a host: modules that it loads at boot (modules-load.d(5)) and
// settings that it is given (sysctl.d(5)). Those that are looked at are in the files
// that every cluster has. Of a person's own settings the kernel may make something
// else, round them, or leave them to the kubelet.
const (
	modulesFile  = "/etc/modules-load.d/kthwc.conf"
	settingsFile = "/etc/sysctl.d/90-kthwc.conf"
	settingsUnit = "systemd-sysctl.service"
)

// Module is what a host says of a module of its kernel.
type Module string

// A module that the kernel has built in is loaded. A host without modprobe(8) or
// without its modules' directory does not know what could be loaded.
const (
	Loaded   Module = "loaded"
	Loadable Module = "loadable"
	NoModule Module = "missing"
)

// Setting is a setting of the kernel as it is now.
type Setting struct {
	Value string // its words, one blank between them
	Known bool   // the kernel has such a setting
}

// wish is a setting that a file makes.
type wish struct{ key, value string }

// proc is where a setting is read: dots part directories, and what has a dot of
// its own is written with a slash (sysctl.d(5)).
func (w wish) proc() string {
	first := strings.IndexAny(w.key, "./")
	if first < 0 || w.key[first] == '/' {
		return "/proc/sys/" + w.key
	}
	return "/proc/sys/" + strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, w.key)
}

// modules are those that the host loads at boot. A dash in a name is an underscore
// (modprobe(8)).
func (d *desired) modules() []string {
	var out []string
	for _, line := range linesOf(d.File(modulesFile)) {
		out = append(out, strings.ReplaceAll(line, "-", "_"))
	}
	return out
}

// settings are those that the host's kernel shall have: those of our file that no
// later file of a person's own makes otherwise.
func (d *desired) settings() []wish {
	ours := wishes(d.File(settingsFile))
	for _, f := range d.Node.Files {
		if path.Dir(f.Path) != path.Dir(settingsFile) || path.Ext(f.Path) != ".conf" || f.Path <= settingsFile {
			continue
		}
		for _, other := range wishes(f) {
			ours = slices.DeleteFunc(ours, func(w wish) bool { return w.proc() == other.proc() })
		}
	}
	return ours
}

// wishes are the settings that a file makes, patterns left out.
func wishes(f *tree.File) []wish {
	var out []wish
	for _, line := range linesOf(f) {
		key, value, ok := strings.Cut(line, "=")
		if key = strings.TrimLeft(strings.TrimSpace(key), "-"); ok && !strings.ContainsAny(key, "*?[") {
			out = append(out, wish{key, words(value)})
		}
	}
	return out
}

// linesOf are the lines of a file that are no comments.
func linesOf(f *tree.File) []string {
	if f == nil || f.Body == nil {
		return nil
	}
	var out []string
	for _, l := range f.Body.Lines {
		if line := strings.TrimSpace(l.String()); line != "" && !strings.ContainsAny(line[:1], "#;") {
			out = append(out, line)
		}
	}
	return out
}

func words(text string) string { return strings.Join(strings.Fields(text), " ") }

// modules reads lines of a word and a module.
func modules(s *State, text []byte, _ Query) error {
	s.Modules = map[string]Module{}
	for line := range strings.Lines(string(text)) {
		if what, name, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			s.Modules[name] = Module(what)
		}
	}
	return nil
}

// settings reads lines of a path below /proc/sys, NUL, and a value; without NUL there
// is no such setting.
func settings(s *State, text []byte, _ Query) error {
	s.Settings = map[string]Setting{}
	for line := range strings.Lines(string(text)) {
		if path, value, known := strings.Cut(strings.TrimSuffix(line, "\n"), "\x00"); strings.HasPrefix(path, "/proc/sys/") {
			s.Settings[path] = Setting{words(value), known}
		}
	}
	return nil
}

// noModules lists what the host's kernel cannot load.
func noModules(d *desired, s *State) string {
	var out []string
	for _, m := range d.modules() {
		if s.Modules[m] == NoModule {
			out = append(out, m)
		}
	}
	return want(len(out) == 0, "its kernel %s has no module %s: install the kernel's package of modules, or boot the kernel that is installed", s.Facts.Kernel, strings.Join(out, ", "))
}

// noSettings lists settings that the host's kernel does not have, when all modules
// are there that could bring them.
func noSettings(d *desired, s *State) string {
	for _, m := range d.modules() {
		if s.Modules[m] != Loaded {
			return ""
		}
	}
	var out []string
	for _, w := range d.settings() {
		if is, asked := s.Settings[w.proc()]; asked && !is.Known {
			out = append(out, w.key)
		}
	}
	return want(len(out) == 0, "its kernel %s has no %s, which %s is to set: boot a kernel that has it", s.Facts.Kernel, strings.Join(out, ", "), settingsFile)
}

// oldCgroups says that the kubelet would refuse to start: since 1.35 it does on
// cgroups of version 1 unless its configuration says otherwise (KEP-4569).
func oldCgroups(d *desired, s *State) string {
	at := slices.IndexFunc(d.Binaries, func(b tree.Binary) bool { return b.Name == "kubelet" })
	if s.Facts.Cgroups != 1 || at < 0 || minor(d.Binaries[at].Version) < 35 {
		return ""
	}
	told := slices.ContainsFunc(d.Node.Files, func(f *tree.File) bool {
		return f.Body != nil && slices.Contains(f.Units(), kubeletUnit) && bytes.Contains(f.Body.Bytes(), []byte("failCgroupV1: false"))
	})
	return want(told, "it has cgroups of version 1, and kubelet %s does not start there: boot it with systemd.unified_cgroup_hierarchy=1, or set failCgroupV1: false in configPatches", d.Binaries[at].Version)
}

// minor is the second number of a version.
func minor(version string) int64 {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return 0
	}
	return number(parts[1])
}

// settings finds settings that the last apply made and that are others now. The
// unit that made them makes them again.
func (c *comparison) settings() {
	if len(c.changed[settingsUnit]) > 0 || c.out.Interrupted != "" {
		return
	}
	for _, w := range c.node.settings() {
		is := c.state.Settings[w.proc()]
		if _, applied := c.recorded[settingsFile]; !applied || !is.Known || is.Value == w.value {
			continue
		}
		c.out.Drift = append(c.out.Drift, Change{Do: Modify, Path: settingsFile, Kind: tree.Regular, What: []string{fmt.Sprintf("%s is %s, and shall be %s", w.key, is.Value, w.value)}})
		c.changed[settingsUnit] = []string{settingsFile}
	}
}

// settings makes sure that the kernel has what was just set: a file that is read
// later, of whoever, has the last word.
func (b *batch) settings(ctx context.Context, node string) error {
	d, err := desiredOf(b.Tree, b.Tree.Node(node), b.Lock)
	if err != nil {
		return err
	}
	s, err := Observe(ctx, b.Hosts[node], Query{Settings: d.query().Settings, Root: b.Root})
	if err != nil {
		return err
	}
	for _, w := range d.settings() {
		switch is, asked := s.Settings[w.proc()]; {
		case asked && !is.Known:
			return fmt.Errorf("the kernel has no %s, which %s is to set: boot a kernel that has it", w.key, settingsFile)
		case is.Known && is.Value != w.value:
			return fmt.Errorf("%s is %s although %s says %s: another file or program has the last word, or the kernel does not take it (grep -r %s /etc/sysctl.d /etc/sysctl.conf /run/sysctl.d /usr/lib/sysctl.d)", w.key, is.Value, settingsFile, w.value, path.Base(w.proc()))
		}
	}
	return nil
}
