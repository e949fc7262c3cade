package apply

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kthwc/kthwc/pkg/artifact"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/render"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/pkg/tree"
	"github.com/kthwc/kthwc/schema"
)

// material stands for a store: every name has bytes of its own.
func material(r secret.Ref) ([]byte, error) { return []byte("material of " + r.Name()), nil }

func rendered(t testing.TB, edit func(string) string) *tree.Tree {
	t.Helper()
	source, err := os.ReadFile("../../examples/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := edit(string(source))
	doc, faults := schema.Load("cluster.yaml", []byte(text))
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	c, faults := compile.Compile(doc, compile.Facts{})
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	out, faults := render.Render(c, render.Input{Source: []byte(text)})
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func asIs(s string) string { return s }

// applied is the hosts as an undisturbed apply of the tree leaves them.
func applied(t testing.TB, out *tree.Tree) map[string]Host {
	t.Helper()
	hosts := map[string]Host{}
	for _, n := range out.Nodes {
		s := &State{
			Facts:   Facts{Boot: "b", Machine: n.Name, Hostname: n.Name, Arch: "amd64", Init: "systemd", FreeBytes: 1 << 40, FreeInodes: 1 << 20, Resolvers: 1, Tools: map[string]bool{}},
			Entries: map[string]Observed{}, Units: map[string]UnitState{}, Packages: map[string]bool{}, Users: map[string]bool{}, Contents: map[string]string{},
		}
		for _, tool := range []string{"tar", "flock", "sync", "sha256sum", "systemctl", "systemd-run"} {
			s.Facts.Tools[tool] = true
		}
		for _, u := range n.Units {
			s.Units[u.Name] = UnitState{Active: "active", File: "enabled"}
		}
		for _, p := range n.Packages {
			s.Packages[p.Name] = true
		}
		for _, u := range n.Users {
			s.Users[u.Name] = true
		}
		record := Recorded{Generation: 1, Cluster: out.Cluster, Node: n.Name}
		d, err := desiredOf(out, n, locked(t, out))
		if err != nil {
			t.Fatal(err)
		}
		s.Blobs, s.Images = map[string]int64{}, map[string]bool{}
		for _, b := range d.programs {
			s.Blobs[b.Path] = b.Size
		}
		for _, b := range d.images {
			s.Images[b.Image] = true
		}
		c := &comparison{node: d, state: s, material: material}
		for _, f := range d.files() {
			if f.Block {
				s.Contents[f.Path] = WithBlock("127.0.0.1 localhost\n", string(f.Body.Bytes()))
			}
			if f.Kind == tree.Absent {
				continue
			}
			want, _ := c.wanted(f)
			s.Entries[f.Path] = want
			record.Entries = append(record.Entries, RecordedEntry{f.Path, want.Kind, want.Mode, want.Owner, want.Group, want.Target, want.Digest, f.Block})
		}
		confirmed, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		s.Confirmed = confirmed
		hosts[n.Name] = Host{State: s}
	}
	return hosts
}

// locked pins everything that a tree's nodes run; digests follow from names.
func locked(t testing.TB, out *tree.Tree) *artifact.Lock {
	t.Helper()
	needs, err := artifact.Wanted(out)
	if err != nil {
		t.Fatal(err)
	}
	lock := &artifact.Lock{}
	for _, n := range needs {
		e := artifact.Entry{Need: n, SHA256: tree.Digest([]byte(n.String())), Size: int64(len(n.Name))}
		if n.Name == "cni-plugins" {
			for _, name := range []string{"bridge", "loopback"} {
				e.Members = append(e.Members, artifact.Member{Path: name, SHA256: tree.Digest([]byte(name)), Size: int64(len(name))})
			}
		}
		lock.Artifacts = append(lock.Artifacts, e)
	}
	return lock
}

// planned is the plan for a tree and hosts as they are.
func planned(t testing.TB, out *tree.Tree, hosts map[string]Host) *Plan {
	t.Helper()
	p, err := (&Wanted{out, locked(t, out), material}).MakePlan(hosts, Scope{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A unit that others stopped or disabled is drift, and mended; one that an
// interrupted apply left so is none.
func TestStoppedUnitsAreDrift(t *testing.T) {
	out := rendered(t, asIs)
	hosts := applied(t, out)
	hosts["controller-2"].State.Units["kube-scheduler.service"] = UnitState{Active: "inactive", File: "enabled"}
	hosts["worker-0"].State.Units["kubelet.service"] = UnitState{Active: "active", File: "disabled"}
	hosts["worker-1"].State.Units["kubelet.service"] = UnitState{Active: "inactive", File: "enabled"}
	hosts["worker-1"].State.Journal = map[string]string{"2": "installed"}
	p := planned(t, out, hosts)
	for node, want := range map[string][]string{
		"controller-1": nil,
		"controller-2": {"/etc/systemd/system/kube-scheduler.service the unit is inactive", "kube-scheduler.service " + Start},
		"worker-0":     {"/etc/systemd/system/kubelet.service the unit is disabled", "kubelet.service " + Enable},
		"worker-1":     {"kubelet.service " + Start},
	} {
		var got []string
		for _, d := range p.Host(node).Drift {
			got = append(got, d.Path+" "+strings.Join(d.What, ", "))
		}
		for _, u := range p.Host(node).Units {
			got = append(got, u.Unit+" "+u.Do)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, not %q", node, got, want)
		}
	}
}

func TestNothingToDoAfterAnApply(t *testing.T) {
	out := rendered(t, asIs)
	p := planned(t, out, applied(t, out))
	if !p.Empty() || len(p.Rollout) > 0 || len(p.Warnings) > 0 {
		text, _ := json.MarshalIndent(p, "", " ")
		t.Errorf("%.3000s", text)
	}
}

// Whatever is disturbed on a host is found: as drift, and as the one change
// that mends it, with the units that must learn of it.
func TestEveryDisturbanceIsFound(t *testing.T) {
	out := rendered(t, asIs)
	rapid.Check(t, func(r *rapid.T) {
		hosts := applied(t, out)
		n := out.Nodes[rapid.IntRange(0, len(out.Nodes)-1).Draw(r, "node")]
		f := n.Files[rapid.IntRange(0, len(n.Files)-1).Draw(r, "file")]
		if f.Kind == tree.Absent || f.Block {
			return
		}
		s := hosts[n.Name].State
		e := s.Entries[f.Path]
		how := rapid.SampledFrom([]string{"gone", "mode", "owner", "content"}).Draw(r, "how")
		switch how {
		case "gone":
			delete(s.Entries, f.Path)
		case "mode":
			if f.Kind == tree.Symlink {
				return
			}
			e.Mode ^= 0o100
			s.Entries[f.Path] = e
		case "owner":
			e.Owner = "nobody"
			s.Entries[f.Path] = e
		case "content":
			e.Digest, e.Target, e.Kind = "other", "other", tree.Regular
			s.Entries[f.Path] = e
		}
		p := planned(t, out, hosts)
		for _, h := range p.Hosts {
			switch {
			case h.Node != n.Name && len(h.Changes)+len(h.Drift) > 0:
				r.Fatalf("%s is to be changed too: %+v", h.Node, h.Changes)
			case h.Node != n.Name:
			case len(h.Changes) != 1 || len(h.Drift) != 1 || h.Changes[0].Path != f.Path || h.Drift[0].Path != f.Path:
				r.Fatalf("%s: %+v, drift %+v", f.Path, h.Changes, h.Drift)
			case (how == "mode" || how == "owner") && len(h.Units) > 0:
				r.Fatalf("%s: what it says is the same, and %+v is to be done", f.Path, h.Units)
			case how != "mode" && how != "owner" && len(h.Units) != len(f.Units()):
				r.Fatalf("%s is read by %v, and %+v is to be done", f.Path, f.Units(), h.Units)
			}
		}
	})
}

// A host that did not answer has no plan; nothing of it is taken for absent.
func TestUnknownHostsHaveNoPlan(t *testing.T) {
	out := rendered(t, asIs)
	hosts := applied(t, out)
	hosts["worker-1"] = Host{Err: errors.New("connection refused")}
	delete(hosts, "worker-2")
	hosts["worker-0"].State.Unknown = map[string]string{"/etc/hosts": "Permission denied"}
	p := planned(t, out, hosts)
	for _, h := range p.Hosts {
		if strings.HasPrefix(h.Node, "worker") != (h.Unknown != "") || len(h.Changes) > 0 {
			t.Errorf("%+v", h)
		}
	}
	if p.Empty() {
		t.Error("a plan with unknown hosts is not an empty one")
	}
}

// On bare hosts etcd starts together; later it restarts one by one, before the
// control plane, and workers come last.
func TestOrder(t *testing.T) {
	out := rendered(t, asIs)
	bare := map[string]Host{}
	for name, h := range applied(t, out) {
		s := *h.State
		s.Entries, s.Units, s.Confirmed, s.Packages, s.Users = nil, nil, nil, nil, nil
		bare[name] = Host{State: &s}
	}
	p := planned(t, out, bare)
	if len(p.Rollout) != 2 || p.ManifestsAfter != 1 {
		t.Fatalf("%+v", p.Rollout)
	}
	if b := p.Rollout[0]; len(b.Nodes) != 3 || b.Steps[0].Unit != etcdUnit || !b.Steps[0].First || b.Steps[1].Unit != apiserverUnit {
		t.Errorf("%+v", b)
	}
	if b := p.Rollout[1]; len(b.Nodes) != 3 || b.Steps[len(b.Steps)-1].Unit != "kube-proxy.service" || b.Drain {
		t.Errorf("%+v", b)
	}
	changed := rendered(t, func(s string) string {
		return strings.Replace(s, "  provider:", "  etcd: {clusterToken: other}\n  provider:", 1)
	})
	p = planned(t, changed, applied(t, out))
	if len(p.Rollout) != 3 {
		t.Fatalf("%+v", p.Rollout)
	}
	for _, b := range p.Rollout {
		if s := b.Steps[0]; len(b.Nodes) != 1 || s.Unit != etcdUnit || s.Do != Restart || s.Before == "" || s.First || !strings.Contains(s.Gate, "/health answers") {
			t.Errorf("%+v", b)
		}
	}
}

// Hosts on which nothing stands still go together and before those on which units
// restart: controllers, so that they know a new worker's name, and then workers.
func TestQuietHostsGoFirst(t *testing.T) {
	out := rendered(t, asIs)
	hosts := applied(t, out)
	for _, name := range []string{"controller-0", "controller-2", "worker-1", "worker-2"} {
		delete(hosts[name].State.Entries, "/etc/hosts")
	}
	for name, unit := range map[string]string{"controller-1": "kube-scheduler.service", "worker-0": kubeletUnit} {
		hosts[name].State.Units[unit] = UnitState{Active: "inactive", File: "enabled"}
	}
	p := planned(t, out, hosts)
	var order []string
	for _, b := range p.Rollout {
		order = append(order, strings.Join(b.Nodes, "+"))
	}
	if want := []string{"controller-0+controller-2", "controller-1", "worker-1+worker-2", "worker-0"}; !slices.Equal(order, want) || p.ManifestsAfter != 2 {
		t.Errorf("%q, and the manifests after %d", order, p.ManifestsAfter)
	}
}

// A file that is rendered no more is deleted; a host of another cluster is refused.
func TestRecords(t *testing.T) {
	with := rendered(t, func(s string) string {
		return strings.Replace(s, "  provider:", "  files: [{path: /etc/motd, content: hello}]\n  provider:", 1)
	})
	without := rendered(t, asIs)
	for _, h := range planned(t, without, applied(t, with)).Hosts {
		if len(h.Changes) != 1 || h.Changes[0].Do != Delete || h.Changes[0].Path != "/etc/motd" {
			t.Errorf("%+v", h.Changes)
		}
	}
	hosts := applied(t, without)
	hosts["worker-0"], hosts["worker-1"] = hosts["worker-1"], hosts["worker-0"]
	for _, h := range planned(t, without, hosts).Hosts {
		if mixed := h.Node == "worker-0" || h.Node == "worker-1"; mixed != strings.Contains(h.Unknown, "is the address right?") {
			t.Errorf("%s: %q", h.Node, h.Unknown)
		}
	}
}

// What stands in the way is said before anything is done.
func TestPreflight(t *testing.T) {
	out := rendered(t, asIs)
	for name, disturb := range map[string]func(*Facts){
		"root": func(f *Facts) { f.UID = 1000 }, "its init": func(f *Facts) { f.Init = "runit" }, "hostnamectl": func(f *Facts) { f.Hostname = "localhost" },
		"another processor": func(f *Facts) { f.Arch = "arm64" }, "swapoff": func(f *Facts) { f.Swaps = []string{"/dev/sda2"} },
		"MiB are free": func(f *Facts) { f.FreeBytes = 1 << 20 }, "files more": func(f *Facts) { f.FreeInodes = 3 }, "flock is missing": func(f *Facts) { f.Tools["flock"] = false },
		"swap comes back":      func(f *Facts) { f.SwapAtBoot = []string{"/dev/sda2"} },
		"names no name server": func(f *Facts) { f.Resolvers = 0 },
		"1h0m0s ahead":         func(f *Facts) { f.Skew = time.Hour }, "6m0s behind": func(f *Facts) { f.Skew = -6 * time.Minute },
	} {
		hosts := applied(t, out)
		disturb(&hosts["worker-0"].State.Facts)
		at := slices.IndexFunc(out.Nodes, func(n *tree.Node) bool { return n.Name == "worker-0" })
		problems := planned(t, out, hosts).Hosts[at].Problems
		if len(problems) != 1 || !strings.Contains(problems[0], name) {
			t.Errorf("%s: %q", name, problems)
		}
	}
}

// A clock is as wrong as it must be at least, whenever in the round trip it was read.
func TestSkew(t *testing.T) {
	began := time.Unix(1_000_000, 300_000_000)
	ended := began.Add(2 * time.Second)
	for clock, want := range map[int64]time.Duration{
		1_000_000: 0, 1_000_002: 0, 1_000_010: 7700 * time.Millisecond, 999_990: -9300 * time.Millisecond,
	} {
		if got := skew(time.Unix(clock, 0), began, ended); got != want {
			t.Errorf("at %d it is %v, not %v", clock, got, want)
		}
	}
	out := rendered(t, asIs)
	hosts := applied(t, out)
	hosts["worker-0"].State.Facts.Skew = -time.Minute
	if p := planned(t, out, hosts); len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "the clock of worker-0 is more than 30s behind") || len(p.Ready(false)) > 0 {
		t.Errorf("%q, %q", p.Warnings, p.Ready(false))
	}
}

// A link or a file where a directory shall be was put there by somebody who meant
// something by it: nothing is done through it.
func TestNothingIsDoneThroughLinks(t *testing.T) {
	out := rendered(t, asIs)
	for _, kind := range []tree.Kind{tree.Symlink, tree.Regular, ""} {
		hosts := applied(t, out)
		hosts["worker-0"].State.Entries["/etc/kubernetes"] = Observed{Kind: kind, Mode: 0o777, Owner: "root", Group: "root", Target: "/tmp/x"}
		if problems := planned(t, out, hosts).Host("worker-0").Problems; len(problems) != 1 || !strings.Contains(problems[0], "/etc/kubernetes is "+orOther(kind)+", and shall be dir: move it away") {
			t.Errorf("%q: %q", kind, problems)
		}
	}
}

// What others write into a file that they share with us is no drift; what they do
// to our part of it is.
func TestSharedFilesAreNoDrift(t *testing.T) {
	out := rendered(t, asIs)
	for more, drifts := range map[string]int{"192.0.2.1 other\n": 0, "": 1} {
		hosts := applied(t, out)
		s := hosts["worker-0"].State
		text := s.Contents["/etc/hosts"] + more
		if more == "" {
			text = strings.Replace(text, "10.240.0.10", "10.240.0.99", 1)
		}
		s.Contents["/etc/hosts"] = text
		e := s.Entries["/etc/hosts"]
		e.Digest, e.Size = tree.Digest([]byte(text)), int64(len(text))
		s.Entries["/etc/hosts"] = e
		p := planned(t, out, hosts)
		if h := p.Host("worker-0"); len(h.Drift) != drifts || len(h.Changes) != drifts || p.Empty() != (drifts == 0) {
			t.Errorf("with %q: drift %v, changes %v", more, h.Drift, h.Changes)
		}
	}
}

// Our block in a file of others' is replaced in its place, whatever is around it.
func TestBlocks(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		line := rapid.StringMatching(`[a-z0-9 .#]{0,20}\n`)
		before, after := strings.Join(rapid.SliceOf(line).Draw(r, "before"), ""), strings.Join(rapid.SliceOf(line).Draw(r, "after"), "")
		first := WithBlock(before, "one\n") + after
		second := WithBlock(first, "two\n")
		if second != strings.Replace(first, "\none\n", "\ntwo\n", 1) || WithBlock(second, "two\n") != second || WithBlock(second, "one\n") != first {
			r.Fatalf("%q became %q", first, second)
		}
	})
}
