package render

import (
	"path"
	"strings"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/tree"
)

// present are paths that hosts have without us: a path that ends with "/"
// stands for everything below it.
var present = []string{
	"/run/", "/var/run/", "/proc/", "/dev/", "/sys/", "/sbin/modprobe", "/bin/sh", "/usr/sbin/haproxy", "/etc/resolv.conf",
	"/healthz", "/readyz", "/version", // of URLs
}

// readByName are places whose files are read because they lie there.
var readByName = []string{
	"/etc/systemd/system/", "/etc/modules-load.d/", "/etc/sysctl.d/", "/etc/nginx/sites-available/", "/etc/nginx/sites-enabled/",
	"/etc/cni/net.d/", "/etc/containerd/config.toml", "/etc/crictl.yaml", "/etc/hosts",
}

// readByPeople are files of the host that no unit reads: health gates and
// people use them.
var readByPeople = []string{"cert/etcd-healthcheck", "key/etcd-healthcheck"}

// paths is invariants 18 and 19: every path that a file names is there, and
// every file that is there is named by something.
func (c *nodeCheck) paths() {
	named := map[string]bool{}
	for _, f := range c.out.Files {
		if f.Body == nil || f.Block || userFile(f) {
			continue
		}
		for _, p := range c.pathsIn(f.Body) {
			named[p] = true
			if !c.there(p) {
				c.missing(f, p)
			}
		}
	}
	for _, f := range c.out.Files {
		if f.Kind == tree.Regular && !userFile(f) && !c.reached(f.Path, named) {
			c.fault("E0219", f.From, "nothing on the node names %s", f.Path)
		}
	}
}

// missing is a fault of kthwc's, unless the line is the user's own: then
// something else may make the file.
func (c *nodeCheck) missing(f *tree.File, p string) {
	code, from := "E0218", f.From
	for _, l := range f.Body.Lines {
		if strings.Contains(l.String(), p) && (usersField(l.From) != "" || strings.Contains(l.From.String(), origin.PrefixOverlay)) {
			code, from = "W0106", l.From
		}
	}
	c.fault(code, from, "%s names %s, which nothing makes", f.Path, p)
}

// there says whether the path is rendered, installed, or on every host.
func (c *nodeCheck) there(p string) bool {
	if f := c.out.File(p); f != nil && f.Kind != tree.Absent {
		return true
	}
	for _, b := range c.out.Binaries {
		if b.Path == p {
			return true
		}
	}
	for _, known := range present {
		if p == known || strings.HasSuffix(known, "/") && strings.HasPrefix(p, known) {
			return true
		}
	}
	return p == c.c.Path("audit-log", c.n)
}

func (c *nodeCheck) reached(p string, named map[string]bool) bool {
	for _, place := range readByName {
		if p == place || strings.HasSuffix(place, "/") && strings.HasPrefix(p, place) {
			return true
		}
	}
	for _, logical := range readByPeople {
		if p == c.c.Path(logical, c.n) {
			return true
		}
	}
	for at := p; at != "/"; at = path.Dir(at) {
		if named[at] {
			return true
		}
	}
	return false
}

// pathsIn lists the absolute paths that a body names.
func (c *nodeCheck) pathsIn(b *tree.Body) []string {
	if known, ok := c.named[b]; ok {
		return known
	}
	var out []string
	for _, l := range b.Lines {
		out = append(out, pathsOf(l.Text)...)
		for _, part := range l.Parts {
			out = append(out, pathsOf(part.Text)...)
		}
	}
	c.named[b] = out
	return out
}

// pathsOf finds absolute paths: a slash at the start of a word, and what
// follows it.
func pathsOf(text string) []string {
	var out []string
	for i := strings.IndexByte(text, '/'); i >= 0 && i < len(text); {
		end := i + 1
		if i == 0 || strings.IndexByte(" =\"',-", text[i-1]) >= 0 {
			for end < len(text) && isPathByte(text[end]) {
				end++
			}
			if p := text[i:end]; len(p) > 1 && p[1] != '/' && (end == len(text) || text[end] != '*') {
				out = append(out, p)
			}
		}
		next := strings.IndexByte(text[end:], '/')
		if next < 0 {
			break
		}
		i = end + next
	}
	return out
}

func isPathByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("/._-@", b) >= 0
}
