package verify

import (
	"crypto/tls"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/pkg/compile"
)

// A cluster that is as the model says has no failure, in any profile and
// topology, and every connection of the model is tried.
func TestWhatIsRightIsFoundRight(t *testing.T) {
	for _, name := range []string{"lab.yaml", "lab-tutorial.yaml", "lab-server.yaml"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, name)
			r := w.wire()
			if got := failures(r); got != "" {
				t.Fatal(got)
			}
			count := map[Layer]int{}
			for _, x := range r.Results {
				count[x.Layer]++
			}
			tls := 0
			for _, l := range w.c.Listeners {
				if l.Cert != "" {
					tls++
				}
			}
			if count[LayerTLS] < tls || count[LayerTCP] < len(w.run.links) || count[LayerAuthz] == 0 || count[LayerEtcd] < 3*len(w.c.Etcd.Members) {
				t.Errorf("%v of %d links and %d TLS listeners", count, len(w.run.links), tls)
			}
		})
	}
}

// timedOut is what dialling gives where packets are dropped.
var timedOut = os.ErrDeadlineExceeded

// disturbances are faults, and the layer and words that must name them.
var disturbances = []struct {
	name, example string
	disturb       func(*world)
	layer         Layer
	title, cause  string
}{
	{"a name leads elsewhere", "lab-tutorial.yaml", func(w *world) { w.machines["controller-1"].names["worker-0"] = "10.240.0.99" },
		LayerDNS, "controller-1: kube-apiserver to kubelet of worker-0", "another machine"},
	{"nobody knows a name", "lab-server.yaml", func(w *world) { delete(w.machines["node-0"].names, "server.kubernetes.local") },
		LayerDNS, "node-0: kube-proxy to kube-apiserver", "nobody knows the name"},
	{"a firewall drops a port", "lab.yaml", func(w *world) { w.cut["10.240.0.21:10250"] = timedOut },
		LayerTCP, "kubelet of worker-1", "a firewall or a route"},
	{"a proxy has no servers", "lab.yaml", func(w *world) { w.servers["worker-1 127.0.0.1:7443"] = w.closing() },
		LayerTCP, "worker-1: kube-proxy to kube-apiserver by kthwc-api-proxy", "no server behind it"},
	{"a component does not run", "lab.yaml", func(w *world) { w.refuse("worker-0", 10250) },
		LayerKubelet, "kubelet of worker-0", "kubelet.service does not run"},
	{"a machine is off", "lab.yaml", func(w *world) {
		w.cut["10.240.0.12:2379"], w.cut["10.240.0.12:2380"], w.cut["10.240.0.12:6443"] = timedOut, timedOut, timedOut
		delete(w.run.Conns, "controller-2")
		delete(w.run.states, "controller-2")
	}, LayerHost, "controller-2", "does not answer at all"},
	{"a foreign certificate", "lab.yaml", func(w *world) {
		w.again("kubelet", "worker-2", func(c *tls.Config) {
			c.Certificates = []tls.Certificate{w.pairOf(issue(w.T, w.c), "kubelet-serving@worker-2")}
		})
	}, LayerTLS, "kubelet of worker-2", "another authority"},
	{"a certificate for other names", "lab.yaml", func(w *world) {
		w.again("kubelet", "worker-2", func(c *tls.Config) { c.Certificates = []tls.Certificate{w.pair("kubelet-serving@worker-1")} })
	}, LayerTLS, "kubelet of worker-2", "for other names"},
	{"a client's certificate is served", "lab.yaml", func(w *world) {
		w.again("etcd", "controller-0", func(c *tls.Config) { c.Certificates = []tls.Certificate{w.pair("etcd-healthcheck@controller-0")} })
	}, LayerTLS, "etcd", ""},
	{"the client CA is removed", "lab.yaml", func(w *world) {
		w.again("kubelet", "worker-0", func(c *tls.Config) { c.ClientCAs = w.pool("none") })
	}, LayerAuthn, "kubelet of worker-0", "client CA"},
	{"etcd trusts another authority", "lab.yaml", func(w *world) {
		w.again("etcd", "controller-1", func(c *tls.Config) { c.ClientCAs = w.pool("front-proxy") })
	}, LayerAuthn, "etcd of controller-1", "trusts another authority"},
	{"strangers are served", "lab.yaml", func(w *world) {
		w.again("etcd", "controller-1", func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert })
	}, LayerAuthn, "controller-1: etcd refuses strangers", "without a certificate"},
	{"a binding is missing", "lab.yaml", func(w *world) { w.denied["kubelet"] = true },
		LayerAuthz, "kube-apiserver to kubelet of worker-0", "a role or its binding"},
	{"a scheduler without rights", "lab.yaml", func(w *world) { w.denied[`"subresource":"binding"`] = true },
		LayerAuthz, "kube-scheduler to kube-apiserver", "a role or its binding"},
	{"no API server runs, and proxies close connections", "lab.yaml", func(w *world) {
		for _, n := range w.run.controllers() {
			w.refuse(n.Name.V, 6443)
		}
		closing := w.closing()
		for at := range w.servers {
			if strings.HasSuffix(at, ":7443") || strings.HasSuffix(at, " 10.240.0.100:6443") {
				w.servers[at] = closing
			}
		}
	}, LayerControl, "kube-apiserver", "kube-apiserver.service does not run"},
	{"no etcd runs", "lab.yaml", func(w *world) {
		for _, n := range w.run.controllers() {
			w.refuse(n.Name.V, 2379, 2380)
		}
	}, LayerEtcd, "etcd", "etcd.service does not run"},
	{"another cluster's data", "lab.yaml", func(w *world) { w.c.Etcd.ClusterID++ },
		LayerEtcd, "etcd cluster ID", "from another cluster"},
}

func TestEveryDisturbanceIsNamed(t *testing.T) {
	worlds := newWorlds(t)
	for _, d := range disturbances {
		t.Run(d.name, func(t *testing.T) {
			w := worlds(t, d.example)
			if d.layer == LayerEtcd {
				right := *w.c
				w.c = &right // the servers keep the right answer
			}
			d.disturb(w)
			first := w.wire().First()
			if first == nil {
				t.Fatal("nothing was found")
			}
			if first.Layer != d.layer || !strings.Contains(first.title(), d.title) || !strings.Contains(first.Cause, d.cause) || first.Help == "" {
				t.Errorf("first broken is %s: %s (%s; %s); all:\n%s", first.Layer, first.title(), first.Cause, first.Help, failures(w.run.report))
			}
		})
	}
}

// refuse takes what listens on ports of a node away.
func (w *world) refuse(node string, ports ...int) {
	for _, port := range ports {
		delete(w.run.states[node].Ports, port)
		for _, host := range []string{primary(w.run.node(node)), "127.0.0.1"} {
			delete(w.servers, " "+address(host, port))
			delete(w.servers, node+" "+address(host, port))
		}
	}
}

// again puts another server in the place of a component's.
func (w *world) again(component, node string, change func(*tls.Config)) {
	for _, l := range w.c.Listeners {
		if l.Component == component && l.Node == node && l.Cert != "" {
			config := w.config(l)
			change(config)
			w.serve(l, config)
		}
	}
}

// closing is the address of a server that takes connections and closes them.
func (w *world) closing() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	w.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// A right is asked as the API takes it.
func TestRightsAreAskedInFull(t *testing.T) {
	for component, list := range rights {
		for _, w := range list {
			text := string(w.review())
			if !strings.Contains(text, `"verb":"`+w.Verb+`"`) || w.Path == "" && !strings.Contains(text, `"resource":"`+w.Resource+`"`) || w.Path != "" && !strings.Contains(text, `"path":"`+w.Path+`"`) {
				t.Errorf("%s: %s is asked as %s", component, w, text)
			}
		}
	}
	if len(rights[compile.Operator]) == 0 {
		t.Error("nobody asks what the operator may do")
	}
}
