package verify

import (
	"slices"
	"testing"
	"time"

	"github.com/kthwc/kthwc/pkg/apply"
	"github.com/kthwc/kthwc/pkg/kube"
	"github.com/kthwc/kthwc/pkg/tree"
)

// A path that is changed is filed under the layer that it breaks.
func TestPathsHaveLayers(t *testing.T) {
	rows := []struct {
		example, node string
		layers        map[string]Layer
	}{
		{"lab.yaml", "worker-0", map[string]Layer{
			"/etc/hosts": LayerDNS, "/etc/cni/net.d/10-bridge.conflist": LayerCNI, "/etc/kubernetes/pki/kubernetes-client-ca.crt": LayerAuthn, "/etc/kubernetes/kubelet.conf": LayerAuthn,
			"/var/lib/kubelet/pki/kubelet-serving.crt": LayerTLS, "/var/lib/kubelet/pki/kubelet-serving.key": LayerTLS, "/var/lib/kubelet/config.yaml": LayerKubelet,
			"/etc/systemd/system/kube-proxy.service": LayerService, "/etc/kubernetes/pod-routes": LayerRoute, "/etc/kubernetes/kthwc-api-proxy.cfg": LayerTCP, "/etc/sysctl.d/90-kthwc.conf": LayerHost,
			"/etc/containerd/config.toml": LayerKubelet,
		}},
		{"lab.yaml", "controller-0", map[string]Layer{
			"/etc/etcd/pki/ca.crt": LayerAuthn, "/etc/kubernetes/pki/etcd-ca.crt": LayerAuthn, "/etc/kubernetes/pki/apiserver-serving-ca.crt": LayerTLS, "/etc/systemd/system/etcd.service": LayerEtcd,
			"/etc/kubernetes/encryption-config.yaml": LayerControl, "/etc/kubernetes/pki/apiserver.crt": LayerTLS,
		}},
		{"lab-tutorial.yaml", "worker-0", map[string]Layer{"/var/lib/kubernetes/ca.pem": LayerAuthn, "/var/lib/kubelet/worker-0.pem": LayerTLS, "/etc/cni/net.d/10-bridge.conf": LayerCNI}},
	}
	for _, row := range rows {
		c, rendered := built(t, row.example)
		p := &probe{run: &run{Subject: &Subject{Cluster: c, Fleet: &apply.Fleet{Wanted: &apply.Wanted{Tree: rendered}}}}}
		n := rendered.Node(row.node)
		for path, want := range row.layers {
			f := n.File(path)
			if f == nil {
				t.Errorf("%s: %s is not rendered", row.node, path)
				continue
			}
			if got := p.fileLayer(n, f); got != want {
				t.Errorf("%s: %s is of layer %s, not %s", row.example, path, got, want)
			}
		}
	}
}

// Every unit that is rendered has a layer of its own, but for those of people.
func TestUnitsHaveLayers(t *testing.T) {
	for _, example := range []string{"lab.yaml", "lab-tutorial.yaml", "lab-server.yaml"} {
		_, rendered := built(t, example)
		for _, n := range rendered.Nodes {
			for _, u := range n.Units {
				if unitLayer(u.Name) == LayerHost {
					t.Errorf("%s has no layer", u.Name)
				}
			}
		}
	}
}

func TestRoutesAreRead(t *testing.T) {
	table := "default via 10.240.0.1 dev eth0\n10.200.1.0/24 via 10.240.0.21 dev eth0 \n10.200.2.0/24 via 10.240.0.99 dev eth0\n10.240.0.0/24 dev eth0 proto kernel scope link src 10.240.0.20\n"
	w := newWorld(t, "lab.yaml")
	for name, m := range w.machines {
		if name != "worker-0" {
			delete(w.run.states, name)
		}
		m.says[routeScript] = table
	}
	w.check("routes")
	w.run.report.settle()
	if got := failures(w.run.report); got != "route: worker-0: route to the pods of worker-2: expected 10.200.2.0/24 via 10.240.0.22, actual 10.200.2.0/24 via 10.240.0.99 (the route was deleted or changed)" {
		t.Error(got)
	}
	if len(w.run.report.Results) != 2 {
		t.Errorf("%+v", w.run.report.Results)
	}
}

func TestSubnetsAreReadFromBothForms(t *testing.T) {
	for _, example := range []string{"lab.yaml", "lab-tutorial.yaml"} {
		c, rendered := built(t, example)
		r := &run{Subject: &Subject{Cluster: c}}
		for _, n := range r.workers() {
			f := rendered.Node(n.Name.V).File(c.Path("cni-bridge", n))
			if got, err := subnets(f.Body.Bytes()); err != nil || got != prefixes(n.PodCIDRs) {
				t.Errorf("%s: %s, %v", n.Name.V, got, err)
			}
		}
	}
	if _, err := subnets([]byte("{")); err == nil {
		t.Error("what is no JSON was read")
	}
}

// Programs print their versions in many ways.
func TestVersionsAreFoundInWhatProgramsPrint(t *testing.T) {
	rows := map[string]bool{
		"Kubernetes v1.37.2": true, "etcd Version: 1.37.2 Git SHA: x Go": true, "containerd github.com/containerd/containerd/v2 v1.37.2 abc": true,
		"CNI bridge plugin 1.37.2 CNI protocol": true, "runc version 1.37.2 commit": true, "Client Version: v1.37.2 Kustomize": true, `{"v":"1.37.2"}`: true,
		"Kubernetes v1.37.21": false, "Kubernetes v11.37.2": false, "Kubernetes v1.37.2-alpha": false, "": false, "sh: not found": false,
	}
	for printed, want := range rows {
		p := &probe{run: &run{Subject: &Subject{Now: zero}, progress: func(Event) {}, report: &Report{}}}
		p.version("w0", tree.Binary{Name: "x", Version: "1.37.2"}, printed)
		if got := p.report.Results[0].Status == OK; got != want {
			t.Errorf("%q: %v", printed, got)
		}
	}
}

// The words of kubelets and of API servers say which layer is broken.
func TestWordsHaveLayers(t *testing.T) {
	for why, want := range map[string]Layer{
		"KubeletNotReady: container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized": LayerCNI,
		"NodeStatusUnknown: Kubelet stopped posting node status.": LayerKubelet, "KubeletNotReady: container runtime is down": LayerKubelet, "something new": LayerKubelet,
	} {
		if got := notReady(why); got.layer != want || got.cause == "" || got.help == "" {
			t.Errorf("%s: %+v", why, got)
		}
	}
	for why, want := range map[string]Layer{
		`FailedCreatePodSandBox: Failed to create pod sandbox: plugin type="bridge" failed (add): unable to allocate IP, cni`: LayerCNI,
		"Failed: Error: ImagePullBackOff":                                        LayerWorkload,
		"FailedScheduling: 0/3 nodes are available: 3 Insufficient cpu":          LayerKubelet,
		"no pod was made: the controller manager does nothing about it":          LayerControl,
		"Pending: its kubelet does nothing about it":                             LayerKubelet,
		"FailedCreatePodSandBox: can't get final child's PID from pipe: sandbox": LayerKubelet,
	} {
		if got := podFault(why); got.layer != want || got.help == "" {
			t.Errorf("%s: %+v", why, got)
		}
	}
	if got := failedChecks("[+]ping ok\n[-]etcd failed: reason withheld\n[-]etcd-readiness failed\n[+]x ok\n"); !slices.Equal(got, []string{"etcd", "etcd-readiness"}) || blamed(got) != LayerEtcd {
		t.Error(got)
	}
	if got := blamed([]string{"shutdown"}); got != LayerControl {
		t.Error(got)
	}
}

func TestAnswersAreRead(t *testing.T) {
	if got := hostIn("host web-1\nclient 10.0.0.1:1\nGET /\n"); got != "web-1" {
		t.Error(got)
	}
	if got := hostIn(""); got != "nothing" {
		t.Error(got)
	}
	if got := resolver("search a.svc.cluster.local svc.cluster.local\nnameserver 10.32.0.10\noptions ndots:5\n"); got != "nameserver 10.32.0.10, search a.svc.cluster.local" {
		t.Error(got)
	}
	if got := versionIn([]byte("{\n  \"major\": \"1\",\n  \"gitVersion\": \"v1.37.2\",\n}")); got != "v1.37.2" {
		t.Error(got)
	}
	if got := versionIn(nil); got != "" {
		t.Error(got)
	}
}

// Pods that can never be ready are not waited for; others are.
func TestPodsThatCannotPull(t *testing.T) {
	waits := func(reason string) kube.Object {
		return kube.Object{"status": map[string]any{"containerStatuses": []any{map[string]any{"state": map[string]any{"waiting": map[string]any{"reason": reason}}}}}}
	}
	if !cannotPull(waits("ImagePullBackOff")) || cannotPull(waits("ContainerCreating")) || cannotPull(kube.Object{}) {
		t.Error("it is told by the reason")
	}
	ready := kube.Object{"metadata": map[string]any{"name": "a"}, "spec": map[string]any{"nodeName": "w"},
		"status": map[string]any{"podIP": "10.0.0.1", "conditions": []any{map[string]any{"type": "Ready", "status": "True"}}}}
	if p := podOf(ready); p == nil || p.reach() != "http://10.0.0.1:8080/" {
		t.Errorf("%+v", p)
	}
	ready["metadata"].(map[string]any)["deletionTimestamp"] = "now"
	if podOf(ready) != nil {
		t.Error("a pod that leaves counts")
	}
}

// What the tutorial's flags rule out is not possible, and not a failure.
func TestTheTutorialsLimitsAreNoFailures(t *testing.T) {
	for example, want := range map[string]bool{"lab.yaml": true, "lab-tutorial.yaml": false} {
		c, _ := built(t, example)
		r := &run{Subject: &Subject{Cluster: c}}
		for _, n := range r.controllers() {
			if r.routed(n) != want {
				t.Errorf("%s: %s: routed is not %v", example, n.Name.V, want)
			}
			if r.anonymous(n) == want {
				t.Errorf("%s: %s: anonymous is %v", example, n.Name.V, want)
			}
		}
	}
}

func zero() (t time.Time) { return t }
