package verify

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/kube"
)

// smokeChecks are what is asserted of workloads, in the order in which it is
// looked at: the tutorial's chapter 13, and what it leaves out.
var smokeChecks []check

func init() {
	podPath := append(slices.Clone(foundations), LayerRoute)
	smokeChecks = []check{
		{name: "pods", layer: LayerWorkload, after: foundations, run: podsRun},
		{name: "deployment", layer: LayerWorkload, after: foundations, run: deployed},
		{name: "encryption at rest", layer: LayerEtcd, run: encrypted},
		{name: "port-forward", pods: true, layer: LayerWorkload, after: foundations, run: forwarded},
		{name: "logs", pods: true, layer: LayerWorkload, after: foundations, run: logged},
		{name: "exec", pods: true, layer: LayerWorkload, after: foundations, run: executed},
		{name: "resolv.conf of pods", pods: true, layer: LayerDNS, last: true, run: resolvConf},
		{name: "pod to pod", pods: true, layer: LayerRoute, after: foundations, run: podToPod},
		{name: "API server to pod", pods: true, layer: LayerRoute, after: foundations, run: serverToPod},
		{name: "webhooks", pods: true, layer: LayerControl, after: podPath, run: webhooks},
		{name: "Service from pods", pods: true, layer: LayerService, after: podPath, run: serviceFromPods},
		{name: "Service from nodes", pods: true, layer: LayerService, after: podPath, run: serviceFromNodes},
		{name: "NodePort", pods: true, layer: LayerService, after: podPath, run: nodePort},
		{name: "cluster DNS", pods: true, layer: LayerDNS, last: true, after: belowDNS, run: clusterDNS},
		{name: "load balancer", layer: LayerTCP, after: foundations[:1], run: balanced},
	}
}

// podsRun waits for all pods, and asserts of each pinned one that it runs and
// has an address of its node's range.
func podsRun(ctx context.Context, p *probe) {
	for node, why := range p.space.why {
		p.fail(node, "a pod runs", "running", "the node is not ready: "+short(why), notReady(why))
	}
	list, err := p.awaitPods(ctx)
	if err != nil {
		p.fail("", "pods run", "the API lists them", said(err), apiFault(err))
		return
	}
	for _, o := range list {
		switch o.Str("metadata", "labels", "app") {
		case "web":
			p.space.web = append(p.space.web, podOf(o))
		case "second":
			p.space.second = podOf(o)
			p.podRuns(ctx, o, "a second pod runs")
		case "echo":
			p.space.pods[o.Str("spec", "nodeName")] = podOf(o)
			p.podRuns(ctx, o, "a pod runs")
		}
	}
	p.space.web = slices.DeleteFunc(p.space.web, func(made *pod) bool { return made == nil })
}

// podRuns asserts that a pod runs where it shall, with an address of its node.
func (p *probe) podRuns(ctx context.Context, o kube.Object, name string) {
	node, made := o.Str("spec", "nodeName"), podOf(o)
	want := "running, address in " + prefixes(p.node(node).PodCIDRs)
	switch {
	case made == nil:
		why := p.whyNot(ctx, o)
		p.fail(node, name, want, why, podFault(why))
	case !within(p.node(node).PodCIDRs, made.ip):
		p.fail(node, name, want, "running, address "+made.ip, broken(LayerCNI, "the CNI configuration gives addresses of another range", "look at /etc/cni/net.d on "+node))
	default:
		p.ok(node, name, want)
	}
}

// awaitPods waits until all pods are ready, or until those that are not can
// never be; it gives all there are.
func (p *probe) awaitPods(ctx context.Context) (list []kube.Object, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.o.Patience)
	defer cancel()
	waited := kube.Wait(ctx, "pods", 500*time.Millisecond, p.waiting, func(ctx context.Context) (bool, string, error) {
		found, err := p.space.client.List(ctx, "v1", "Pod", p.space.name, kube.Selection{})
		if err != nil {
			return false, "", err
		}
		list = found
		ready, hopeless := 0, 0
		for _, o := range list {
			switch {
			case podOf(o) != nil:
				ready++
			case cannotPull(o):
				hopeless++
			}
		}
		return ready+hopeless >= p.space.wanted, fmt.Sprintf("%d of %d run", ready, p.space.wanted), nil
	})
	if len(list) == 0 && p.space.wanted > 0 {
		return nil, waited
	}
	return list, nil
}

// cannotPull says whether a pod waits for an image that could not be pulled
// twice.
func cannotPull(o kube.Object) bool {
	return slices.ContainsFunc(o.List("status", "containerStatuses"), func(c kube.Object) bool {
		return slices.Contains([]string{"ImagePullBackOff", "ErrImageNeverPull"}, c.Str("state", "waiting", "reason"))
	})
}

// podOf is the pod of an object where it is ready.
func podOf(o kube.Object) *pod {
	if status, _, _ := o.Condition("Ready"); status != "True" || o.Leaving() {
		return nil
	}
	return &pod{o.Str("metadata", "name"), o.Str("spec", "nodeName"), o.Str("status", "podIP")}
}

// whyNot is why a pod does not run: what its container waits for, or what the
// last warning says.
func (p *probe) whyNot(ctx context.Context, o kube.Object) string {
	events, err := p.space.client.List(ctx, "v1", "Event", p.space.name, kube.Selection{Fields: "type=Warning,involvedObject.name=" + o.Str("metadata", "name")})
	if err == nil && len(events) > 0 {
		last := events[len(events)-1]
		return short(last.Str("reason") + ": " + last.Str("message"))
	}
	for _, c := range o.List("status", "containerStatuses") {
		if reason := c.Str("state", "waiting", "reason"); reason != "" {
			return short(reason + ": " + c.Str("state", "waiting", "message"))
		}
	}
	if _, _, message := o.Condition("PodScheduled"); message != "" {
		return short(message)
	}
	return short(o.Str("status", "phase") + ": its kubelet does nothing about it")
}

// podRows say which layer keeps a pod from running, by the words of its kubelet.
var podRows = []struct {
	words string
	blame blame
}{
	{"cni", broken(LayerCNI, "the network plugin failed", "look at /etc/cni/net.d and /opt/cni/bin there; journalctl -u containerd -n 50")},
	{"network for sandbox", broken(LayerCNI, "the network plugin failed", "look at /etc/cni/net.d and /opt/cni/bin there")},
	{"pull", broken(LayerWorkload, "the image of the workloads is not on the node and cannot be pulled", "give its archive with --image-archive, or name another with --image")},
	{"sandbox", broken(LayerKubelet, "the runtime cannot make the pod", "journalctl -u containerd -n 50 there")},
	{"kubelet does nothing", broken(LayerKubelet, "the kubelet does not start the pod", "journalctl -u kubelet -n 50 there")},
	{"no pod was made", blame{layer: LayerControl, cause: "no controller manager works", help: "on the controllers: journalctl -u kube-controller-manager -n 50", after: belowAPI}},
	{"nodes are available", broken(LayerKubelet, "no node takes the pod", "kubectl describe nodes")},
}

func podFault(why string) blame {
	for _, row := range podRows {
		if strings.Contains(strings.ToLower(why), row.words) {
			return row.blame
		}
	}
	return blame{cause: "the pod does not become ready", help: "kubectl describe pod, while kthwc verify runs"}
}

// deployed asserts that the Deployment has its pods: controllers, scheduler and
// kubelets work together.
func deployed(ctx context.Context, p *probe) {
	list, err := p.space.client.List(ctx, "v1", "Pod", p.space.name, kube.Selection{Labels: "app=web"})
	if err != nil {
		p.fail("", "a Deployment of 2", "2 pods run", said(err), apiFault(err))
		return
	}
	why := "no pod was made: the controller manager does nothing about it"
	for _, o := range list {
		if podOf(o) == nil {
			why = p.whyNot(ctx, o)
		}
	}
	if n := len(p.space.web); n < replicas {
		p.fail("", "a Deployment of 2", "2 pods run", fmt.Sprintf("%d pods run; %s", n, why), podFault(why))
		return
	}
	p.ok("", "a Deployment of 2", "2 pods run")
}

// encryptedScript prints the beginning of a value of etcd, not longer than the
// prefix of what is encrypted, so never a secret. Arguments: etcdctl, CA,
// certificate, key, the value's name, how many bytes.
const encryptedScript = `ETCDCTL_API=3 "$1" --endpoints=https://127.0.0.1:2379 --dial-timeout=5s --cacert="$2" --cert="$3" --key="$4" get "$5" --print-value-only |
	head -c "$6" | tr -c '[:print:]' '.'`

// encrypted asserts that etcd has no Secret in plain: the prefix is read from
// etcd itself. The API gives the Secret back as it was.
func encrypted(ctx context.Context, p *probe) {
	e := p.Cluster.Encryption
	if !slices.ContainsFunc(e.Resources, func(t compile.Text) bool { return t.V == "secrets" }) || len(e.Keys) == 0 {
		p.impossible("", "a Secret is encrypted in etcd", "spec.encryption does not list secrets")
		return
	}
	want := fmt.Sprintf("k8s:enc:%s:v1:%s:", e.Provider.V, e.Keys[0].V)
	i := slices.IndexFunc(p.controllers(), func(n *compile.Node) bool { return p.states[n.Name.V] != nil })
	if i < 0 {
		p.skip("", "a Secret is encrypted in etcd", "no controller answers over SSH, so etcd cannot be read")
		return
	}
	n := p.controllers()[i]
	file := func(logical string) string { return p.Cluster.Path(logical, n) }
	lines, err := p.lines(ctx, n.Name.V, encryptedScript, file("bin/etcdctl"), file("ca/etcd@etcd"), file("cert/etcd-healthcheck"), file("key/etcd-healthcheck"),
		"/registry/secrets/"+p.space.name+"/canary", fmt.Sprint(len(want)))
	got := strings.Join(lines, "")
	if err != nil {
		got = said(err)
	}
	p.equal(n.Name.V, "a Secret is encrypted in etcd", want, got, blame{cause: "the API servers were started with another encryption configuration, or without one", help: "on the controllers: systemctl restart kube-apiserver, one at a time; kthwc pki list shows the keys"})
	o, err := p.space.client.Get(ctx, kube.Ref{APIVersion: "v1", Kind: "Secret", Namespace: p.space.name, Name: "canary"})
	if err != nil {
		p.fail("", "a Secret is decrypted", "the value that was written", said(err), apiFault(err))
		return
	}
	got = "another value"
	if o.Str("data", "mykey") == secretValue {
		got = "the value that was written"
	}
	p.equal("", "a Secret is decrypted", "the value that was written", got, blame{cause: "the key is not the one that it was encrypted with", help: "kthwc pki list shows the keys"})
}

// forwarded asks a pod through kubectl's port-forward.
func forwarded(ctx context.Context, p *probe) {
	for _, made := range first(p.space.web) {
		name, want := "port-forward to a pod", "200 from "+made.name
		conn, err := p.space.client.PortForward(ctx, p.space.name, made.name, serverPort)
		if err != nil {
			p.fail("", name, want, said(err), apiFault(err), made.node)
			return
		}
		got := p.asked(ctx, conn, "/port-forward")
		p.equal("", name, want, got, blame{cause: "the kubelet of " + made.node + " does not pass the bytes on: it needs socat where the runtime is old", help: "journalctl -u kubelet -n 50 on " + made.node})
	}
}

func first[T any](list []T) []T { return list[:min(1, len(list))] }

// asked is who answers a request over a connection, which is closed.
func (p *probe) asked(ctx context.Context, conn net.Conn, path string) string {
	spoken := plainLine(conn, "verify")
	defer spoken.Close()
	a, err := spoken.ask(ctx, http.MethodGet, path, nil)
	if err != nil {
		return said(err)
	}
	return fmt.Sprintf("%d from %s", a.status, hostIn(string(a.body)))
}

// hostIn reads which pod answered.
func hostIn(body string) string {
	for line := range strings.Lines(body) {
		if host, ok := strings.CutPrefix(line, "host "); ok {
			return strings.TrimSpace(host)
		}
	}
	return short(body)
}

// logged reads a pod's log: what it printed when it started.
func logged(ctx context.Context, p *probe) {
	for _, made := range first(p.space.web) {
		want := fmt.Sprintf("serving on :%d", serverPort)
		text, err := p.space.client.Logs(ctx, p.space.name, made.name, "")
		if err != nil {
			p.fail("", "logs of a pod", want, said(err), apiFault(err), made.node)
			return
		}
		line, _, _ := strings.Cut(string(text), "\n")
		p.equal("", "logs of a pod", want, short(line), blame{cause: "the log is not the pod's", help: "look at /var/log/pods on " + made.node})
	}
}

// executed runs a command in a pod of each node.
func executed(ctx context.Context, p *probe) {
	for _, made := range p.running() {
		got, err := p.exec(ctx, made, "echo", "the hard way")
		if err != nil {
			p.fail(made.node, "exec in a pod", "the hard way", said(err), apiFault(err))
			continue
		}
		p.equal(made.node, "exec in a pod", "the hard way", got, blame{cause: "the command's output does not come back", help: "journalctl -u kubelet -n 50 on " + made.node})
	}
}

// exec runs a command of the toolbox in a pod. What it printed is given also
// where it failed.
func (p *probe) exec(ctx context.Context, on *pod, words ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*answerPatience)
	defer cancel()
	out, complaint, exit, err := p.space.client.Exec(ctx, p.space.name, on.name, "", append([]string{"/toolbox"}, words...), nil)
	if err != nil {
		return "", err
	}
	if exit != 0 {
		return short(string(complaint)), nil
	}
	return strings.TrimSpace(string(out)), nil
}

// got is what a pod gets from a URL: who answers.
func (p *probe) got(ctx context.Context, on *pod, url string) string {
	text, err := p.exec(ctx, on, "get", url)
	if err != nil {
		return said(err)
	}
	return hostIn(text)
}
