package apply

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kthwc/kthwc/pkg/tree"
)

//go:embed observe.sh
var observeScript string

// Query is what to look at on a host.
type Query struct {
	Paths    []string // absolute
	Units    []string
	Packages []string
	Users    []string
	Contents []string // files that others write too: their text is wanted, and public
	Blobs    []string // files that are named by their digest: only their size is asked
	Modules  []string // of the kernel
	Settings []string // of the kernel: paths below /proc/sys
	Root     string   // the directory that is taken for /; "" on real hosts
}

// State is what a host is. A path of the query that is in Unknown could not be
// looked at; one that is nowhere is absent.
type State struct {
	Facts     Facts
	Entries   map[string]Observed // by path
	Unknown   map[string]string   // path -> why
	Units     map[string]UnitState
	Packages  map[string]bool // installed
	Users     map[string]bool // those of the query that there are, local and remote ones: getent(1)
	Ports     map[int]bool    // TCP ports that something listens on
	Contents  map[string]string
	Blobs     map[string]int64 // sizes
	Images    map[string]bool  // that the container runtime has
	Modules   map[string]Module
	Settings  map[string]Setting // by path below /proc/sys
	Journal   map[string]string  // generation -> progress
	Epoch     int                // of the last apply
	Owner     string             // who holds the host; "" for nobody
	Confirmed []byte             // the manifest of the last confirmed generation; nil if there is none
}

// Facts is what a host says of itself.
type Facts struct {
	Boot, Machine, Hostname, Arch, Kernel, Init string
	OS, OSVersion                               string // ID and VERSION_ID of os-release(5)
	Clock                                       time.Time
	Skew                                        time.Duration // how much that clock is ahead of ours
	UID                                         int
	Cgroups                                     int      // version of the hierarchy
	Resolvers                                   int      // name servers of resolv.conf(5)
	FreeBytes, FreeInodes                       int64    // where generations are kept; inodes may be Unlimited
	Swaps, SwapAtBoot                           []string // that are active; that fstab(5) has
	Tools                                       map[string]bool
}

// Unlimited stands for the free inodes of a file system that makes them as it
// needs them.
const Unlimited = -1

// Observed is one path as it is.
type Observed struct {
	Kind         tree.Kind // "" for devices, sockets and the like
	Mode         uint32
	Owner, Group string
	Size         int64
	Target       string // of a link
	Digest       string // SHA-256 of a regular file
}

// UnitState is what systemd says of a unit.
type UnitState struct {
	Load, Active, Sub, File string
	NeedsReload             bool
	Started                 int64 // microseconds of the host's monotonic clock; 0: not running
}

// moving says whether a unit is on its way up or down. One that waits to be
// started again after it has failed is not.
func (u UnitState) moving() bool {
	return slices.Contains([]string{"activating", "deactivating", "reloading"}, u.Active) && u.Sub != "auto-restart"
}

// ErrIncomplete says that a host did not answer in full: everything about it is
// unknown.
var ErrIncomplete = errors.New("the host did not answer in full")

// Observe looks at a host in one round trip, and changes nothing.
func Observe(ctx context.Context, c Conn, q Query) (*State, error) {
	word := make([]byte, 16)
	if _, err := rand.Read(word); err != nil {
		return nil, err
	}
	mark := hex.EncodeToString(word)
	input, err := q.input()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	r, err := c.Run(ctx, Command{Script: observeScript, Args: []string{mark, q.Root}, Stdin: strings.NewReader(input)})
	if err != nil {
		return nil, err
	}
	s, err := parse(r, mark, q)
	if err == nil {
		s.Facts.Skew = skew(s.Facts.Clock, began, time.Now())
	}
	return s, err
}

// input is the standard input of the script: parts of lines, all but the last
// ended by a dot. Paths have the directory that is taken for / before them.
func (q Query) input() (string, error) {
	var out strings.Builder
	for i, part := range []struct {
		root  string
		texts []string
	}{{"", q.Units}, {"", q.Packages}, {"", q.Users}, {"", q.Modules}, {"", q.Settings}, {q.Root, q.Contents}, {q.Root, q.Blobs}, {q.Root, q.Paths}} {
		if i > 0 {
			out.WriteString(".\n")
		}
		for _, text := range part.texts {
			if text == "" || text == "." || strings.ContainsAny(text, "\n\x00") {
				return "", fmt.Errorf("%q cannot be looked at", text)
			}
			out.WriteString(part.root + text + "\n")
		}
	}
	return out.String(), nil
}

// skew is how much a clock that was read between two moments is ahead of ours, at
// least: it says whole seconds, and may have been read at any time between.
func skew(clock, began, ended time.Time) time.Duration {
	switch {
	case clock.After(ended):
		return clock.Sub(ended)
	case clock.Add(time.Second).Before(began):
		return clock.Add(time.Second).Sub(began)
	}
	return 0
}

// parse reads what the script printed.
func parse(r Result, mark string, q Query) (*State, error) {
	sections := map[string][]byte{}
	parts := bytes.Split(r.Stdout, []byte("\n"+mark+" "))
	for _, p := range parts[1:] {
		name, body, _ := bytes.Cut(p, []byte("\n"))
		sections[string(name)] = body
	}
	if _, complete := sections["end"]; !complete || r.Status != 0 {
		return nil, fmt.Errorf("%w (status %d): %s", ErrIncomplete, r.Status, lastLine(r.Stderr))
	}
	s := &State{Entries: map[string]Observed{}, Contents: map[string]string{}, Blobs: map[string]int64{}, Images: map[string]bool{}, Journal: map[string]string{}, Unknown: map[string]string{}, Units: map[string]UnitState{}, Packages: map[string]bool{}, Users: map[string]bool{}, Ports: map[int]bool{}}
	for _, read := range sectionReaders {
		text, ok := sections[read.name]
		if !ok {
			return nil, fmt.Errorf("%w: it said nothing of %s", ErrIncomplete, read.name)
		}
		if err := read.into(s, text, q); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrIncomplete, err)
		}
	}
	if text := bytes.TrimSpace(sections["confirmed"]); len(text) > 0 {
		s.Confirmed = text
	}
	s.settle(q)
	return s, nil
}

// sectionReaders read what each section says.
var sectionReaders = []struct {
	name string
	into func(*State, []byte, Query) error
}{
	{"facts", facts}, {"paths", entries}, {"errors", failures}, {"contents", contents},
	{"blobs", blobs}, {"images", images}, {"journal", journal},
	{"units", units}, {"packages", packages}, {"users", users}, {"ports", ports},
	{"modules", modules}, {"settings", settings},
}

func lastLine(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

func facts(s *State, text []byte, _ Query) error {
	s.Facts.Tools, s.Facts.FreeInodes = map[string]bool{}, Unlimited
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if set := factReaders[key]; set != nil {
			set(&s.Facts, strings.Trim(value, `"`))
		}
	}
	if s.Facts.Boot == "" || s.Facts.Clock.IsZero() {
		return errors.New("it does not say which boot it is in, and what time it is")
	}
	return nil
}

var factReaders = map[string]func(*Facts, string){
	"boot": func(f *Facts, v string) { f.Boot = v }, "machine": func(f *Facts, v string) { f.Machine = v },
	"hostname": func(f *Facts, v string) { f.Hostname = v }, "arch": func(f *Facts, v string) { f.Arch = goArch(v) },
	"kernel": func(f *Facts, v string) { f.Kernel = v }, "init": func(f *Facts, v string) { f.Init = v },
	"os.ID": func(f *Facts, v string) { f.OS = v }, "os.VERSION_ID": func(f *Facts, v string) { f.OSVersion = v },
	"now":      func(f *Facts, v string) { f.Clock = time.Unix(number(v), 0).UTC() },
	"user":     func(f *Facts, v string) { f.UID = int(number(v)) },
	"fs":       fileSystem,
	"fstab":    func(f *Facts, v string) { f.SwapAtBoot = append(f.SwapAtBoot, v) },
	"resolver": func(f *Facts, _ string) { f.Resolvers++ },
	"swap":     func(f *Facts, v string) { f.Swaps = append(f.Swaps, v) },
	"tool":     func(f *Facts, v string) { f.Tools[v] = true },
}

// fileSystem reads what stat says of one: its type, the blocks that are free and
// their size, how many inodes it has and how many are free, and where it is.
func fileSystem(f *Facts, text string) {
	words := strings.SplitN(text, " ", 6)
	if len(words) < 6 {
		return
	}
	if words[5] == "/sys/fs/cgroup" {
		f.Cgroups = map[bool]int{true: 2, false: 1}[words[0] == "cgroup2fs"]
		return
	}
	f.FreeBytes = number(words[1]) * number(words[2])
	if number(words[3]) > 0 {
		f.FreeInodes = number(words[4])
	}
}

// goArch names a machine (uname -m) as cluster.yaml does.
func goArch(machine string) string {
	switch machine {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return machine
}

// number reads a whole number; what is none is 0.
func number(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

// kinds are find's letters.
var kinds = map[string]tree.Kind{"f": tree.Regular, "d": tree.Dir, "l": tree.Symlink}

// entries reads seven texts for each path, and the digests between them.
func entries(s *State, text []byte, q Query) error {
	words := strings.Split(string(text), "\x00")
	words = words[:len(words)-1] // after the last NUL there is nothing
	for len(words) > 0 {
		if len(words[0]) > 1 {
			if err := s.hashed(words[0], q); err != nil {
				return err
			}
			words = words[1:]
			continue
		}
		if len(words) < 7 || !strings.HasPrefix(words[6], q.Root) {
			return fmt.Errorf("%q is no answer of find", words[0])
		}
		mode, err := strconv.ParseUint(words[1], 8, 32)
		if err != nil {
			return fmt.Errorf("%q is no mode", words[1])
		}
		s.Entries[strings.TrimPrefix(words[6], q.Root)] = Observed{Kind: kinds[words[0]], Mode: uint32(mode), Owner: words[2], Group: words[3], Size: number(words[4]), Target: words[5]}
		words = words[7:]
	}
	return nil
}

// hashed reads what sha256sum says of a path.
func (s *State) hashed(said string, q Query) error {
	digest, path, ok := strings.Cut(said, "  "+q.Root)
	e, there := s.Entries[path]
	if !ok || len(digest) != 64 || !there {
		return fmt.Errorf("sha256sum says %q", said)
	}
	e.Digest = digest
	s.Entries[path] = e
	return nil
}

// failures are what find could not look at. That there is nothing is an answer.
func failures(s *State, text []byte, q Query) error {
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "sha256sum: ") {
			continue // a file without a digest is unknown
		}
		path, why, ok := strings.Cut(line, "': ")
		_, path, quoted := strings.Cut(path, "'"+q.Root)
		switch {
		case !ok || !quoted:
			return fmt.Errorf("find says %q", line)
		case why != "No such file or directory" && why != "Not a directory":
			s.Unknown[path] = why
		}
	}
	return nil
}

// maxContent is the longest file that others write too; longer ones are unknown.
const maxContent = 1 << 20

// contents reads lines of a path, a tab, and base64.
func contents(s *State, text []byte, q Query) error {
	for line := range strings.Lines(string(text)) {
		path, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		path = strings.TrimPrefix(path, q.Root)
		plain, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if len(plain) > maxContent {
			s.Unknown[path] = "it is too long"
			continue
		}
		s.Contents[path] = string(plain)
	}
	return nil
}

func blobs(s *State, text []byte, q Query) error {
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00") {
		if size, path, ok := strings.Cut(line, "\t"+q.Root); ok {
			s.Blobs[path] = number(size)
		}
	}
	return nil
}

func images(s *State, text []byte, _ Query) error {
	for line := range strings.Lines(string(text)) {
		s.Images[strings.TrimSpace(line)] = true
	}
	return nil
}

// journal reads what an earlier apply left: the progress of its generations, its
// epoch, and who holds the host now.
func journal(s *State, text []byte, _ Query) error {
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		switch {
		case !ok:
			return fmt.Errorf("%q is no line of a journal", line)
		case key == "epoch":
			s.Epoch = int(number(value))
		case key == "owner":
			s.Owner = value
		default:
			s.Journal[key] = value
		}
	}
	return nil
}

func units(s *State, text []byte, _ Query) (err error) {
	s.Units, err = unitStates(text)
	return err
}

// unitStates reads what systemctl shows of units.
func unitStates(text []byte) (map[string]UnitState, error) {
	out := map[string]UnitState{}
	for _, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
		fields := map[string]string{}
		for line := range strings.Lines(block) {
			key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			if !ok && line != "" {
				return nil, fmt.Errorf("systemctl says %q", line)
			}
			fields[key] = value
		}
		if id := fields["Id"]; id != "" {
			out[id] = UnitState{
				Load: fields["LoadState"], Active: fields["ActiveState"], Sub: fields["SubState"], File: fields["UnitFileState"],
				NeedsReload: fields["NeedDaemonReload"] == "yes", Started: number(fields["ExecMainStartTimestampMonotonic"]),
			}
		}
	}
	return out, nil
}

func packages(s *State, text []byte, _ Query) error {
	for line := range strings.Lines(string(text)) {
		name, status, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		s.Packages[name] = status == "installed"
	}
	return nil
}

func users(s *State, text []byte, _ Query) error {
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, ":")
		s.Users[name] = true
	}
	return nil
}

// ports reads port numbers: those of ss(8), or those of /proc/net/tcp (proc(5)),
// hexadecimal.
func ports(s *State, text []byte, _ Query) error {
	for line := range strings.Lines(string(text)) {
		port, base := strings.TrimSpace(line), 10
		if digits, is := strings.CutPrefix(port, "hexadecimal "); is {
			port, base = digits, 16
		}
		n, err := strconv.ParseUint(port, base, 16)
		if err != nil {
			return fmt.Errorf("%q is no port", port)
		}
		s.Ports[int(n)] = true
	}
	return nil
}

// settle makes sure that every regular file has a digest, or is unknown: it
// may have changed while it was looked at.
func (s *State) settle(q Query) {
	for _, path := range q.Paths {
		e, there := s.Entries[path]
		if there && e.Kind == tree.Regular && e.Digest == "" || there && e.Kind == tree.Symlink && e.Target == "" {
			s.Unknown[path] = "it changed while it was looked at"
			delete(s.Entries, path)
		}
	}
}
