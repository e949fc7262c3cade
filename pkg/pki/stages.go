package pki

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/inventory"
	"github.com/kthwc/kthwc/schema"
)

// A use is what a component does with material of an authority.
type use int

const (
	servesWith      use = iota // it shows a certificate of the authority to clients
	presents                   // it shows one to servers
	verifiesClients            // it has the bundle for its clients
	verifiesServers            // it has the bundle for its servers
)

// How a component learns of new files.
const (
	restart = "restart"
	reload  = "reload"
	rereads = "no restart: the files are read again"
	itself  = "nothing to do"
)

// A turnRow says how one component takes up new material, and what proves
// that it has. The rows are in the order in which hosts are changed.
type turnRow struct {
	component string
	unit      string    // what is restarted; "" for the component's name
	uses      [4]string // by use
	pace      string    // of a restart
	gate      string    // after each
	why       string
}

var turnRows = []turnRow{
	{"etcd", "", [4]string{rereads, rereads, restart, restart}, "one member at a time", "before each: every member answers a linearizable read, and the members left are at least n/2+1; after each: it is healthy and has caught up, then 10 s of rest", "certificates are read on every handshake, the trusted authorities at the start only"},
	{"etcd-peer", "etcd", [4]string{rereads, rereads, restart, restart}, "one member at a time", "before each: every member answers a linearizable read, and the members left are at least n/2+1; after each: it is healthy and has caught up, then 10 s of rest", "certificates are read on every handshake, the trusted authorities at the start only"},
	{"kube-apiserver", "", [4]string{rereads, restart, rereads, restart}, "one at a time", "/readyz of this server, and the probe sees what it shows and accepts", "its own certificate and the clients' authority are read again within a second; what it dials etcd and kubelets with is read at the start"},
	{"kube-controller-manager", "", [4]string{itself, restart, itself, restart}, "one at a time", "/healthz of this one; a leader is elected", "the kubeconfig and the root authority for pods are read at the start; the clients' authority comes from the API server by itself"},
	{"kube-scheduler", "", [4]string{itself, restart, itself, restart}, "one at a time", "/healthz of this one; a leader is elected", "the kubeconfig is read at the start; the clients' authority comes from the API server by itself"},
	{"nginx", "", [4]string{reload, reload, reload, reload}, "", "/healthz through the site", "nginx reads files again when it is told to, and drops no connection"},
	{"etcdctl", "", [4]string{itself, itself, itself, itself}, "", "", "it reads its files on every run"},
	{"kubelet", "", [4]string{restart, restart, restart, restart}, "in batches; pods keep running", "the node is Ready, and logs of one of its pods can be read", "whether it reads files again depends on the release: a restart is certain"},
	{"kube-proxy", "", [4]string{restart, restart, restart, restart}, "in batches; rules stay in the kernel", "/healthz on port 10256", "the kubeconfig is read at the start"},
	{compile.Operator, "you", [4]string{itself, "kthwc kubeconfig", itself, "kthwc kubeconfig"}, "", "kubectl get --raw /readyz", "your kubeconfig embeds the bundle and the certificate"},
	{compile.Pods, "", [4]string{itself, itself, itself, "wait, then roll the workloads that read ca.crt only when they start"}, "", "kube-root-ca.crt of every namespace holds exactly the roots of this stage", "the controller manager writes its root authority to every namespace; the kubelet refreshes it in pods within minutes"},
}

// of is what the component has to do for the use.
func (u use) of(row *turnRow) string { return row.uses[u] }

// touched lists, for each component, on which nodes it uses an authority and how.
func touched(c *compile.Cluster, ca string) map[string]map[use][]string {
	out := map[string]map[use][]string{}
	put := func(component, node string, u use, is bool) {
		if !is {
			return
		}
		if out[component] == nil {
			out[component] = map[use][]string{}
		}
		if !slices.Contains(out[component][u], node) {
			out[component][u] = append(out[component][u], node)
		}
	}
	of := map[string]string{}
	for _, cert := range c.Certs {
		of[cert.Name] = cert.CA
	}
	for _, l := range c.Listeners {
		put(l.Component, l.Node, servesWith, of[l.Cert] == ca)
		put(l.Component, l.Node, verifiesClients, l.ClientCA == ca)
	}
	for _, d := range c.Dials {
		put(d.Component, d.Node, presents, of[d.Cert] == ca)
		put(d.Component, d.Node, verifiesServers, d.ServerCA == ca)
	}
	for _, m := range c.Etcd.Members { // extension servers are dialled by no one yet
		put("kube-apiserver", m.Name.V, presents, ca == frontProxy)
		put("kube-apiserver", m.Name.V, verifiesClients, ca == frontProxy)
	}
	return out
}

const frontProxy = "front-proxy"

// steps are what the components with some of the uses do, in the rows' order.
func steps(c *compile.Cluster, ca string, uses ...use) []Step {
	var out []Step
	users := touched(c, ca)
	for i := range turnRows {
		row := &turnRows[i]
		do, nodes := strongest(row, users[row.component], uses)
		if do == "" {
			continue
		}
		s := Step{Who: cmp.Or(row.unit, row.component), On: nodes, Do: do, Gate: row.gate, Why: row.why}
		switch do {
		case restart:
			s.Do, s.Gate = paced(c, row)
		case itself:
			s.Gate = ""
		case rereads:
			s.Gate = "a handshake shows what is new within 90 s"
		}
		if same := func(o Step) bool { return o.Who == s.Who && o.Do == s.Do && slices.Equal(o.On, s.On) }; !slices.ContainsFunc(out, same) {
			out = append(out, s)
		}
	}
	return out
}

// paced is a restart of a component, and its gate. The only one of its kind
// cannot be restarted without an outage.
func paced(c *compile.Cluster, row *turnRow) (do, gate string) {
	seconds := map[string]int{"etcd": etcdSeconds, "etcd-peer": etcdSeconds, "kube-apiserver": serverSeconds}[row.component]
	switch {
	case len(c.Etcd.Members) > 1 || seconds == 0:
		return restart + ", " + row.pace, row.gate
	case row.component == "kube-apiserver":
		return alone(seconds), row.gate
	}
	return alone(seconds), "it is healthy and answers a linearizable read"
}

func alone(seconds int) string {
	return fmt.Sprintf("%s: it is the only one, so the API is away for about %d s", restart, seconds)
}

// serverRestart is a restart of the API servers.
func serverRestart(c *compile.Cluster) string {
	if len(c.Etcd.Members) == 1 {
		return alone(serverSeconds)
	}
	return restart + ", one at a time"
}

// strongest is what a component must do for all its uses, and where.
func strongest(row *turnRow, has map[use][]string, uses []use) (do string, nodes []string) {
	strength := func(do string) int { return slices.Index([]string{"", itself, rereads, reload, restart}, do) }
	for _, u := range uses {
		if len(has[u]) == 0 {
			continue
		}
		for _, n := range has[u] {
			if n != "" && !slices.Contains(nodes, n) {
				nodes = append(nodes, n)
			}
		}
		if how := u.of(row); do == "" || strength(how) > strength(do) || strength(how) < 0 {
			do = how
		}
	}
	return do, nodes
}

func stagesOf(c *compile.Cluster, k Keyset) []Stage {
	switch k.Kind {
	case RotateCA:
		return authorityStages(c, k.Name)
	case RotateServiceAccount:
		return tokenStages(c)
	}
	return encryptionStages(c)
}

// authorityStages: trust the new root everywhere, then issue by it, then trust
// the old one nowhere. In any mix of two neighbouring stages everybody accepts
// everybody.
func authorityStages(c *compile.Cluster, ca string) []Stage {
	verify, show := []use{verifiesClients, verifiesServers}, []use{servesWith, presents}
	probe := func(gate string) Step {
		return Step{Who: "gate", Do: "probe every verifier of the authority", Gate: gate}
	}
	trust := append(steps(c, ca, verify...), probe("a throw-away certificate of the new key and one of the old are both accepted everywhere"))
	issue := append(steps(c, ca, show...), probe("no certificate of the old key is in any handshake, file or kubeconfig"),
		Step{Who: "wait", Do: "for the longest of: the overlap of leaves, " + tokenLife(c) + ", and the restart of the longest-running pod", Why: "whoever read the old bundle once and keeps it must have read it again"})
	distrust := append(steps(c, ca, verify...), probe("a throw-away certificate of the old key is refused everywhere"))
	if signer := signers(c, ca); len(signer) > 0 {
		issue = append([]Step{{Who: "kube-controller-manager", On: signer, Do: "restart, one at a time", Gate: "a certificate request is signed by the new key", Why: "it signs certificate requests with the key on its host; its certificate file holds the one root of that key while the bundle holds two"}}, issue...)
	}
	return []Stage{
		{Number: 1, Name: "trust", Does: "makes a new key and root of " + ca + ", trusted beside the old one; leaves stay as they are", Steps: trust},
		{Number: 2, Name: "promote", Does: "lets the new key sign, and issues every leaf of " + ca + " by it; the old root stays trusted", Confirm: true, Steps: issue},
		{Number: 3, Name: "distrust", Does: "leaves the old root out of every bundle; replaces no etcd member in the same plan", Confirm: true, Steps: distrust},
		{Number: 4, Name: "drop", Does: "forgets the old root; its key stays in its generation of the store, to be destroyed by you", Confirm: true},
	}
}

// signers are the nodes that hold the authority's key.
func signers(c *compile.Cluster, ca string) []string {
	var out []string
	for _, a := range c.CAs {
		for _, d := range a.Keys {
			if a.Name == ca {
				out = append(out, d.Node)
			}
		}
	}
	return out
}

func controllers(c *compile.Cluster) []string {
	var out []string
	for _, m := range c.Etcd.Members {
		out = append(out, m.Name.V)
	}
	return out
}

// tokenLife is how long a token may live that was signed just now.
func tokenLife(c *compile.Cluster) string {
	if c.Profile.V == schema.Tutorial {
		return "the life of tokens (a year: --service-account-extend-token-expiration is on)"
	}
	return "the life of tokens (1 h)"
}

func tokenStages(c *compile.Cluster) []Stage {
	servers := func(gate, why string) Step {
		return Step{Who: "kube-apiserver", On: controllers(c), Do: serverRestart(c), Gate: "/readyz of this server; " + gate, Why: why}
	}
	notRead := "public keys are read at the start only"
	return []Stage{
		{Number: 1, Name: "trust", Does: "makes a new key pair; its public key is a further --service-account-key-file, the old one signs on",
			Steps: []Step{servers("its JWKS lists both keys", notRead)}},
		{Number: 2, Name: "promote", Does: "lets the new key sign; tokens of the old one are accepted on", Confirm: true, Steps: []Step{
			{Who: "kube-controller-manager", On: controllers(c), Do: "restart, one at a time", Gate: "/healthz of this one; a leader is elected", Why: "it signs legacy tokens with its own copy of the key"},
			servers("a new token (TokenRequest) has the new key ID, and every API server accepts it", "the signing key is read at the start only"),
			{Who: "you", Do: "make Secrets of the type kubernetes.io/service-account-token anew, and restart the pods that hold them", Why: "such tokens have no end"},
			{Who: "wait", Do: "for " + tokenLife(c), Why: "pods that read their token once hold an old one until then"},
		}},
		{Number: 3, Name: "distrust", Does: "leaves the old public key out; its tokens are accepted no more", Confirm: true,
			Steps: []Step{servers("its JWKS lists the new key alone, and a token of the old one is refused", notRead)}},
		{Number: 4, Name: "drop", Does: "forgets the old key; it stays in its generation of the store, to be destroyed by you", Confirm: true},
	}
}

func encryptionStages(c *compile.Cluster) []Stage {
	servers := Step{Who: "kube-apiserver", On: controllers(c), Do: serverRestart(c), Gate: "/readyz of this server; its start is later than the file"}
	if c.Profile.V != schema.Tutorial {
		servers.Do = "nothing to do: wait 2 min, two of its polls"
		servers.Gate = "apiserver_encryption_config_controller_automatic_reload_last_config_info of every server has the hash of the new file"
		servers.Why = "the file is read again once a minute; a server that has not yet must be able to read what the others write"
	}
	rewrite := []Step{servers,
		{Who: "you", Do: "write every encrypted object again: kubectl get secrets -A -o json | kubectl replace -f - (again on conflicts)", Gate: "a scan of etcd finds no value that begins with k8s:enc:" + c.Encryption.Provider.V + ":v1: and the old key's name", Why: "only writing encrypts"},
		{Who: "you", Do: "take a snapshot of etcd", Why: "older snapshots need the old key: keep both together"}}
	return []Stage{
		{Number: 1, Name: "trust", Does: "makes the key that spec.encryption.keys lists second; every API server learns to read with it", Steps: []Step{servers}},
		{Number: 2, Name: "promote", Does: "records that the new key is listed first, and encrypts; the old one reads on", Confirm: true, Steps: rewrite},
		{Number: 3, Name: "distrust", Does: "records that the old key is listed no more", Confirm: true, Steps: []Step{servers, {Who: "gate", Do: "read every object that is encrypted", Gate: "every one can be read"}}},
		{Number: 4, Name: "drop", Does: "forgets the old key; it stays in its generation of the store, for old snapshots", Confirm: true},
	}
}

// leaf is one certificate: issued anew by the same authority while the old one
// is still good, which nothing has to learn to trust.
func (r *Rotation) leaf(c *compile.Cluster, inv *inventory.Inventory) {
	at := slices.IndexFunc(c.Certs, func(cert *compile.Cert) bool { return cert.Name == r.Name })
	known := inv.Certificate(r.Name)
	if known == nil {
		r.Blocked = []string{"it has never been issued: `kthwc pki issue`"}
	} else {
		r.Versions = []Version{{Generation: known.Generation, State: inventory.Primary}}
	}
	only := *c
	only.Certs = []*compile.Cert{c.Certs[at]}
	stage := Stage{Number: 1, Name: "issue", Does: "issues it anew with a key of its own, by the same authority; the old one is good until it expires"}
	if c.Certs[at].KeepKey {
		stage.Does = "issues it anew with the same key, which signs tokens: `kthwc pki rotate service-account` replaces that"
	}
	stage.Steps = append(steps(&only, c.Certs[at].CA, servesWith, presents),
		Step{Who: "gate", Do: "probe where it is shown", Gate: "the serial number is the new one, within 90 s; the pair is installed in one step, because half of a new pair fails handshakes"})
	r.Stages = []Stage{stage}
	r.mark()
}

// replaceStage is the number of the one stage that an emergency has before
// drop: it leaves the store where distrust does.
const replaceStage = 3

// Seconds that one restart takes until its gate passes. They are estimates,
// from above, for the sum that is printed.
const (
	etcdSeconds   = 20 // all members at once
	serverSeconds = 40 // with the delay at shutdown
	nodeSeconds   = 30 // for a batch of nodes
	nodeBatch     = 10
)

// inEmergency skips the overlap, in the order etcd, API servers, nodes: somebody
// else has the key, and may use it as long as it is trusted.
func (r *Rotation) inEmergency(c *compile.Cluster, k Keyset) {
	replace := Stage{Number: replaceStage, Name: "replace", Does: "makes a new key, lets it sign, and trusts the old one no more, in one step"}
	switch k.Kind {
	case RotateEncryption:
		r.Outage = "none, and no short way: data that the old key encrypted must be written again before it may go"
		return
	case RotateServiceAccount:
		replace.Steps = []Step{
			{Who: "kube-apiserver", On: controllers(c), Do: together, Gate: "/readyz of every server; its JWKS lists the new key alone"},
			{Who: "kube-controller-manager", On: controllers(c), Do: together, Gate: "a leader is elected"},
			{Who: "you", Do: "restart every pod that uses the API, system pods first", Why: "every token is refused from now on"},
		}
		r.Outage = fmt.Sprintf("about %d s without the API; then every pod's token is refused until its pod is restarted or the kubelet renews it (up to an hour); running pods serve on", serverSeconds)
	default:
		replace.Steps = steps(c, k.Name, servesWith, presents, verifiesClients, verifiesServers)
		r.Outage = outage(replace.Steps)
	}
	r.Stages = []Stage{replace, {Number: 4, Name: "drop", Does: "forgets the old key; it stays in its generation of the store, to be destroyed by you", Confirm: true}}
}

const together = restart + ", all at once"

// outage lets etcd and the API servers restart all at once, and adds up what
// the restarts take.
func outage(steps []Step) string {
	total, parts, workers := 0, []string(nil), 0
	for i := range steps {
		s := &steps[i]
		took := map[string]int{"etcd": etcdSeconds, "kube-apiserver": serverSeconds}[s.Who]
		if !strings.HasPrefix(s.Do, restart) {
			continue
		}
		if s.Who == "kubelet" || s.Who == "kube-proxy" {
			workers = max(workers, len(s.On))
		}
		if took > 0 {
			total += took
			parts = append(parts, fmt.Sprintf("%s %d s", s.Who, took))
			s.Do, s.Gate = together, "every one is healthy again"
			s.Why = "old and new do not accept one another: a rolling restart would only last longer"
		}
	}
	if workers > 0 {
		took := (workers + nodeBatch - 1) / nodeBatch * nodeSeconds
		total += took
		parts = append(parts, fmt.Sprintf("workers in batches of %d up to %s", nodeBatch, seconds(took)))
	}
	return fmt.Sprintf("about %s: %s; meanwhile no writes, no logs and exec, no rescheduling; running pods serve on", seconds(total), strings.Join(parts, ", "))
}

// seconds writes a number of seconds in minutes where it has some.
func seconds(n int) string {
	if n < 120 {
		return fmt.Sprintf("%d s", n)
	}
	return fmt.Sprintf("%d min", (n+59)/60)
}
