package gcp

// reasons says why each constant of the plan is there.
var reasons = map[string]string{
	"network":       "A network of the cluster's own.",
	"no-auto":       "Subnetworks are made by hand: automatic ones would take ranges that pods or Services have.",
	"routing":       "One region is all there is.",
	"subnetwork":    "The machines' addresses.",
	"internal":      "Nodes and pods reach one another on every port.",
	"external":      "Operators reach SSH and the API server. An empty list of sources would mean everybody, so there is never one.",
	"ssh":           "SSH.",
	"health-rule":   "Google's health checks reach nginx on the controllers, and come from these ranges.",
	"checkers":      "The ranges that health checks of target pools come from.",
	"workers-rule":  "Workers dial the public address and arrive from their own external addresses, which the rule for operators does not include.",
	"nodeport-rule": "You allowed these ranges to reach NodePort Services.",
	"ingress":       "Rules for what comes in; everything may go out.",
	"tags":          "Firewall rules find the machines by tags.",
	"address":       "The address of the API: in its certificate and in every kubeconfig, so it must outlive the machines.",
	"instance":      "A machine.",
	"forward":       "The machine sends packets of its pods, whose addresses are not its own: without this the network drops them.",
	"disk":          "The boot disk goes with the machine.",
	"card":          "The machine's address is the one that certificates, etcd and routes have.",
	"nat":           "An external address, to download programs and images.",
	"scopes":        "The tutorial's access scopes.",
	"shielded":      "The machine boots only what was signed, and measures it.",
	"pod-cidr":      "The tutorial's scripts read the worker's pod range from here.",
	"route":         "Packets for this range of pods go to this worker.",
	"priority":      "The usual priority of routes.",
	"health":        "Asks every controller whether its API server is ready. Target pools take plain HTTP checks only.",
	"health-port":   "Where nginx answers.",
	"pool":          "The controllers that are healthy get the connections.",
	"forwarding":    "Connections to the API's address go to the pool; TLS ends at the API servers.",
	"plan":          "What Google Cloud shall have, in the order of creation.",
	"project":       "Every resource says where it is: a default of somebody's gcloud configuration never counts.",
}

// Reason is the sentence behind the ID of a fixed origin; "" if there is none.
func Reason(id string) string {
	if len(id) > 4 && id[:4] == "gcp-" {
		return reasons[id[4:]]
	}
	return ""
}
