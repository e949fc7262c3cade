package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Step is one thing that is there while the lab is up. It has no secrets: it is
// written to the journal and printed.
type Step struct {
	Kind string   `json:"kind"`
	Of   string   `json:"of,omitempty"`   // the machine; "" for the lab as a whole
	With []string `json:"with,omitempty"` // what it is made from: with something else, it is made again
}

func (s Step) String() string {
	if s.Of == "" {
		return s.Kind
	}
	return s.Of + ": " + s.Kind
}

// Small says whether a step is but a part of a machine, which boots and is ready
// in steps that are not, or of a root file system, which outlives the lab.
func (s Step) Small() bool {
	return s.Of != "" && s.Kind != boot && s.Kind != ready || s.Kind == image
}

func (s Step) key() [2]string { return [2]string{s.Kind, s.Of} }

func (s Step) equal(o Step) bool {
	return s.Kind == o.Kind && s.Of == o.Of && slices.Equal(s.With, o.With)
}

// Kinds of steps.
const (
	image     = "root file system"
	keys      = "keys"
	hostKey   = "host key"
	disk      = "disk"
	namespace = "namespaces"
	bridge    = "bridge"
	cgroups   = "cgroups"
	wire      = "network"
	overlay   = "mount"
	boot      = "boot"
	cable     = "cable"
	balance   = "balancer"
	access    = "ssh settings"
	resolve   = "resolver"
	forward   = "forward"
	ready     = "ready"
)

// site is what a plan knows of the place: where files are, and what the machine
// is like.
type site struct {
	image   string   // directory of the root file system
	cgroups []string // directories that machines get theirs below
}

// steps are what a fleet needs, in the order of making. Files come first: they
// outlive everything that runs, and a restart of this machine.
func (f *Fleet) steps(at site) []Step {
	out := []Step{{image, "", []string{at.image}}, {keys, "", nil}}
	for _, m := range f.Machines {
		out = append(out,
			Step{hostKey, m.Name, nil},
			Step{disk, m.Name, []string{at.image, f.seeds(m).digest()}})
	}
	out = append(out, Step{namespace, "", nil}, Step{bridge, "", f.bridgeLines()})
	for _, m := range f.Machines {
		out = append(out,
			Step{cgroups, m.Name, machineCgroups(at, m.Name)},
			Step{wire, m.Name, f.wireLines(m)},
			Step{overlay, m.Name, []string{at.image}},
			Step{boot, m.Name, machineCgroups(at, m.Name)},
			Step{cable, m.Name, []string{plug(m.Name, "up")}})
	}
	if f.Balancer != nil {
		out = append(out, Step{balance, "", append(f.balancerLines(), f.Balancer.config()...)})
	}
	out = append(out,
		Step{access, "", f.accessLines()},
		Step{resolve, "", f.nameLines()},
		Step{forward, "", []string{f.API.Address.String()}})
	for _, m := range f.Machines {
		out = append(out, Step{ready, m.Name, nil})
	}
	return out
}

func machineCgroups(at site, name string) []string {
	var out []string
	for _, root := range at.cgroups {
		out = append(out, filepath.Join(root, name))
	}
	return out
}

// Names on the lab's network.
const (
	bridgeName  = "kthwc0"
	balancerNet = "balancer@lab" // no machine has a name like this
)

// bridgeLines make the bridge. Its own end is the operator's, and every
// machine's default route: what is not in the lab ends there.
func (f *Fleet) bridgeLines() []string {
	out := []string{"ip link add " + bridgeName + " type bridge", "ip link set " + bridgeName + " up"}
	for _, g := range f.Gateway {
		out = append(out, fmt.Sprintf("ip address add %s dev %s%s", g, bridgeName, nodad(g.Addr())))
	}
	if f.Balancer != nil && !f.onBridge(f.Balancer.Address) {
		out = append(out, fmt.Sprintf("ip route add %s dev %s", single(f.Balancer.Address), bridgeName))
	}
	return out
}

// wireLines give a machine its place on the bridge, and its addresses.
func (f *Fleet) wireLines(m Machine) []string {
	out := join(m.Name, m.Addresses)
	for _, g := range f.Gateway {
		out = append(out, fmt.Sprintf("ip -n %s route add default via %s", m.Name, g.Addr()))
	}
	if f.Balancer != nil && !f.onBridge(f.Balancer.Address) {
		out = append(out, fmt.Sprintf("ip -n %s route add %s dev eth0", m.Name, single(f.Balancer.Address)))
	}
	return out
}

// balancerLines give the balancer its place on the bridge, whether its address
// is of the machines' range or not.
func (f *Fleet) balancerLines() []string {
	out := join(balancerNet, []netip.Prefix{single(f.Balancer.Address)})
	for _, g := range f.Gateway {
		out = append(out, fmt.Sprintf("ip -n %s route add %s dev eth0", balancerNet, g.Masked()))
	}
	return out
}

// join makes a network namespace with one interface on the bridge.
func join(name string, addresses []netip.Prefix) []string {
	port := portName(name)
	out := []string{
		"ip netns add " + name,
		fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s", port, name),
		fmt.Sprintf("ip link set %s master %s up", port, bridgeName),
		fmt.Sprintf("ip -n %s link set lo up", name),
		fmt.Sprintf("ip -n %s link set eth0 address %s up", name, hardware(name)),
	}
	for _, a := range addresses {
		out = append(out, fmt.Sprintf("ip -n %s address add %s dev eth0%s", name, a, nodad(a.Addr())))
	}
	return out
}

// leave undoes join, whole or in part.
func leave(name string) []string {
	return []string{"ip link delete " + portName(name), "ip netns delete " + name}
}

// plug puts a machine's cable in ("up") or takes it out ("down").
func plug(name, way string) string { return "ip link set " + portName(name) + " " + way }

// rewire is a script that makes a machine's place on the bridge again: what a
// machine does to its network is gone when it boots again, as on others.
func (f *Fleet) rewire(m Machine) string {
	return strings.Join(leave(m.Name), " || :\n") + " || :\n" + strings.Join(f.wireLines(m), "\n")
}

// portName is the bridge's end of a machine's cable: names of interfaces are
// short, names of machines are not.
func portName(name string) string {
	digest := sha256.Sum256([]byte(name))
	return "port" + hex.EncodeToString(digest[:5])
}

// hardware is the address of a machine's network card. It is the same after the
// machine was off, so that nobody sends to one that is gone.
func hardware(name string) string {
	digest := sha256.Sum256([]byte(name))
	return net.HardwareAddr(append([]byte{2}, digest[:5]...)).String()
}

// nodad lets an IPv6 address be used at once: nobody else is on this network.
func nodad(a netip.Addr) string {
	if a.Is6() {
		return " nodad"
	}
	return ""
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func (f *Fleet) onBridge(a netip.Addr) bool {
	return slices.ContainsFunc(f.Gateway, func(g netip.Prefix) bool { return g.Contains(a) })
}

// config is the balancer's: a cloud balancer passes bytes on, tries no server
// twice, and counts as healthy who answers at /healthz.
func (b *Balancer) config() []string {
	out := []string{
		"global",
		"    maxconn 4096",
		"defaults",
		"    mode tcp",
		"    timeout connect 5s",
		"    timeout check 5s",
		"    timeout client 24h",
		"    timeout server 24h",
		"    retries 0",
		"    no option redispatch",
		"listen apiserver",
		"    bind " + netip.AddrPortFrom(b.Address, uint16(b.Port)).String(),
		"    balance roundrobin",
		"    option httpchk",
		"    http-check send meth GET uri /healthz ver HTTP/1.1 hdr Host " + b.Host,
		"    http-check expect status 200",
		"    default-server check inter 5s fall 2 rise 2",
	}
	for _, s := range b.Backends {
		out = append(out, fmt.Sprintf("    server %s %s port %d", s.Name, s.Address, s.Check))
	}
	return out
}

// accessLines are the settings of ssh; @ stands for the state directory.
func (f *Fleet) accessLines() []string {
	var out []string
	for _, m := range f.Machines {
		out = append(out, "Host "+strings.Join(m.names(), " "),
			"    HostName "+m.Address(),
			"    Port "+strconv.Itoa(m.Port),
			"    User "+m.User)
	}
	return append(out, "Host *",
		"    IdentityFile @/id_ed25519",
		"    IdentitiesOnly yes",
		"    IdentityAgent none",
		"    UserKnownHostsFile @/known_hosts",
		"    GlobalKnownHostsFile @/known_hosts", // so that no other is read
		"    StrictHostKeyChecking yes",
		"    PasswordAuthentication no",
		"    ConnectTimeout 5",
		"    ServerAliveInterval 10",
		"    LogLevel ERROR")
}

// names are what a machine is asked for by: its name and its addresses.
func (m Machine) names() []string {
	names := []string{m.Name}
	for _, p := range m.Addresses {
		names = append(names, p.Addr().String())
	}
	return names
}

// knownNames are the names that known_hosts has a machine under.
func (m Machine) knownNames() string {
	names := m.names()
	if m.Port != 22 {
		for i, n := range names {
			names[i] = fmt.Sprintf("[%s]:%d", n, m.Port)
		}
	}
	return strings.Join(names, ",")
}

// labID is the name of a lab: the same for the same state directory, so that
// what it left is found without a journal.
func labID(state string) string {
	digest := sha256.Sum256([]byte(state))
	return "kthwc-lab-" + hex.EncodeToString(digest[:5])
}
