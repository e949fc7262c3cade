package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/compile"
)

// etcdIDs asserts what each member calls the cluster, itself and the others.
// The IDs follow from the addresses and the token, so they were known before
// etcd was started.
func etcdIDs(ctx context.Context, p *probe) {
	each(p.Cluster.Etcd.Members, func(m compile.Member) { p.at().etcdMember(ctx, m) })
}

// memberAnswer is a member as etcd lists it.
type memberAnswer struct {
	ID       uint64   `json:"id"`
	Name     string   `json:"name"`
	PeerURLs []string `json:"peerURLs"`
}

func (p *probe) etcdMember(ctx context.Context, m compile.Member) {
	l := p.listener("etcd-peer", m.Name.V)
	want := fmt.Sprintf("%x", p.Cluster.Etcd.ClusterID)
	a, err := p.fetch(ctx, l, "/members", l.Cert)
	if err != nil {
		p.fail(m.Name.V, "etcd cluster ID", want, said(err), p.componentFault(l, err))
		return
	}
	var list []memberAnswer
	if err := json.Unmarshal(a.body, &list); err != nil || a.status != http.StatusOK {
		p.fail(m.Name.V, "etcd cluster ID", want, fmt.Sprintf("status %d: %s", a.status, short(string(a.body))), refused(a, "etcd"))
		return
	}
	foreign := blame{cause: "the data directory is from another cluster: another token, or other members at its first start", help: "on " + m.Name.V + ": compare /var/lib/etcd with a snapshot before anything is removed"}
	p.equal(m.Name.V, "etcd cluster ID", want, a.header.Get("X-Etcd-Cluster-ID"), foreign)
	p.equal(m.Name.V, "etcd members", p.membership(), memberList(list),
		blame{cause: "a member was added or removed by hand, or was replaced: those have other IDs", help: "etcdctl member list; bring the nodes in cluster.yaml and the members together"})
}

// membership is how the members are expected to be listed.
func (r *run) membership() string {
	var list []memberAnswer
	for _, m := range r.Cluster.Etcd.Members {
		list = append(list, memberAnswer{m.ID, m.Name.V, []string{m.PeerURL.V}})
	}
	return memberList(list)
}

func memberList(list []memberAnswer) string {
	var out []string
	for _, m := range list {
		out = append(out, fmt.Sprintf("%s %x %s", m.Name, m.ID, strings.Join(m.PeerURLs, ",")))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// fetch asks a listener of a machine from that machine.
func (r *run) fetch(ctx context.Context, l compile.Listener, path, cert string) (*answer, error) {
	config, err := r.identity(r.authority(l.Cert), cert, primary(r.node(l.Node)))
	if err != nil {
		return nil, err
	}
	conn, err := r.open(ctx, l.Node, r.dialled(l))
	if err != nil {
		return nil, err
	}
	line, err := secure(ctx, conn, config)
	if err != nil {
		return nil, err
	}
	defer line.Close()
	return line.ask(ctx, http.MethodGet, path, nil)
}

// authority is the authority of a certificate.
func (r *run) authority(cert string) string {
	for _, c := range r.Cluster.Certs {
		if c.Name == cert {
			return c.CA
		}
	}
	return ""
}

// componentFault says why a component of a machine could not be asked.
func (r *run) componentFault(l compile.Listener, err error) blame {
	if state := r.states[l.Node]; state == nil || !state.Ports[l.Port.V] {
		return r.unreached(compile.Dial{Node: l.Node, To: l.Component, ToNode: l.Node, Host: l.Host, Port: l.Port}, err)
	}
	return handshaken(err)
}

// etcdHealth asserts that every member answers a read that a majority agrees
// to, and is of the version that was asked for.
func etcdHealth(ctx context.Context, p *probe) {
	each(p.Cluster.Etcd.Members, func(m compile.Member) {
		p := p.at()
		l := p.listener("etcd", m.Name.V)
		cert := p.etcdClient(m.Name.V)
		a, err := p.fetch(ctx, l, "/health", cert)
		if err != nil {
			p.fail(m.Name.V, "etcd health", `"health":"true"`, said(err), p.componentFault(l, err))
			return
		}
		var health struct{ Health, Reason string }
		_ = json.Unmarshal(a.body, &health) // what is no JSON is no health
		got := fmt.Sprintf("%q:%q", "health", health.Health)
		if health.Health != "true" {
			got = fmt.Sprintf("status %d: %s", a.status, short(string(a.body)))
		}
		p.equal(m.Name.V, "etcd health", `"health":"true"`, got, blame{cause: "the member has no leader, an alarm, or too few others", help: "on " + m.Name.V + ": journalctl -u etcd -n 50; etcdctl endpoint status --cluster, alarm list"})
		p.etcdVersion(ctx, m, l, cert)
	})
}

func (p *probe) etcdVersion(ctx context.Context, m compile.Member, l compile.Listener, cert string) {
	want := ""
	for _, b := range p.Tree.Node(m.Name.V).Binaries {
		if b.Name == "etcd" {
			want = b.Version
		}
	}
	got := "no answer"
	if a, err := p.fetch(ctx, l, "/version", cert); err == nil {
		var version struct{ Etcdserver string }
		_ = json.Unmarshal(a.body, &version) // an answer without a version is another version
		got = version.Etcdserver
	}
	p.equal(m.Name.V, "etcd version", want, got, blame{cause: "the member runs another program than the one that is installed", help: "on " + m.Name.V + ": systemctl restart etcd, one member at a time"})
}

// etcdClient is the certificate that a node asks its etcd with.
func (r *run) etcdClient(node string) string {
	for _, d := range r.Cluster.Dials {
		if d.Node == node && d.Component == "etcdctl" {
			return d.Cert
		}
	}
	return ""
}
