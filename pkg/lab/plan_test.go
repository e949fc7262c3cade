package lab

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/schema"
)

// model compiles a file, or text of more than one line.
func model(t *testing.T, file string) *compile.Cluster {
	t.Helper()
	source := []byte(file)
	if !strings.Contains(file, "\n") {
		var err error
		if source, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	doc, faults := schema.Load("cluster.yaml", source)
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	c, faults := compile.Compile(doc, compile.Facts{})
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	return c
}

func changed(t *testing.T, file string, oldNew ...string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := strings.NewReplacer(oldNew...).Replace(string(text))
	if out == string(text) {
		t.Fatalf("%q is not in %s", oldNew, file)
	}
	return out
}

const example = "../../examples/lab.yaml"

// fleets are all shapes: with and without a balancer, its address inside and
// outside the machines' range, one and two address families.
func fleets(t *testing.T) map[string]*Fleet {
	t.Helper()
	out := map[string]*Fleet{}
	for name, file := range map[string]string{
		"lab": example, "server": "../../examples/lab-server.yaml", "tutorial": "../../examples/lab-tutorial.yaml",
		"outside":    changed(t, example, "address: 10.240.0.100", "address: 203.0.113.10"),
		"gateway":    changed(t, example, "address: 10.240.0.22\n", "address: 10.240.0.1\n"),
		"user":       changed(t, example, "  access:", "  ssh:\n    user: admin\n    port: 2222\n  access:"),
		"dual-stack": "../../golden/dual-stack/cluster.yaml",
	} {
		c := model(t, file)
		if c.GCP != nil {
			continue
		}
		f, err := NewFleet(c)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out[name] = f
	}
	return out
}

// Every address is of the model or free, and nobody has two; the balancer has
// every controller behind it, at the ports that the model says.
func TestFleetIsTheModel(t *testing.T) {
	for name, f := range fleets(t) {
		seen := map[netip.Addr]string{}
		take := func(a netip.Addr, who string) {
			if seen[a] != "" {
				t.Errorf("%s: %s and %s have %s", name, seen[a], who, a)
			}
			seen[a] = who
		}
		for _, g := range f.Gateway {
			take(g.Addr(), "the gateway")
		}
		for _, m := range f.Machines {
			for _, a := range m.Addresses {
				take(a.Addr(), m.Name)
				if !f.onBridge(a.Addr()) {
					t.Errorf("%s: %s has %s, and no gateway is in its range", name, m.Name, a)
				}
			}
		}
		if b := f.Balancer; b != nil {
			take(b.Address, "the balancer")
			for _, s := range b.Backends {
				if seen[s.Address.Addr()] != s.Name || s.Address.Port() != 6443 || s.Check != 80 {
					t.Errorf("%s: the balancer sends to %+v", name, s)
				}
			}
		}
		if (name == "server") != (f.Balancer == nil) {
			t.Errorf("%s: balancer %v", name, f.Balancer)
		}
	}
	if f := fleets(t)["lab"]; len(f.Balancer.Backends) != 3 || f.Gateway[0].String() != "10.240.0.1/24" || f.Balancer.Host != "kubernetes.default.svc.cluster.local" {
		t.Errorf("the lab is %+v", f)
	}
	if g := fleets(t)["gateway"].Gateway[0].String(); g != "10.240.0.2/24" {
		t.Errorf("the gateway took %s, which a machine has", g)
	}
}

// Clusters that are not for a lab are refused with what to do.
func TestFleetRefuses(t *testing.T) {
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[archHere]
	for name, file := range map[string]string{
		"cloud":   "../../examples/cluster.yaml",
		"arch":    changed(t, example, "    - name: worker-0\n", "    - name: worker-0\n      arch: "+other+"\n"),
		"by name": changed(t, example, "address: 10.240.0.100", "address: api.example.net"),
	} {
		_, err := NewFleet(model(t, file))
		var refused *Error
		if !errors.As(err, &refused) || refused.Reason != Refused || refused.Help == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// No two steps are the same, every step is of a kind that is known, the names of
// interfaces are as short as the kernel wants them.
func TestStepsAreWhole(t *testing.T) {
	kinds := (&Lab{}).engine().kinds
	for name, f := range fleets(t) {
		seen := map[[2]string]bool{}
		for _, s := range f.steps(site{image: "/image", cgroups: []string{"/sys/fs/cgroup/memory/x"}}) {
			if _, known := kinds[s.Kind]; !known || seen[s.key()] {
				t.Errorf("%s: %s is unknown or comes twice", name, s)
			}
			seen[s.key()] = true
			for _, line := range s.With {
				for _, word := range strings.Fields(line) {
					if strings.HasPrefix(word, "port") && len(word) > 15 {
						t.Errorf("%s: %q is too long for an interface", name, word)
					}
				}
			}
		}
	}
	if portName("a") == portName("b") {
		t.Error("two machines have one cable")
	}
}

// Machines reach a balancer outside their range without a way through the gateway.
func TestBalancerOutsideTheRange(t *testing.T) {
	f := fleets(t)["outside"]
	if line := "ip -n worker-0 route add 203.0.113.10/32 dev eth0"; !slices.Contains(f.wireLines(f.Machines[3]), line) {
		t.Errorf("%s is missing", line)
	}
	if line := "ip route add 203.0.113.10/32 dev kthwc0"; !slices.Contains(f.bridgeLines(), line) {
		t.Errorf("%s is missing", line)
	}
}

// haproxy takes the balancer's configuration.
func TestBalancerIsHAProxys(t *testing.T) {
	haproxy := readers.Path(t, "haproxy")
	for name, f := range fleets(t) {
		if f.Balancer == nil {
			continue
		}
		config := strings.Join(f.Balancer.config(), "\n") + "\n"
		file := filepath.Join(t.TempDir(), "haproxy.cfg")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(haproxy, "-c", "-f", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s%s", name, err, out, config)
		}
	}
}

// ssh reads its settings as they are meant: the pinned file and no other, the
// lab's key and no other.
func TestSSHReadsItsSettings(t *testing.T) {
	program := readers.Path(t, "ssh")
	f := fleets(t)["user"]
	file := filepath.Join(t.TempDir(), "config")
	l := &Lab{Options: Options{State: "/state"}}
	if err := os.WriteFile(file, []byte(l.sshConfig(f.accessLines())), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "-G", "-F", file, "worker-1").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"hostname 10.240.0.21", "user admin", "port 2222", "identityfile /state/id_ed25519", "identitiesonly yes",
		"userknownhostsfile /state/known_hosts", "globalknownhostsfile /state/known_hosts", "stricthostkeychecking true", "identityagent none",
	} {
		if !slices.Contains(strings.Split(string(out), "\n"), want) {
			t.Errorf("ssh does not have %q:\n%s", want, out)
		}
	}
}

// The scripts are ones that shellcheck has nothing against.
func TestScripts(t *testing.T) {
	shellcheck := readers.Path(t, "shellcheck")
	f := fleets(t)["dual-stack"]
	for name, script := range map[string]string{"holder": holder, "launcher": launcher, "settings": ownSettings, "rewire": f.rewire(f.Machines[0])} {
		cmd := exec.Command(shellcheck, "--shell=sh", "--severity=style", "-")
		cmd.Stdin = strings.NewReader("#!/bin/sh -eu\n" + script + "\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// A launcher enters every group, boots again after a reboot, with another network,
// and ends after a poweroff, with the machine's own code.
func TestLauncher(t *testing.T) {
	dir := t.TempDir()
	for _, group := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, group), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	machine := `echo boot >>"$0/boots"; [ "$(wc -l <"$0/boots")" -lt 5 ] && exit 133; exit 7`
	cmd := exec.Command("sh", "-euc", launcher, "launcher", `echo again >>`+dir+"/boots", dir+"/one", dir+"/two", "--", "sh", "-c", machine, dir)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 7 {
		t.Fatalf("%v %s", err, out)
	}
	if boots, _ := os.ReadFile(dir + "/boots"); string(boots) != "boot\nagain\nboot\nagain\nboot\n" {
		t.Errorf("the machine booted so: %q", boots)
	}
	for _, group := range []string{"one", "two"} {
		if text, _ := os.ReadFile(filepath.Join(dir, group, "cgroup.procs")); string(text) != "0\n" {
			t.Errorf("%s was not entered: %q", group, text)
		}
	}
}

// What Quote makes, a shell reads back.
func TestQuote(t *testing.T) {
	for _, word := range []string{"", "plain", "a b", "it's", `"$HOME"`, "a\nb", "*", "~", "é", "-n", "a;b"} {
		out, err := exec.Command("sh", "-c", "printf %s "+Quote(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q came back as %q: %v", word, out, err)
		}
	}
}
