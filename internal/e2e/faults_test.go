package e2e

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"
)

// A fault breaks one layer of a running cluster.
type fault struct {
	name, layer  string
	sees         string // part of the name of an assertion about the living cluster, not about its files, that fails in the layer
	inject, undo []act  // no undo: kthwc apply mends it
}

// act is a shell's program on a machine.
type act struct{ node, does string }

// restartKubelet waits until the kubelet answers again.
const restartKubelet = `systemctl restart kubelet; for i in $(seq 60); do if ss -ltn | grep -q ':10250 '; then break; fi; sleep 0.5; done; ss -ltn | grep -q ':10250 '`

// keeping copies a file away before its content is changed; bringing has it back
// with the owner and mode that it has.
func keeping(file string) string {
	return fmt.Sprintf("mkdir -p /root/fault; cp -a %s /root/fault/; ", file)
}

func bringing(file string) string {
	return fmt.Sprintf("cat /root/fault/%s >%s; ", path.Base(file), file)
}

const (
	kubeletConfig = "/var/lib/kubelet/config.yaml"
	clientCA      = "/etc/kubernetes/pki/kubernetes-client-ca.crt"
	etcdCert      = "/etc/etcd/pki/server.crt"
	etcdKey       = "/etc/etcd/pki/server.key"
	bridgeConf    = "/etc/cni/net.d/10-bridge.conflist"
	etcdctl       = "ETCDCTL_API=3 etcdctl --cacert=/etc/etcd/pki/ca.crt --cert=/etc/etcd/pki/healthcheck-client.crt --key=/etc/etcd/pki/healthcheck-client.key "
)

// injected are faults of components, which need no pod to be seen.
var injected = []fault{
	{name: "a firewall drops a port", layer: "tcp", sees: "kube-apiserver to kubelet of worker-1",
		inject: []act{{"worker-1", `nft add table inet fault; nft 'add chain inet fault in { type filter hook input priority -10; }'; nft add rule inet fault in tcp dport 10250 drop`}},
		undo:   []act{{"worker-1", "nft delete table inet fault"}}},
	{name: "etcd shows a client's certificate", layer: "tls", sees: "kube-apiserver to etcd of controller-2",
		inject: []act{{"controller-2", keeping(etcdCert) + keeping(etcdKey) + "cd /etc/etcd/pki; cat healthcheck-client.crt >server.crt; cat healthcheck-client.key >server.key"}},
		undo:   []act{{"controller-2", bringing(etcdCert) + bringing(etcdKey)}}},
	{name: "a kubelet trusts another authority", layer: "authn", sees: "kube-apiserver to kubelet of worker-2",
		inject: []act{{"worker-2", keeping(clientCA) + "cat /var/lib/kubelet/pki/kubelet-serving.crt >" + clientCA + "; " + restartKubelet}},
		undo:   []act{{"worker-2", bringing(clientCA) + restartKubelet}}},
	// Kubelets remember for minutes who may ask them.
	{name: "the API servers' binding is gone", layer: "authz", sees: "kube-apiserver to kubelet of worker-1",
		inject: []act{{"controller-0", etcdctl + "del /registry/clusterrolebindings/system:kube-apiserver-to-kubelet; sleep 2"}, {"worker-1", restartKubelet}}},
	{name: "a member of etcd is stopped", layer: "etcd", sees: "etcd health",
		inject: []act{{"controller-1", "systemctl stop etcd"}}, undo: []act{{"controller-1", "systemctl start etcd"}}},
	{name: "a scheduler is stopped", layer: "controlplane", sees: "kube-scheduler health",
		inject: []act{{"controller-0", "systemctl stop kube-scheduler"}}, undo: []act{{"controller-0", "systemctl start kube-scheduler"}}},
	{name: "a kubelet is stopped", layer: "kubelet", sees: "kubelet health",
		inject: []act{{"worker-0", "systemctl stop kubelet"}}, undo: []act{{"worker-0", "systemctl start kubelet"}}},
}

// injectedForPods are seen by what runs in pods.
var injectedForPods = []fault{
	{name: "pods are told another DNS", layer: "dns", sees: "resolv.conf of a pod",
		inject: []act{{"worker-0", keeping(kubeletConfig) + `sed -i 's/10\.32\.0\.10/10.32.0.53/' ` + kubeletConfig + "; " + restartKubelet}},
		undo:   []act{{"worker-0", bringing(kubeletConfig) + restartKubelet}}},
	{name: "a CNI configuration is broken", layer: "cni", sees: "range of pods",
		inject: []act{{"worker-1", keeping(bridgeConf) + "echo '{' >" + bridgeConf + "; sleep 2"}}, undo: []act{{"worker-1", bringing(bridgeConf)}}},
	{name: "a route to pods is deleted", layer: "route", sees: "pod to pod of worker-0",
		inject: []act{{"worker-2", "ip route delete 10.200.0.0/24"}}, undo: []act{{"worker-2", "systemctl restart kthwc-pod-routes"}}},
	{name: "kube-proxy and its rules are gone", layer: "service", sees: "Service from a pod",
		inject: []act{{"worker-0", "systemctl stop kube-proxy; nft delete table ip kube-proxy"}}, undo: []act{{"worker-0", "systemctl start kube-proxy"}}},
}

// verification is what a report says, as other programs read it.
type verification struct {
	OK          bool
	FirstBroken *assertion
	Results     []assertion
	Leftovers   []string
}

type assertion struct{ Layer, Name, Node, Status, Expected, Actual, Cause, Help string }

func (v *verification) failures() string {
	var out []string
	for _, a := range v.Results {
		if a.Status == "failed" {
			out = append(out, fmt.Sprintf("%s: %s: %s: expected %s, actual %s (%s)", a.Layer, a.Node, a.Name, a.Expected, a.Actual, a.Cause))
		}
	}
	return strings.Join(append(out, v.Leftovers...), "\n")
}

// verification compares the cluster with what is predicted; the exit code must
// fit what is found.
func (o *operator) verification(t *testing.T, more ...string) *verification {
	t.Helper()
	a := o.try(t, append([]string{"verify", "--lab", "--format", "json", "--image-archive", toolboxImage(), "--timeout", "25s"}, more...)...)
	v := &verification{}
	a.parse(t, v)
	if v.OK {
		a.is(t, done)
	} else {
		a.is(t, refused)
	}
	return v
}

// broken tells that each fault is found in its layer, by what lives and not by files
// alone, and is named as what is broken first, with its likely cause and what to do.
func broken(faults []fault, flags ...string) func(*testing.T, *operator) {
	return func(t *testing.T, o *operator) {
		for _, f := range faults {
			t.Run(f.layer, func(t *testing.T) {
				defer o.undo(t, f)
				o.acts(t, f.inject)
				f.judge(t, o.verification(t, flags...))
			})
		}
	}
}

// mended: when all faults were undone, everything holds.
func mended(t *testing.T, o *operator) {
	if v := o.verification(t, "--timeout", "90s"); !v.OK {
		t.Error(v.failures())
	}
	if left := o.kubectl(t, "get", "namespaces", "-l", "kthwc.dev/verify", "-o", "name"); left != "" {
		t.Errorf("verify left %s", left)
	}
}

func (o *operator) acts(t *testing.T, list []act) {
	t.Helper()
	for _, a := range list {
		o.on(t, a.node, a.does)
	}
}

func (f fault) judge(t *testing.T, v *verification) {
	t.Helper()
	switch first := v.FirstBroken; {
	case first == nil:
		t.Errorf("%s: nothing was found", f.name)
	case first.Layer != f.layer || first.Cause == "" || first.Help == "":
		t.Errorf("%s: broken first is %+v", f.name, *first)
	}
	seen := slices.ContainsFunc(v.Results, func(a assertion) bool {
		return a.Status == "failed" && a.Layer == f.layer && strings.Contains(a.Name, f.sees)
	})
	if !seen {
		t.Errorf("%s: no failure of %s is called %q", f.name, f.layer, f.sees)
	}
	if len(v.Leftovers) > 0 {
		t.Errorf("%s: verify left %v", f.name, v.Leftovers)
	}
	if t.Failed() {
		t.Logf("all that failed:\n%s", v.failures())
	}
}

// undo takes a fault away and waits until everything holds again.
func (o *operator) undo(t *testing.T, f fault) {
	t.Helper()
	if f.undo == nil {
		o.apply(t, done)
	}
	o.acts(t, f.undo)
	eventually(t, 2*time.Minute, func() error {
		if v := o.verification(t, "--skip-smoke"); !v.OK {
			return fmt.Errorf("%s was undone, and this is left:\n%s", f.name, v.failures())
		}
		return nil
	})
}
