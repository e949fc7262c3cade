package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/pkg/verify"
)

// A labFault breaks one layer of a running cluster of examples/lab.yaml.
type labFault struct {
	name   string
	layer  verify.Layer
	sees   string // part of the name of an assertion about the living cluster, not about its files, that fails in the layer
	node   string
	inject string // for sh on the node
	undo   string // likewise; "" where kthwc apply mends it
	smoke  bool   // only workloads show it
}

// restartKubelet waits until the kubelet answers again.
const restartKubelet = `systemctl restart kubelet; for i in $(seq 60); do ss -ltn | grep -q ':10250 ' && break; sleep 0.5; done`

// keep and bring back a file whose content is changed; owner and mode stay.
const (
	keep  = `mkdir -p /root/fault; cp -a %s /root/fault/; `
	bring = `cat /root/fault/%s >%s; rm -r /root/fault; `
)

func keeping(path string) string { return fmt.Sprintf(keep, path) }

func bringing(path string) string { return fmt.Sprintf(bring, filepath.Base(path), path) }

const (
	kubeletConfig = "/var/lib/kubelet/config.yaml"
	clientCA      = "/etc/kubernetes/pki/kubernetes-client-ca.crt"
	etcdCert      = "/etc/etcd/pki/server.crt"
	etcdKey       = "/etc/etcd/pki/server.key"
	bridgeConf    = "/etc/cni/net.d/10-bridge.conflist"
	ctl           = `ETCDCTL_API=3 etcdctl --cacert=/etc/etcd/pki/ca.crt --cert=/etc/etcd/pki/healthcheck-client.crt --key=/etc/etcd/pki/healthcheck-client.key `
)

var labFaults = []labFault{
	{name: "pods are told another DNS", layer: verify.LayerDNS, sees: "resolv.conf of a pod", node: "worker-0", smoke: true,
		inject: keeping(kubeletConfig) + `sed -i 's/10\.32\.0\.10/10.32.0.53/' ` + kubeletConfig + `; ` + restartKubelet,
		undo:   bringing(kubeletConfig) + restartKubelet},
	{name: "a firewall drops a port", layer: verify.LayerTCP, sees: "kube-apiserver to kubelet of worker-1", node: "worker-1",
		inject: `nft 'table inet fault { chain in { type filter hook input priority -10; tcp dport 10250 drop; } }'`,
		undo:   `nft delete table inet fault`},
	{name: "etcd has a client's certificate", layer: verify.LayerTLS, sees: "kube-apiserver to etcd of controller-2", node: "controller-2",
		inject: keeping(etcdCert) + keeping(etcdKey) + `cd /etc/etcd/pki; cat healthcheck-client.crt >server.crt; cat healthcheck-client.key >server.key`,
		undo:   `cd /etc/etcd/pki; cat /root/fault/server.crt >server.crt; cat /root/fault/server.key >server.key; rm -r /root/fault`},
	{name: "a kubelet's client CA is another one", layer: verify.LayerAuthn, sees: "kube-apiserver to kubelet of worker-2", node: "worker-2",
		inject: keeping(clientCA) + `cat /var/lib/kubelet/pki/kubelet-serving.crt >` + clientCA + `; ` + restartKubelet,
		undo:   bringing(clientCA) + restartKubelet},
	{name: "the API servers' binding is gone", layer: verify.LayerAuthz, sees: "kube-apiserver to kubelet", node: "controller-0",
		inject: ctl + `del /registry/clusterrolebindings/system:kube-apiserver-to-kubelet; sleep 3`},
	{name: "a member of etcd is stopped", layer: verify.LayerEtcd, sees: "etcd health", node: "controller-1",
		inject: `systemctl stop etcd`, undo: `systemctl start etcd`},
	{name: "no scheduler on a controller", layer: verify.LayerControl, sees: "kube-scheduler health", node: "controller-0",
		inject: `systemctl stop kube-scheduler`, undo: `systemctl start kube-scheduler`},
	{name: "a kubelet is stopped", layer: verify.LayerKubelet, sees: "kubelet health", node: "worker-0",
		inject: `systemctl stop kubelet`, undo: `systemctl start kubelet`},
	{name: "the CNI configuration is broken", layer: verify.LayerCNI, sees: "range of pods", node: "worker-1", smoke: true,
		inject: keeping(bridgeConf) + `echo '{' >` + bridgeConf + `; sleep 2`, undo: bringing(bridgeConf) + `sleep 2`},
	{name: "a route to pods is deleted", layer: verify.LayerRoute, sees: "pod to pod of worker-0", node: "worker-2", smoke: true,
		inject: `ip route delete 10.200.0.0/24`, undo: `systemctl restart kthwc-pod-routes`},
	{name: "kube-proxy and its rules are gone", layer: verify.LayerService, sees: "Service from a pod", node: "worker-0", smoke: true,
		inject: `systemctl stop kube-proxy; nft delete table ip kube-proxy`, undo: `systemctl start kube-proxy; sleep 3`},
}

// On a running cluster everything holds, also with one API server stopped; a
// fault in each layer is found there, and named as the first that is broken;
// and nothing of a run stays in the cluster. KTHWC_LAB_DIR is a directory whose
// lab runs already.
func TestVerifyNamesTheBrokenLayer(t *testing.T) {
	l := runningLab(t)
	if r := l.verify(); !r.OK {
		t.Fatalf("the cluster is not as it shall be:\n%s", r.failures())
	}
	for _, f := range labFaults {
		t.Run(f.name, func(t *testing.T) { (&labRun{t: t, dir: l.dir}).fault(f) })
	}
	if r := l.verify("--disruptive"); !r.OK {
		t.Errorf("after all faults were undone:\n%s", r.failures())
	}
}

// runningLab is a lab of examples/lab.yaml with the cluster on it.
func runningLab(t *testing.T) *labRun {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the lab makes namespaces and mounts, which only root may: run the tests as root to run this one")
	}
	if dir := os.Getenv("KTHWC_LAB_DIR"); dir != "" {
		return &labRun{t: t, dir: dir}
	}
	for _, program := range labPrograms {
		readers.Path(t, program)
	}
	from := builtArtifacts(t)
	l := &labRun{t: t, dir: t.TempDir()}
	example, err := os.ReadFile("../../examples/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "cluster.yaml"), example, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("kthwc", "lab", "down", "-f", filepath.Join(l.dir, "cluster.yaml")).Run() })
	l.first()
	l.run("artifacts", "lock", "--from", from)
	l.run("artifacts", "fetch", "--from", from)
	l.run("pki", "issue")
	l.run("apply", "--lab", "--auto-approve")
	return l
}

// builtArtifacts is what `make lab-artifacts` builds.
func builtArtifacts(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../build/artifacts")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "dl.k8s.io")); err != nil {
		readers.Missing(t, "there is no Kubernetes in "+dir+": `make lab-artifacts` builds it")
	}
	return dir
}

// verified is a report as its readers see it.
type verified struct {
	OK          bool
	FirstBroken *verify.Result
	Results     []verify.Result
	Leftovers   []string
}

func (r *verified) failures() string {
	var out []string
	for _, x := range r.Results {
		if x.Status == verify.Failed {
			out = append(out, fmt.Sprintf("%s: %s: %s: expected %s, actual %s (%s)", x.Layer, x.Node, x.Name, x.Expected, x.Actual, x.Cause))
		}
	}
	return strings.Join(append(out, r.Leftovers...), "\n")
}

// verify runs the verb and reads its report; the exit code must fit it.
func (l *labRun) verify(args ...string) *verified {
	l.t.Helper()
	archive := filepath.Join(builtArtifacts(l.t), "kthwc.dev/lab/toolbox/1-linux-amd64.tar")
	cmd := l.command(l.t.Context(), append([]string{"verify", "--lab", "--format", "json", "--image-archive", archive, "--timeout", "40s"}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		l.t.Fatal(err)
	}
	r := &verified{}
	if err := json.Unmarshal(out, r); err != nil {
		l.t.Fatalf("kthwc verify: %v\n%s%s", err, out, said.String())
	}
	if want := map[bool]int{true: 0, false: exitRefused}[r.OK]; cmd.ProcessState.ExitCode() != want {
		l.t.Fatalf("kthwc verify ended with %d; ok is %v\n%s", cmd.ProcessState.ExitCode(), r.OK, said.String())
	}
	return r
}

// fault injects a fault, looks whether it is named, and undoes it.
func (l *labRun) fault(f labFault) {
	l.t.Helper()
	defer l.undo(f)
	l.on(f.node, f.inject)
	args := []string{"--skip-smoke"}
	if f.smoke {
		args = nil
	}
	r := l.verify(args...)
	if r.FirstBroken == nil {
		l.t.Fatal("nothing was found")
	}
	first := r.FirstBroken
	if first.Layer != f.layer || first.Cause == "" || first.Help == "" {
		l.t.Errorf("broken first is %s: %s: %s (%s; %s)", first.Layer, first.Node, first.Name, first.Cause, first.Help)
	}
	seen := slices.ContainsFunc(r.Results, func(x verify.Result) bool {
		return x.Status == verify.Failed && x.Layer == f.layer && strings.Contains(x.Name, f.sees)
	})
	if !seen {
		l.t.Errorf("no failure of %s is called %q", f.layer, f.sees)
	}
	if len(r.Leftovers) > 0 {
		l.t.Errorf("left behind: %v", r.Leftovers)
	}
	if l.t.Failed() {
		l.t.Logf("all failures:\n%s", r.failures())
	}
}

// on runs a script on a machine.
func (l *labRun) on(node, script string) {
	l.t.Helper()
	l.run("lab", "exec", node, "--", "sh", "-c", "set -e; "+script)
}

// undo takes the fault away and waits until everything holds again: systems
// take a moment to settle.
func (l *labRun) undo(f labFault) {
	l.t.Helper()
	if f.undo == "" {
		l.run("apply", "--lab", "--auto-approve")
	} else {
		l.on(f.node, f.undo)
	}
	var last *verified
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Second) {
		if last = l.verify("--skip-smoke"); last.OK {
			return
		}
	}
	l.t.Fatalf("it did not recover:\n%s", last.failures())
}
