package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// ExternalName is the gateway's: a name outside of the cluster that every lab has.
const ExternalName = "external.lab.test"

// The resolver answers for the lab's own names and passes all other questions to
// this machine's resolvers, from outside of the lab. Machines and CoreDNS need
// somebody to ask, and a test needs one name outside of the cluster.
const (
	labDomain   = "lab.test"      // nobody else answers for it
	nameTTL     = 5               // seconds
	mostBytes   = 65535           // of a message
	oneQuestion = 2 * time.Second // to each of this machine's resolvers
	mostAtOnce  = 64              // questions that are being answered
)

// resolvConf names this machine's resolvers.
const resolvConf = "/etc/resolv.conf"

// nameLines are the names that the resolver answers for: one with its addresses
// on each line.
func (f *Fleet) nameLines() []string {
	var out []string
	add := func(name string, addresses []netip.Prefix) {
		line := name
		for _, a := range addresses {
			line += " " + a.Addr().String()
		}
		out = append(out, line)
	}
	for _, m := range f.Machines {
		add(m.Name, m.Addresses)
	}
	if _, err := netip.ParseAddr(f.API.Name); err != nil && f.API.Address.IsValid() {
		add(f.API.Name, []netip.Prefix{single(f.API.Address.Addr())})
	}
	add(ExternalName, f.Gateway)
	return out
}

// resolver answers questions of the lab.
type resolver struct {
	names    map[string][]netip.Addr // in lower case, without the last dot
	upstream func() []netip.AddrPort
	slots    chan struct{}
}

func newResolver(lines []string, upstream func() []netip.AddrPort) *resolver {
	r := &resolver{map[string][]netip.Addr{}, upstream, make(chan struct{}, mostAtOnce)}
	for _, line := range lines {
		words := strings.Fields(line)
		for _, w := range words[1:] {
			if a, err := netip.ParseAddr(w); err == nil {
				r.names[strings.ToLower(words[0])] = append(r.names[strings.ToLower(words[0])], a)
			}
		}
	}
	return r
}

// nameservers are those of a resolv.conf.
func nameservers(text string) []netip.AddrPort {
	var out []netip.AddrPort
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) > 1 && words[0] == "nameserver" {
			if a, err := netip.ParseAddr(words[1]); err == nil {
				out = append(out, netip.AddrPortFrom(a, 53))
			}
		}
	}
	return out
}

// serveNames listens on the lab's ends of its network.
func (l *Lab) serveNames(ctx context.Context) error {
	f, err := l.Fleet()
	if err != nil {
		return err
	}
	pid, ok := l.holder()
	if !ok {
		return errNotUp
	}
	r := newResolver(f.nameLines(), func() []netip.AddrPort { return nameservers(readText(resolvConf)) })
	ended := make(chan error, 2*len(f.Gateway))
	for _, g := range f.Gateway {
		at := netip.AddrPortFrom(g.Addr(), 53).String()
		packets, err := entered(pid, func() (net.PacketConn, error) { return net.ListenPacket("udp", at) })
		if err != nil {
			return err
		}
		defer packets.Close()
		streams, err := entered(pid, func() (net.Listener, error) { return net.Listen("tcp", at) })
		if err != nil {
			return err
		}
		defer streams.Close()
		go func() { ended <- r.servePackets(packets) }()
		go func() { ended <- r.serveStreams(streams) }()
	}
	if err := l.announce(resolve, externalAddress(f)); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-ended:
		return err
	}
}

// externalAddress is the first of the lab's ends of its network.
func externalAddress(f *Fleet) string { return netip.AddrPortFrom(f.Gateway[0].Addr(), 53).String() }

// servePackets answers over UDP. When too many questions are open, more are not
// read: whoever asks, asks again.
func (r *resolver) servePackets(c net.PacketConn) error {
	for {
		question := make([]byte, mostBytes)
		n, from, err := c.ReadFrom(question)
		if err != nil {
			return err
		}
		r.slots <- struct{}{}
		go func() {
			defer func() { <-r.slots }()
			if answer := r.answer("udp", question[:n]); answer != nil {
				_, _ = c.WriteTo(answer, from) // who does not get it asks again
			}
		}()
	}
}

func (r *resolver) serveStreams(listener net.Listener) error {
	for {
		c, err := listener.Accept()
		if err != nil {
			return err
		}
		r.slots <- struct{}{}
		go func() {
			defer func() { <-r.slots }()
			defer c.Close()
			r.serveStream(c)
		}()
	}
}

// serveStream answers what comes on one connection, for as long as something
// comes.
func (r *resolver) serveStream(c net.Conn) {
	for {
		if c.SetDeadline(time.Now().Add(10*time.Second)) != nil {
			return
		}
		question, err := readMessage(c)
		if err != nil {
			return
		}
		answer := r.answer("tcp", question)
		if answer == nil || writeMessage(c, answer) != nil {
			return
		}
	}
}

// readMessage and writeMessage put the length before a message, as TCP needs it.
func readMessage(c io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(c, message)
	return message, err
}

func writeMessage(c io.Writer, message []byte) error {
	_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
	return err
}

// answer is what is sent back; nil for what is no question.
func (r *resolver) answer(network string, message []byte) []byte {
	var p dnsmessage.Parser
	header, err := p.Start(message)
	if err != nil || header.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return reply(header, nil, dnsmessage.RCodeFormatError, nil)
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	addresses, ours := r.names[name]
	switch {
	case ours:
		return reply(header, &q, dnsmessage.RCodeSuccess, addresses)
	case name == labDomain || strings.HasSuffix(name, "."+labDomain):
		return reply(header, &q, dnsmessage.RCodeNameError, nil)
	}
	for _, server := range r.upstream() {
		if answer, err := ask(network, server, message); err == nil {
			return answer
		}
	}
	return reply(header, &q, dnsmessage.RCodeServerFailure, nil)
}

// reply makes an answer of ours: those of the addresses that are of the type
// that was asked for.
func reply(asked dnsmessage.Header, q *dnsmessage.Question, code dnsmessage.RCode, addresses []netip.Addr) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: asked.ID, Response: true, OpCode: asked.OpCode, Authoritative: code != dnsmessage.RCodeServerFailure,
		RecursionDesired: asked.RecursionDesired, RecursionAvailable: true, RCode: code})
	if q == nil {
		return finished(b, nil)
	}
	b.EnableCompression()
	err := errors.Join(b.StartQuestions(), b.Question(*q), b.StartAnswers())
	about := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: nameTTL}
	for _, a := range addresses {
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			err = errors.Join(err, b.AResource(about, dnsmessage.AResource{A: a.As4()}))
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			err = errors.Join(err, b.AAAAResource(about, dnsmessage.AAAAResource{AAAA: a.As16()}))
		}
	}
	return finished(b, err)
}

func finished(b dnsmessage.Builder, err error) []byte {
	message, failed := b.Finish()
	if errors.Join(err, failed) != nil {
		return nil
	}
	return message
}

// ask passes a question on and gives the answer that belongs to it.
func ask(network string, server netip.AddrPort, message []byte) ([]byte, error) {
	c, err := net.DialTimeout(network, server.String(), oneQuestion)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(oneQuestion)); err != nil {
		return nil, err
	}
	read, write := readPacket, func(c io.Writer, m []byte) error { _, err := c.Write(m); return err }
	if network == "tcp" {
		read, write = readMessage, writeMessage
	}
	if err := write(c, message); err != nil {
		return nil, err
	}
	answer, err := read(c)
	if err == nil && (len(answer) < 12 || !slices.Equal(answer[:2], message[:2])) {
		err = errors.New("the answer is to another question")
	}
	return answer, err
}

func readPacket(c io.Reader) ([]byte, error) {
	packet := make([]byte, mostBytes)
	n, err := c.Read(packet)
	return packet[:n], err
}
