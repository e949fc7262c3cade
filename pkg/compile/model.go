package compile

import (
	"net/netip"
	"time"

	"github.com/kthwc/kthwc/pkg/origin"
	"github.com/kthwc/kthwc/pkg/secret"
	"github.com/kthwc/kthwc/schema"
)

// Short names for the values that the model is made of.
type (
	// Text is a string that knows its sources.
	Text = origin.Value[string]
	// Int is an int that knows its sources.
	Int = origin.Value[int]
	// Addr is an IP address that knows its sources.
	Addr = origin.Value[netip.Addr]
	// Prefix is an IP range that knows its sources.
	Prefix = origin.Value[netip.Prefix]
)

// Address is an IP, a DNS name, or an address that only the cloud knows until
// it is resolved. Exactly one field is set.
type Address struct {
	IP    netip.Addr
	Name  string
	Cloud string // "address/api": prints as ${cloud:address/api}
}

// String is the address as it stands in files and URLs' host part (IPv6
// without brackets).
func (a Address) String() string {
	switch {
	case a.IP.IsValid():
		return a.IP.String()
	case a.Cloud != "":
		return "${cloud:" + a.Cloud + "}"
	}
	return a.Name
}

// IsZero says whether there is no address.
func (a Address) IsZero() bool { return a == Address{} }

// Cluster is a cluster.yaml with everything resolved: nothing that render,
// pki, reach or verify needs is left to be looked up or defaulted.
type Cluster struct {
	Name       Text
	Profile    Text // schema.Hardened or schema.Tutorial
	Release    *schema.Release
	Kubernetes Text // "1.37.2", of nodes that name no other
	Network    Network
	API        API
	GCP        *GCP // nil: static machines
	Etcd       Etcd
	Nodes      []*Node // as listed, then the pools
	KubeProxy  KubeProxy
	DNS        DNS
	Containerd Containerd
	PKI        PKI
	Encryption Encryption
	Operators  []Prefix // may reach the API and SSH
	NodePorts  []Prefix // may reach NodePorts; empty: nobody outside
	CAs        []CA
	Certs      []*Cert
	KeyPairs   []KeyPair
	TokenKeys  []TrustedKey // accepted for tokens beside the key that signs, while it is being replaced
	Kubeconfig []*Kubeconfig

	KubeletClient Text // the user that API servers are to kubelets

	Listeners []Listener
	Dials     []Dial
	ExtraArgs map[string][]ExtraArg // component -> sorted by flag
	Patches   []Patch
	Files     []ExtraFile
	Units     []ExtraUnit
	Overlays  []Text // jsonnet files, relative to the directory of cluster.yaml

	signerAlone origin.Origin // not zero: the controller manager's signer has a file of its own
}

// Network is the address plan. Slices hold one entry, or IPv4 and IPv6.
type Network struct {
	Nodes, Pods, Services []Prefix
	PodMaskSizes          []Int
	ServiceIPs            []Addr // the API server's own Service: the first address of each service range
	DNS                   Addr
	Domain                Text
	NodePorts             Text // "30000-32767"
}

// API is the way to the API server.
type API struct {
	Endpoint   Text // loadBalancer, external, none
	Address    origin.Value[Address]
	Port       Int
	WorkersVia Text   // public, internal, external
	Public     Text   // https://ADDRESS:PORT, for the operator's kubeconfig
	Local      Text   // https://127.0.0.1:6443, for clients on the same host
	Workers    Text   // what kubelet and kube-proxy dial
	Issuer     Text   // --service-account-issuer
	HealthHost Text   // server_name of the healthz site
	ExtraSANs  []Text //
}

// GCP is the Google Cloud side.
type GCP struct {
	Project, Region, Zone, MachineType, ImageProject, ImageFamily Text
	DiskSizeGB                                                    Int
}

// Etcd is the control plane's store.
type Etcd struct {
	Token     Text
	Members   []Member
	ClusterID uint64 // as etcd computes it from the initial cluster; see EtcdClusterID
	Initial   Text   // --initial-cluster
	Servers   Text   // --etcd-servers
}

// Member is one etcd server.
type Member struct {
	Node      *Node
	Name      Text
	PeerURL   Text
	ClientURL Text
	ID        uint64
}

// Node is one machine.
type Node struct {
	Name                   Text
	Pool                   string // "" when listed one by one
	Controller             bool
	Worker                 bool
	AsController, AsWorker origin.Origin // the entries of roles that say so
	Addresses              []Addr        // one, or IPv4 and IPv6
	External               origin.Value[Address]
	PodCIDRs               []Prefix // workers only
	Arch                   Text
	Labels                 []Label // sorted by key
	Taints                 []Taint
	ResolvConf             Text
	MaxPods                Int
	Version                Text            // Kubernetes, "1.37.2"
	Release                *schema.Release // the version table at this node's minor
	SSH                    SSH
	Machine                Text          // type on Google Cloud; V empty elsewhere
	Class                  int           // nodes of one class differ in nothing but name, addresses, pod ranges and SSH
	Count                  origin.Origin // of its pool; zero when listed one by one
	From                   origin.Origin // why the node is there
}

// Label is one node label.
type Label struct {
	Key   string
	Value Text
}

// Taint is one node taint.
type Taint struct {
	Key, Value, Effect Text // Value.V may be empty
}

// SSH is how the operator reaches a node.
type SSH struct {
	Address, User, HostKey, Bastion Text
	Port                            Int
}

// KubeProxy is the Service data plane.
type KubeProxy struct{ Mode Text }

// DNS is the cluster's CoreDNS.
type DNS struct {
	Replicas Int
	Upstream []Text
}

// Containerd is what users may say of the runtime.
type Containerd struct {
	Mirrors                        []Mirror
	HTTPProxy, HTTPSProxy, NoProxy Text // V empty: none
}

// Mirror sends pulls for Registry to Endpoints first.
type Mirror struct {
	Registry  Text
	Endpoints []Text
}

// PKI is how certificates are made.
type PKI struct {
	KeyType      Text
	CALifetime   origin.Value[time.Duration]
	LeafLifetime origin.Value[time.Duration]
}

// Encryption is encryption at rest.
type Encryption struct {
	Provider  Text
	Resources []Text
	Keys      []Text // names, the primary first; secret.Symmetric("encryption/"+name)
}

// CA is one root of trust. Name is also its name in secret.Bundle and secret.CAKey.
type CA struct {
	Name       string // "kubernetes-client", ... (hardened); "ca" (tutorial)
	CommonName Text
	Org        Text
	Lifetime   origin.Value[time.Duration]
	KeyType    Text
	Why        string        // text ID
	Bundles    []Destination // where its trust bundle lies
	Keys       []Destination // where its private key lies on hosts: empty, or the controller manager's signer
	Signer     TrustedKey    // the root of that key alone, where the bundle has more; no files: the bundle serves
	From       origin.Origin
}

// TrustedKey is one version of a public key or root, in files of its own.
type TrustedKey struct {
	Ref        secret.Ref
	Generation int
	Files      []Destination
	From       origin.Origin
}

// Destination is a file on a host that holds public or private material.
// Node is empty for the operator's own machine.
type Destination struct {
	Node string
	Path string
	From origin.Origin // the node, and the role that needs it there
}

// The usages of a certificate, as RFC 5280 section 4.2.1.12 names them.
const (
	ServerAuth = "server auth"
	ClientAuth = "client auth"
)

// Cert is one leaf certificate and its key. Name is also its name in
// secret.Cert and secret.Key.
type Cert struct {
	Name        string // "kubelet-serving@worker-0"
	Role        string // "kubelet-serving": text ID, the same for every node
	CA          string
	CommonName  Text
	Org         Text // V empty: none
	SANs        []SAN
	Usages      []string
	Lifetime    origin.Value[time.Duration]
	KeyType     Text
	Node        string        // "" for the operator or for all
	CertFiles   []Destination // PEM files that hold the certificate
	KeyFiles    []Destination
	Kubeconfigs []string      // names of kubeconfigs that embed it
	KeepKey     bool          // a renewal keeps the key: tokens are signed with it
	From        origin.Origin // why it is issued
}

// SAN is one subject alternative name and the client that dials it.
type SAN struct {
	Value Text   // IP or DNS name, or a ${cloud:…} placeholder
	Why   string // text ID
}

// KeyPair is a key pair without a certificate: service account tokens.
type KeyPair struct {
	Name        string // "service-account"
	PublicFiles []Destination
	KeyFiles    []Destination
	From        origin.Origin
}

// Kubeconfig is one rendered kubeconfig.
type Kubeconfig struct {
	Name    string // "kubelet@worker-0": logical name, then the node
	Node    string // "" for the operator's
	Path    string // absolute on the node, or relative below client/ for the operator's
	Cluster Text   // cluster name in the file
	Context string
	Server  Text
	CA      string // bundle
	Cert    string // name of the client certificate
	User    Text   // user name in the file; equal to the certificate's common name
	From    origin.Origin
}

// Listener is a port, or a range of ports, that a component opens.
type Listener struct {
	Node      string // "" for what stands before the API servers
	Component string // unit without suffix, or "balancer"
	Host      Text   // bind address
	Port      Int
	LastPort  int    // of a range; 0 = Port alone
	Protocol  string // "tcp" or "udp"
	Cert      string // serving certificate; "" = plain, SelfSigned = made by the component at start
	ClientCA  string // bundle that clients are verified with; "" = none
}

// SelfSigned stands for a certificate that a component makes for itself.
const SelfSigned = "self-signed"

// Parties of a Dial that are no component of a node.
const (
	Operator       = "operator"
	Balancer       = "balancer"
	Pods           = "pods"
	NodePortClient = "nodeport-client"
)

// Dial is a connection that a component opens, or a person does.
type Dial struct {
	Node      string // that it is opened on; "" for parties outside
	Component string
	Host      Text // as it stands in the URL; V empty: whatever the other node's address is
	Port      Int
	LastPort  int // of a range; 0 = Port alone
	Protocol  string
	Via       string // component that passes the bytes on; "" = none
	To        string // component that answers
	ToNode    string // "" = any node that has the component
	Name      Text   // the name that the certificate must have; V empty: not verified
	ServerCA  string // bundle that the server is verified with; "" = plain, or not verified
	Cert      string // client certificate presented; "" = none
	Why       string // text ID
}

// ExtraArg is one flag of spec.extraArgs.
type ExtraArg struct {
	Flag  string
	Value Text
}

// Patch is one of spec.configPatches.
type Patch struct {
	Target string         // kubelet, kube-proxy or containerd
	Value  map[string]any //
	Path   string         // "spec.configPatches.kubelet": origins of leaves are below it
}

// ExtraFile is one of spec.files.
type ExtraFile struct {
	Path, Content, Mode, Owner, Group Text
	On                                []Text // roles or node names; empty: every node
	From                              origin.Origin
}

// ExtraUnit is one of spec.units.
type ExtraUnit struct {
	Name, Content Text
	Enabled       origin.Value[bool]
	On            []Text
	From          origin.Origin
}

// Component is a program with its arguments, ready for an ExecStart line.
type Component struct {
	Name   string // "kube-apiserver": also the unit's name
	Binary string // absolute path
	Flags  []Flag
}

// Flag is one argument. A flag without "=" in the seed's own writing is still
// written --name=value here; Bare flags have no value.
type Flag struct {
	Name  string // without dashes
	Value Text
	Bare  bool
}
