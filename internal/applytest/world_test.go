package applytest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/artifact"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
)

const cluster = "rig"

var why = origin.Fixed("rig")

// canary is in every secret of the rig, and nowhere else.
const canary = "KTHWCANARY"

var sealed = secret.Symmetric("rig")

// A world is what hosts shall be in one version. From version 1 to 2 there is one
// of every kind of change; a twist changes something more.
type world struct {
	version int
	twist   func(n *tree.Node)
}

// wanted is the world for some machines.
func (w world) wanted(nodes ...string) (*apply.Wanted, error) {
	out := &apply.Wanted{Tree: &tree.Tree{Cluster: cluster}, Lock: w.lock(), Material: w.material}
	for _, name := range nodes {
		m, err := fleet.Machine(name)
		if err != nil {
			return nil, err
		}
		n := &tree.Node{Name: name, Roles: []string{"worker"}, Swap: "any", From: why, SwapFrom: why,
			Connection: tree.Connection{Address: m.Address(), Port: m.Port, User: m.User, From: why}}
		if err := w.fill(n); err != nil {
			return nil, err
		}
		if w.twist != nil {
			w.twist(n)
		}
		out.Tree.Nodes = append(out.Tree.Nodes, n)
	}
	return out, nil
}

func (w world) material(r secret.Ref) ([]byte, error) {
	if r.Name() != sealed.Name() {
		return nil, fmt.Errorf("the rig has no %s", r)
	}
	return fmt.Appendf(nil, "%s of version %d", canary, w.version), nil
}

func regular(path string, mode uint32, text string, readers ...string) *tree.File {
	body := &tree.Body{}
	for line := range strings.Lines(text) {
		body.Add(why, strings.TrimSuffix(line, "\n"))
	}
	return &tree.File{Path: path, Kind: tree.Regular, Mode: mode, Owner: "root", Group: "root", Body: body, Readers: readers, From: why}
}

func directory(path string, mode uint32) *tree.File {
	return &tree.File{Path: path, Kind: tree.Dir, Mode: mode, Owner: "root", Group: "root", From: why}
}

const (
	webUnit  = "rig-web.service"
	tickUnit = "rig-tick.service"
	goneUnit = "rig-gone.service"
	newUnit  = "rig-new.service"
	calmUnit = "rig-calm.service" // nothing is done to it, from one version to the next
	webPort  = 8081
)

func (w world) fill(n *tree.Node) error {
	key := regular("/etc/rig/key", 0o600, "", webUnit)
	key.Body.AddParts(why, tree.Part{Text: "key: "}, tree.Part{Ref: sealed})
	hosts := regular("/etc/hosts", 0o644, fmt.Sprintf("10.250.1.%d rig\n", w.version))
	hosts.Block = true
	files := []*tree.File{
		hosts, key,
		{Path: "/etc/motd", Kind: tree.Absent, From: why},
		regular("/etc/rig/web.conf", 0o644, webConf(fmt.Sprintf("version %d", w.version)), webUnit),
		regular("/etc/rig/same", 0o640, "the same in each version\n"),
		unitFile(webUnit, "/usr/sbin/nginx -c /etc/rig/web.conf"),
		unitFile(tickUnit, "/usr/local/bin/rig-tick"),
		unitFile(calmUnit, "/usr/bin/sleep 1000000"),
	}
	units := []tree.Unit{started(tickUnit), started(webUnit), started(calmUnit)}
	units[1].Probes = []tree.Probe{{URL: fmt.Sprintf("http://127.0.0.1:%d/", webPort), Want: []string{fmt.Sprintf("version %d", w.version)}}}
	if w.version == 1 {
		files = append(files, directory("/etc/rig", 0o755), regular("/etc/rig/mode", 0o644, "mode\n"), regular("/etc/rig/gone", 0o600, "gone\n"),
			&tree.File{Path: "/etc/rig/link", Kind: tree.Symlink, Mode: 0o777, Owner: "root", Group: "root", Target: "same", From: why},
			unitFile(goneUnit, "/usr/bin/sleep 1000000"))
		units = append(units, started(goneUnit))
	} else {
		files = append(files, directory("/etc/rig", 0o750), regular("/etc/rig/mode", 0o600, "mode\n"), regular("/etc/rig/deep/er/new", 0o644, "new\n"),
			&tree.File{Path: "/etc/rig/link", Kind: tree.Symlink, Mode: 0o777, Owner: "root", Group: "root", Target: "mode", From: why},
			unitFile(newUnit, "/usr/bin/sleep 1000000"))
		units = append(units, started(newUnit))
	}
	var errs []error
	for _, f := range files {
		errs = append(errs, n.Put(f))
	}
	n.Units = units
	n.Users = []tree.User{{Name: "rigger", Home: "/nonexistent", From: why}}
	n.Binaries = []tree.Binary{{Name: "rig-tick", Version: w.programVersion(), Arch: runtime.GOARCH, Path: "/usr/local/bin/rig-tick", From: why}}
	return errors.Join(errs...)
}

func started(unit string) tree.Unit {
	return tree.Unit{Name: unit, Enabled: true, Started: true, From: why}
}

func unitFile(name, command string) *tree.File {
	return regular("/etc/systemd/system/"+name, 0o644, "[Unit]\nDescription=Part of the rig\nStartLimitIntervalSec=0\n[Service]\nExecStart="+command+"\nRestartSec=100ms\n[Install]\nWantedBy=multi-user.target\n")
}

// webConf is a server that answers at once and says a word.
func webConf(word string) string {
	return fmt.Sprintf(`daemon off;
master_process off;
pid /run/rig-web.pid;
error_log stderr;
events {}
http {
    access_log off;
    server {
        listen 127.0.0.1:%d;
        location / { return 200 "%s\n"; }
    }
}
`, webPort, word)
}

func (w world) programVersion() string { return fmt.Sprintf("0.%d.0", w.version) }

// program is the one program of the rig: long enough to be cut.
func (w world) program() []byte {
	return fmt.Appendf(nil, "#!/bin/sh\n# %d\n%sexec sleep 1000000\n", w.version, strings.Repeat("# "+strings.Repeat("filling ", 12)+"\n", 2000))
}

func (w world) lock() *artifact.Lock {
	text := w.program()
	need := artifact.Need{Name: "rig-tick", Version: w.programVersion(), Arch: runtime.GOARCH}
	return &artifact.Lock{Artifacts: []artifact.Entry{{Need: need, SHA256: tree.Digest(text), Size: int64(len(text))}}}
}

func (w world) open(digest string) (io.ReadCloser, error) {
	text := w.program()
	if tree.Digest(text) != digest {
		return nil, fmt.Errorf("the rig has no %s", digest)
	}
	return io.NopCloser(bytes.NewReader(text)), nil
}

// managed are the paths that either version has, and what is beside them.
var managed = []string{
	"/etc/hosts", "/etc/motd", "/etc/rig", "/etc/rig/deep", "/etc/rig/deep/er", "/etc/rig/deep/er/new", "/etc/rig/gone", "/etc/rig/key", "/etc/rig/link",
	"/etc/rig/mode", "/etc/rig/same", "/etc/rig/web.conf", "/etc/systemd/system/" + calmUnit, "/etc/systemd/system/" + goneUnit, "/etc/systemd/system/" + newUnit,
	"/etc/systemd/system/" + tickUnit, "/etc/systemd/system/" + webUnit, "/usr/local/bin/rig-tick",
}

// The rig's list of paths is what its trees have: a path that is missing here
// would not be looked at.
func managedIsWhole() error {
	var errs []error
	for version := 1; version <= 2; version++ {
		w, err := world{version: version}.wanted("alpha")
		if err != nil {
			return err
		}
		for _, f := range w.Tree.Nodes[0].Files {
			if !slices.Contains(managed, f.Path) {
				errs = append(errs, fmt.Errorf("%s is not in the list of managed paths", f.Path))
			}
		}
	}
	return errors.Join(errs...)
}
