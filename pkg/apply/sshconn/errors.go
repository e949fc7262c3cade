package sshconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	text "github.com/kthwc/kthwc/internal/printable"
)

// Kind says what failed, for callers that choose an exit code or a next step.
type Kind int

// What can fail. The table kinds below says what the user does about each.
const (
	Unclassified      Kind = iota
	BadConfig              // ~/.ssh/config, known_hosts or the target cannot be used
	NameResolution         // the name has no address
	Refused                // the machine answers, the port does not
	Unreachable            // no way to the machine
	TimedOut               // nobody answered in time
	Proxy                  // the bastion or the ProxyCommand failed
	Protocol               // what answers is not an SSH server that we can talk with
	HostKeyUnknown         // no known_hosts line for the host
	HostKeyChanged         // known_hosts has other keys for the host
	HostKeyNotPinned       // cluster.yaml pins another key
	HostKeyRevoked         // known_hosts says @revoked
	HostCertificate        // the host's certificate is not valid for it
	NoAcceptedKey          // the host accepts none of the keys that we have
	SessionRefused         // the host opens no session or forwarding
	NotAShell              // something else than a shell answers
	SudoNeedsPassword      // sudo asks, and there is nobody to ask
	SudoRefused            // sudo says no
	StdinFailed            // what should have gone to the command could not be read
	ConnectionLost         // the connection ended while it was needed
	Killed                 // a signal ended the remote command
	TooMuchOutput          // the command says more than was asked for
	Cancelled              // the caller's context ended
)

// kinds: a name for logs, what the user does about it, and whether dialling
// again may help. A refused key is not tried again: hosts lock out who insists.
var kinds = [...]struct {
	name, help string
	transient  bool
}{
	Unclassified:      {"unclassified", "", false},
	BadConfig:         {"bad-config", "correct the file that is named", false},
	NameResolution:    {"name-resolution", "check the address in cluster.yaml, or give it a HostName in ~/.ssh/config", false},
	Refused:           {"refused", "check that sshd runs on the host, and on this port", true},
	Unreachable:       {"unreachable", "check the network, routes and firewall between this machine and the host", true},
	TimedOut:          {"timed-out", "check that the host is up, and that no firewall drops the connection", true},
	Proxy:             {"proxy", "try the way by hand: ssh -v to the bastion, or the ProxyCommand itself", false},
	Protocol:          {"protocol", "check that the address and port are those of an SSH server", false},
	HostKeyUnknown:    {"host-key-unknown", "", false},
	HostKeyChanged:    {"host-key-changed", "", false},
	HostKeyNotPinned:  {"host-key-not-pinned", "if the host was rebuilt, read its key on its console and correct ssh.hostKey in cluster.yaml; else somebody stands between", false},
	HostKeyRevoked:    {"host-key-revoked", "do not connect: somebody said that this key is no longer to be trusted", false},
	HostCertificate:   {"host-certificate", "have the host's certificate issued again, for the name that you dial", false},
	NoAcceptedKey:     {"no-accepted-key", "add one of these keys to the user's authorized_keys on the host, or name the right one by IdentityFile in ~/.ssh/config", false},
	SessionRefused:    {"session-refused", "check MaxSessions, AllowTcpForwarding and AllowStreamLocalForwarding of the host's sshd", false},
	NotAShell:         {"not-a-shell", "the user needs a login shell on the host, without ForceCommand", false},
	SudoNeedsPassword: {"sudo-needs-password", "let the user run sudo without a password (NOPASSWD), or run where a password can be asked for", false},
	SudoRefused:       {"sudo-refused", "let the user run /bin/sh by sudo, without requiretty", false},
	StdinFailed:       {"stdin-failed", "", false},
	ConnectionLost:    {"connection-lost", "run it again", true},
	Killed:            {"killed", "look at the host's log: the kernel or a person ended the command", false},
	TooMuchOutput:     {"too-much-output", "", false},
	Cancelled:         {"cancelled", "", false},
}

// String is the kind's name in logs and documentation.
func (k Kind) String() string { return kinds[k].name }

// Error is everything that this package reports. It never holds what was sent
// to a host: neither passwords nor content.
type Error struct {
	Kind  Kind
	Host  string // the host as the user knows it, and how it was dialled
	What  string // a sentence without a period
	Help  string // what the user does; may be several lines
	Begun bool   // the command may have run: trying again is not the same as trying
	Runs  bool   // the command may still be running on the host
	Err   error  // the cause, may be nil
}

// Error is the sentence, then the help on lines of its own.
func (e *Error) Error() string {
	s := e.Host + ": " + e.What
	if e.Err != nil {
		s += ": " + printable(e.Err.Error())
	}
	switch {
	case e.Runs:
		s += "; the command may still be running there"
	case e.Begun:
		s += "; the command had begun"
	}
	if e.Help != "" {
		s += "\n  help: " + strings.ReplaceAll(e.Help, "\n", "\n        ")
	}
	return s
}

// Unwrap gives the cause, so that context.Canceled and net errors are found.
func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of an error of this package, or Unclassified.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Unclassified
}

// fault makes an error with the kind's own help.
func fault(kind Kind, host, what string, cause error) *Error {
	return &Error{Kind: kind, Host: host, What: what, Help: kinds[kind].help, Err: cause}
}

// reasons: texts by which an SSH server says why it could not reach a host.
var reasons = []struct {
	text string
	kind Kind
}{
	{"refused", Refused},
	{"timed out", TimedOut},
	{"not known", NameResolution},
	{"unknown host", NameResolution},
	{"resolve", NameResolution},
}

// dialFault says why a way to a host could not be opened.
func dialFault(host string, err error) *Error {
	var name *net.DNSError
	var channel *ssh.OpenChannelError
	var timeout net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return fault(Cancelled, host, "connecting was cancelled", err)
	case errors.As(err, &name):
		return fault(NameResolution, host, "the name has no address", err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fault(Refused, host, "the connection was refused", err)
	case errors.As(err, &channel):
		return channelFault(host, channel)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fault(TimedOut, host, "nobody answered in time", err)
	}
	return fault(Unreachable, host, "the host cannot be reached", err)
}

// channelFault is the bastion's answer to the wish to reach a host through it.
func channelFault(host string, err *ssh.OpenChannelError) *Error {
	if err.Reason == ssh.Prohibited {
		return fault(Proxy, host, "the bastion forwards nothing to the host (AllowTcpForwarding, PermitOpen)", err)
	}
	for _, r := range reasons {
		if strings.Contains(strings.ToLower(err.Message), r.text) {
			return fault(r.kind, host, "the bastion does not reach the host", err)
		}
	}
	return fault(Unreachable, host, "the bastion does not reach the host", err)
}

// printable escapes what a host said.
func printable(s string) string { return text.Short(s, 2000) }

// said is a host's words for an error: escaped, in one piece, or that there are none.
func said(text []byte) string {
	s := strings.TrimSpace(printable(string(text)))
	if s == "" {
		return "it said nothing"
	}
	return fmt.Sprintf("it said %q", s)
}
