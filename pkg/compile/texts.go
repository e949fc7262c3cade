package compile

// reasons says why a constant is what it is. Flags carry theirs in flagRows.
var reasons = map[string]string{
	"pod-mask-ipv6": "One worker's IPv6 pod range is a /64, the size that Kubernetes expects.",
	"no-proxy":      "The runtime reaches the node itself and the cluster's Services directly.",
	"workers-via":   "Without another way, workers dial the address that everybody dials.",
	"api-local":     "Programs on a controller dial the API server beside them: it needs no balancer and no name.",

	"ca-kubernetes-client": "Signs the clients of the API server: users, kubelets, controllers.",
	"ca-apiserver-serving": "Signs what API servers show their clients. A stolen client key cannot pose as an API server.",
	"ca-kubelet-serving":   "Signs what kubelets show the API server.",
	"ca-etcd":              "Signs etcd's serving certificates and its few clients: whoever has such a client certificate reads everything.",
	"ca-etcd-peer":         "Signs etcd members for one another.",
	"ca-front-proxy":       "Signs the one client that may speak for other users.",
	"ca-tutorial":          "The tutorial's single authority signs everything.",

	"cert-apiserver-serving":        "Shown by the API server to every client.",
	"cert-apiserver-kubelet-client": "Shown by the API server to kubelets, for logs, exec and port-forward.",
	"cert-apiserver-etcd-client":    "Shown by the API server to etcd.",
	"cert-front-proxy-client":       "Shown by the API server to extension API servers.",
	"cert-kube-controller-manager":  "Who the controller manager is; Kubernetes binds its role to this name.",
	"cert-kube-scheduler":           "Who the scheduler is; Kubernetes binds its role to this name.",
	"cert-healthz":                  "Shown by nginx to the API server when the balancer asks for its health.",
	"cert-etcd-server":              "Shown by etcd to its clients.",
	"cert-etcd-peer":                "Shown by etcd members to one another.",
	"cert-etcd-healthcheck":         "Shown by etcdctl and by health gates to etcd.",
	"cert-kubelet-client":           "Who the kubelet is: the Node authorizer knows nodes by this name and group.",
	"cert-kubelet-serving":          "Shown by the kubelet to the API server.",
	"cert-kubelet":                  "Who the kubelet is, and what it shows the API server.",
	"cert-kube-proxy":               "Who kube-proxy is; Kubernetes binds its role to this name.",
	"cert-admin":                    "The operator. In the hardened profile a short-lived member of a group that can be unbound.",
	"cert-super-admin":              "Bypasses authorization. Sealed; used once, to bind the operators' group.",
	"cert-kubernetes":               "The tutorial's one certificate for the API server, etcd and the kubelet client.",
	"cert-service-accounts":         "A certificate whose key signs service account tokens.",
	"service-account":               "The key pair that signs and verifies service account tokens.",
	"service-account-trusted":       "A rotation is under way: tokens of this key are accepted beside those of the key that signs.",
	"ca-signer":                     "A rotation is under way: the bundle has two roots, and the controller manager takes the one that it signs with alone.",

	"bind-all":                     "It listens on every address of the node.",
	"bind-loopback":                "Only programs on the same node reach it.",
	"dial-ssh":                     "You reach the node.",
	"dial-etcd":                    "API servers read and write the cluster's state.",
	"dial-etcd-peer":               "Members elect a leader and replicate.",
	"dial-etcdctl":                 "Health gates and people ask the member beside them.",
	"dial-health":                  "The health site asks the API server beside it.",
	"dial-admin":                   "You reach the API server.",
	"dial-kubelet":                 "The kubelet learns of its pods and reports their state.",
	"dial-kube-proxy":              "kube-proxy watches Services and their endpoints.",
	"dial-kube-scheduler":          "The scheduler watches pods and binds them to nodes.",
	"dial-kube-controller-manager": "Controllers watch and write almost everything.",
	"dial-kubelet-api":             "kubectl logs, exec and port-forward go through the API server to the kubelet.",
	"dial-pods":                    "Every pod reaches every other one without translation of addresses: what Kubernetes asks of a network.",
	"dial-service":                 "Pods reach the API server by its Service; kube-proxy rewrites the address.",
	"dial-dns":                     "Pods resolve names at the cluster DNS Service.",
	"dial-nodeport":                "You allowed these ranges to reach NodePort Services.",
	"dial-balancer":                "The balancer passes connections on to API servers that are healthy.",
	"dial-balancer-health":         "The balancer asks every controller for its health, in plain HTTP.",
	"dial-api-proxy":               "The worker's own proxy spreads connections over the API servers.",

	"port-22":    "SSH.",
	"port-53":    "DNS.",
	"port-80":    "Plain HTTP: balancers that check health speak nothing else.",
	"port-443":   "The API server's Service.",
	"port-2379":  "etcd's port for clients.",
	"port-2380":  "etcd's port for other members.",
	"port-6443":  "The API server's port.",
	"port-7443":  "The port of the workers' own proxy.",
	"port-10248": "The kubelet's health, on loopback.",
	"port-10249": "kube-proxy's metrics, on loopback.",
	"port-10250": "The kubelet's API.",
	"port-10256": "kube-proxy's health, which balancers of Services ask for.",
	"port-10257": "The controller manager's metrics and health.",
	"port-10259": "The scheduler's metrics and health.",

	"san-service":    "Pods reach the API server by its Service.",
	"san-controller": "The balancer and the workers reach this host.",
	"san-loopback":   "Programs on the same host dial loopback.",
	"san-endpoint":   "Users and workers dial this address.",
	"san-extra":      "You asked for it in api.extraSANs.",
	"san-etcd":       "API servers dial this member.",
	"san-etcd-peer":  "Other members dial this one.",
	"san-kubelet":    "API servers dial this kubelet.",
	"san-external":   "The tutorial puts the external address in the kubelet's certificate.",
}

// Reason is the reason behind the ID of a fixed origin; "" if there is none.
func Reason(id string) string {
	if why := flagReason(id); why != "" {
		return why
	}
	return reasons[id]
}
