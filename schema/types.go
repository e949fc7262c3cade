package schema

import "encoding/json"

// The Go mirror of the CUE definition #Cluster. A test walks both and fails
// when one has a field that the other lacks. Optional fields that have a
// default in the schema are always filled in; optional fields without one keep
// their zero value when absent.

// Cluster is one cluster.yaml.
type Cluster struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata"`
	Spec       Spec     `json:"spec"`
}

// Metadata names the cluster.
type Metadata struct {
	Name string `json:"name"` // RFC 1123 label, at most 40 characters
}

// The profiles.
const (
	Hardened = "hardened"
	Tutorial = "tutorial"
)

// Spec is what the cluster shall be.
type Spec struct {
	Profile       string                       `json:"profile"` // hardened (default) or tutorial
	Kubernetes    Kubernetes                   `json:"kubernetes"`
	Network       Network                      `json:"network"`
	API           API                          `json:"api"`
	Provider      Provider                     `json:"provider"`
	Etcd          Etcd                         `json:"etcd"`
	KubeProxy     KubeProxy                    `json:"kubeProxy"`
	DNS           DNS                          `json:"dns"`
	Containerd    Containerd                   `json:"containerd"`
	PKI           PKI                          `json:"pki"`
	Encryption    Encryption                   `json:"encryption"`
	Access        Access                       `json:"access"`
	SSH           SSH                          `json:"ssh"`
	Nodes         []Node                       `json:"nodes,omitempty"`
	Pools         []Pool                       `json:"pools,omitempty"`
	ExtraArgs     map[string]map[string]string `json:"extraArgs,omitempty"`     // component -> flag without dashes -> value
	ConfigPatches ConfigPatches                `json:"configPatches,omitempty"` //
	Files         []ExtraFile                  `json:"files,omitempty"`
	Units         []ExtraUnit                  `json:"units,omitempty"`
	Overlays      []string                     `json:"overlays,omitempty"` // jsonnet files, relative to the directory of cluster.yaml
}

// Kubernetes says which release the nodes run.
type Kubernetes struct {
	Version string `json:"version"` // "1.37.2", or "1.37" for the newest patch that the version table knows; default the newest minor
}

// StringList is one string or a list of them in YAML; dual-stack values are
// lists of two, IPv4 first.
type StringList []string

// Network is the address plan.
type Network struct {
	NodeCIDR        StringList `json:"nodeCIDR"`        // 10.240.0.0/24
	PodCIDR         StringList `json:"podCIDR"`         // 10.200.0.0/16
	PodCIDRMaskSize IntList    `json:"podCIDRMaskSize"` // per node: 24, and 64 for IPv6
	ServiceCIDR     StringList `json:"serviceCIDR"`     // 10.32.0.0/24
	ClusterDNS      string     `json:"clusterDNS"`      // default: the tenth address of the (first) service range
	ClusterDomain   string     `json:"clusterDomain"`   // cluster.local
	NodePortRange   string     `json:"nodePortRange"`   // 30000-32767
}

// IntList is one integer or a list of them in YAML.
type IntList []int

// API is how clients reach the API server.
type API struct {
	Endpoint   string   `json:"endpoint"`             // loadBalancer, external or none
	Address    string   `json:"address,omitempty"`    // IP or DNS name; with gcp and loadBalancer it may be absent: known only to the cloud
	Port       int      `json:"port"`                 // 6443
	ExtraSANs  []string `json:"extraSANs,omitempty"`  // IPs or DNS names
	WorkersVia string   `json:"workersVia,omitempty"` // public, internal or external; default internal (hardened), public (tutorial)
}

// Provider is where the machines are: exactly one of the fields is set.
type Provider struct {
	GCP    *GCP    `json:"gcp,omitempty"`
	Static *Static `json:"static,omitempty"`
}

// GCP is a Google Cloud project.
type GCP struct {
	Project      string `json:"project"`
	Region       string `json:"region"`
	Zone         string `json:"zone"`
	MachineType  string `json:"machineType"`  // e2-standard-2
	DiskSizeGB   int    `json:"diskSizeGB"`   // 200
	ImageProject string `json:"imageProject"` // ubuntu-os-cloud
	ImageFamily  string `json:"imageFamily"`  // ubuntu-2404-lts; the architecture suffix is added per node
}

// Static is any set of machines that exist already.
type Static struct{}

// Etcd is the store of the control plane.
type Etcd struct {
	ClusterToken string `json:"clusterToken"` // etcd-cluster-0; part of every member ID
}

// KubeProxy is the Service data plane.
type KubeProxy struct {
	Mode string `json:"mode"` // iptables, nftables or ipvs
}

// DNS is the cluster's CoreDNS.
type DNS struct {
	Replicas int      `json:"replicas"`           // 2
	Upstream []string `json:"upstream,omitempty"` // IPs; default the node's resolver
}

// Containerd is the container runtime.
type Containerd struct {
	RegistryMirrors []RegistryMirror `json:"registryMirrors,omitempty"`
	Proxy           *Proxy           `json:"proxy,omitempty"`
}

// RegistryMirror sends pulls for one registry to other servers first.
type RegistryMirror struct {
	Registry  string   `json:"registry"`  // docker.io, or registry.k8s.io
	Endpoints []string `json:"endpoints"` // https URLs, tried in order
}

// Proxy is an HTTP proxy for pulling images.
type Proxy struct {
	HTTP    string   `json:"http,omitempty"`
	HTTPS   string   `json:"https,omitempty"`
	NoProxy []string `json:"noProxy,omitempty"` // added to the cluster's own ranges and domain
}

// PKI is how certificates are made.
type PKI struct {
	KeyType      string `json:"keyType"`      // ecdsa-p256 (hardened's default), ecdsa-p384, rsa-2048 (tutorial's default), rsa-4096
	CALifetime   string `json:"caLifetime"`   // "3650d"
	LeafLifetime string `json:"leafLifetime"` // "365d"
}

// Encryption is encryption of resources at rest in etcd.
type Encryption struct {
	Provider  string   `json:"provider"`  // secretbox (hardened's default), aescbc (tutorial's default), aesgcm
	Resources []string `json:"resources"` // [secrets]
	Keys      []string `json:"keys"`      // names of keys, the primary first: [key1]
}

// Access is who may reach the cluster from outside.
type Access struct {
	OperatorCIDRs []string `json:"operatorCIDRs"` // may reach the API and SSH; default 0.0.0.0/0 with a warning
	NodePortCIDRs []string `json:"nodePortCIDRs,omitempty"`
}

// SSH is how the operator reaches every node, unless the node says otherwise.
type SSH struct {
	User    string `json:"user"`              // root
	Port    int    `json:"port"`              // 22
	Bastion string `json:"bastion,omitempty"` // user@host or user@host:port
}

// The roles of a node.
const (
	Controller = "controller"
	Worker     = "worker"
)

// Machine is what a node and a pool have in common.
type Machine struct {
	Roles             []string          `json:"roles"`                       // controller, worker or both
	Arch              string            `json:"arch"`                        // amd64 or arm64
	Labels            map[string]string `json:"labels,omitempty"`            //
	Taints            []Taint           `json:"taints,omitempty"`            //
	ResolvConf        string            `json:"resolvConf,omitempty"`        // default /run/systemd/resolve/resolv.conf
	MaxPods           int               `json:"maxPods,omitempty"`           // default 110
	KubernetesVersion string            `json:"kubernetesVersion,omitempty"` // when it differs from spec.kubernetes.version
	MachineType       string            `json:"machineType,omitempty"`       // when it differs from spec.provider.gcp.machineType
}

// Node is one machine.
type Node struct {
	Name            string     `json:"name"`                      // RFC 1123 label; equal to the machine's hostname
	Address         StringList `json:"address"`                   // one IP, or IPv4 and IPv6
	ExternalAddress string     `json:"externalAddress,omitempty"` // an IP that others reach the node by
	PodCIDR         StringList `json:"podCIDR,omitempty"`         // allocated when absent; workers only
	SSH             *NodeSSH   `json:"ssh,omitempty"`
	Machine
}

// NodeSSH says what differs for one node.
type NodeSSH struct {
	Address string `json:"address,omitempty"`
	Port    int    `json:"port,omitempty"`
	User    string `json:"user,omitempty"`
	HostKey string `json:"hostKey,omitempty"` // "ssh-ed25519 AAAA…": the only key that is accepted
}

// Pool is count machines of one kind, named name-0, name-1, …
type Pool struct {
	Name      string     `json:"name"`
	Count     int        `json:"count"`     // 0 to 5000
	Addresses StringList `json:"addresses"` // the first address of the range: 10.240.0.20; IPv4 and IPv6
	Machine
}

// Taint keeps pods away.
type Taint struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Effect string `json:"effect"` // NoSchedule, PreferNoSchedule or NoExecute
}

// ConfigPatches are merged over the rendered configuration (RFC 7386: null deletes).
type ConfigPatches struct {
	Kubelet    map[string]any `json:"kubelet,omitempty"`
	KubeProxy  map[string]any `json:"kube-proxy,omitempty"`
	Containerd map[string]any `json:"containerd,omitempty"`
}

// ExtraFile is a file of the user's.
type ExtraFile struct {
	Path    string   `json:"path"` // absolute
	Content string   `json:"content"`
	Mode    string   `json:"mode"` // "0644", quoted
	Owner   string   `json:"owner"`
	Group   string   `json:"group"`
	On      []string `json:"on"` // roles or node names; default every node
}

// ExtraUnit is a systemd unit of the user's.
type ExtraUnit struct {
	Name    string   `json:"name"` // "node-exporter.service"
	Content string   `json:"content"`
	Enabled bool     `json:"enabled"`
	On      []string `json:"on"`
}

// UnmarshalJSON reads one string or a list of them.
func (l *StringList) UnmarshalJSON(data []byte) error { return oneOrMany((*[]string)(l), data) }

// UnmarshalJSON reads one integer or a list of them.
func (l *IntList) UnmarshalJSON(data []byte) error { return oneOrMany((*[]int)(l), data) }

func oneOrMany[T any](into *[]T, data []byte) error {
	if len(data) > 0 && data[0] == '[' {
		return json.Unmarshal(data, into)
	}
	*into = make([]T, 1)
	return json.Unmarshal(data, &(*into)[0])
}
