package docs

// families are the pages of docs/artefacts, in the order of the contents page.
// Every file of the specimens is on exactly one of them.
var families = []family{
	{"etcd.md", "etcd", `etcd holds the whole state of the cluster: every object that ` + "`kubectl`" + ` shows is a key in it. One member runs on each
controller, as a user of its own. Members elect a leader and agree by majority, so three of them survive the loss of one.
Its clients are the API servers beside it and nobody else; both ends of every connection prove who they are.`,
		[]row{
			{where: "controller-0:/etc/systemd/system/etcd.service", what: "The unit that runs the member. etcd has no configuration file here: flags are all there is."},
			{where: "controller-0:/etc/etcd", what: "What etcd reads."},
			{where: "controller-0:/etc/etcd/pki", what: "Its certificates and keys."},
			{where: "controller-0:/etc/etcd/pki/*"},
			{where: "controller-0:/var/lib/etcd", what: "The data. Nobody else can read it."},
		}, nil},
	{"kube-apiserver.md", "The API server", `Everything talks to the API server, and it alone talks to etcd. It checks who is asking (certificates and tokens), whether
they may (the Node authorizer and roles), and whether the object is acceptable (admission), and then reads or writes etcd.
One runs on each controller; they share nothing but etcd, so clients may use any of them.`,
		[]row{
			{where: "controller-0:/etc/systemd/system/kube-apiserver.service", what: "The unit that runs the API server."},
			{where: "controller-0:/etc/kubernetes/audit-policy.yaml", what: "What the audit log records: the first rule that matches decides."},
			{where: "controller-0:/var/log/kubernetes", what: "Where the audit log is written."},
		}, nil},
	{"kube-controller-manager.md", "The controller manager", `Dozens of loops in one program: each watches one kind of object and changes the world until it is as the object says. One of
the controller managers works at a time; the others wait for its lease to run out. It holds the key that signs service
account tokens.`,
		[]row{{where: "controller-0:/etc/systemd/system/kube-controller-manager.service", what: "The unit that runs the controller manager."}}, nil},
	{"kube-scheduler.md", "The scheduler", `The scheduler gives every new pod a node: it leaves out the nodes where the pod cannot run and takes the best of the rest. It
starts nothing itself; the kubelet of that node sees the pod and does. One scheduler works at a time.`,
		[]row{
			{where: "controller-0:/etc/systemd/system/kube-scheduler.service", what: "The unit that runs the scheduler."},
			{where: "controller-0:/etc/kubernetes/kube-scheduler.yaml", what: "Its configuration."},
		}, nil},
	{"kubelet.md", "The kubelet", `The kubelet is the cluster's hand on a worker. It registers the node, learns from the API server which pods are its own,
has the runtime run them, and reports how they are. The API server calls it for logs and exec, so it is a server too.`,
		[]row{
			{where: "worker-0:/etc/systemd/system/kubelet.service", what: "The unit that runs the kubelet."},
			{where: "worker-0:/var/lib/kubelet/config.yaml", what: "Its configuration: what used to be flags."},
			{where: "worker-0:/var/lib/kubelet", what: "Pods' volumes and the kubelet's own state."},
			{where: "worker-0:/var/lib/kubelet/pki", what: "The kubelet's certificates and keys."},
			{where: "worker-0:/var/lib/kubelet/pki/*"},
		}, nil},
	{"kube-proxy.md", "kube-proxy", `A Service is an address that no machine has. kube-proxy watches Services and the pods behind them and writes rules into the
kernel that turn the address into that of a pod. Packets never pass through kube-proxy itself.`,
		[]row{
			{where: "worker-0:/etc/systemd/system/kube-proxy.service", what: "The unit that runs kube-proxy."},
			{where: "worker-0:/etc/kubernetes/kube-proxy.yaml", what: "Its configuration."},
		}, nil},
	{"container-runtime.md", "containerd and the pods' network", `The kubelet does not run containers: it asks containerd over a socket. containerd pulls images, stacks their layers, has runc
start the containers, and has the CNI plugins give each pod an interface and an address from the node's own range.`,
		[]row{
			{where: "worker-0:/etc/systemd/system/containerd.service", what: "The unit that runs containerd."},
			{where: "worker-0:/etc/crictl.yaml", what: "Where `crictl`, the tool to look into the runtime with, finds it."},
			{where: "worker-0:/etc/containerd/config.toml", what: "Its configuration, in the version that this containerd reads."},
			{where: "worker-0:/etc/cni/net.d/10-bridge.conflist", what: "How a pod joins the network. containerd takes the first file of the directory by name."},
			{where: "worker-0:/etc/cni/net.d/99-loopback.conf", what: "The pod's loopback interface."},
			{where: "worker-0:/etc/containerd", what: "containerd's configuration."},
			{where: "worker-0:/etc/cni/net.d", what: "The networks that pods can join."},
			{where: "worker-0:/opt/cni/bin", what: "The CNI plugins."},
		}, nil},
	{"host.md", "The host", `What a machine needs before any of this can run: names of the other machines, kernel modules and settings that are there
again after a reboot, no swap, a few packages, and the programs in the versions that belong together. Where no cloud routes
packets to the pods, the machine's own routes do.`,
		[]row{
			{where: "controller-0:/etc/hosts", what: "A marked block in a file that others write too: a controller reaches every node by name."},
			{where: "worker-0:/etc/hosts", what: "A worker needs the controllers and itself."},
			{where: "worker-0:/etc/modules-load.d/kthwc.conf", what: "Kernel modules that are loaded at boot."},
			{where: "worker-0:/etc/sysctl.d/90-kthwc.conf", what: "Kernel settings that are set at boot."},
			{where: "worker-0:/etc/kubernetes/pod-routes", what: "The other workers' pods. On Google Cloud the network has these routes instead.", example: "examples/lab.yaml"},
			{where: "worker-0:/etc/systemd/system/kthwc-pod-routes.service", what: "The unit that puts the routes back after every boot.", example: "examples/lab.yaml"},
			{where: "*:/etc/kubernetes", what: "Configuration of the Kubernetes components."},
		}, (*built).machines},
	{"healthz.md", "The health site", `A balancer sends connections to the API servers that are healthy, and asks in plain HTTP. The API server speaks TLS only and
answers nobody without a certificate. So nginx listens on port 80, knows one path, and asks the API server beside it with a
certificate that may see health and nothing else.`,
		[]row{
			{where: "controller-0:/etc/nginx/sites-available/*", what: "The site."},
			{where: "controller-0:/etc/nginx/sites-enabled/*", what: "nginx serves the sites that are linked here; its own default site would answer for every other name."},
		}, nil},
	{"api-proxy.md", "The workers' way to the API server", `With ` + "`api.workersVia: internal`" + `, the default of the hardened profile, the kubelet and kube-proxy dial a proxy on loopback.
It knows every controller and leaves out one that does not answer, so that workers need neither a balancer nor the cluster's
public address. It passes TLS through and holds no key.`,
		[]row{
			{where: "worker-0:/etc/systemd/system/kthwc-api-proxy.service", what: "The unit that runs haproxy."},
			{where: "worker-0:/etc/kubernetes/kthwc-api-proxy.cfg", what: "Its configuration."},
		}, nil},
	{"kubeconfigs.md", "Kubeconfigs of the components", `A kubeconfig says where the API server is, whom to believe that it is the API server, and who one is. Each component has its
own, and what it may do follows from the name in its certificate. Controllers' components dial the API server beside them.`,
		[]row{
			{where: "controller-0:/etc/kubernetes/controller-manager.conf", what: "The controller manager's."},
			{where: "controller-0:/etc/kubernetes/scheduler.conf", what: "The scheduler's."},
			{where: "worker-0:/etc/kubernetes/kubelet.conf", what: "The kubelet's. The Node authorizer knows the node by this name."},
			{where: "worker-0:/etc/kubernetes/proxy.conf", what: "kube-proxy's."},
		}, nil},
	{"encryption.md", "Encryption at rest", `etcd's files, its snapshots and its backups would otherwise hold every Secret in clear text. The API server encrypts before it
writes and decrypts after it reads; etcd never sees the key. The key is the same on every controller.`,
		[]row{{where: "controller-0:/etc/kubernetes/encryption-config.yaml", what: "Which resources, which cipher, which keys. Readable by root alone, because it holds the keys."}}, nil},
	{"manifests.md", "Manifests", `What is applied to the finished cluster, in the order of the names: who its operators are, what the API server and the health
site may do, and the cluster's DNS.`,
		[]row{
			{where: "manifests/00-operators.yaml", what: "The operators' group. Applied first, with a sealed super-admin certificate that is not needed again."},
			{where: "manifests/10-apiserver-to-kubelet.yaml", what: "What the API server may ask of kubelets."},
			{where: "manifests/10-healthz.yaml", what: "What the health site may see."},
			{where: "manifests/20-coredns.yaml", what: "CoreDNS: its rights, its configuration, its pods, and the Service that every pod asks."},
		}, nil},
	{"client.md", "The operator's kubeconfig", `What you use yourself. It is no file of any host.`,
		[]row{{where: "client/admin.kubeconfig", what: "Your way to the cluster, for kubectl."}}, nil},
	{"cloud.md", "The cloud plan", `What Google Cloud shall have, in the order of creation; it is taken down in the opposite order. Every resource has all of its
fields: nothing depends on the defaults of somebody's gcloud configuration.`,
		[]row{{where: "cloud/plan.yaml", what: "The resources.", entries: true}}, nil},
	{"pki.md", "What must be issued", `Every authority, certificate and key pair of the cluster: who it is for, which names are in it, how long it lives, and where
it goes. No key is in the rendered tree, because no type there can hold one; files name what they want, such as
` + "`${secret:pki/ca/etcd.crt}`" + `.`,
		[]row{
			{where: "pki/certificates.yaml", what: "The wanted list.", entries: true},
			{where: "*:/etc/kubernetes/pki", what: "Certificates and keys of the Kubernetes components."},
			{where: "controller-0:/etc/kubernetes/pki/*"},
			{where: "worker-0:/etc/kubernetes/pki/*"},
		}, nil},
	{"connections.md", "Who dials whom", `Every connection that the cluster needs, for whoever keeps the firewall. What is not on this list may be closed.
"Shows" is the client's certificate, "must see" the authority of the server's.`,
		nil, (*built).connections},
}
