package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/kube"
)

// asking gives a client to f; where there is none, that is the failure.
func asking(name string, f func(context.Context, *probe, *kube.Client)) func(context.Context, *probe) {
	return func(ctx context.Context, p *probe) {
		client, err := p.connect(nil)
		if err != nil {
			p.fail("", name, "the API answers", said(err), apiFault(err))
			return
		}
		defer client.Close()
		f(ctx, p, client)
	}
}

// notReadyRows say which layer keeps a node from being ready, by the words of
// its kubelet.
var notReadyRows = []struct {
	words string
	blame blame
}{
	{"cni", broken(LayerCNI, "the runtime has no network for pods: the CNI configuration is missing or cannot be read", "look at /etc/cni/net.d and /opt/cni/bin there; journalctl -u containerd -n 50")},
	{"NetworkPluginNotReady", broken(LayerCNI, "the runtime has no network for pods", "look at /etc/cni/net.d and /opt/cni/bin there; journalctl -u containerd -n 50")},
	{"container runtime", broken(LayerKubelet, "the kubelet does not reach its container runtime", "journalctl -u containerd -n 50 there")},
	{"Kubelet stopped posting", broken(LayerKubelet, "the kubelet does not report any more: it is stopped, or does not reach the API server", "systemctl status kubelet there; journalctl -u kubelet -n 50")},
	{"not registered", broken(LayerKubelet, "the kubelet never reported: it does not run, or is not who it says", "journalctl -u kubelet -n 50 there")},
}

func notReady(why string) blame {
	found := blame{layer: LayerKubelet, cause: "the kubelet says that the node cannot run pods", help: "journalctl -u kubelet -n 50 there"}
	for _, row := range notReadyRows {
		if strings.Contains(why, row.words) {
			found = row.blame
			break
		}
	}
	found.after = toReport
	return found
}

// toReport are the layers on which a kubelet's report reaches the API server.
var toReport = []Layer{LayerHost, LayerDNS, LayerTCP, LayerTLS, LayerAuthn, LayerAuthz}

// nodes asserts that exactly the workers of the model are nodes, ready, of
// their versions, and at their addresses.
func nodes(ctx context.Context, p *probe, client *kube.Client) {
	list, err := client.Nodes(ctx)
	if err != nil {
		p.fail("", "nodes", "the API lists them", said(err), apiFault(err))
		return
	}
	known := map[string]*kube.Node{}
	for i, n := range list {
		known[n.Name] = &list[i]
		if w := p.node(n.Name); w == nil || !w.Worker {
			p.fail(n.Name, "node", "not a node of the cluster", "registered", blame{cause: "a worker was removed from cluster.yaml, and its Node object stayed", help: "kubectl delete node " + n.Name})
		}
	}
	for _, w := range p.workers() {
		p.nodeFacts(w, known[w.Name.V])
	}
}

func (p *probe) nodeFacts(w *compile.Node, n *kube.Node) {
	name := w.Name.V
	if n == nil {
		p.fail(name, "node", "Ready", "not registered", notReady("not registered"))
		return
	}
	got := "Ready"
	if !n.Ready {
		got = short("not ready: " + n.Reason)
	}
	p.equal(name, "node", "Ready", got, notReady(n.Reason))
	p.equal(name, "kubelet version", "v"+w.Version.V, n.Kubelet, blame{cause: "another kubelet runs than the one that is installed", help: "on " + name + ": systemctl restart kubelet"})
	for _, b := range p.Tree.Node(name).Binaries {
		if b.Name == "containerd" {
			p.equal(name, "container runtime", "containerd://"+b.Version, strings.Replace(n.Runtime, "://v", "://", 1), blame{cause: "another containerd runs than the one that is installed", help: "on " + name + ": systemctl restart containerd"})
		}
	}
	p.equal(name, "node address", addressList(w.Addresses), strings.Join(n.InternalIPs, ", "), blame{cause: "the kubelet found another address of the machine", help: "look at the addresses of " + name + ", and at --node-ip"})
	for _, l := range w.Labels {
		p.equal(name, "label "+l.Key, l.Value.V, n.Labels[l.Key], blame{cause: "the label was changed, or the node had registered before it was written", help: fmt.Sprintf("kubectl label node %s %s=%s --overwrite", name, l.Key, l.Value.V)})
	}
}

func addressList(addresses []compile.Addr) string {
	var out []string
	for _, a := range addresses {
		out = append(out, a.V.String())
	}
	return strings.Join(out, ", ")
}

// apiService asserts the first address of the service range, and who is behind it.
func apiService(ctx context.Context, p *probe, client *kube.Client) {
	var want, behind []string
	for _, ip := range p.Cluster.Network.ServiceIPs {
		want = append(want, ip.V.String())
	}
	for _, n := range p.controllers() {
		behind = append(behind, primary(n))
	}
	p.service(ctx, client, "default", "kubernetes", want[:1],
		blame{cause: "the service range of the API servers was changed after the Service was made", help: "the range cannot be changed by changing the flag: see --service-cluster-ip-range"})
	got, err := endpoints(ctx, client, "default", "kubernetes")
	if err != nil {
		p.fail("", "API servers behind the Service", strings.Join(behind, ", "), said(err), apiFault(err))
		return
	}
	slices.Sort(behind)
	p.equal("", "API servers behind the Service", strings.Join(behind, ", "), strings.Join(got, ", "), blame{cause: "an API server is down, or advertises another address", help: "look at the API server that is missing"})
}

// dnsService asserts the address of the cluster's DNS, and that somebody is
// behind it.
func dnsService(ctx context.Context, p *probe, client *kube.Client) {
	p.service(ctx, client, "kube-system", "kube-dns", []string{p.Cluster.Network.DNS.V.String()},
		blame{cause: "pods ask another address than the one that the cluster's DNS has", help: "kubectl -n kube-system delete service kube-dns, then kthwc apply"})
	p.dnsServers(ctx, client)
}

// dnsServers waits until all of CoreDNS is ready: it may have been applied a
// moment ago.
func (p *probe) dnsServers(ctx context.Context, client *kube.Client) {
	ctx, cancel := context.WithTimeout(ctx, p.o.Patience)
	defer cancel()
	want, got := fmt.Sprintf("%d CoreDNS pods are ready", p.Cluster.DNS.Replicas.V), ""
	err := kube.Wait(ctx, "CoreDNS", 500*time.Millisecond, p.waiting, func(ctx context.Context) (bool, string, error) {
		list, err := endpoints(ctx, client, "kube-system", "kube-dns")
		if err != nil {
			return false, "", err
		}
		got = fmt.Sprintf("%d CoreDNS pods are ready", len(list))
		return got == want, got, nil
	})
	if err != nil && got == "" {
		p.fail("", "DNS servers", want, said(err), apiFault(err))
		return
	}
	p.equal("", "DNS servers", want, got, blame{cause: "CoreDNS does not run, or has not all replicas yet", help: "kubectl -n kube-system get pods -l k8s-app=kube-dns; logs of those"})
}

func (p *probe) service(ctx context.Context, client *kube.Client, namespace, name string, want []string, b blame) {
	label := "address of the Service " + namespace + "/" + name
	b.after = []Layer{} // an object is as it is, whatever else is broken
	o, err := client.Get(ctx, kube.Ref{APIVersion: "v1", Kind: "Service", Namespace: namespace, Name: name})
	if err != nil {
		cause := apiFault(err)
		if kube.KindOf(err) == kube.NotFound {
			cause = blame{cause: "the Service does not exist", help: "kthwc apply brings the manifests", after: b.after}
		}
		p.fail("", label, strings.Join(want, ", "), said(err), cause)
		return
	}
	p.equal("", label, strings.Join(want, ", "), o.Str("spec", "clusterIP"), b)
}

// endpoints are the ready addresses behind a Service, sorted.
func endpoints(ctx context.Context, client *kube.Client, namespace, service string) ([]string, error) {
	list, err := client.List(ctx, "discovery.k8s.io/v1", "EndpointSlice", namespace, kube.Selection{Labels: "kubernetes.io/service-name=" + service})
	var out []string
	for _, slice := range list {
		for _, e := range slice.List("endpoints") {
			if ready, known := e.At("conditions", "ready").(bool); ready || !known {
				out = append(out, e.Strs("addresses")...)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), err
}

// podAddresses asserts that pods have addresses of their node's range.
func podAddresses(ctx context.Context, p *probe, client *kube.Client) {
	pods, err := client.List(ctx, "v1", "Pod", "", kube.Selection{})
	if err != nil {
		p.fail("", "addresses of pods", "the API lists pods", said(err), apiFault(err))
		return
	}
	for _, w := range p.workers() {
		count, foreign := 0, []string{}
		for _, pod := range pods {
			if pod.Str("spec", "nodeName") != w.Name.V || pod.Bool("spec", "hostNetwork") {
				continue
			}
			for _, ip := range pod.List("status", "podIPs") {
				count++
				if !within(w.PodCIDRs, ip.Str("ip")) {
					foreign = append(foreign, pod.Str("metadata", "name")+" "+ip.Str("ip"))
				}
			}
		}
		want := "all in " + prefixes(w.PodCIDRs)
		got := want
		if len(foreign) > 0 {
			got = strings.Join(foreign, ", ")
		}
		if count == 0 {
			p.skip(w.Name.V, "addresses of pods", "no pod runs there now")
			continue
		}
		p.equal(w.Name.V, "addresses of pods", want, got, blame{cause: "the CNI configuration had another range when these pods were made", help: "look at /etc/cni/net.d on " + w.Name.V + ", then delete those pods"})
	}
}

func within(ranges []compile.Prefix, ip string) bool {
	a, err := netip.ParseAddr(ip)
	return err == nil && slices.ContainsFunc(ranges, func(p compile.Prefix) bool { return p.V.Contains(a) })
}

func prefixes(list []compile.Prefix) string {
	var out []string
	for _, p := range list {
		out = append(out, p.V.String())
	}
	return strings.Join(out, ", ")
}

// cniScript prints a file.
const cniScript = `cat -- "$1"`

// podRanges asserts that each node's CNI configuration gives the node's range.
func podRanges(ctx context.Context, p *probe) {
	each(p.workers(), func(w *compile.Node) {
		if p.states[w.Name.V] == nil || len(w.PodCIDRs) == 0 {
			return
		}
		file := p.Cluster.Path("cni-bridge", w)
		text, err := p.lines(ctx, w.Name.V, cniScript, file)
		got := ""
		if err == nil {
			got, err = subnets([]byte(strings.Join(text, "\n")))
		}
		if err != nil {
			got = said(err)
		}
		p.equal(w.Name.V, "range of pods in "+file, prefixes(w.PodCIDRs), got, blame{cause: "the CNI configuration is missing, broken, or another node's", help: "kthwc apply brings it"})
	})
}

// subnets reads the ranges of a CNI configuration, whether a list of plugins or
// one alone.
func subnets(text []byte) (string, error) {
	type plugin struct {
		IPAM struct {
			Subnet string
			Ranges [][]struct{ Subnet string }
		}
	}
	var conf struct {
		plugin
		Plugins []plugin
	}
	if err := json.Unmarshal(text, &conf); err != nil {
		return "", fmt.Errorf("it is no JSON: %w", err)
	}
	var out []string
	for _, p := range append([]plugin{conf.plugin}, conf.Plugins...) {
		if p.IPAM.Subnet != "" {
			out = append(out, p.IPAM.Subnet)
		}
		for _, set := range p.IPAM.Ranges {
			for _, one := range set {
				out = append(out, one.Subnet)
			}
		}
	}
	return strings.Join(out, ", "), nil
}

// manifests asserts that every object of the manifests is in the cluster as it
// was rendered.
func manifests(ctx context.Context, p *probe, client *kube.Client) {
	var list []kube.Manifest
	for _, f := range p.Tree.Files {
		if strings.HasPrefix(f.Path, "manifests/") && f.Body != nil {
			list = append(list, kube.Manifest{Name: f.Path, Text: f.Body.Bytes()})
		}
	}
	changes, err := client.Plan(ctx, p.Tree.Cluster, list)
	if err != nil {
		p.fail("", "manifests", "every object as rendered", said(err), apiFault(err))
		return
	}
	for _, c := range changes {
		want, got := "as rendered", objectState(c)
		if c.Do == kube.Release {
			continue
		}
		p.equal("", c.Ref().String(), want, got, blame{layer: objectLayer(c), cause: "somebody changed or deleted the object, or it was never applied", help: "kthwc apply brings it back"})
	}
}

func objectState(c kube.Change) string {
	switch c.Do {
	case kube.Same:
		return "as rendered"
	case kube.Add:
		return "does not exist"
	case kube.Remove:
		return "exists, and no manifest has it"
	case kube.Unknown:
		return short(c.Error)
	}
	return short(strings.Join(c.What, "; "))
}

// objectLayer is the layer of an object of a manifest: rights, or the DNS.
func objectLayer(c kube.Change) Layer {
	switch {
	case strings.HasPrefix(c.APIVersion, "rbac."):
		return LayerAuthz
	case c.Name == "coredns" || c.Name == "kube-dns":
		return LayerDNS
	}
	return LayerWorkload
}
