package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/kthwc/kthwc/internal/sshtest"
	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/artifact"
	"github.com/kthwc/kthwc/schema"
)

// fleet is a cluster whose every host is this machine, by servers in this
// process. Only what changes nothing may be run on it.
type fleet struct {
	t      *testing.T
	dir    string
	config string
	env    map[string]string
}

func newFleet(t *testing.T, refuse ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: t.TempDir()}
	f.env = map[string]string{"HOME": f.dir, "XDG_CACHE_HOME": filepath.Join(f.dir, "cache")}
	example, err := os.ReadFile("../../examples/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f.write("cluster.yaml", string(example))
	accept := f.key()
	var config strings.Builder
	known := ""
	for _, address := range []string{"10.240.0.10", "10.240.0.11", "10.240.0.12", "10.240.0.20", "10.240.0.21", "10.240.0.22"} {
		server := (&sshtest.Server{Accept: []ssh.PublicKey{accept}}).Start(t)
		host, port, err := net.SplitHostPort(server.Addr)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range refuse {
			if r == address {
				port = "1" // nobody listens there
			}
		}
		fmt.Fprintf(&config, "Host %s\n  HostName %s\n  Port %s\n  IdentityFile %s\n  IdentityAgent none\n  UserKnownHostsFile %s\n", address, host, port, filepath.Join(f.dir, "id"), filepath.Join(f.dir, "known_hosts"))
		known += fmt.Sprintf("[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(server.HostKey.PublicKey()))
	}
	f.write("known_hosts", known)
	f.config = f.write("ssh_config", config.String())
	f.lock()
	return f
}

func (f *fleet) write(name, text string) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// key makes the operator's key, and gives its public half.
func (f *fleet) key() ssh.PublicKey {
	f.t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("id", string(pem.EncodeToMemory(block)))
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		f.t.Fatal(err)
	}
	return signer.PublicKey()
}

// lock pins everything that the cluster runs, to bytes that nobody has.
func (f *fleet) lock() {
	f.t.Helper()
	s := &session{stdio: stdio{nil, &bytes.Buffer{}, &bytes.Buffer{}}, file: filepath.Join(f.dir, "cluster.yaml"), getenv: f.getenv, color: "never"}
	b, err := s.build()
	if err != nil {
		f.t.Fatal(err)
	}
	needs, err := artifact.Wanted(b.tree)
	if err != nil {
		f.t.Fatal(err)
	}
	lock := &artifact.Lock{APIVersion: "kthwc.dev/v1alpha1", Kind: "ArtifactLock", Cluster: "lab", Schema: schema.Revision()}
	for i, n := range needs {
		lock.Artifacts = append(lock.Artifacts, artifact.Entry{Need: n, URL: "dir:" + fmt.Sprint(i), SHA256: fmt.Sprintf("%064x", i), Size: 1})
	}
	if err := artifact.WriteLock(filepath.Join(f.dir, "lab.kthwc", artifact.LockName), lock); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) getenv(name string) string { return f.env[name] }

// kthwc runs a verb on the fleet.
func (f *fleet) kthwc(args ...string) (code int, out, said string) {
	f.t.Helper()
	var o, e bytes.Buffer
	args = append(args, "-f", filepath.Join(f.dir, "cluster.yaml"), "--ssh-config", f.config, "--color", "never")
	code = run(f.t.Context(), args, stdio{strings.NewReader("yes\n"), &o, &e}, f.getenv)
	return code, o.String(), e.String()
}

// A host that is not what cluster.yaml says, or does not answer, stops an apply
// before anything is done; plan says all of it.
func TestWhatStandsInTheWay(t *testing.T) {
	f := newFleet(t, "10.240.0.21")
	for verb, args := range map[string][]string{"plan": {"plan"}, "apply": {"apply", "--auto-approve"}} {
		code, out, said := f.kthwc(args...)
		if code != exitRefused {
			t.Errorf("%s ends with %d:\n%s%s", verb, code, out, said)
		}
		for _, want := range []string{
			"controller-0: it is called ", "hostnamectl set-hostname controller-0", // this machine's name is another
			"worker-1: worker-1 (root@127.0.0.1:1): the connection was refused", // nobody listens there
			"certificates or keys are not issued (kthwc pki issue)",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("%s does not say %q:\n%s", verb, want, out)
			}
		}
	}
	if _, err := os.Stat("/var/lib/kthwc/gen"); err == nil {
		t.Error("something was written to this machine")
	}
}

// A plan is data: JSON that reads back, narrowed by --on, saved for later, and
// stale when it is not what would be done now.
func TestPlanIsData(t *testing.T) {
	f := newFleet(t)
	file := filepath.Join(f.dir, "change.plan")
	code, out, said := f.kthwc("plan", "--format", "json", "--on", "worker", "-o", file)
	var p apply.Plan
	if err := json.Unmarshal([]byte(out), &p); err != nil || code != exitRefused {
		t.Fatalf("%d %v\n%s%s", code, err, out, said)
	}
	if len(p.Hosts) != 3 || p.Hosts[0].Node != "worker-0" || p.Kind != "Plan" {
		t.Errorf("%+v", p.Hosts)
	}
	for _, c := range p.Hosts[0].Changes {
		if c.Secret && (c.Before != "" || c.After != "") {
			t.Errorf("the digest of a secret is in the plan: %+v", c)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	f.write("cluster.yaml", strings.Replace(f.read("cluster.yaml"), "10.32.0.0/24", "10.33.0.0/24", 1))
	f.write("cluster.yaml", strings.Replace(f.read("cluster.yaml"), "10.32.0.10", "10.33.0.10", 1))
	code, _, said = f.kthwc("apply", "--on", "worker", "--auto-approve", file)
	if code != exitFailure || !strings.Contains(said, "plan again") {
		t.Errorf("a stale plan ends with %d: %s", code, said)
	}
	f.write("no.plan", "{}")
	if code, _, said = f.kthwc("apply", filepath.Join(f.dir, "no.plan")); code != exitInvalid || !strings.Contains(said, "is no plan") {
		t.Errorf("%d %s", code, said)
	}
}

func (f *fleet) read(name string) string {
	f.t.Helper()
	text, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text)
}

// What was rendered and reviewed is what is brought, and nothing else: a directory
// that was edited, or is of another cluster.yaml, is refused.
func TestExactlyWhatWasReviewed(t *testing.T) {
	f := newFleet(t)
	dir := filepath.Join(f.dir, "rendered")
	var e bytes.Buffer
	if code := run(t.Context(), []string{"render", "-f", filepath.Join(f.dir, "cluster.yaml"), "-o", dir}, stdio{nil, &bytes.Buffer{}, &e}, f.getenv); code != 0 {
		t.Fatal(e.String())
	}
	same := func(args ...string) apply.Plan {
		_, out, said := f.kthwc(append([]string{"plan", "--format", "json"}, args...)...)
		var p apply.Plan
		if err := json.Unmarshal([]byte(out), &p); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		return p
	}
	p, q := same(), same("--from", dir)
	if p.Tree != q.Tree || p.Tree == "" {
		t.Errorf("%s and %s", p.Tree, q.Tree)
	}
	unit := "rendered/nodes/worker-0/etc/systemd/system/kubelet.service"
	text := f.read(unit)
	f.write(unit, text+"# mine\n")
	if code, _, said := f.kthwc("plan", "--from", dir); code != exitFailure || !strings.Contains(said, "was edited by hand: nodes/worker-0/etc/systemd/system/kubelet.service") {
		t.Errorf("%d %s", code, said)
	}
	f.write(unit, text)
	f.write("cluster.yaml", f.read("cluster.yaml")+"# changed\n")
	if code, _, said := f.kthwc("plan", "--from", dir); code != exitFailure || !strings.Contains(said, "was rendered from another cluster.yaml") {
		t.Errorf("%d %s", code, said)
	}
}

// What is asked for wrongly is said in a sentence, with what to do.
func TestHostVerbsRefuse(t *testing.T) {
	f := newFleet(t)
	for _, row := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"plan", "--on", "worker-9"}, exitUsage, "--on worker-9 names no node and no role"},
		{[]string{"rollback", "x"}, exitUsage, "x is no transaction"},
		{[]string{"rollback", "7", "--auto-approve"}, exitFailure, "no host has that transaction as its last"},
		{[]string{"reset"}, exitFailure, "there is no terminal to ask on"},
		{[]string{"unlock"}, 0, "nobody holds a host"},
		{[]string{"plan", "--lab", "--ssh-config", "x"}, exitUsage, "lab ssh-config"},
		{[]string{"diff", "--live", "a", "b"}, exitUsage, "a"},
	} {
		code, out, said := f.kthwc(row.args...)
		if code != row.code || !strings.Contains(said, row.want) {
			t.Errorf("%v ends with %d:\n%s%s", row.args, code, out, said)
		}
	}
	if err := os.Remove(filepath.Join(f.dir, "lab.kthwc", artifact.LockName)); err != nil {
		t.Fatal(err)
	}
	if code, _, said := f.kthwc("plan"); code != exitFailure || !strings.Contains(said, "kthwc artifacts lock writes it") {
		t.Errorf("without a lock plan ends with %d: %s", code, said)
	}
}

// What hosts say of material is not passed on.
func TestRedacted(t *testing.T) {
	for said, want := range map[string]string{
		"x\n-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----\ny": "x\n[redacted]\ny",
		"-----BEGIN PRIVATE KEY-----\ncut off":                                    "[redacted]",
		"client-key-data: LS0tLS1CRUdJTiBQUklWQVRF":                               "[redacted]",
		"kubelet.service: exit status 1":                                          "kubelet.service: exit status 1",
	} {
		if got := redacted(said); got != want {
			t.Errorf("%q became %q", said, got)
		}
	}
}
