package sshconn

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// knownKey is one line of a known_hosts file that concerns the host.
type knownKey struct {
	marker    string // "", "cert-authority" or "revoked"
	algorithm string
	blob      []byte
	file      string
	line      int
}

func (k knownKey) place() string { return fmt.Sprintf("%s:%d", k.file, k.line) }

func (k knownKey) fingerprint() string {
	if key, err := ssh.ParsePublicKey(k.blob); err == nil {
		return ssh.FingerprintSHA256(key)
	}
	return "a key that cannot be read"
}

const knownHostsBytes = 16 << 20

// readKnownHosts gives the lines for a host: its own, and every revocation,
// whatever host it names. Lines that are nobody's are passed over, as ssh does,
// but not a revocation that cannot be read.
//
// x/crypto's knownhosts would refuse the whole file for one bad line, take the
// key of an authority for a host's, and not say which types it knows.
func readKnownHosts(file string, content []byte, host string) ([]knownKey, error) {
	var keys []knownKey
	for i, line := range strings.Split(string(content), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		k := knownKey{file: file, line: i + 1}
		if fields[0][0] == '@' {
			k.marker, fields = fields[0][1:], fields[1:]
		}
		revoked := k.marker == "revoked"
		if len(fields) < 3 || k.marker != "" && k.marker != "cert-authority" && !revoked {
			if revoked {
				return nil, fmt.Errorf("%s: the revocation cannot be read", k.place())
			}
			continue
		}
		blob, err := base64.StdEncoding.DecodeString(fields[2])
		if err != nil && revoked {
			return nil, fmt.Errorf("%s: the revocation cannot be read", k.place())
		}
		if err != nil || !revoked && !matchesHost(fields[0], host) {
			continue
		}
		k.algorithm, k.blob = fields[1], blob
		keys = append(keys, k)
	}
	return keys, nil
}

// matchesHost is whether the first field of a line names a host: hashed, or a
// list of patterns.
func matchesHost(field, host string) bool {
	if rest, hashed := strings.CutPrefix(field, "|1|"); hashed {
		salt, sum, _ := strings.Cut(rest, "|")
		key, err1 := base64.StdEncoding.DecodeString(salt)
		want, err2 := base64.StdEncoding.DecodeString(sum)
		mac := hmac.New(sha1.New, key)
		mac.Write([]byte(host))
		return err1 == nil && err2 == nil && hmac.Equal(mac.Sum(nil), want)
	}
	return matchList(strings.ToLower(field), host)
}

// trust is what we know of one host's keys.
type trust struct {
	label  string // for errors
	host   string // the name that certificates are for
	name   string // host, or [host]:port, as known_hosts writes it
	pinned ssh.PublicKey
	known  []knownKey
	file   string // where a new line goes
}

// trustOf reads the known_hosts files, unless cluster.yaml pins a key.
func trustOf(label, host string, port int, pin string, files []string) (*trust, error) {
	address := net.JoinHostPort(host, strconv.Itoa(port))
	t := &trust{label: label, host: host, name: strings.ToLower(knownhosts.Normalize(address))}
	if len(files) > 0 {
		t.file = files[0]
	}
	if pin != "" {
		key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(pin))
		if err != nil || len(bytes.TrimSpace(rest)) > 0 {
			return nil, fault(BadConfig, label, "the pinned host key (ssh.hostKey) is not a public key", err)
		}
		t.pinned = key
	}
	for _, f := range files {
		content, err := readFile(f, knownHostsBytes)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fault(BadConfig, label, "known_hosts cannot be read", err)
		}
		keys, err := readKnownHosts(f, content, t.name)
		if err != nil {
			return nil, fault(BadConfig, label, "known_hosts cannot be used", err)
		}
		t.known = append(t.known, keys...)
	}
	return t, nil
}

func (t *trust) with(marker string) []knownKey {
	var out []knownKey
	for _, k := range t.known {
		if k.marker == marker {
			out = append(out, k)
		}
	}
	return out
}

const certSuffix = "-cert-v01@openssh.com"

// algorithms is what we ask the host for: the pinned type alone; else
// certificates if we know an authority, the types that known_hosts has, and the
// rest last, so that an unknown host has something to show.
func (t *trust) algorithms() []string {
	if t.pinned != nil {
		return signatures(t.pinned.Type())
	}
	var out []string
	var plain []string
	for _, a := range ssh.SupportedAlgorithms().HostKeys {
		if !strings.HasSuffix(a, certSuffix) {
			plain = append(plain, a)
		} else if len(t.with("cert-authority")) > 0 {
			out = append(out, a)
		}
	}
	for _, k := range t.with("") {
		for _, a := range signatures(k.algorithm) {
			if slices.Contains(plain, a) && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	for _, a := range plain {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// signatures are the algorithms that a type of key signs with; never SHA-1.
func signatures(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// check is the host key callback: nil only for a key that was known beforehand.
func (t *trust) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	cert, isCert := key.(*ssh.Certificate)
	if err := t.notRevoked(key); err != nil {
		return err
	}
	if isCert {
		return t.checkCertificate(cert)
	}
	if t.pinned != nil {
		if bytes.Equal(t.pinned.Marshal(), key.Marshal()) {
			return nil
		}
		return fault(HostKeyNotPinned, t.label, fmt.Sprintf("the host shows %s %s, cluster.yaml pins %s",
			key.Type(), ssh.FingerprintSHA256(key), ssh.FingerprintSHA256(t.pinned)), nil)
	}
	known := t.with("")
	for _, k := range known {
		if bytes.Equal(k.blob, key.Marshal()) {
			return nil
		}
	}
	if len(known) > 0 {
		return t.changed(key, known)
	}
	return t.unknown(key)
}

func (t *trust) notRevoked(key ssh.PublicKey) error {
	blobs := [][]byte{key.Marshal()}
	if cert, ok := key.(*ssh.Certificate); ok {
		blobs = append(blobs, cert.Key.Marshal(), cert.SignatureKey.Marshal())
	}
	for _, k := range t.with("revoked") {
		for _, blob := range blobs {
			if bytes.Equal(k.blob, blob) {
				return fault(HostKeyRevoked, t.label, fmt.Sprintf("the host shows %s, which %s revokes", k.fingerprint(), k.place()), nil)
			}
		}
	}
	return nil
}

// checkCertificate judges a host's certificate. One of an authority that we do
// not know says nothing: then the host's key counts, as with ssh.
func (t *trust) checkCertificate(cert *ssh.Certificate) error {
	isAuthority := func(authority ssh.PublicKey, _ string) bool {
		return slices.ContainsFunc(t.with("cert-authority"), func(k knownKey) bool { return bytes.Equal(k.blob, authority.Marshal()) })
	}
	if !isAuthority(cert.SignatureKey, t.host) {
		return t.check(t.host, nil, cert.Key)
	}
	checker := ssh.CertChecker{IsHostAuthority: isAuthority}
	err := checker.CheckHostKey(net.JoinHostPort(t.host, "22"), nil, cert)
	if err == nil && len(cert.ValidPrincipals) == 0 {
		err = errors.New("it is for no host in particular")
	}
	if err != nil {
		return fault(HostCertificate, t.label, "the host's certificate "+strconv.Quote(cert.KeyId)+" is not accepted", err)
	}
	return nil
}

func (t *trust) unknown(key ssh.PublicKey) error {
	e := fault(HostKeyUnknown, t.label, fmt.Sprintf("the host's key is not known: %s %s", key.Type(), ssh.FingerprintSHA256(key)), nil)
	e.Help = fmt.Sprintf("compare this fingerprint with the host's console (ssh-keygen -lf /etc/ssh/ssh_host_%s_key.pub); if it is the same, add this line to %s:\n%s",
		fileType(key.Type()), firstOf(t.file, "~/.ssh/known_hosts"), knownhosts.Line([]string{t.name}, key))
	return e
}

func (t *trust) changed(key ssh.PublicKey, known []knownKey) error {
	places := make([]string, 0, len(known))
	for _, k := range known {
		places = append(places, fmt.Sprintf("%s has %s %s", k.place(), k.algorithm, k.fingerprint()))
	}
	e := fault(HostKeyChanged, t.label, fmt.Sprintf("the host shows %s %s, but %s",
		key.Type(), ssh.FingerprintSHA256(key), strings.Join(places, ", ")), nil)
	e.Help = fmt.Sprintf("if the host was rebuilt, read its key on its console and run: ssh-keygen -R %q -f %s; else somebody stands between",
		t.name, known[0].file)
	return e
}

// fileType is the type's name in /etc/ssh.
func fileType(keyType string) string {
	for _, name := range []string{"ed25519", "ecdsa", "rsa"} {
		if strings.Contains(keyType, name) {
			return name
		}
	}
	return "*"
}
