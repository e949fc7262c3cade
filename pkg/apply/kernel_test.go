package apply

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestSettingPath(t *testing.T) {
	for key, want := range map[string]string{ // sysctl.d(5)
		"net.ipv4.ip_forward":          "/proc/sys/net/ipv4/ip_forward",
		"net/ipv4/conf/eth0.1/rp":      "/proc/sys/net/ipv4/conf/eth0.1/rp",
		"net.ipv4.conf.eth0/1.rp":      "/proc/sys/net/ipv4/conf/eth0.1/rp",
		"net.bridge.bridge-nf-call-ip": "/proc/sys/net/bridge/bridge-nf-call-ip",
		"dev":                          "/proc/sys/dev",
	} {
		if got := (wish{key: key}).proc(); got != want {
			t.Errorf("%s is at %s, not %s", key, got, want)
		}
	}
}

// What this machine's kernel says, by itself and by the script.
func TestObserveKernel(t *testing.T) {
	q := Query{Modules: []string{"no_such_module"}, Settings: []string{"/proc/sys/kernel/ostype", "/proc/sys/kernel/pid_max", "/proc/sys/kernel/no_such"}}
	s, err := Observe(context.Background(), local{"sh"}, q)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Settings["/proc/sys/kernel/ostype"]; got != (Setting{"Linux", true}) {
		t.Errorf("%+v", got)
	}
	if got, err := strconv.Atoi(s.Settings["/proc/sys/kernel/pid_max"].Value); got < 100 || err != nil {
		t.Error("a number of several digits is read as ", got, err)
	}
	if got, asked := s.Settings["/proc/sys/kernel/no_such"]; !asked || got.Known {
		t.Errorf("%+v %v", got, asked)
	}
	if got := s.Modules["no_such_module"]; got == Loaded || got == Loadable {
		t.Error(got)
	}
	q.Root = host(t)
	if s, err = Observe(context.Background(), local{"sh"}, q); err != nil || len(s.Settings)+len(s.Modules) > 0 {
		t.Errorf("the kernel is not that of the directory: %v %v %v", s.Settings, s.Modules, err)
	}
}

// kernelOf gives every host a kernel that is as it shall be.
func kernelOf(t *testing.T, w *Wanted, hosts map[string]Host) {
	t.Helper()
	for _, n := range w.Tree.Nodes {
		d, err := desiredOf(w.Tree, n, w.Lock)
		if err != nil {
			t.Fatal(err)
		}
		s := hosts[n.Name].State
		s.Modules, s.Settings = map[string]Module{}, map[string]Setting{}
		for _, m := range d.modules() {
			s.Modules[m] = Loaded
		}
		for _, w := range d.settings() {
			s.Settings[w.proc()] = Setting{w.value, true}
		}
	}
}

func TestKernel(t *testing.T) {
	const forward = "/proc/sys/net/ipv4/ip_forward"
	for name, c := range map[string]struct {
		change  func(*State)
		problem string // of preflight
		drift   string
	}{
		"as it shall be":           {func(*State) {}, "", ""},
		"switched off by hand":     {func(s *State) { s.Settings[forward] = Setting{"0", true} }, "", "net.ipv4.ip_forward is 0, and shall be 1"},
		"a module to load":         {func(s *State) { s.Modules["overlay"] = Loadable }, "", ""},
		"a module that is missing": {func(s *State) { s.Modules["overlay"] = NoModule }, "no module overlay", ""},
		"a setting that is none":   {func(s *State) { s.Settings[forward] = Setting{} }, "no net.ipv4.ip_forward", ""},
		"a setting of a module that is still to come": {func(s *State) {
			s.Modules["br_netfilter"], s.Settings["/proc/sys/net/bridge/bridge-nf-call-iptables"] = Loadable, Setting{}
		}, "", ""},
		"old cgroups": {func(s *State) { s.Facts.Cgroups = 1 }, "failCgroupV1: false", ""},
		"new cgroups": {func(s *State) { s.Facts.Cgroups = 2 }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			out := rendered(t, asIs)
			w := &Wanted{out, locked(t, out), material}
			hosts := applied(t, out)
			kernelOf(t, w, hosts)
			c.change(hosts["worker-0"].State)
			p, err := w.MakePlan(hosts, Scope{})
			if err != nil {
				t.Fatal(err)
			}
			h := p.Host("worker-0")
			if said := strings.Join(h.Problems, "\n"); (said == "") != (c.problem == "") || !strings.Contains(said, c.problem) {
				t.Errorf("problems: %q", said)
			}
			var drift []string
			for _, d := range h.Drift {
				drift = append(drift, d.What...)
			}
			mends := slices.ContainsFunc(h.Units, func(u UnitAction) bool { return u.Unit == settingsUnit && u.Do == Restart })
			if said := strings.Join(drift, "\n"); said != c.drift || mends != (c.drift != "") {
				t.Errorf("drift: %q, and mended: %v", said, mends)
			}
		})
	}
}

func TestCgroupsThatTheKubeletIsToldOf(t *testing.T) {
	out := rendered(t, func(s string) string {
		return strings.Replace(s, "spec:\n", "spec:\n  configPatches:\n    kubelet:\n      failCgroupV1: false\n", 1)
	})
	hosts := applied(t, out)
	hosts["worker-0"].State.Facts.Cgroups = 1
	p, err := (&Wanted{out, locked(t, out), material}).MakePlan(hosts, Scope{})
	if err != nil || len(p.Host("worker-0").Problems) > 0 {
		t.Error(p.Host("worker-0").Problems, err)
	}
}

// A person's own file may make a setting of ours otherwise, where it is read later;
// systemd reads it again when it changes.
func TestSettingsOfAPersonsOwn(t *testing.T) {
	for file, ours := range map[string]bool{"95-local.conf": false, "10-local.conf": true, "95-local.txt": true} {
		out := rendered(t, func(s string) string {
			return strings.Replace(s, "spec:\n", "spec:\n  files:\n    - path: /etc/sysctl.d/"+file+"\n      content: |\n        -net/ipv4/ip_forward = 0\n        vm.nr_hugepages = 4\n", 1)
		})
		d, err := desiredOf(out, out.Node("worker-0"), locked(t, out))
		if err != nil {
			t.Fatal(err)
		}
		has := slices.ContainsFunc(d.settings(), func(w wish) bool { return w.key == "net.ipv4.ip_forward" })
		huge := slices.ContainsFunc(d.settings(), func(w wish) bool { return w.key == "vm.nr_hugepages" })
		if has != ours || huge {
			t.Errorf("%s: %+v", file, d.settings())
		}
		if units := d.File("/etc/sysctl.d/" + file).Units(); !slices.Equal(units, []string{settingsUnit}) {
			t.Errorf("%s is read by %q", file, units)
		}
	}
}
