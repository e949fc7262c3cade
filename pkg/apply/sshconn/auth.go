package sshconn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// PassphraseFunc asks for the passphrase of a key file. A program without a
// terminal has none: encrypted files are then passed over, and said to be.
type PassphraseFunc func(ctx context.Context, keyFile string) ([]byte, error)

// keyring is the keys that one host may be offered, in ssh's order.
type keyring struct {
	signers []ssh.Signer
	names   []string // of the signers
	passed  []string // what was not offered, and why
	agent   io.Closer
	clock   *stopwatch
}

func (k *keyring) close() {
	if k.agent != nil {
		k.agent.Close()
	}
}

func (k *keyring) offer(name string, s ssh.Signer) {
	for _, have := range k.signers {
		if bytes.Equal(have.PublicKey().Marshal(), s.PublicKey().Marshal()) {
			return
		}
	}
	k.signers = append(k.signers, s)
	k.names = append(k.names, fmt.Sprintf("%s (%s %s)", name, s.PublicKey().Type(), ssh.FingerprintSHA256(s.PublicKey())))
}

func (k *keyring) pass(name, why string) { k.passed = append(k.passed, name+" ("+why+")") }

// tried is the list for an error.
func (k *keyring) tried() string {
	s := "offered " + orNone(k.names)
	if len(k.passed) > 0 {
		s += "; not offered: " + strings.Join(k.passed, ", ")
	}
	return s
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "no key"
	}
	return strings.Join(names, ", ")
}

// keys collects: first what the configuration names and the agent holds, then
// the agent's others unless IdentitiesOnly, then the files. A certificate goes
// before its key.
//
// The clock is stopped while a person types.
func (d *dialler) keys(ctx context.Context, h *hop, clock *stopwatch) *keyring {
	ring := &keyring{clock: clock}
	held := d.agentKeys(ctx, ring, h.agentSocket)
	certificates := readCertificates(ring, h.certificates)
	for _, f := range h.identities {
		if s := agentKey(held, f); s != nil {
			ring.offerWithCertificates("agent: "+f, s, append(certificates, readCertificates(nil, []string{f + "-cert.pub"})...))
		}
	}
	for _, s := range held {
		if !h.identitiesOnly {
			ring.offerWithCertificates("agent", s, certificates)
		}
	}
	for _, f := range h.identities {
		if agentKey(held, f) != nil {
			continue
		}
		if s := d.fileKey(ctx, ring, f, h.identitiesNamed); s != nil {
			ring.offerWithCertificates(f, s, append(certificates, readCertificates(nil, []string{f + "-cert.pub"})...))
		}
	}
	return ring
}

func (k *keyring) offerWithCertificates(name string, s ssh.Signer, certificates []*ssh.Certificate) {
	for _, c := range certificates {
		if withCertificate, err := ssh.NewCertSigner(c, s); err == nil {
			k.offer(name+" with its certificate", withCertificate)
		}
	}
	k.offer(name, s)
}

func (d *dialler) agentKeys(ctx context.Context, ring *keyring, socket string) []ssh.Signer {
	if socket == "" {
		return nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		ring.pass("the agent's keys", "the agent at "+socket+" does not answer")
		return nil
	}
	ring.agent = conn
	context.AfterFunc(ctx, func() { conn.Close() })
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		ring.pass("the agent's keys", "the agent at "+socket+" does not list them")
	}
	return signers
}

// agentKey is the agent's key for a file, found by the public half beside it.
func agentKey(held []ssh.Signer, file string) ssh.Signer {
	pub := publicHalf(file)
	for _, s := range held {
		if pub != nil && bytes.Equal(s.PublicKey().Marshal(), pub.Marshal()) {
			return s
		}
	}
	return nil
}

const keyBytes = 1 << 20

// publicHalf reads FILE.pub, or FILE itself where that is a public key.
func publicHalf(file string) ssh.PublicKey {
	for _, f := range []string{file + ".pub", file} {
		if content, err := readFile(f, keyBytes); err == nil {
			if key, _, _, _, err := ssh.ParseAuthorizedKey(content); err == nil {
				return key
			}
		}
	}
	return nil
}

func readCertificates(ring *keyring, files []string) []*ssh.Certificate {
	var out []*ssh.Certificate
	for _, f := range files {
		content, err := readFile(f, keyBytes)
		key, _, _, _, unreadable := ssh.ParseAuthorizedKey(content)
		if c, ok := key.(*ssh.Certificate); ok && err == nil && unreadable == nil {
			out = append(out, c)
		} else if ring != nil {
			ring.pass(f, "the certificate cannot be read")
		}
	}
	return out
}

// fileKey reads a private key. An encrypted one is opened only when the host
// has said that it would accept it.
func (d *dialler) fileKey(ctx context.Context, ring *keyring, file string, named bool) ssh.Signer {
	content, err := readFile(file, keyBytes)
	if err != nil {
		if named {
			ring.pass(file, "the file cannot be read")
		}
		return nil
	}
	signer, err := ssh.ParsePrivateKey(content)
	var missing *ssh.PassphraseMissingError
	switch {
	case err == nil:
		return signer
	case !errors.As(err, &missing):
		ring.pass(file, "not a private key that can be used; the agent may hold it")
		return nil
	case d.options.Passphrase == nil:
		ring.pass(file, "encrypted, and nobody to ask for the passphrase; ssh-add it to an agent")
		return nil
	}
	pub := missing.PublicKey
	if pub == nil {
		pub = publicHalf(file)
	}
	if pub == nil {
		ring.pass(file, "encrypted, and its public half "+file+".pub is missing")
		return nil
	}
	return &encryptedKey{public: pub, open: sync.OnceValues(func() (ssh.AlgorithmSigner, error) {
		return d.decrypt(ctx, ring.clock, file, content)
	})}
}

// decrypt asks for the passphrase once per file, however many hosts want it.
func (d *dialler) decrypt(ctx context.Context, clock *stopwatch, file string, content []byte) (ssh.AlgorithmSigner, error) {
	clock.stop()
	defer clock.start()
	d.shared.mu.Lock()
	defer d.shared.mu.Unlock()
	if s := d.shared.opened[file]; s != nil {
		return s, nil
	}
	passphrase, err := d.options.Passphrase(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("%s: no passphrase: %w", file, err)
	}
	defer clear(passphrase)
	signer, err := ssh.ParsePrivateKeyWithPassphrase(content, passphrase)
	if err != nil {
		return nil, fmt.Errorf("%s: the passphrase is not the right one", file)
	}
	s, ok := signer.(ssh.AlgorithmSigner)
	if !ok {
		return nil, fmt.Errorf("%s: the key cannot sign", file)
	}
	d.shared.opened[file] = s
	return s, nil
}

// encryptedKey is a private key that is still closed.
type encryptedKey struct {
	public ssh.PublicKey
	open   func() (ssh.AlgorithmSigner, error)
}

var _ ssh.AlgorithmSigner = (*encryptedKey)(nil)

// PublicKey is known without the passphrase.
func (k *encryptedKey) PublicKey() ssh.PublicKey { return k.public }

// Sign opens the key.
func (k *encryptedKey) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(rand, data, "")
}

// SignWithAlgorithm opens the key.
func (k *encryptedKey) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	s, err := k.open()
	if err != nil {
		return nil, err
	}
	return s.SignWithAlgorithm(rand, data, algorithm)
}
