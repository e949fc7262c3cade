package pki

// Pickup is how a reader learns that a file has changed.
type Pickup string

// The ways. What is not known to be another way is a restart.
const (
	Reload  Pickup = "reload"   // it picks the change up by itself
	Restart Pickup = "restart"  // it reads the file when it starts
	EachRun Pickup = "each run" // it is no service: every run reads the file anew
)

// A pickupRow is one way for one field of one component, with where that is
// seen. The row holds only where the component has the flag when, if it has one.
type pickupRow struct {
	component, field, when string
	pickup                 Pickup
	reference              string
}

const (
	everyHandshake = "etcd client/pkg/transport/listener.go: GetCertificate and GetClientCertificate read the pair at every handshake; measured with 3.4.23 and 3.7.3"
	atEtcdStart    = "etcd client/pkg/transport/listener.go: the pool of authorities is made when it starts; measured with 3.4.23 and 3.7.3"
	watched        = "k8s.io/apiserver/pkg/server/dynamiccertificates watches the file, and reads it every minute; measured with 1.37"
	byPeople       = "people and health gates run it"
)

// pickups are the ways that are known. A field that is not here is read at the
// start of its component.
var pickups = []pickupRow{
	{"etcd", "--cert-file", "", Reload, everyHandshake},
	{"etcd", "--key-file", "", Reload, everyHandshake},
	{"etcd", "--peer-cert-file", "", Reload, everyHandshake},
	{"etcd", "--peer-key-file", "", Reload, everyHandshake},
	{"etcd", "--trusted-ca-file", "", Restart, atEtcdStart},
	{"etcd", "--peer-trusted-ca-file", "", Restart, atEtcdStart},
	{"kube-apiserver", "--tls-cert-file", "", Reload, watched},
	{"kube-apiserver", "--tls-private-key-file", "", Reload, watched},
	{"kube-apiserver", "--client-ca-file", "", Reload, watched},
	{"kube-apiserver", "--encryption-provider-config", "encryption-provider-config-automatic-reload", Reload, "kube-apiserver --encryption-provider-config-automatic-reload: within a minute; measured with 1.37"},
	{"kube-apiserver", "--service-account-key-file", "", Restart, "measured with 1.37: a second key was not published after a minute"},
	{"kube-apiserver", "--etcd-cafile", "", Restart, "measured with 1.37: connections that stand do not learn of it"},
	{"etcdctl", "--cacert", "", EachRun, byPeople},
	{"etcdctl", "--cert", "", EachRun, byPeople},
	{"etcdctl", "--key", "", EachRun, byPeople},
	{"kubectl", "--kubeconfig", "", EachRun, byPeople},
}

const unknownPickup = "nothing is known to read it again"

// pickupOf is the row of a field; flags are those of its component.
func pickupOf(component, field string, flags map[string]string) (Pickup, string) {
	for _, row := range pickups {
		if row.component == component && row.field == field && (row.when == "" || flags[row.when] == "true") {
			return row.pickup, row.reference
		}
	}
	return Restart, unknownPickup
}

// A fieldRow is one field of a configuration file, or one flag that people
// type, that names a logical file.
type fieldRow struct {
	component, field, logical string
	in                        string // logical file that has the field; "" = typed by people
	target                    string // of the configPatches that may change it; "" = none
}

// controllerFields and workerFields are what names material beside the flags
// of components.
var (
	controllerFields = []fieldRow{
		{"kube-scheduler", "clientConnection.kubeconfig", "kubeconfig/kube-scheduler", "scheduler-config", ""},
		{"nginx", "proxy_ssl_trusted_certificate", "ca/apiserver-serving", "nginx-site", ""},
		{"nginx", "proxy_ssl_certificate", "cert/healthz", "nginx-site", ""},
		{"nginx", "proxy_ssl_certificate_key", "key/healthz", "nginx-site", ""},
		{"etcdctl", "--cacert", "ca/etcd@etcd", "", ""},
		{"etcdctl", "--cert", "cert/etcd-healthcheck", "", ""},
		{"etcdctl", "--key", "key/etcd-healthcheck", "", ""},
	}
	workerFields = []fieldRow{
		{"kubelet", "authentication.x509.clientCAFile", "ca/kubelet-client", "kubelet-config", "kubelet"},
		{"kubelet", "tlsCertFile", "cert/kubelet-serving", "kubelet-config", "kubelet"},
		{"kubelet", "tlsPrivateKeyFile", "key/kubelet-serving", "kubelet-config", "kubelet"},
		{"kube-proxy", "clientConnection.kubeconfig", "kubeconfig/kube-proxy", "kube-proxy-config", "kube-proxy"},
	}
)

// The components whose flags may name material.
var (
	controllerPrograms = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
	workerPrograms     = []string{"kubelet", "kube-proxy"}
)
