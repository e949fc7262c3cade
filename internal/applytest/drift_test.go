package applytest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/tree"
)

// drifts are what people do to a host by hand, and the line of a plan that says
// so; "" where nothing of ours is another.
var drifts = []struct {
	name, do string
	says     string
}{
	{"content", `echo more >>/etc/rig/same`, "change /etc/rig/same content"},
	{"mode", `chmod 0666 /etc/rig/same`, "change /etc/rig/same mode 0666 → 0640"},
	{"owner", `chown rigger /etc/rig/same`, "change /etc/rig/same owner rigger:root → root:root"},
	{"group", `chgrp rigger /etc/rig/same`, "change /etc/rig/same owner root:rigger → root:root"},
	{"deleted", `rm /etc/rig/same`, "add /etc/rig/same"},
	{"link elsewhere", `ln -sfn elsewhere /etc/rig/link`, "change /etc/rig/link target elsewhere → same"},
	{"a file instead of a link", `rm /etc/rig/link; echo x >/etc/rig/link`, "change /etc/rig/link symlink instead of file"},
	{"a link instead of a file", `mv /etc/rig/same /etc/rig/other; ln -s other /etc/rig/same`, "change /etc/rig/same file instead of symlink"},
	{"mode of a directory", `chmod 0777 /etc/rig`, "change /etc/rig mode 0777 → 0755"},
	{"what was removed is back", `echo hello >/etc/motd`, "delete /etc/motd"},
	{"our part of a shared file", `sed -i 's/10.250.1.1/10.250.9.9/' /etc/hosts`, "change /etc/hosts content"},
	{"a secret", `sed -i 's/CANARY/BUDGIE/' /etc/rig/key`, "change /etc/rig/key content"},
	{"a program", `rm /usr/local/bin/rig-tick; printf '#!/bin/sh\nexec sleep 1000000\n' >/usr/local/bin/rig-tick; chmod 0755 /usr/local/bin/rig-tick`, "change /usr/local/bin/rig-tick symlink instead of file"},
	{"bytes of a program", `printf '# more\n' >>"$(readlink /usr/local/bin/rig-tick)"`, "program rig-tick 0.1.0 "},
	{"a unit's file", `sed -i 's/Part of/Part off/' /etc/systemd/system/rig-web.service; systemctl daemon-reload`, "change /etc/systemd/system/rig-web.service content"},
	{"a unit that does not run", `systemctl stop rig-web`, "start rig-web.service"},
	{"a unit that is not enabled", `systemctl disable -q rig-web`, "enable rig-web.service"},
	{"the time of a file", `touch -d 2001-01-01 /etc/rig/same`, ""},
	{"another part of a shared file", `echo '192.0.2.1 other' >>/etc/hosts`, ""},
	{"a file beside ours", `echo x >/etc/rig/beside`, ""},
}

// What somebody has changed by hand is found, each kind of it, and put right by
// one apply; what is nobody's business is left alone.
func TestDrift(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	o := quick(1, m)
	o.succeed(t)
	one := m.mustPicture(t)
	if err := m.parkAs(t.Context(), "1"); err != nil {
		t.Fatal(err)
	}
	for _, d := range drifts {
		m.must(t, d.do)
		p := o.here(world{version: 1})
		p.Check = true
		if err := p.apply(bounded(t, time.Minute)); err != nil {
			t.Errorf("%s: %v", d.name, err)
		}
		first := p.first
		said := saysOf(first.Host(m.Name))
		switch {
		case d.says == "" && !first.Empty():
			t.Errorf("%s: the plan says %q", d.name, said)
		case d.says != "" && !slices.ContainsFunc(said, func(l string) bool { return strings.HasPrefix(l, d.says) }):
			t.Errorf("%s: the plan says %q, and not %q", d.name, said, d.says)
		case !p.empty:
			t.Errorf("%s: after an apply there is left: %q", d.name, saysOf(p.plan.Host(m.Name)))
		}
		if now := m.mustPicture(t); d.says != "" {
			if wrong := append(differ("", now.managed, one.managed), differ("", now.units, one.units)...); len(wrong) > 0 {
				t.Errorf("%s: after an apply, %q", d.name, wrong)
			}
		}
		if d.says == "" {
			if err := m.back(t.Context(), "1"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A setting of the kernel that somebody has changed is drift although no file is
// another; where another file has the last word, no apply says that all is well.
func TestKernelSettings(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	const martians, ours, others = "/proc/sys/net/ipv4/conf/all/log_martians", "/etc/sysctl.d/90-kthwc.conf", "/etc/sysctl.d/99-others.conf"
	t.Cleanup(func() {
		if _, err := m.sh(context.Background(), `rm -f "$1" "$2"; echo 0 >"$3"`, ours, others, martians); err != nil {
			t.Error(err)
		}
	})
	try := func() (*operator, error) {
		p := quick(1, m).here(world{version: 1, twist: func(n *tree.Node) {
			_ = n.Put(regular(ours, 0o644, "net.ipv4.conf.all.log_martians = 1\n", "systemd-sysctl.service")) // it is the only one there
		}})
		p.Check = true
		return p, p.apply(bounded(t, time.Minute))
	}
	if p, err := try(); err != nil || !p.empty {
		t.Fatalf("%v, and nothing to do afterwards: %v", err, p.empty)
	}
	m.must(t, `[ "$(cat "$1")" = 1 ] && echo 0 >"$1"`, martians)
	p, err := try()
	if said := p.first.Host(m.Name).Drift; err != nil || len(said) != 1 || !slices.Equal(said[0].What, []string{"net.ipv4.conf.all.log_martians is 0, and shall be 1"}) || !p.empty {
		t.Errorf("%v, drift %+v, and nothing to do afterwards: %v", err, said, p.empty)
	}
	m.must(t, `[ "$(cat "$1")" = 1 ] && echo "net.ipv4.conf.all.log_martians = 0" >"$2" && echo 0 >"$1"`, martians, others)
	if _, err := try(); err == nil || !strings.Contains(err.Error(), "net.ipv4.conf.all.log_martians is 0 although "+ours+" says 1: another file or program has the last word") {
		t.Errorf("another file has the last word: %v", err)
	}
}

// saysOf is what a plan says of a host, in lines.
func saysOf(h *apply.HostPlan) []string {
	var out []string
	for _, c := range h.Changes {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", c.Do, c.Path, strings.Join(c.What, ", "))))
	}
	for _, u := range h.Units {
		out = append(out, u.Do+" "+u.Unit)
	}
	for _, b := range h.Programs {
		out = append(out, "program "+b.Name)
	}
	return out
}

// The host of an address that was given to another machine is not taken for ours.
func TestWrongMachine(t *testing.T) {
	t.Parallel()
	machines := take(t, 2)
	one, other := machines[0], machines[1]
	quick(1, machines...).succeed(t)
	was := other.mustPicture(t)
	p := quick(2, one).here(world{version: 2})
	f, err := p.fleet(bounded(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	there, err := p.dial(bounded(t, time.Minute), other.Name)
	if err != nil {
		t.Fatal(err)
	}
	f.Conns[one.Name].Close()
	f.Conns[one.Name] = there
	defer there.Close()
	plan, _, err := planOf(bounded(t, time.Minute), f)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("it is the node %s of the cluster rig: is the address right?", other.Name)
	if stops := plan.Ready(false); len(stops) != 1 || !strings.Contains(stops[0], want) || plan.Changes() {
		t.Errorf("%q", stops)
	}
	if wrong := other.mustPicture(t).sameAs(was); len(wrong) > 0 {
		t.Errorf("%q", wrong)
	}
}

// A clock that is wrong stops an apply before it begins.
func TestClockThatIsWrong(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	for ago, want := range map[string]string{"2 hours ago": "behind this machine's: set it", "2 hours": "ahead of this machine's: set it"} {
		m.must(t, `printf '#!/bin/sh\nexec /bin/date -d "%s" "$@"\n' "$1" >/usr/local/bin/date; chmod 0755 /usr/local/bin/date`, ago)
		p := quick(1, m).here(world{version: 1})
		if err := p.apply(bounded(t, time.Minute)); err == nil || !strings.Contains(err.Error(), m.Name+": its clock is ") || !strings.Contains(err.Error(), want) || p.outcome != nil {
			t.Errorf("%s: %v", ago, err)
		}
	}
	m.must(t, `rm /usr/local/bin/date`)
}

// What was secret is gone from a host with the second apply after it was replaced:
// the first keeps what can be gone back to.
func TestOldSecretsGo(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	count := func() string {
		return m.must(t, `for v in 1 2 3; do grep -rl "$1 of version $v" /etc /var/lib/kthwc /opt/kthwc /root /tmp /var/tmp /run/kthwc /var/log 2>/dev/null | wc -l; done | tr '\n' ' '`, canary)
	}
	want := map[int]string{1: "1 0 0 ", 2: "1 1 0 ", 3: "0 1 1 "}
	for version := 1; version <= 3; version++ {
		quick(version, m).succeed(t)
		if got := count(); got != want[version] {
			t.Errorf("after version %d, the secrets are in %q files, not %q: %s", version, got, want[version], m.must(t, `grep -rl "$1" /etc /var/lib/kthwc /opt /root /tmp /var; :`, canary))
		}
	}
	if said := m.must(t, `journalctl --no-pager | grep -c "$1"; :`, canary); said != "0\n" {
		t.Errorf("the journal has a secret %s times", said)
	}
}
