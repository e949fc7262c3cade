package diag

import "slices"

// Code is one kind of fault: its stable code, a name for searching, and the
// story that `kthwc explain CODE` tells.
type Code struct {
	Code     string
	Slug     string
	Severity Severity
	Title    string
	Story    string
}

// Lookup finds a code; ok is false if there is none.
func Lookup(code string) (c Code, ok bool) {
	at := slices.IndexFunc(Codes, func(c Code) bool { return c.Code == code })
	if at < 0 {
		return Code{}, false
	}
	return Codes[at], true
}

// Codes is every kind of fault, in order. Numbers are never used again.
//
//	00xx the file itself      01xx what it says      02xx what would be rendered
var Codes = []Code{
	{"E0001", "file-unreadable", Error, "the file cannot be read",
		"kthwc reads one cluster.yaml: ./cluster.yaml unless -f names another, and standard input for `-f -`. A directory, a missing file and a file without read permission end here."},
	{"E0002", "file-too-large", Error, "the file is too large",
		"A cluster.yaml for five thousand machines listed one by one takes under one MiB. A file beyond the limit is refused before it is parsed, so that a wrong file cannot take the machine's memory."},
	{"E0003", "unknown-field", Error, "a field that does not exist",
		"Every field of the file must be known: a misspelt field would otherwise be silently ignored, and the cluster would not be what its reviewers read. The nearest known field is suggested. `kthwc schema --format markdown` lists all fields."},
	{"E0004", "duplicate-key", Error, "a key that is given twice",
		"YAML forbids duplicate keys, but many readers accept them and disagree on which one counts. Both places are shown."},
	{"E0005", "wrong-type", Error, "a value of the wrong kind",
		"The field wants text, a number, true or false, a list or a mapping, and the file has something else there."},
	{"E0006", "missing-field", Error, "a required field is missing",
		"The schema has no default for this field: only you know its value."},
	{"E0007", "not-yaml", Error, "the text is not YAML",
		"The YAML reader stopped on this line. Usual causes: a tab in the indentation, a colon without a space after it, a quote that is not closed."},
	{"E0008", "several-documents", Error, "more than one document",
		"One file describes one cluster. A second document after `---` would be a second cluster, or something that another tool should read."},
	{"E0009", "empty-file", Error, "the file is empty", "There is nothing in the file but white space and comments."},
	{"E0010", "bad-value", Error, "a value that the schema does not accept",
		"The value has the right kind, but not the right form. Forms are narrow on purpose: names and addresses end up in unit files, URLs, certificates and shell commands, where a space or a quote would change the meaning."},
	{"E0011", "alias", Error, "anchors, aliases and merge keys",
		"They save typing and cost reading: a value is then not where it is used. They can also expand to gigabytes (an alias bomb)."},
	{"E0012", "tag", Error, "a YAML tag", "Tags such as !!binary change how a value is read. Plain text, numbers, booleans, lists and mappings are all that a cluster.yaml needs."},
	{"E0013", "not-text", Error, "bytes that are not UTF-8 text", "The file has a byte order mark, a control character or bytes of another encoding. It may have been saved as UTF-16, or may not be a text file."},
	{"E0014", "bad-key", Error, "a key that is not text", "A key such as `on:` or `1:` is a boolean or a number to some YAML readers."},
	{"E0015", "unquoted", Error, "text that must be quoted",
		"To YAML, 1.30 is the number 1.3, 0644 may be the number 420, and `no` may be false. Where text is wanted such values must be quoted, so that every reader reads the same."},
	{"E0016", "provider", Error, "exactly one provider", "A cluster lives on Google Cloud (gcp) or on machines that exist already (static)."},
	{"E0017", "duplicate-name", Error, "two entries with one name", "Entries of nodes, pools and units are found by name."},
	{"E0018", "unformattable", Error, "a file that cannot be formatted",
		"`kthwc fmt` compares every value and every comment before and after, and leaves the file alone if one of them would not be the same. Block text with spaces at the ends of its lines is the usual cause: the formatter would have to write it in quotes."},

	{"E0101", "node-name", Error, "a node name that cannot be used",
		"The node name is the kubelet's identity (system:node:NAME), a host name and a certificate name at once. Names that already mean something on every machine or in every cluster cannot be one, and two machines cannot share one."},
	{"E0102", "node-address", Error, "a node address that cannot be used",
		"Two machines with one address, an address outside network.nodeCIDR or equal to the balancer's: etcd members, certificates and routes would point at the wrong machine."},
	{"E0103", "ranges-overlap", Error, "address ranges overlap",
		"Node, pod and Service ranges must be disjoint: an address has to mean a machine, a pod or a Service, never two of them. Overlaps show up as connections that work from some places only."},
	{"E0104", "pod-range", Error, "a pod range that does not fit",
		"Every worker has its own range inside network.podCIDR, disjoint from the others, with room for its pods. A range outside it is not masqueraded and not routed; too small a range leaves pods without addresses."},
	{"E0105", "service-range", Error, "a Service range that cannot be used",
		"The first address of the range is the API server's own Service and the cluster's DNS needs another; kube-apiserver refuses ranges with more than 20 bits of hosts for IPv4 and IPv6 ranges larger than /108."},
	{"E0106", "cluster-dns", Error, "a cluster DNS address that cannot be used",
		"Pods find the DNS Service by this address, so it must be inside network.serviceCIDR, must not be the first address (that is the API server's Service) and must not be the network's own address."},
	{"E0107", "handshake", Error, "a connection whose ends would refuse each other",
		"Every connection of the cluster is in the model with both certificates. The name that is dialled must be in the server's certificate, each side must trust the authority of the other, and each certificate must be for that use. Otherwise the log says `x509: certificate is valid for ..., not ...` or `unknown authority`, on a cluster that half works."},
	{"E0108", "identity", Error, "a certificate with a name that Kubernetes does not know",
		"The Node authorizer knows kubelets as system:node:NAME in the group system:nodes, and the default roles are bound to system:kube-proxy, system:kube-scheduler and system:kube-controller-manager. Any other name is a user without rights."},
	{"E0109", "kubeconfig-user", Error, "a kubeconfig whose user is not its certificate's", "The user in a kubeconfig is only a label; who one is comes from the certificate. The two differ only by mistake, and the mistake is found when something is forbidden."},
	{"E0110", "kubelet-client", Error, "a role for a user that API servers are not",
		"API servers call kubelets with a client certificate, and the kubelet asks the API server what that user may do. The ClusterRoleBinding must name the same user, or `kubectl logs` and `exec` end in Forbidden (user=kubernetes, verb=get, resource=nodes, subresource=proxy)."},
	{"E0111", "etcd-members", Error, "a number of etcd members that gains nothing",
		"etcd needs a majority of its members. Two members survive the loss of none, like one, and stop when either fails; four survive one, like three. Use one, three or five controllers."},
	{"E0112", "disagreement", Error, "two components that must agree and do not",
		"The API server and the controller manager share the Service range and the key pair of service accounts; the controller manager, kube-proxy and the nodes share the pod range. A flag in extraArgs changes one of them only."},
	{"E0113", "unknown-flag", Error, "a flag that this release does not have",
		"The component exits at once on a flag that it does not know (`unknown flag: --network-plugin`). The set of flags was read from the component itself."},
	{"E0114", "version", Error, "a Kubernetes release that is not supported",
		"The version table has rows for certain minors only; the rendered flags and configuration kinds of any other would be guesses."},
	{"E0115", "version-skew", Error, "a node that is newer than the API server, or too old for it",
		"A kubelet may be up to three minors older than the API server, never newer (two minors before 1.28). Controllers run the cluster's own release."},
	{"E0116", "proxy-mode", Error, "a kube-proxy mode that this release does not have", "nftables mode is beta, and on without a gate, from Kubernetes 1.31 (KEP-3866). Older kube-proxies exit at once."},
	{"E0118", "address-family", Error, "address families that do not match",
		"Dual-stack is all or nothing: node, pod and Service ranges and every node address have an IPv4 and an IPv6 entry in this order, or one entry each of the same family."},
	{"E0119", "api-endpoint", Error, "an API endpoint that does not fit together",
		"A balancer of the provider needs a provider that has one; an external one needs its address; several controllers behind no balancer need one too."},
	{"E0120", "no-controller", Error, "no controller", "At least one node must have the role controller: it runs etcd and the control plane."},
	{"E0121", "selector", Error, "a file or unit for nodes that do not exist", "`on` names roles (controller, worker) or nodes."},
	{"E0122", "port-range", Error, "a port range that cannot be used", "The NodePort range must rise, stay below 65536 and not contain a port that the nodes themselves listen on."},
	{"E0123", "encryption-key", Error, "encryption keys", "Key names must differ; the first encrypts, all of them decrypt."},
	{"E0124", "lifetime", Error, "certificates that outlive their authority", "A certificate is worthless once its authority has expired, so it must not live longer."},
	{"E0126", "no-worker", Error, "no worker", "Without a worker nothing can run: the cluster's own DNS would stay pending for ever."},
	{"E0127", "audit-policy", Error, "an audit log without a policy", "The audit flags write nothing unless --audit-policy-file says what to record (CIS 3.2.1)."},
	{"E0128", "cloud-machine", Error, "a machine that Google Cloud cannot make", "Names of instances begin with a letter, each machine series has one architecture, and IPv6 ranges are Google's to choose."},
	{"E0129", "secret-name", Error, "text that looks like the name of a secret",
		"Rendered files name keys and certificates as ${secret:…}, and what stands there on the host is the secret itself. A file, a unit or a flag of yours with such text would have it too, whatever its mode."},

	{"E0201", "produced-twice", Error, "two things write one path", "A path on a node has one producer."},
	{"E0202", "unit-text", Error, "text that no unit file can carry", "systemd has no way to write control characters in a command line."},
	{"E0215", "runtime-config", Error, "a containerd configuration in another version's form",
		"containerd 1 reads configuration versions 1 and 2, containerd 2 reads version 3 and converts older ones. Tables of another version are ignored in silence: the cgroup driver, the sandbox image and the mirrors would not be what the file says."},
	{"E0216", "cgroup-driver", Error, "kubelet and runtime with different cgroup drivers",
		"Both manage the cgroups of pods. With different drivers pods start, and are killed at random under memory pressure."},
	{"E0217", "kernel", Error, "a kernel module or setting that is missing at boot",
		"br_netfilter makes packets between pods of one node pass kube-proxy's rules, and ip_forward lets the node forward at all. Without them the cluster works until a pod talks to a Service whose pod is on the same node, or until the next reboot."},
	{"E0218", "path-missing", Error, "a path that nothing makes", "A rendered file names a path that is neither rendered, nor installed, nor on every host. The program that reads it would not start."},
	{"E0219", "file-unused", Error, "a file that nothing reads", "A rendered file that no flag, no configuration and no well-known place leads to is a mistake, or a secret where it is not needed."},
	{"E0220", "hole", Error, "a hole in rendered text", "An empty value, a URL without a host, a carriage return or a tab in YAML: the marks of a failed template."},
	{"E0221", "secret-mode", Error, "a secret that others can read", "Files with private keys, encryption keys or client credentials are readable by their owner only."},
	{"E0225", "architecture", Error, "a program of another architecture", "The machine could not run it (Exec format error)."},
	{"E0232", "patch", Error, "a patch that cannot be merged", "configPatches are merged over the rendered configuration as RFC 7386 says: mappings into mappings, everything else replaces."},
	{"E0233", "overlay", Error, "an overlay that cannot be laid over",
		"An overlay is a jsonnet file in the directory of cluster.yaml. It is a function that is called for every node and returns what it changes, by path:\n\n" +
			"  function(node, files) {\n    local kubelet = '/var/lib/kubelet/config.yaml',\n    [if kubelet in files then kubelet]: files[kubelet] { data+: { serializeImagePulls: false } },\n    '/etc/motd': { content: 'This is %s.\\n' % node.name },\n  }\n\n" +
			"A path that is not returned stays as it is, and null leaves a file out. A file has content, and data where the content is YAML, JSON or TOML; change one of the two. mode, owner, group and readers (units that must learn of a change) are optional. " +
			"Names of secrets must stay where they are, imports come from the same directory only, and a call has bounds of time, memory and size."},

	{"W0101", "open-access", Warning, "the API and SSH are open to everybody",
		"access.operatorCIDRs was left at 0.0.0.0/0. Client certificates still guard the API, but scanners find it within minutes. Note that workers that use the public address come from their own external addresses: these must stay allowed."},
	{"W0102", "workers-locked-out", Warning, "workers may not reach the API server",
		"With workersVia: public the workers dial the public address and arrive from their external addresses. Ranges for operators alone lock them out: `kubectl get nodes` stays empty."},
	{"W0103", "replaced-flag", Warning, "a flag of extraArgs that replaces a rendered one",
		"The rendered flag follows from cluster.yaml, and so do other files. A replaced flag follows nothing: whatever must agree with it is yours to keep in step."},
	{"W0104", "single-member", Warning, "one etcd member", "The loss of this machine's disk is the loss of the cluster. Take snapshots, or use three controllers."},
	{"W0105", "shared-credentials", Warning, "one certificate for many purposes (kept from the tutorial)",
		"The tutorial profile uses one authority and one certificate for the API server, etcd and the kubelet client. Any leaf can therefore read etcd. The hardened profile has six roots and a key per host and role."},
	{"W0106", "path-unknown", Warning, "a path of yours that kthwc does not make",
		"A flag or patch of yours names a file that is not rendered. Add it to spec.files, or make sure that something else puts it there before the component starts."},
	{"W0107", "no-audit-policy", Warning, "audit flags without a policy (kept from the tutorial)", "The tutorial sets audit-log flags but no policy, so nothing is recorded. The hardened profile has a policy."},
	{"W0108", "old-release", Warning, "a release that gets no more fixes", "Kubernetes supports the newest three minors. This one is for learning, or for reading what an upgrade changes."},
	{"W0109", "host-name", Warning, "a node name that comes from the host (kept from the tutorial)",
		"kube-proxy looks for the Node object that has its host's name, and with another name it does not find its own pods' node. The hardened profile sets hostnameOverride; the tutorial's file has no such key."},
}
