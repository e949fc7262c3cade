package lab

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// resolverOf is Go's own resolver, which asks over one network whatever dial reaches.
func resolverOf(dial func(ctx context.Context, network, address string) (net.Conn, error)) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: dial}
}

// served is a resolver on the loopback address, over UDP and TCP at one port.
func served(t *testing.T, r *resolver) netip.AddrPort {
	t.Helper()
	streams, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", streams.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { streams.Close(); packets.Close() })
	go func() { _ = r.serveStreams(streams) }()
	go func() { _ = r.servePackets(packets) }()
	return netip.MustParseAddrPort(streams.Addr().String())
}

// The names of every fleet are answered with the addresses of the model, over
// both transports, in any case of letters; what is not there is not there, and
// what only others know is asked of them.
func TestNames(t *testing.T) {
	others := newResolver([]string{"elsewhere.example 192.0.2.7"}, func() []netip.AddrPort { return nil })
	upstream := served(t, others)
	nobody := netip.MustParseAddrPort("127.0.0.1:1")
	for name, f := range fleets(t) {
		at := served(t, newResolver(f.nameLines(), func() []netip.AddrPort { return []netip.AddrPort{nobody, upstream} }))
		for _, network := range []string{"udp", "tcp"} {
			ask := resolverOf(func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, at.String())
			})
			want := map[string][]string{"elsewhere.example.": {"192.0.2.7"}, "EXTERNAL.lab.test.": addressesOf(f.Gateway)}
			for _, m := range f.Machines {
				want[m.Name+"."] = addressesOf(m.Addresses)
			}
			if name == "server" {
				want["server.kubernetes.local."] = []string{"10.240.0.10"}
			}
			for asked, addresses := range want {
				got, err := ask.LookupHost(t.Context(), asked)
				slices.Sort(got)
				if err != nil || !slices.Equal(got, addresses) {
					t.Errorf("%s over %s: %s is %v, not %v: %v", name, network, asked, got, addresses, err)
				}
			}
			for asked, missing := range map[string]bool{"other.lab.test.": true, "lab.test.": true, "nobody.knows.": false} {
				_, err := ask.LookupHost(t.Context(), asked)
				var failed *net.DNSError
				if !errors.As(err, &failed) || failed.IsNotFound != missing {
					t.Errorf("%s over %s: %s: %v", name, network, asked, err)
				}
			}
		}
	}
}

func addressesOf(list []netip.Prefix) []string {
	var out []string
	for _, p := range list {
		out = append(out, p.Addr().String())
	}
	slices.Sort(out)
	return out
}

// A name that has no address of the type is there all the same, what is not a
// question gets no answer, and half a question gets an error.
func TestAnswers(t *testing.T) {
	var asked atomic.Int32
	r := newResolver([]string{"one 192.0.2.1"}, func() []netip.AddrPort { asked.Add(1); return nil })
	question := func(name string, of dnsmessage.Type, response bool) []byte {
		m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, Response: response, RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: of, Class: dnsmessage.ClassINET}}}
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	whole := question("one.", dnsmessage.TypeA, false)
	for _, c := range []struct {
		name    string
		message []byte
		code    dnsmessage.RCode
		answers int
	}{
		{"an address", whole, dnsmessage.RCodeSuccess, 1},
		{"another type", question("one.", dnsmessage.TypeAAAA, false), dnsmessage.RCodeSuccess, 0},
		{"nobody to ask", question("two.", dnsmessage.TypeA, false), dnsmessage.RCodeServerFailure, 0},
		{"cut off", whole[:14], dnsmessage.RCodeFormatError, 0},
	} {
		var m dnsmessage.Message
		if err := m.Unpack(r.answer("udp", c.message)); err != nil || m.ID != 7 || !m.Response || m.RCode != c.code || len(m.Answers) != c.answers {
			t.Errorf("%s: %+v %v", c.name, m, err)
		}
	}
	for _, message := range [][]byte{nil, []byte("short"), question("one.", dnsmessage.TypeA, true)} {
		if got := r.answer("udp", message); got != nil {
			t.Errorf("%q is answered: %q", message, got)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("others were asked %d times", asked.Load())
	}
}

func TestNameservers(t *testing.T) {
	got := nameservers("# nameserver 192.0.2.9\nsearch a b\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # x\nnameserver none\n")
	if want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[2001:db8::1]:53")}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// No question, however long, is read as another, and none ends the resolver.
func FuzzAnswer(f *testing.F) {
	r := newResolver([]string{"one 192.0.2.1"}, func() []netip.AddrPort { return nil })
	f.Add([]byte("\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03one\x00\x00\x01\x00\x01"))
	f.Fuzz(func(t *testing.T, message []byte) {
		answer := r.answer("udp", message)
		if answer == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(answer); err != nil || !strings.HasPrefix(string(message), string(answer[:2])) {
			t.Errorf("%q is answered by %q: %v", message, answer, err)
		}
	})
}
