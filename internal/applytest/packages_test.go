package applytest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/pkg/tree"
)

// archive makes an archive of packages on the machine that has one package, and
// makes it the machine's only one. The list of what it has is not read yet, as on a
// machine that was installed long ago.
const archive = `set -e
mkdir -p /srv/rig/p/DEBIAN /srv/rig/lists
cat >/srv/rig/p/DEBIAN/control <<-'END'
	Package: rig-extra
	Version: 1.0
	Architecture: all
	Maintainer: rig <rig@example.invalid>
	Description: part of the rig
END
dpkg-deb -b /srv/rig/p /srv/rig/rig-extra.deb >/dev/null
{ cat /srv/rig/p/DEBIAN/control; printf 'Filename: ./rig-extra.deb\nSize: %s\nSHA256: %s\n' "$(stat -c %s /srv/rig/rig-extra.deb)" "$(sha256sum /srv/rig/rig-extra.deb | cut -d' ' -f1)"; } >/srv/rig/Packages
echo 'deb [trusted=yes] file:/srv/rig ./' >/srv/rig/sources
printf 'Dir::Etc::sourcelist "/srv/rig/sources";\nDir::Etc::sourceparts "-";\nDir::State::lists "/srv/rig/lists";\n' >/etc/apt/apt.conf.d/rig`

// A package that is missing is planned and installed before anything that may need
// it; one that nobody has stops the apply before any file is touched.
func TestPackages(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	m.must(t, archive)
	t.Cleanup(func() {
		if _, err := m.sh(context.Background(), `dpkg -P rig-extra >/dev/null 2>&1; rm -rf /srv/rig /etc/apt/apt.conf.d/rig`); err != nil {
			t.Error(err)
		}
	})
	with := func(name string) world {
		return world{version: 1, twist: func(n *tree.Node) { n.Packages = []tree.Package{{Name: name, Reason: "for the rig", From: why}} }}
	}
	was := m.mustPicture(t)
	p := quick(1, m).here(with("rig-nothing"))
	if err := p.apply(bounded(t, time.Minute)); err == nil || !strings.Contains(err.Error(), "rig-nothing") || !strings.Contains(err.Error(), m.Name) {
		t.Errorf("nobody has it: %v", err)
	}
	now := m.mustPicture(t)
	if wrong := append(differ("", now.managed, was.managed), differ("", now.units, was.units)...); len(wrong) > 0 {
		t.Errorf("nobody has it, and %q", wrong)
	}
	p = quick(1, m).here(with("rig-extra"))
	p.Check = true
	if err := p.apply(bounded(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if asked := p.first.Host(m.Name).Packages; !slices.Equal(asked, []string{"rig-extra"}) || !p.empty {
		t.Errorf("the plan installs %q, and afterwards nothing is to do: %v", asked, p.empty)
	}
	m.must(t, `[ "$(dpkg-query -W -f '${db:Status-Status}' rig-extra)" = installed ]`)
}
