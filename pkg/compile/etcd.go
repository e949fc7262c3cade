package compile

import (
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/kthwc/kthwc/pkg/origin"
)

// MemberID is the ID that etcd gives a member of an initial cluster: the first
// eight bytes of the SHA-1 of its sorted peer URLs and the cluster token
// (etcd server/etcdserver/api/membership, computeMemberID). Members that are
// added later also hash the time.
func MemberID(token string, peerURLs ...string) uint64 {
	sum := sha1.Sum([]byte(strings.Join(slices.Sorted(slices.Values(peerURLs)), "") + token))
	return binary.BigEndian.Uint64(sum[:8])
}

// ClusterID is the ID that etcd gives an initial cluster: the first eight bytes
// of the SHA-1 of its members' sorted IDs.
func ClusterID(members ...uint64) uint64 {
	var all []byte
	for _, id := range slices.Sorted(slices.Values(members)) {
		all = binary.BigEndian.AppendUint64(all, id)
	}
	sum := sha1.Sum(all)
	return binary.BigEndian.Uint64(sum[:8])
}

func (r *resolver) etcd() {
	e := &r.c.Etcd
	e.Token = r.text("spec.etcd.clusterToken", r.spec.Etcd.ClusterToken)
	var ids []uint64
	var initial, servers []Text
	for _, n := range r.c.controllers() {
		at := func(port int) Text {
			return origin.Map(n.Addresses[0], func(a netip.Addr) string { return url(a.String(), port) })
		}
		m := Member{Node: n, Name: n.Name, PeerURL: at(2380), ClientURL: at(2379)}
		m.ID = MemberID(e.Token.V, m.PeerURL.V)
		e.Members = append(e.Members, m)
		ids = append(ids, m.ID)
		initial = append(initial, origin.Zip(m.Name, m.PeerURL, func(name, url string) string { return name + "=" + url }))
		servers = append(servers, m.ClientURL)
	}
	// Which nodes are members depends on their roles.
	for i, m := range e.Members {
		initial[i].From = origin.Join(initial[i].From, m.Node.AsController)
		servers[i].From = origin.Join(servers[i].From, m.Node.AsController)
	}
	e.ClusterID = ClusterID(ids...)
	e.Initial, e.Servers = joined(initial...), joined(servers...)
	if n := len(e.Members); n%2 == 0 {
		r.fault("E0111", "spec.nodes", fmt.Sprintf("%d etcd members survive the loss of no more members than %d", n, n-1), fmt.Sprintf("use %d or %d controllers", n-1, n+1))
	} else if n == 1 {
		r.fault("W0104", "spec.nodes", "one etcd member: the loss of "+e.Members[0].Name.V+" is the loss of the cluster", "use three controllers, or take snapshots")
	}
}
