package compile

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/schema"
)

// A value computes one flag's argument; nil means that a profile has no such flag.
type value func(c *Cluster, n *Node, fixed origin.Origin) Text

// A flagRow is one flag of one component in each profile, and why it is there.
type flagRow struct {
	flag               string
	tutorial, hardened value
	why                string
}

// constant is the same text in every cluster.
func constant(text string) value {
	return func(_ *Cluster, _ *Node, fixed origin.Origin) Text { return origin.Of(text, fixed) }
}

// bare is a flag without a value.
func bare() value { return constant("") }

// at is the path of a logical file.
func at(logical string) value {
	return func(c *Cluster, n *Node, fixed origin.Origin) Text { return origin.Of(c.Path(logical, n), fixed) }
}

// of is a value of the model.
func of(f func(c *Cluster, n *Node) Text) value {
	return func(c *Cluster, n *Node, _ origin.Origin) Text { return f(c, n) }
}

func address(n *Node) Text { return origin.Map(n.Addresses[0], netip.Addr.String) }

func peerURL(_ *Cluster, n *Node) Text {
	return origin.Map(n.Addresses[0], func(a netip.Addr) string { return url(a.String(), 2380) })
}

func clientURL(_ *Cluster, n *Node) Text {
	return origin.Map(n.Addresses[0], func(a netip.Addr) string { return url(a.String(), 2379) })
}

func ranges(prefixes []Prefix) Text {
	var parts []Text
	for _, p := range prefixes {
		parts = append(parts, origin.Map(p, netip.Prefix.String))
	}
	return joined(parts...)
}

var (
	nodeName  = of(func(_ *Cluster, n *Node) Text { return n.Name })
	services  = of(func(c *Cluster, _ *Node) Text { return ranges(c.Network.Services) })
	pods      = of(func(c *Cluster, _ *Node) Text { return ranges(c.Network.Pods) })
	issuer    = of(func(c *Cluster, _ *Node) Text { return c.API.Issuer })
	nodePorts = of(func(c *Cluster, _ *Node) Text { return c.Network.NodePorts })
	servers   = of(func(c *Cluster, _ *Node) Text { return c.Etcd.Servers })
)

const (
	// Suites of TLS 1.2 with forward secrecy and authenticated encryption (CIS 1.2.29).
	suites        = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"
	tutorialAdmit = "NamespaceLifecycle,NodeRestriction,LimitRanger,ServiceAccount,DefaultStorageClass,ResourceQuota"
)

var flagRows = map[string][]flagRow{
	"etcd": {
		{"name", nodeName, nodeName, "The member's name: --initial-cluster lists it, and it is the node's name."},
		{"cert-file", at("cert/etcd-server"), at("cert/etcd-server"), "The certificate that etcd shows its clients, the API servers. Read again on every handshake."},
		{"key-file", at("key/etcd-server"), at("key/etcd-server"), "The key of the client-facing certificate."},
		{"peer-cert-file", at("cert/etcd-peer"), at("cert/etcd-peer"), "The certificate that members show one another, as servers and as clients."},
		{"peer-key-file", at("key/etcd-peer"), at("key/etcd-peer"), "The key of the peer certificate."},
		{"trusted-ca-file", at("ca/etcd@etcd"), at("ca/etcd@etcd"), "Clients must have a certificate of this authority. Whoever has one can read every object, Secrets too, so in the hardened profile it signs API servers and health checks only."},
		{"peer-trusted-ca-file", at("ca/etcd-peer@etcd"), at("ca/etcd-peer@etcd"), "Other members must have a certificate of this authority."},
		{"peer-client-cert-auth", bare(), constant("true"), "Members must prove who they are (CIS 2.5)."},
		{"client-cert-auth", bare(), constant("true"), "Clients must prove who they are (CIS 2.2)."},
		{"initial-advertise-peer-urls", of(peerURL), of(peerURL), "Where other members reach this one. Part of the member ID, so it cannot change later."},
		{"listen-peer-urls", of(peerURL), of(peerURL), "Where this member listens for others."},
		{"listen-client-urls", listenClients, listenClients, "Where clients connect: the node's address for the other API servers, loopback for the one beside it and for people."},
		{"advertise-client-urls", of(clientURL), of(clientURL), "Where members tell clients to connect."},
		{"initial-cluster-token", of(token), of(token), "Distinguishes this cluster from any other; part of every member ID."},
		{"initial-cluster", of(initial), of(initial), "All members at the first start. Every member must have the same list."},
		{"initial-cluster-state", constant("new"), constant("new"), "All members start together for the first time. Ignored once the data directory exists."},
		{"data-dir", at("dir/etcd-data"), at("dir/etcd-data"), "Where the cluster's whole state lies."},
		{"enable-grpc-gateway", nil, constant("false"), "The HTTP gateway would call etcd itself with the serving certificate, which is no client certificate here. Nothing uses it."},
	},
	"kube-apiserver": {
		{"advertise-address", of(func(_ *Cluster, n *Node) Text { return address(n) }), of(func(_ *Cluster, n *Node) Text { return address(n) }), "The endpoint of the `kubernetes` Service that this server publishes: pods reach the API here."},
		{"allow-privileged", constant("true"), constant("true"), "Privileged pods may exist: network and storage plugins are such pods."},
		{"anonymous-auth", nil, constant("false"), "Nobody is served without proving who they are (CIS 1.2.1). The balancer's health check has its own certificate."},
		{"apiserver-count", of(controllerCount), nil, "How many API servers there are. Servers have counted one another by leases for long; the flag is deprecated and has no effect."},
		{"audit-log-maxage", constant("30"), constant("30"), "Days that audit logs are kept (CIS 1.2.17)."},
		{"audit-log-maxbackup", constant("3"), constant("10"), "How many rotated audit logs are kept (CIS 1.2.18 wants ten)."},
		{"audit-log-maxsize", constant("100"), constant("100"), "Megabytes of an audit log before it is rotated (CIS 1.2.19)."},
		{"audit-log-path", at("audit-log"), at("audit-log"), "Where the audit log is written (CIS 1.2.16)."},
		{"audit-policy-file", nil, at("audit-policy"), "What is recorded. Without it nothing is, whatever the other audit flags say."},
		{"authorization-mode", constant("Node,RBAC"), constant("Node,RBAC"), "Kubelets may touch only what their node needs; everybody else what roles allow (CIS 1.2.6 to 1.2.8)."},
		{"bind-address", constant("0.0.0.0"), bindAll, "Listen on every address: the balancer, the workers and loopback all connect."},
		{"client-ca-file", at("ca/kubernetes-client"), at("ca/kubernetes-client"), "Client certificates of this authority are users: the common name is the user, the organisations are groups."},
		{"enable-admission-plugins", constant(tutorialAdmit), constant("NodeRestriction,DenyServiceExternalIPs"), "Checks on every write. NodeRestriction keeps a kubelet to its own node; what is on by default stays on."},
		{"enable-aggregator-routing", nil, constant("true"), "API servers reach extension servers by pod address, because no kube-proxy runs on controllers."},
		{"encryption-provider-config", at("encryption-config"), at("encryption-config"), "Which resources are encrypted before they reach etcd, and with which key (CIS 1.2.27)."},
		{"encryption-provider-config-automatic-reload", nil, constant("true"), "A changed encryption configuration is picked up without a restart."},
		{"etcd-cafile", at("ca/etcd"), at("ca/etcd"), "etcd must show a certificate of this authority (CIS 1.2.26)."},
		{"etcd-certfile", at("cert/apiserver-etcd-client"), at("cert/apiserver-etcd-client"), "The certificate that the API server shows etcd (CIS 1.2.23)."},
		{"etcd-keyfile", at("key/apiserver-etcd-client"), at("key/apiserver-etcd-client"), "The key of that certificate."},
		{"etcd-servers", servers, servers, "All members, so that the loss of one does not stop this server."},
		{"event-ttl", constant("1h"), constant("1h"), "How long events are kept."},
		{"kubelet-certificate-authority", at("ca/kubelet-serving"), at("ca/kubelet-serving"), "Kubelets must show a certificate of this authority (CIS 1.2.5): otherwise logs and exec could be intercepted."},
		{"kubelet-client-certificate", at("cert/apiserver-kubelet-client"), at("cert/apiserver-kubelet-client"), "The certificate that the API server shows kubelets (CIS 1.2.4)."},
		{"kubelet-client-key", at("key/apiserver-kubelet-client"), at("key/apiserver-kubelet-client"), "The key of that certificate."},
		{"kubelet-preferred-address-types", nil, constant("InternalIP,Hostname"), "Reach kubelets by address: it needs no name resolution, and the kubelet's certificate has it."},
		{"profiling", nil, constant("false"), "No profiling endpoints (CIS 1.2.15)."},
		{"proxy-client-cert-file", nil, at("cert/front-proxy-client"), "The certificate that the API server shows extension servers."},
		{"proxy-client-key-file", nil, at("key/front-proxy-client"), "The key of that certificate."},
		{"requestheader-allowed-names", nil, constant("front-proxy-client"), "Only this name may speak for other users."},
		{"requestheader-client-ca-file", nil, at("ca/front-proxy"), "Its own authority, so that no ordinary client certificate can speak for other users."},
		{"requestheader-extra-headers-prefix", nil, constant("X-Remote-Extra-"), "Where extension servers find what else is known of the user."},
		{"requestheader-group-headers", nil, constant("X-Remote-Group"), "Where extension servers find the user's groups."},
		{"requestheader-username-headers", nil, constant("X-Remote-User"), "Where extension servers find the user's name."},
		{"runtime-config", constant("api/all=true"), nil, "Every API version is served, alpha ones too. The whole word stands without quotes: systemd would keep quotes inside a word."},
		{"service-account-extend-token-expiration", nil, constant("false"), "Pods' tokens last an hour, not a year (CIS 1.2.30)."},
		{"service-account-key-file", at("service-account-public"), at("service-account-public"), "Verifies the tokens of service accounts (CIS 1.2.22)."},
		{"service-account-signing-key-file", at("service-account-key"), at("service-account-key"), "Signs the tokens of service accounts."},
		{"service-account-issuer", issuer, issuer, "Who the tokens say they are from. Changing it makes every token invalid."},
		{"service-cluster-ip-range", services, services, "The addresses of Services. The controller manager must have the same, and the first one is in the server's certificate."},
		{"service-node-port-range", nodePorts, nodePorts, "The ports of NodePort Services."},
		{"shutdown-delay-duration", nil, constant("20s"), "After the order to stop, serve on for longer than the balancer needs to see that /readyz fails."},
		{"shutdown-watch-termination-grace-period", nil, constant("5s"), "Then end the watches, rather than wait a minute for clients that never end theirs."},
		{"tls-cert-file", at("cert/apiserver-serving"), at("cert/apiserver-serving"), "The certificate that clients see (CIS 1.2.24)."},
		{"tls-cipher-suites", nil, constant(suites), "Suites with forward secrecy and authenticated encryption only (CIS 1.2.29)."},
		{"tls-min-version", nil, constant("VersionTLS12"), "No TLS before 1.2."},
		{"tls-private-key-file", at("key/apiserver-serving"), at("key/apiserver-serving"), "The key of that certificate."},
		{"v", constant("2"), constant("2"), "Log what an operator wants to know, not what a developer does."},
	},
	"kube-controller-manager": {
		{"authentication-kubeconfig", nil, at("kubeconfig/kube-controller-manager"), "Who asks for metrics is checked with the API server."},
		{"authorization-kubeconfig", nil, at("kubeconfig/kube-controller-manager"), "What they may do is checked with the API server."},
		{"bind-address", constant("0.0.0.0"), constant("127.0.0.1"), "Where metrics and health are served (CIS 1.3.7 wants loopback)."},
		{"cluster-cidr", pods, pods, "The addresses of pods."},
		{"cluster-name", constant("kubernetes"), constant("kubernetes"), "A prefix for resources of cloud providers."},
		{"cluster-signing-cert-file", signerCertificate, nil, "The certificate of the authority that signs certificate requests."},
		{"cluster-signing-key-file", at("ca-key/signer"), nil, "The key of that authority: whoever reads it can become anybody. The hardened profile keeps it off the hosts."},
		{"kubeconfig", at("kubeconfig/kube-controller-manager"), at("kubeconfig/kube-controller-manager"), "How the controller manager reaches the API server, and as whom."},
		{"leader-elect", constant("true"), constant("true"), "One of the controller managers works at a time; another takes over when it is gone."},
		{"profiling", nil, constant("false"), "No profiling endpoints (CIS 1.3.2)."},
		{"root-ca-file", at("ca/apiserver-serving"), at("ca/apiserver-serving"), "Pods get this authority to verify the API server with (CIS 1.3.5)."},
		{"service-account-private-key-file", at("service-account-key"), at("service-account-key"), "Signs legacy tokens of service accounts (CIS 1.3.4)."},
		{"service-cluster-ip-range", services, services, "The addresses of Services, the same as the API server's."},
		{"terminated-pod-gc-threshold", nil, constant("1000"), "How many finished pods are kept (CIS 1.3.1)."},
		{"use-service-account-credentials", constant("true"), constant("true"), "Every controller has its own account and rights (CIS 1.3.3)."},
		{"v", constant("2"), constant("2"), "Log what an operator wants to know."},
	},
	"kube-scheduler": {
		{"authentication-kubeconfig", nil, at("kubeconfig/kube-scheduler"), "Who asks for metrics is checked with the API server."},
		{"authorization-kubeconfig", nil, at("kubeconfig/kube-scheduler"), "What they may do is checked with the API server."},
		{"bind-address", nil, constant("127.0.0.1"), "Where metrics and health are served (CIS 1.4.2)."},
		{"config", at("scheduler-config"), at("scheduler-config"), "The scheduler's own configuration file."},
		{"profiling", nil, constant("false"), "No profiling endpoints (CIS 1.4.1)."},
		{"v", constant("2"), constant("2"), "Log what an operator wants to know."},
	},
	"kubelet": {
		{"config", at("kubelet-config"), at("kubelet-config"), "The kubelet's own configuration file."},
		{"container-runtime", constant("remote"), nil, "The runtime is a separate program."},
		{"container-runtime-endpoint", constant(RuntimeEndpoint), nil, "The socket of the runtime."},
		{"image-pull-progress-deadline", constant("2m"), nil, "A pull without progress for this long is given up."},
		{"kubeconfig", at("kubeconfig/kubelet"), at("kubeconfig/kubelet"), "How the kubelet reaches the API server, and as whom: system:node:NAME."},
		{"network-plugin", constant("cni"), nil, "Pods get their network from CNI plugins."},
		{"register-node", constant("true"), nil, "The kubelet creates its Node object."},
		{"node-ip", dualIPs, dualIPs, "The node's addresses, one of each family."},
		{"register-with-taints", taintFlag, taintFlag, "Taints of the Node object when the kubelet creates it, where its configuration file has no field for them yet."},
		{"node-labels", labels, labels, "Labels of the Node object when the kubelet creates it."},
		{"v", constant("2"), constant("2"), "Log what an operator wants to know."},
	},
	"kube-proxy": {
		{"config", at("kube-proxy-config"), at("kube-proxy-config"), "The proxy's own configuration file."},
	},
}

// RuntimeEndpoint is the socket that containerd listens on.
const RuntimeEndpoint = "unix:///var/run/containerd/containerd.sock"

func token(c *Cluster, _ *Node) Text   { return c.Etcd.Token }
func initial(c *Cluster, _ *Node) Text { return c.Etcd.Initial }

func listenClients(c *Cluster, n *Node, fixed origin.Origin) Text {
	return joined(clientURL(c, n), origin.Of("https://127.0.0.1:2379", fixed))
}

func controllerCount(c *Cluster, _ *Node) Text {
	var from origin.Origin
	for _, n := range c.controllers() {
		from = origin.Join(from, n.AsController)
	}
	return origin.Of(strconv.Itoa(len(c.controllers())), from)
}

func bindAll(c *Cluster, n *Node, fixed origin.Origin) Text {
	if len(n.Addresses) > 1 {
		return origin.Of("::", fixed)
	}
	return origin.Of("0.0.0.0", fixed)
}

func dualIPs(_ *Cluster, n *Node, _ origin.Origin) Text {
	if len(n.Addresses) < 2 {
		return Text{}
	}
	return joined(address(n), origin.Map(n.Addresses[1], netip.Addr.String))
}

func labels(_ *Cluster, n *Node, _ origin.Origin) Text {
	var parts []Text
	for _, l := range n.Labels {
		parts = append(parts, origin.Of(l.Key+"="+l.Value.V, l.Value.From))
	}
	return joined(parts...)
}

// taintFlag is empty once KubeletConfiguration has a field for taints.
func taintFlag(_ *Cluster, n *Node, _ origin.Origin) Text {
	verdict := n.Release.Field("KubeletConfiguration", "registerWithTaints")
	if verdict.Keep {
		return Text{}
	}
	var parts []Text
	for _, t := range n.Taints {
		parts = append(parts, origin.Of(t.Key.V+"="+t.Value.V+":"+t.Effect.V, origin.Join(t.Key.From, t.Value.From, t.Effect.From, verdict.Row, n.Version.From)))
	}
	return joined(parts...)
}

// optional flags are left out where their value is empty.
var optional = map[string]bool{"node-ip": true, "node-labels": true, "register-with-taints": true}

// repeated are flags that may be given several times, with what they are given
// beside the row's value.
var repeated = map[string]func(c *Cluster, n *Node) []Text{"service-account-key-file": moreTokenKeys}

// Component is the program with its arguments on the node: the profile's rows
// that exist at the node's minor, and then the user's extraArgs.
func (c *Cluster) Component(name string, n *Node) Component {
	out := Component{Name: name, Binary: c.Path("bin/"+name, n)}
	for _, row := range flagRows[name] {
		v := row.hardened
		if c.Profile.V == schema.Tutorial {
			v = row.tutorial
		}
		verdict := n.Release.Flag(name, row.flag)
		if v == nil || !verdict.Keep {
			continue
		}
		text := v(c, n, origin.Fixed("flag-"+name+"-"+row.flag))
		if text.V == "" && optional[row.flag] {
			continue
		}
		if !verdict.Row.IsZero() {
			text.From = origin.Join(text.From, verdict.Row, n.Version.From)
		}
		out.Flags = append(out.Flags, Flag{Name: row.flag, Value: text, Bare: text.V == ""})
		if further := repeated[row.flag]; further != nil {
			for _, v := range further(c, n) {
				out.Flags = append(out.Flags, Flag{Name: row.flag, Value: v})
			}
		}
	}
	for _, extra := range c.ExtraArgs[name] {
		out.set(extra)
	}
	return out
}

// set replaces a flag, however often it is given, or adds it at the end.
func (p *Component) set(extra ExtraArg) {
	named := func(f Flag) bool { return f.Name == extra.Flag }
	at := slices.IndexFunc(p.Flags, named)
	if at < 0 {
		at = len(p.Flags)
	}
	rest := slices.DeleteFunc(slices.Clone(p.Flags[at:]), named)
	p.Flags = append(append(p.Flags[:at], Flag{Name: extra.Flag, Value: extra.Value}), rest...)
}

// Argument is the flag as one word of a command line.
func (f Flag) Argument() string {
	if f.Bare {
		return "--" + f.Name
	}
	return "--" + f.Name + "=" + f.Value.V
}

// flagReason is why a flag is there; "" for an id that is not a flag's.
func flagReason(id string) string {
	rest, ok := strings.CutPrefix(id, "flag-")
	if !ok {
		return ""
	}
	for component, rows := range flagRows {
		for _, row := range rows {
			if rest == component+"-"+row.flag {
				return row.why
			}
		}
	}
	return ""
}
