package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
)

// Dial opens a TCP connection from inside the lab's network, where the
// operator's commands run. The address is an IP address and a port: a name would
// be looked up on this machine.
func (l *Lab) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil || !strings.HasPrefix(network, "tcp") {
		return nil, &Error{Refused, fmt.Sprintf("the lab dials TCP addresses, not %s %q", network, address), "write an IP address and a port"}
	}
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	pid, ok := l.holder()
	if !ok {
		return nil, errNotUp
	}
	return entered(pid, func() (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, network, address) })
}
