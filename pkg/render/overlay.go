package render

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

// An overlay is a jsonnet file of the user's:
//
//	function(node, files) { '/etc/motd': { content: 'This is %s.\n' % node.name } }
//
// It is called once for every node. node has name, roles, addresses, arch,
// podCIDRs, labels and kubernetesVersion; files has the rendered files by path,
// each with content, mode, owner and group, and with data where the content is
// YAML, JSON or TOML. What it returns is laid over the rendered files: a path
// with new content or data, a new path, or null to leave a file out. Paths that
// it does not return stay as they are.

// Bounds of an overlay. Time and memory are those of one call; they only ever
// end a run, so the same input still gives the same bytes.
const (
	maxOverlayFile   = 1 << 20
	maxOverlayOutput = 16 << 20
	maxOverlayMemory = 1 << 30
	maxOverlayTime   = 20 * time.Second
)

// overlay is one file to call, and what its lines come from.
type overlay struct {
	path string
	from origin.Origin
}

// overlays lays every overlay over every node, in their order.
func (r *renderer) overlays(in Input) {
	var all []overlay
	for _, o := range r.c.Overlays {
		all = append(all, overlay{path.Clean(o.V), origin.Join(o.From, origin.Overlay(path.Clean(o.V)))})
	}
	for _, file := range in.Overlays {
		all = append(all, overlay{path.Clean(file), origin.Overlay(path.Clean(file))})
	}
	if len(all) == 0 {
		return
	}
	files := &project{fsys: in.Project, read: map[string]jsonnet.Contents{}}
	parts := make([]*renderer, len(r.t.Nodes))
	each(len(parts), func(i int) {
		part := *r
		part.faults = nil
		parts[i] = &part
		for _, o := range all {
			if len(part.faults) == 0 {
				part.lay(o, files, r.c.Nodes[i], r.t.Nodes[i])
			}
		}
	})
	for _, part := range parts {
		r.faults = append(r.faults, part.faults...)
		if len(r.faults) > 0 {
			return // the same fault on every node is one fault
		}
	}
	r.record(files)
}

// record keeps what overlays read beside cluster.yaml, for reviewers.
func (r *renderer) record(files *project) {
	for _, name := range slices.Sorted(maps.Keys(files.read)) {
		content := files.read[name].String()
		if name == "cluster.yaml" || !utf8.ValidString(content) {
			continue
		}
		body := &tree.Body{}
		for _, line := range strings.Split(strings.TrimSuffix(content, "\n"), "\n") {
			body.Add(fixed("input"), line)
		}
		r.clusterFile("input/"+name, body, fixed("input"))
	}
}

// lay calls one overlay for one node.
func (r *renderer) lay(o overlay, files *project, n *compile.Node, out *tree.Node) {
	given := map[string]laidFile{}
	for _, f := range out.Files {
		if f.Kind == tree.Regular {
			given[f.Path] = given[f.Path].of(f)
		}
	}
	text, err := call(o.path, files, map[string]any{"node": overlayNode(n), "files": given})
	if err != nil {
		r.refused(o, n, err)
		return
	}
	returned := map[string]*laidFile{}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	decoder.UseNumber()
	if err := decoder.Decode(&returned); err != nil {
		r.refused(o, n, fmt.Errorf("it must return an object of files by path, each with content or data and perhaps mode, owner, group and readers: %w", err))
		return
	}
	l := &layer{overlay: o, node: out, given: given, removed: map[string]bool{}}
	for _, p := range slices.Sorted(maps.Keys(returned)) {
		if err := l.put(p, returned[p]); err != nil {
			r.refused(o, n, fmt.Errorf("%s: %w", p, err))
		}
	}
	out.Files = slices.DeleteFunc(out.Files, func(f *tree.File) bool { return l.removed[f.Path] })
}

// overlayNode is what an overlay may know of the machine.
func overlayNode(n *compile.Node) map[string]any {
	roles := []string{}
	for _, role := range []struct {
		name string
		has  bool
	}{{"controller", n.Controller}, {"worker", n.Worker}} {
		if role.has {
			roles = append(roles, role.name)
		}
	}
	labels := map[string]string{}
	for _, l := range n.Labels {
		labels[l.Key] = l.Value.V
	}
	addresses, pods := []string{}, []string{}
	for _, a := range n.Addresses {
		addresses = append(addresses, a.V.String())
	}
	for _, p := range n.PodCIDRs {
		pods = append(pods, p.V.String())
	}
	return map[string]any{
		"name": n.Name.V, "roles": roles, "addresses": addresses, "arch": n.Arch.V, "podCIDRs": pods, "labels": labels, "kubernetesVersion": n.Version.V,
	}
}

// call evaluates the function, within the bounds.
func call(name string, files *project, arguments map[string]any) (string, error) {
	vm := jsonnet.MakeVM()
	vm.Importer(files)
	for name, value := range arguments {
		text, err := json.Marshal(value)
		if err != nil {
			return "", err
		}
		vm.TLACode(name, string(text))
	}
	text, err := bounded(maxOverlayTime, maxOverlayMemory, func() (string, error) {
		program, _, err := vm.ImportAST("", name)
		if err != nil {
			return "", err
		}
		return vm.Evaluate(program)
	})
	if err == nil && len(text) > maxOverlayOutput {
		return "", fmt.Errorf("it returns more than %d MiB", maxOverlayOutput>>20)
	}
	return text, err
}

// bounded waits for f no longer than the time, and no longer than until the
// program's memory has grown by the given number of bytes.
func bounded(limit time.Duration, memory uint64, f func() (string, error)) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := f()
		done <- result{text, err}
	}()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline, before := time.After(limit), heap()
	for {
		select {
		case r := <-done:
			return r.text, r.err
		case <-deadline:
			return "", fmt.Errorf("it has not ended after %v; does it loop?", limit)
		case <-ticker.C:
			if heap() > before+memory {
				return "", fmt.Errorf("it takes more than %d MiB of memory", memory>>20)
			}
		}
	}
}

func heap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// project imports files of the directory that cluster.yaml is in, and no
// others: the fs.FS does not lead outside.
type project struct {
	fsys fs.FS
	lock sync.Mutex
	read map[string]jsonnet.Contents
}

// Import implements jsonnet.Importer.
func (p *project) Import(importedFrom, importedPath string) (jsonnet.Contents, string, error) {
	name := path.Join(path.Dir(importedFrom), importedPath)
	if path.IsAbs(importedPath) || !fs.ValidPath(name) {
		return jsonnet.Contents{}, "", fmt.Errorf("%q is outside the directory of cluster.yaml; overlays import from inside it only", importedPath)
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	if _, known := p.read[name]; !known {
		text, err := p.readFile(name)
		if err != nil {
			return jsonnet.Contents{}, "", err
		}
		p.read[name] = jsonnet.MakeContentsRaw(text)
	}
	return p.read[name], name, nil
}

func (p *project) readFile(name string) ([]byte, error) {
	if p.fsys == nil {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	info, err := fs.Stat(p.fsys, name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", name)
	case info.Size() > maxOverlayFile:
		return nil, fmt.Errorf("%s is larger than %d MiB", name, maxOverlayFile>>20)
	}
	return fs.ReadFile(p.fsys, name)
}

// refused says what is wrong with an overlay, and where in it.
func (r *renderer) refused(o overlay, n *compile.Node, err error) {
	d := diag.Diagnostic{Code: "E0233", Path: usersOverlay(o.from), Pos: diag.Pos{File: o.path}, Help: "an overlay is a jsonnet function(node, files); `kthwc explain E0233` shows one"}
	message := err.Error()
	if at, ok := located(err); ok {
		d.Pos = at
	}
	var failed jsonnet.RuntimeError
	if errors.As(err, &failed) {
		message = failed.Msg
	}
	message, _, _ = strings.Cut(placeInFront.ReplaceAllString(message, ""), "\n")
	d.Summary = fmt.Sprintf("the overlay %s fails for %s: %s", o.path, n.Name.V, message)
	r.faults = append(r.faults, d)
}

// placeInFront is how a message of the jsonnet parser begins.
var placeInFront = regexp.MustCompile(`^[^ ]+:([0-9]+:[0-9]+(-[0-9]+)?|\([0-9]+:[0-9]+\)-\([0-9]+:[0-9]+\)) `)

// located finds the place in a jsonnet file that an error is about.
func located(err error) (diag.Pos, bool) {
	var at *ast.LocationRange
	var static interface{ Loc() ast.LocationRange }
	var failed jsonnet.RuntimeError
	switch {
	case errors.As(err, &failed):
		for _, frame := range slices.Backward(failed.StackTrace) {
			if frame.Loc.FileName != "" && frame.Loc.Begin.Line > 0 && !strings.HasPrefix(frame.Loc.FileName, "<") {
				at = &frame.Loc
			}
		}
	case errors.As(err, &static):
		loc := static.Loc()
		at = &loc
	}
	if at == nil || at.Begin.Line == 0 {
		return diag.Pos{}, false
	}
	length := 1
	if at.End.Line == at.Begin.Line {
		length = max(1, at.End.Column-at.Begin.Column)
	}
	return diag.Pos{File: at.FileName, Line: at.Begin.Line, Col: at.Begin.Column, Len: length}, true
}

func usersOverlay(o origin.Origin) string {
	for _, s := range o.Sources() {
		if strings.HasPrefix(s, "spec.overlays") {
			return s
		}
	}
	return ""
}

// laidFile is a file as overlays see and return it.
type laidFile struct {
	Content *string  `json:"content,omitempty"`
	Data    any      `json:"data,omitempty"`
	Mode    string   `json:"mode,omitempty"`
	Owner   string   `json:"owner,omitempty"`
	Group   string   `json:"group,omitempty"`
	Readers []string `json:"readers,omitempty"`
}

func (laidFile) of(f *tree.File) laidFile {
	content := string(f.Body.Bytes())
	return laidFile{Content: &content, Data: structured(f.Path, content), Mode: fmt.Sprintf("%04o", f.Mode), Owner: f.Owner, Group: f.Group, Readers: f.Readers}
}

// layer is what one overlay does to one node.
type layer struct {
	overlay
	node    *tree.Node
	given   map[string]laidFile
	removed map[string]bool
}

var (
	cleanPath = regexp.MustCompile(`^(/[A-Za-z0-9@_+.-]+)+$`)
	modeForm  = regexp.MustCompile(`^0[0-7]{3}$`)
	nameForm  = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
)

// put lays one returned file.
func (l *layer) put(p string, want *laidFile) error {
	old := l.node.File(p)
	switch {
	case !cleanPath.MatchString(p) || path.Clean(p) != p:
		return errors.New("it is not an absolute path without . and .. parts and spaces")
	case old != nil && old.Kind != tree.Regular:
		return fmt.Errorf("it is a %s there, and not a file to change", old.Kind)
	case want == nil && old == nil:
		return errors.New("there is no such file to leave out")
	case want == nil:
		l.removed[p] = true
		return nil
	}
	return l.change(old, p, want)
}

func (l *layer) change(old *tree.File, p string, want *laidFile) error {
	content, err := l.content(p, want)
	if err != nil {
		return err
	}
	f := &tree.File{Path: p, Kind: tree.Regular, Mode: 0o644, Owner: "root", Group: "root", From: origin.Join(l.node.From, l.from)}
	if old != nil {
		copied := *old
		f = &copied
	}
	if err := l.metadata(f, want); err != nil {
		return err
	}
	if f.Body, err = l.body(old, content); err != nil {
		return err
	}
	if old == nil {
		return l.node.Put(f)
	}
	return l.node.Replace(f)
}

// content is the text that the overlay wants: its own, or of its data.
func (l *layer) content(p string, want *laidFile) (string, error) {
	was, known := l.given[p]
	newText := want.Content != nil && (!known || *want.Content != *was.Content)
	newData := want.Data != nil && !(known && sameData(want.Data, was.Data))
	switch {
	case newText && newData:
		return "", errors.New("both content and data are new; change one of them")
	case newText:
		return *want.Content, nil
	case newData:
		return write(p, was.Content, want.Data)
	case known:
		return *was.Content, nil
	}
	return "", errors.New("a new file needs content or data")
}

func sameData(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

func (l *layer) metadata(f *tree.File, want *laidFile) error {
	mode, owner, group := cmp.Or(want.Mode, fmt.Sprintf("%04o", f.Mode)), cmp.Or(want.Owner, f.Owner), cmp.Or(want.Group, f.Group)
	switch {
	case !modeForm.MatchString(mode):
		return fmt.Errorf("the mode %q is not four octal digits such as \"0644\"", mode)
	case !nameForm.MatchString(owner) || !nameForm.MatchString(group):
		return fmt.Errorf("%q and %q must be names of a user and a group", owner, group)
	}
	bits, _ := strconv.ParseUint(mode, 8, 32)
	if uint32(bits) != f.Mode || owner != f.Owner || group != f.Group || !slices.Equal(want.Readers, f.Readers) && want.Readers != nil {
		f.Metadata = origin.Join(f.Metadata, l.from)
	}
	f.Mode, f.Owner, f.Group = uint32(bits), owner, group
	if want.Readers != nil {
		f.Readers = slices.Sorted(slices.Values(want.Readers))
	}
	return nil
}
