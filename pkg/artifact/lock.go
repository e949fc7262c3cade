package artifact

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// LockName is the lock's file in a cluster's state directory.
const LockName = "kthwc.lock"

// maxLock bounds the lock's file; a cluster of two architectures has 10 kB.
const maxLock = 4 << 20

// maxDownload bounds one artefact.
const maxDownload = 2 << 30

// fromDirectory is the scheme of what was locked from a directory: its path
// below any directory that --from names.
const fromDirectory = "dir:"

// Entry is one artefact: where its bytes come from and what they are.
type Entry struct {
	Need     `yaml:",inline"`
	URL      string   `yaml:"url"`
	SHA256   string   `yaml:"sha256"`
	Size     int64    `yaml:"size"`
	Checksum string   `yaml:"checksum,omitempty"` // the published checksum that agreed
	Members  []Member `yaml:"members,omitempty"`  // what is installed of an archive
}

// Installed lists what a node gets of the entry: the members of an archive, or
// the download itself under the artefact's name. Each is in the cache by its
// own digest.
func (e Entry) Installed() []Member {
	if len(e.Members) > 0 {
		return e.Members
	}
	return []Member{{e.Name, e.SHA256, e.Size}}
}

// Lock is kthwc.lock: every artefact of a cluster by digest.
type Lock struct {
	APIVersion string  `yaml:"apiVersion"`
	Kind       string  `yaml:"kind"`
	Cluster    string  `yaml:"cluster"`
	Schema     string  `yaml:"schema"` // which version table the names come from
	Artifacts  []Entry `yaml:"artifacts"`
}

const (
	lockVersion = "kthwc.dev/v1alpha1"
	lockKind    = "ArtifactLock"
	lockHeader  = "# Written by `kthwc artifacts lock`. Commit it: these bytes are installed, and no others.\n"
)

// Find is the entry of a need.
func (l *Lock) Find(n Need) (Entry, bool) {
	at, found := slices.BinarySearchFunc(l.Artifacts, n, func(e Entry, n Need) int { return e.compare(n) })
	if !found {
		return Entry{}, false
	}
	return l.Artifacts[at], true
}

// Missing are the needs that the lock has no entry for.
func (l *Lock) Missing(needs []Need) []Need {
	return slices.DeleteFunc(slices.Clone(needs), func(n Need) bool { _, found := l.Find(n); return found })
}

// YAML is the lock's text: equal locks have equal bytes.
func (l *Lock) YAML() ([]byte, error) {
	b := bytes.NewBufferString(lockHeader)
	encoder := yaml.NewEncoder(b)
	encoder.SetIndent(2)
	err := errors.Join(encoder.Encode(l), encoder.Close())
	return b.Bytes(), err
}

// ParseLock reads a lock, strictly: an entry that could not have been written
// is refused with the reason.
func ParseLock(text []byte) (*Lock, error) {
	if len(text) > maxLock {
		return nil, fmt.Errorf("it has more than %d bytes", maxLock)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	l := &Lock{}
	if err := decoder.Decode(l); err != nil {
		return nil, fmt.Errorf("it is not what was written: %s", strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", " "))
	}
	if l.APIVersion != lockVersion || l.Kind != lockKind {
		return nil, fmt.Errorf("it is of kind %s %s, not %s %s", l.APIVersion, l.Kind, lockVersion, lockKind)
	}
	for i, e := range l.Artifacts {
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Need, err)
		}
		if i > 0 && l.Artifacts[i-1].compare(e.Need) >= 0 {
			return nil, fmt.Errorf("%s is out of order, or there twice", e.Need)
		}
	}
	return l, nil
}

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9]([a-z0-9._:/-]*[a-z0-9])?$`)
	versionPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)
	digestPattern  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	architectures  = []string{"amd64", "arm64"}
)

// check refuses an entry that `kthwc artifacts lock` does not write.
func (e Entry) check() error {
	if err := e.checkNeed(); err != nil {
		return err
	}
	if err := checkAddress(e.URL); err != nil {
		return err
	}
	if err := checkContent(e.SHA256, e.Size, maxDownload); err != nil {
		return err
	}
	names := map[string]bool{}
	for _, m := range e.Members {
		if !filepath.IsLocal(m.Path) || path.Clean(m.Path) != m.Path || names[path.Base(m.Path)] {
			return fmt.Errorf("the member %q leads out of the archive, or is there twice", m.Path)
		}
		names[path.Base(m.Path)] = true
		if err := checkContent(m.SHA256, m.Size, maxMember); err != nil {
			return fmt.Errorf("%s: %w", m.Path, err)
		}
	}
	return nil
}

func (n Need) checkNeed() error {
	if !namePattern.MatchString(n.Name) || !versionPattern.MatchString(n.Version) || !slices.Contains(architectures, n.Arch) {
		return errors.New("no program or image has such a name, version and architecture")
	}
	if n.IsImage() {
		_, _, err := cutRef(n.Ref())
		return err
	}
	return nil
}

func checkContent(digest string, size, most int64) error {
	if !digestPattern.MatchString(digest) {
		return fmt.Errorf("%q is not a SHA-256 digest: 64 hexadecimal digits", digest)
	}
	if size <= 0 || size > most {
		return fmt.Errorf("a size of %d bytes is not between 1 and %d", size, most)
	}
	return nil
}

// checkAddress accepts https, and places below a directory.
func checkAddress(address string) error {
	if place, ok := strings.CutPrefix(address, fromDirectory); ok {
		if !filepath.IsLocal(place) {
			return fmt.Errorf("%q leads out of the directory", address)
		}
		return nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("%q is not an https address", address)
	}
	return nil
}
