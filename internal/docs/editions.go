package docs

// Reasons that several artefacts share.
const (
	onYourMachine = "A program on your own machine; kthwc has no need of it."
	aCheck        = "A look at what was made, not a file: nothing stays behind."
	byHand        = "A step between files that are rendered where they belong: there is nothing to move."
	fetched       = "The name, version and place are in `MANIFEST.json`, with the release that goes with this Kubernetes."
)

// editions is everything that the two editions make a person type.
var editions = []edition{
	{"Kubernetes 1.21 on Google Cloud", "examples/kthw-1.21.yaml", []artefact{
		{"1", "gcloud, its login and its default region and zone", nil, "Every resource of the plan names its project, region and zone; no default counts."},
		{"2", "cfssl, cfssljson", nil, onYourMachine},
		{"2", "kubectl on your machine", nil, "Any kubectl within one minor of the cluster reads `client/admin.kubeconfig`."},
		{"3", "network", []string{"cloud/plan.yaml # - kind: Network\n"}, ""},
		{"3", "subnet", []string{"cloud/plan.yaml # - kind: Subnetwork\n"}, ""},
		{"3", "firewall: internal", []string{"cloud/plan.yaml # kubernetes-the-hard-way-allow-internal"}, ""},
		{"3", "firewall: external", []string{"cloud/plan.yaml # kubernetes-the-hard-way-allow-external"}, "Open to `access.operatorCIDRs`; workers come through `allow-workers`."},
		{"3", "static address", []string{"cloud/plan.yaml # - kind: Address\n"}, ""},
		{"3", "three controllers, three workers", []string{"cloud/plan.yaml # name: controller-2", "cloud/plan.yaml # name: worker-2"}, ""},
		{"3", "pod-cidr metadata of the workers", []string{"cloud/plan.yaml # pod-cidr"}, "Kept, though nothing reads it here: the range is in the rendered files."},
		{"3", "listing of firewall rules, addresses and machines", nil, aCheck},
		{"3", "SSH keys", nil, "Your own; `spec.ssh` says how the machines are reached."},
		{"4", "ca-config.json, ca-csr.json", []string{"pki/certificates.yaml # name: ca\n"}, "Profiles are the usages of each certificate."},
		{"4", "admin certificate", []string{"pki/certificates.yaml # name: admin\n"}, ""},
		{"4", "a certificate for each worker", []string{"worker-0:/var/lib/kubelet/worker-0.pem", "worker-0:/var/lib/kubelet/worker-0-key.pem"}, ""},
		{"4", "controller manager, scheduler and kube-proxy certificates", []string{"pki/certificates.yaml # name: kube-controller-manager\n", "pki/certificates.yaml # name: kube-scheduler\n", "pki/certificates.yaml # name: kube-proxy\n"}, "They are inside the kubeconfigs."},
		{"4", "API server certificate", []string{"controller-0:/var/lib/kubernetes/kubernetes.pem", "controller-0:/var/lib/kubernetes/kubernetes-key.pem"}, "With the FQDN that the tutorial lacks instead of its two wrong names."},
		{"4", "service account key pair", []string{"controller-0:/var/lib/kubernetes/service-account.pem", "controller-0:/var/lib/kubernetes/service-account-key.pem"}, ""},
		{"4", "copies of the authority", []string{"controller-0:/var/lib/kubernetes/ca.pem", "controller-0:/var/lib/kubernetes/ca-key.pem", "worker-0:/var/lib/kubernetes/ca.pem"}, ""},
		{"4, 5, 6", "scp to home directories", nil, byHand},
		{"5", "worker kubeconfigs", []string{"worker-0:/var/lib/kubelet/kubeconfig"}, ""},
		{"5", "kube-proxy kubeconfig", []string{"worker-0:/var/lib/kube-proxy/kubeconfig"}, ""},
		{"5", "controller manager kubeconfig", []string{"controller-0:/var/lib/kubernetes/kube-controller-manager.kubeconfig"}, ""},
		{"5", "scheduler kubeconfig", []string{"controller-0:/var/lib/kubernetes/kube-scheduler.kubeconfig"}, ""},
		{"5, 10", "admin kubeconfigs: one for controllers, one for you", []string{"client/admin.kubeconfig"}, "One is enough: it dials the API's address from anywhere."},
		{"6", "encryption-config.yaml", []string{"controller-0:/var/lib/kubernetes/encryption-config.yaml"}, "Mode 0600: the tutorial leaves the key readable by all."},
		{"7", "etcd, etcdctl", []string{"program controller-0 etcd", "program controller-0 etcdctl"}, fetched},
		{"7", "etcd's directories", []string{"controller-0:/etc/etcd", "controller-0:/var/lib/etcd"}, ""},
		{"7", "etcd's copies of certificates", []string{"controller-0:/etc/etcd/ca.pem", "controller-0:/etc/etcd/kubernetes.pem", "controller-0:/etc/etcd/kubernetes-key.pem"}, ""},
		{"7", "etcd.service", []string{"controller-0:/etc/systemd/system/etcd.service"}, ""},
		{"7", "etcdctl member list", nil, aCheck + " `kthwc config view` says beforehand which IDs the members will have."},
		{"8", "API server, controller manager, scheduler, kubectl", []string{"program controller-0 kube-apiserver", "program controller-0 kube-controller-manager", "program controller-0 kube-scheduler", "program controller-0 kubectl"}, fetched},
		{"8", "directories", []string{"controller-0:/etc/kubernetes/config", "controller-0:/var/lib/kubernetes"}, ""},
		{"8", "kube-apiserver.service", []string{"controller-0:/etc/systemd/system/kube-apiserver.service"}, ""},
		{"8", "kube-controller-manager.service", []string{"controller-0:/etc/systemd/system/kube-controller-manager.service"}, ""},
		{"8", "kube-scheduler.service", []string{"controller-0:/etc/systemd/system/kube-scheduler.service"}, ""},
		{"8", "kube-scheduler.yaml", []string{"controller-0:/etc/kubernetes/config/kube-scheduler.yaml"}, ""},
		{"8", "nginx", []string{"package controller-0 nginx"}, ""},
		{"8", "health site and its link", []string{"controller-0:/etc/nginx/sites-available/kubernetes.default.svc.cluster.local", "controller-0:/etc/nginx/sites-enabled/kubernetes.default.svc.cluster.local"}, "nginx's default site is removed."},
		{"8", "role and binding for the kubelet's API", []string{"manifests/10-apiserver-to-kubelet.yaml # kind: ClusterRole\n", "manifests/10-apiserver-to-kubelet.yaml # kind: ClusterRoleBinding\n"}, ""},
		{"8", "health check", []string{"cloud/plan.yaml # - kind: HttpHealthCheck\n"}, ""},
		{"8", "firewall: health check", []string{"cloud/plan.yaml # kubernetes-the-hard-way-allow-health-check"}, "Port 80 only, not every port."},
		{"8", "target pool with the controllers", []string{"cloud/plan.yaml # - kind: TargetPool\n"}, ""},
		{"8", "forwarding rule", []string{"cloud/plan.yaml # - kind: ForwardingRule\n"}, ""},
		{"8", "systemctl enable and start", []string{"controller-0:/etc/systemd/system/kube-apiserver.service # WantedBy=multi-user.target"}, "`MANIFEST.json` lists the units that are enabled and started."},
		{"8", "cluster-info, curl of /healthz and /version", nil, aCheck},
		{"9", "socat, conntrack, ipset", []string{"package worker-0 socat", "package worker-0 conntrack", "package worker-0 ipset"}, ""},
		{"9", "swapoff", nil, "`MANIFEST.json` says that swap is off, also after a reboot; it is a state of the host, not a file."},
		{"9", "crictl, runc, CNI plugins, containerd, kubectl, kube-proxy, kubelet", []string{"program worker-0 crictl", "program worker-0 runc", "program worker-0 cni-plugins", "program worker-0 containerd", "program worker-0 kubectl", "program worker-0 kube-proxy", "program worker-0 kubelet"}, fetched},
		{"9", "directories", []string{"worker-0:/etc/cni/net.d", "worker-0:/opt/cni/bin", "worker-0:/var/lib/kubelet", "worker-0:/var/lib/kube-proxy", "worker-0:/var/lib/kubernetes", "worker-0:/var/run/kubernetes", "worker-0:/etc/containerd"}, ""},
		{"9", "10-bridge.conf", []string{"worker-0:/etc/cni/net.d/10-bridge.conf"}, ""},
		{"9", "99-loopback.conf", []string{"worker-0:/etc/cni/net.d/99-loopback.conf"}, ""},
		{"9", "containerd's config.toml", []string{"worker-0:/etc/containerd/config.toml"}, ""},
		{"9", "containerd.service", []string{"worker-0:/etc/systemd/system/containerd.service"}, ""},
		{"9", "kubelet-config.yaml", []string{"worker-0:/var/lib/kubelet/kubelet-config.yaml"}, ""},
		{"9", "kubelet.service", []string{"worker-0:/etc/systemd/system/kubelet.service"}, ""},
		{"9", "kube-proxy-config.yaml", []string{"worker-0:/var/lib/kube-proxy/kube-proxy-config.yaml"}, ""},
		{"9", "kube-proxy.service", []string{"worker-0:/etc/systemd/system/kube-proxy.service"}, ""},
		{"9, 10", "kubectl get nodes, kubectl version", nil, aCheck},
		{"11", "a route for each worker's pods", []string{"cloud/plan.yaml # kubernetes-route-10-200-0-0-24", "cloud/plan.yaml # kubernetes-route-10-200-1-0-24", "cloud/plan.yaml # kubernetes-route-10-200-2-0-24"}, ""},
		{"12", "CoreDNS", []string{"manifests/20-coredns.yaml"}, "Rendered and pinned; the tutorial applies what lies at a URL. With `forward`, which the tutorial's Corefile lacks."},
		{"12", "busybox and nslookup", nil, aCheck},
		{"13", "secret, deployment, port-forward, logs, exec, NodePort", nil, aCheck},
		{"13", "firewall: the NodePort of nginx", nil, "Open to everybody in the tutorial. `access` says which ranges reach NodePorts; by default none."},
		{"14", "deletion of everything", nil, "The plan in the opposite order; no file."},
	}, []artefact{
		{"-", "/etc/hosts", []string{"controller-0:/etc/hosts", "worker-0:/etc/hosts"}, "The tutorial counts on Google's name servers."},
		{"-", "kernel modules and settings", []string{"worker-0:/etc/modules-load.d/kthwc.conf", "worker-0:/etc/sysctl.d/90-kthwc.conf"}, "The tutorial counts on what others have loaded."},
		{"-", "nginx's own site is absent", []string{"controller-0:/etc/nginx/sites-enabled/default"}, "It would answer for every other name."},
		{"-", "firewall: workers", []string{"cloud/plan.yaml # kubernetes-the-hard-way-allow-workers"}, "Workers dial the public address and must get through when it is not open to everybody."},
		{"-", "list of connections", []string{"network/connections.yaml"}, "For whoever keeps the firewall."},
		{"-", "the input", []string{"input/cluster.yaml"}, "What it was all rendered from."},
	}},
	{"Kubernetes 1.32 on machines of your own", "examples/kthw-1.32.yaml", []artefact{
		{"1", "jumpbox with wget, curl, vim, openssl, git", nil, onYourMachine},
		{"2", "clone of the tutorial", nil, onYourMachine},
		{"2", "downloads by architecture", []string{"program server etcd", "program server kube-apiserver", "program server kube-controller-manager", "program server kube-scheduler", "program server kubectl", "program node-0 kubelet", "program node-0 kube-proxy", "program node-0 crictl", "program node-0 runc", "program node-0 cni-plugins", "program node-0 containerd"}, "Stable releases instead of the tutorial's candidates of etcd, containerd and runc."},
		{"3", "machines.txt", []string{"input/cluster.yaml # nodes:"}, "The machines are the nodes of `cluster.yaml`."},
		{"3", "root login over SSH, ssh-copy-id", nil, "How you reach your machines is yours; `spec.ssh` says it."},
		{"3", "host names", nil, "The machine's own; a node's name must be its host name."},
		{"3", "/etc/hosts of every machine", []string{"server:/etc/hosts", "node-0:/etc/hosts", "node-1:/etc/hosts"}, "A marked block: rendering twice does not append twice."},
		{"4", "ca.conf and the authority", []string{"pki/certificates.yaml # name: ca\n"}, ""},
		{"4", "admin, controller manager, scheduler and kube-proxy certificates", []string{"pki/certificates.yaml # name: admin\n", "pki/certificates.yaml # name: kube-controller-manager\n", "pki/certificates.yaml # name: kube-scheduler\n", "pki/certificates.yaml # name: kube-proxy\n"}, "The scheduler's organisation is system:kube-scheduler; the tutorial's has a typing error."},
		{"4", "node certificates", []string{"node-0:/var/lib/kubelet/node-0.pem", "node-0:/var/lib/kubelet/node-0-key.pem"}, "With the node's address, which the tutorial's lack. Paths are those of 1.21."},
		{"4", "API server certificate", []string{"server:/var/lib/kubernetes/kubernetes.pem", "server:/var/lib/kubernetes/kubernetes-key.pem"}, "With the FQDN that the tutorial lacks instead of its two wrong names."},
		{"4", "service account key pair", []string{"server:/var/lib/kubernetes/service-account.pem", "server:/var/lib/kubernetes/service-account-key.pem"}, ""},
		{"4", "copies of the authority", []string{"server:/var/lib/kubernetes/ca.pem", "server:/var/lib/kubernetes/ca-key.pem", "node-0:/var/lib/kubernetes/ca.pem"}, ""},
		{"4, 5, 6, 7, 8, 9", "scp to home directories, mv from there", nil, byHand},
		{"5", "node kubeconfigs", []string{"node-0:/var/lib/kubelet/kubeconfig"}, ""},
		{"5", "kube-proxy kubeconfig", []string{"node-0:/var/lib/kube-proxy/kubeconfig"}, ""},
		{"5", "controller manager and scheduler kubeconfigs", []string{"server:/var/lib/kubernetes/kube-controller-manager.kubeconfig # https://127.0.0.1:6443", "server:/var/lib/kubernetes/kube-scheduler.kubeconfig # https://127.0.0.1:6443"}, "They dial loopback: no name has to be resolved."},
		{"5, 10", "admin kubeconfigs: one for the server, one for you", []string{"client/admin.kubeconfig"}, "One is enough: it dials the API's address from anywhere."},
		{"6", "encryption-config.yaml", []string{"server:/var/lib/kubernetes/encryption-config.yaml"}, "Mode 0600."},
		{"7", "etcd.service", []string{"server:/etc/systemd/system/etcd.service # --client-cert-auth"}, "Over TLS; the tutorial copies certificates and then speaks plain HTTP."},
		{"7", "etcd's directories and certificates", []string{"server:/etc/etcd", "server:/var/lib/etcd", "server:/etc/etcd/ca.pem", "server:/etc/etcd/kubernetes.pem", "server:/etc/etcd/kubernetes-key.pem"}, ""},
		{"7", "etcdctl member list", nil, aCheck},
		{"8", "directories", []string{"server:/etc/kubernetes/config", "server:/var/lib/kubernetes"}, ""},
		{"8", "kube-apiserver.service", []string{"server:/etc/systemd/system/kube-apiserver.service # --service-cluster-ip-range=10.32.0.0/24"}, "With the Service range that the tutorial lost."},
		{"8", "kube-controller-manager.service", []string{"server:/etc/systemd/system/kube-controller-manager.service"}, ""},
		{"8", "kube-scheduler.service and its configuration", []string{"server:/etc/systemd/system/kube-scheduler.service", "server:/etc/kubernetes/config/kube-scheduler.yaml"}, ""},
		{"8", "role and binding for the kubelet's API", []string{"manifests/10-apiserver-to-kubelet.yaml"}, ""},
		{"8", "systemctl, cluster-info, curl of /version", nil, aCheck},
		{"9", "socat, conntrack, ipset, kmod", []string{"package node-0 socat", "package node-0 conntrack", "package node-0 ipset", "package node-0 kmod"}, ""},
		{"9", "swapoff", nil, "`MANIFEST.json` says that swap is off, also after a reboot; it is a state of the host, not a file."},
		{"9", "br-netfilter at boot", []string{"node-0:/etc/modules-load.d/kthwc.conf # br_netfilter"}, ""},
		{"9", "bridge settings of the kernel", []string{"node-0:/etc/sysctl.d/90-kthwc.conf # net.bridge.bridge-nf-call-iptables = 1", "node-0:/etc/sysctl.d/90-kthwc.conf # net.ipv4.ip_forward = 1"}, "With `ip_forward`, which the tutorial leaves to the first pod."},
		{"9", "directories", []string{"node-0:/etc/cni/net.d", "node-0:/opt/cni/bin", "node-0:/var/lib/kubelet", "node-0:/var/lib/kube-proxy", "node-0:/var/lib/kubernetes", "node-0:/var/run/kubernetes", "node-0:/etc/containerd"}, ""},
		{"9", "10-bridge.conf", []string{"node-0:/etc/cni/net.d/10-bridge.conf"}, ""},
		{"9", "99-loopback.conf", []string{"node-0:/etc/cni/net.d/99-loopback.conf"}, ""},
		{"9", "containerd-config.toml, containerd.service", []string{"node-0:/etc/containerd/config.toml", "node-0:/etc/systemd/system/containerd.service"}, ""},
		{"9", "kubelet-config.yaml, kubelet.service", []string{"node-0:/var/lib/kubelet/kubelet-config.yaml # clusterDNS", "node-0:/etc/systemd/system/kubelet.service"}, "With the DNS settings that the tutorial lacks."},
		{"9", "kube-proxy-config.yaml, kube-proxy.service", []string{"node-0:/var/lib/kube-proxy/kube-proxy-config.yaml", "node-0:/etc/systemd/system/kube-proxy.service"}, ""},
		{"9, 10", "kubectl get nodes, kubectl version", nil, aCheck},
		{"11", "routes on the server and the nodes", []string{"server:/etc/kubernetes/pod-routes # 10.200.1.0/24 via 10.240.0.21", "node-0:/etc/kubernetes/pod-routes # 10.200.1.0/24 via 10.240.0.21", "node-1:/etc/kubernetes/pod-routes # 10.200.0.0/24 via 10.240.0.20", "server:/etc/systemd/system/kthwc-pod-routes.service", "node-0:/etc/systemd/system/kthwc-pod-routes.service"}, "They are there again after a reboot."},
		{"12", "secret, deployment, port-forward, logs, exec, NodePort", nil, aCheck},
		{"13", "deletion of the machines", nil, "They are yours."},
	}, []artefact{
		{"-", "health site", []string{"package server nginx", "server:/etc/nginx/sites-available/kubernetes.default.svc.cluster.local", "server:/etc/nginx/sites-enabled/kubernetes.default.svc.cluster.local", "server:/etc/nginx/sites-enabled/default"}, "As in 1.21, so that a balancer can be put before the server later."},
		{"-", "CoreDNS", []string{"manifests/20-coredns.yaml"}, "The tutorial's pods have no DNS."},
		{"-", "directory of the routes", []string{"server:/etc/kubernetes", "node-0:/etc/kubernetes"}, ""},
		{"-", "list of connections", []string{"network/connections.yaml"}, "For whoever keeps the firewall."},
	}},
}

// A fate is what becomes of a fault of the tutorial.
type fate string

const (
	repaired     fate = "repaired"
	cannotArise  fate = "cannot arise"
	keptWithNote fate = "kept with a warning"
)

// defects are the faults of the editions. A code in `how` is one of package diag.
var defects = []struct {
	edition, what string
	fate          fate
	how           string
}{
	{"1.32", "The API server has no Service range and falls back to another one than its certificate and the controller manager have.", cannotArise, "One field feeds all three; E0112 compares them."},
	{"both", "The API server's certificate has two wrong names and lacks the FQDN.", repaired, "Names follow from `network.clusterDomain`; E0107 checks each name that is dialled."},
	{"1.32", "The scheduler's organisation is misspelt.", cannotArise, "E0108 knows the names that Kubernetes binds roles to."},
	{"1.21", "containerd's configuration has no version, and a runtime that was removed.", repaired, "The form follows the version of containerd; E0215 compares them."},
	{"1.32", "Candidates of etcd, containerd and runc.", repaired, "The version table has stable releases."},
	{"both", "An audit log without a policy: nothing is recorded.", keptWithNote, "W0107; the hardened profile has a policy."},
	{"1.21", "CoreDNS without `forward`, from a URL that changes.", repaired, "`manifests/20-coredns.yaml`, with an image by version."},
	{"1.32", "etcd in plain HTTP beside certificates that nothing uses.", repaired, "TLS with client certificates; E0219 finds files that nothing reads."},
	{"1.32", "No `ip_forward`: NodePorts time out on a node without pods.", repaired, "`/etc/sysctl.d/90-kthwc.conf`; E0217."},
	{"both", "Files in home directories, with the owner and mode of the day.", cannotArise, "Every path has an owner and a mode; E0221 for secrets."},
	{"1.21", "One certificate for the API server, etcd and the kubelet client.", keptWithNote, "W0105; the hardened profile has one for each."},
	{"1.21", "Workers dial the public address, so a rule for operators alone locks them out.", repaired, "The plan has a rule for the workers, and W0102 says so; `api.workersVia: internal` avoids the detour."},
	{"1.32", "`grep node-1` also finds node-10; a space more shifts the columns.", cannotArise, "Nodes are typed entries with names that are checked (E0101)."},
	{"both", "The node's identity is whatever the host is called when it starts.", keptWithNote, "W0109; the host's name must be the node's. The hardened profile also tells kube-proxy its node."},
	{"1.21", "The health check's rule opens every TCP port, the NodePort's every source.", repaired, "Port 80 on controllers only; NodePorts from the ranges that you allow."},
	{"both", "Certificates for a year that nobody renews, or for ten.", repaired, "Lifetimes are fields (`pki.leafLifetime`, `pki.caLifetime`) and E0124 compares them. Renewal itself is not built yet."},
	{"1.21", "Clean-up deletes the address twice and leaves disks.", repaired, "Disks go with their machine, and the plan says in which order things go. Carrying it out is not built yet."},
	{"1.32", "Controllers' components need a name that only `/etc/hosts` knows.", repaired, "They dial loopback."},
}
