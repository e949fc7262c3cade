package pki

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"

	"github.com/kthwc/kthwc/internal/durable"
)

// A sealed generation is a generation within a generation: its keys, with
// their names, the cluster, the number and the digest of the one before, are
// one age file to all recipients. Outside stand, for each key, its name and
// its fingerprint, so that everything but the use of a key needs no identity.
//
// The recipients are an entry of the chain of generations. The file recipients
// is a copy of it for people: keys are never encrypted to what it says, and a
// copy that the chain does not know stops the next writer. Whoever may write
// every file of the store may also write a chain of their own: that is what
// the history of a committed store shows.

// Identity opens what is encrypted to its recipient.
type Identity = age.Identity

// sealing is what a store knows of its sealed keys.
type sealing struct {
	known    []string // texts of the recipients, the last one in force
	batches  map[int]batch
	unsealed map[int]map[string]entry // of the batches that were opened
	open     []int                    // generations with keys that anybody can read
	wholes   []int
	who      func() ([]Identity, error)
}

// batch is the keys of one generation.
type batch struct {
	in   *generation
	data []byte
}

func newSealing() sealing {
	return sealing{batches: map[int]batch{}, unsealed: map[int]map[string]entry{}, who: func() ([]Identity, error) { return nil, nil }}
}

const recipientsFile = "recipients"

// OpenWith says where identities come from. They are asked for when the first
// sealed key is needed, and once.
func (s *Store) OpenWith(who func() ([]Identity, error)) { s.who = who }

func (s *Store) recipientsText() string {
	if len(s.known) == 0 {
		return ""
	}
	return s.known[len(s.known)-1]
}

// Recipients lists those whom new keys are encrypted to; none in a store of
// open keys.
func (s *Store) Recipients() []string { return meant(s.recipientsText()) }

// Unsealed lists the generations whose keys lie open, and says whether any of
// them is still in use.
func (s *Store) Unsealed() (generations []int, used bool) {
	return s.open, len(s.open) > 0 && s.firstSealed() == 0
}

// firstSealed is the first generation from which on there is all that is in
// use and no open key; 0 if there is none.
func (s *Store) firstSealed() int {
	for _, n := range s.wholes {
		if len(s.open) == 0 || n > slices.Max(s.open) {
			return n
		}
	}
	return 0
}

// meant is the lines that are neither empty nor comments.
func meant(text string) []string {
	var out []string
	for scanner := bufio.NewScanner(strings.NewReader(text)); scanner.Scan(); {
		if line := strings.TrimSpace(scanner.Text()); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

// Recipients reads a list of recipients: one a line, # before comments.
func Recipients(text []byte) []string { return meant(string(text)) }

const recipientsComment = "# New keys are encrypted to these. `kthwc pki init --recipient` changes them; a change by hand is refused.\n"

// SetRecipients says whom new keys are encrypted to from now on, in the place
// of those before. What was encrypted stays as it is.
func (s *Store) SetRecipients(list []string) error {
	parsed, err := parseRecipients(list)
	if err != nil {
		return err
	}
	if _, err := encrypt(nil, parsed); err != nil {
		return errors.New("these recipients do not go together: post-quantum ones (age1pq1…) stand alone")
	}
	text := recipientsComment + strings.Join(list, "\n") + "\n"
	if text == s.recipientsText() {
		return s.writePublic()
	}
	return s.publish(&generation{entries: []entry{{name: recipientsFile, kind: recipientsType, data: []byte(text)}}})
}

// parseRecipients quotes nothing that it cannot read: it may be an identity.
func parseRecipients(list []string) ([]age.Recipient, error) {
	var out []age.Recipient
	for i, line := range list {
		r, err := parseRecipient(line)
		if err != nil {
			return nil, fmt.Errorf("recipient %d is no age recipient (age1…) and no ssh public key (ssh-ed25519, ssh-rsa)", i+1)
		}
		out = append(out, r)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no recipient")
	}
	return out, nil
}

func parseRecipient(line string) (age.Recipient, error) {
	switch {
	case strings.ContainsAny(line, "\r\n"):
		return nil, errors.New("more than a line")
	case strings.HasPrefix(line, "ssh-"):
		return agessh.ParseRecipient(line)
	case strings.HasPrefix(line, "age1pq1"):
		return age.ParseHybridRecipient(line)
	}
	return age.ParseX25519Recipient(line)
}

// ParseIdentities reads a file of age identities, or an ssh private key, whose
// passphrase is asked for if it has one. Errors quote nothing of the file.
func ParseIdentities(text []byte, passphrase func() ([]byte, error)) ([]Identity, error) {
	switch {
	case bytes.HasPrefix(text, []byte("age-encryption.org/")), bytes.HasPrefix(text, []byte("-----BEGIN AGE ENCRYPTED FILE")):
		return nil, errors.New("the identity is encrypted itself: decrypt it with age first")
	case !bytes.HasPrefix(bytes.TrimSpace(text), []byte("-----BEGIN ")):
		list, err := age.ParseIdentities(bytes.NewReader(text))
		if err != nil {
			return nil, errors.New("there is no age identity (AGE-SECRET-KEY-1…) and no ssh private key in it")
		}
		return list, nil
	}
	identity, err := agessh.ParseIdentity(text)
	if locked := (&ssh.PassphraseMissingError{}); errors.As(err, &locked) {
		word, err := passphrase()
		if err != nil {
			return nil, err
		}
		return lockedIdentity(text, word)
	}
	if err != nil {
		return nil, errors.New("the ssh private key cannot be used: ed25519 and RSA keys of 2048 bits and more can")
	}
	return []Identity{identity}, nil
}

func lockedIdentity(text, passphrase []byte) ([]Identity, error) {
	key, err := ssh.ParseRawPrivateKeyWithPassphrase(text, passphrase)
	if err != nil {
		return nil, errors.New("the passphrase does not open the ssh private key")
	}
	var identity Identity
	switch key := key.(type) {
	case *ed25519.PrivateKey:
		identity, err = agessh.NewEd25519Identity(*key)
	case *rsa.PrivateKey:
		identity, err = agessh.NewRSAIdentity(key)
	default:
		err = errors.New("another kind")
	}
	if err != nil {
		return nil, errors.New("the ssh private key cannot be used: ed25519 and RSA keys can")
	}
	return []Identity{identity}, nil
}

// seal encrypts the keys of a generation that is to be written.
func (s *Store) seal(g *generation) error {
	if err := s.recipientsUnchanged(g); err != nil {
		return err
	}
	if s.recipientsText() == "" || !g.open() {
		return nil
	}
	recipients, err := parseRecipients(s.Recipients())
	if err != nil {
		return &StoreError{s.dir, err.Error(), "`kthwc pki init --recipient` sets them again"}
	}
	keys := &generation{number: g.number, cluster: g.cluster, previous: g.previous}
	for i, e := range g.entries {
		if !e.private() {
			continue
		}
		print, err := e.fingerprint()
		if err != nil {
			return err
		}
		keys.entries = append(keys.entries, e)
		g.entries[i] = entry{e.name, sealedType, print, e.made}
	}
	data, err := encrypt(keys.encode(), recipients)
	g.entries = append(g.entries, entry{name: "keys", kind: batchType, data: data})
	return err
}

func encrypt(text []byte, recipients []age.Recipient) ([]byte, error) {
	var b bytes.Buffer
	w, err := age.Encrypt(&b, recipients...)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(text)
	err = errors.Join(err, w.Close()) // which writes the end
	return b.Bytes(), err
}

// recipientsUnchanged refuses to go on beside a copy of the recipients that
// the chain does not know. One that is older is a writer's that was stopped.
func (s *Store) recipientsUnchanged(g *generation) error {
	path := filepath.Join(s.dir, recipientsFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the recipients: %w", err)
	}
	changes := slices.ContainsFunc(g.entries, func(e entry) bool { return e.kind == recipientsType && string(e.data) != s.recipientsText() })
	if changes || slices.Contains(s.known, string(text)) {
		return nil
	}
	return &StoreError{path, "it is not what `kthwc pki init --recipient` wrote: nothing is encrypted to it", "look who changed it; then name those whom you mean with `kthwc pki init --recipient`"}
}

// fingerprint is what may be known of a key: the SHA-256 of its public key, or
// of a symmetric key its name under an HMAC-SHA-256 that it keys.
func (e entry) fingerprint() ([]byte, error) {
	switch e.kind {
	case sealedType:
		return e.data, nil
	case symmetricType:
		mac := hmac.New(sha256.New, e.data)
		mac.Write([]byte(e.name))
		return mac.Sum(nil), nil
	}
	unreadable := fmt.Errorf("%s cannot be read", e.name) // other errors may quote the key
	key, err := x509.ParsePKCS8PrivateKey(e.data)
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, unreadable
	}
	public, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, unreadable
	}
	sum := sha256.Sum256(public)
	return sum[:], nil
}

// opened is the entry with the key that it stands for, proven to be that key.
func (s *Store) opened(k kept) (entry, error) {
	if k.kind != sealedType {
		return k.entry, nil
	}
	keys, err := s.unseal(k.file)
	if err != nil {
		return entry{}, err
	}
	e := keys[versionOf(k.entry)]
	print, err := e.fingerprint()
	if err != nil || !bytes.Equal(print, k.data) {
		return entry{}, s.damaged(k.file, k.name+" is not the key that it says outside")
	}
	return e, nil
}

func versionOf(e entry) string { return fmt.Sprintf("%s %d", e.name, e.made) }

func (s *Store) damaged(file int, why string) error {
	return &StoreError{filepath.Join(s.dir, nameOf(file)), why, "restore the file from a backup; nothing of it is used"}
}

// unseal gives the keys of a generation by name and version.
func (s *Store) unseal(file int) (map[string]entry, error) {
	if keys := s.unsealed[file]; keys != nil {
		return keys, nil
	}
	b, ok := s.batches[file]
	if !ok {
		return nil, s.damaged(file, "it has no keys")
	}
	who, err := s.identities()
	if err != nil {
		return nil, err
	}
	text, err := s.decrypt(b.data, file, who)
	if err != nil {
		return nil, err
	}
	g, err := decode(text)
	if err != nil || g.number != b.in.number || g.cluster != b.in.cluster || g.previous != b.in.previous {
		return nil, s.damaged(file, "its keys are those of another generation")
	}
	keys := map[string]entry{}
	for _, e := range g.entries {
		keys[versionOf(e)] = e
	}
	s.unsealed[file] = keys
	return keys, nil
}

func (s *Store) identities() ([]Identity, error) {
	list, err := s.who()
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, &StoreError{s.dir, "its keys are encrypted, and there is no identity to open them", "give --identity FILE or set KTHWC_IDENTITY: an age identity or the ssh private key of one of " + short(s.Recipients())}
	}
	s.who = func() ([]Identity, error) { return list, nil }
	return list, nil
}

func (s *Store) decrypt(data []byte, file int, who []Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(data), who...)
	if none := (&age.NoIdentityMatchError{}); errors.As(err, &none) {
		return nil, &StoreError{filepath.Join(s.dir, nameOf(file)), "it was not encrypted to the identity given", "the recipients are now " + short(s.Recipients()) + ": one of them names you with `kthwc pki init --recipient` and runs `kthwc pki reseal`"}
	}
	if err != nil {
		return nil, s.damaged(file, "its keys cannot be decrypted: it was changed")
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, s.damaged(file, "its keys cannot be decrypted: it was changed or cut off")
	}
	return text, nil
}

// short lists recipients so that people know them again.
func short(list []string) string {
	var out []string
	for _, r := range list {
		words := strings.Fields(r)
		for i, w := range words {
			if len(w) > 24 {
				words[i] = w[:8] + "…" + w[len(w)-8:]
			}
		}
		out = append(out, strings.Join(words, " "))
	}
	return strings.Join(out, ", ")
}

// Reseal makes a generation of all that is in use, its keys encrypted to the
// recipients of now. Those before it are needed no more.
func (s *Store) Reseal() error {
	if s.recipientsText() == "" {
		return &StoreError{s.dir, "its keys are encrypted to nobody yet", "name those who may read them: kthwc pki init --recipient age1…"}
	}
	g := &generation{whole: true, entries: []entry{{name: recipientsFile, kind: recipientsType, data: []byte(s.recipientsText())}}}
	for _, name := range slices.Sorted(maps.Keys(s.keysets)) {
		g.entries = append(g.entries, keysetEntry(name, s.keysets[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(s.entries)) {
		for _, k := range s.used(name) {
			e, err := s.opened(k)
			if err != nil {
				return err
			}
			e.made = k.generation
			g.entries = append(g.entries, e)
		}
	}
	return s.publish(g)
}

// used is the versions of a name that its keyset lists, or else the newest.
func (s *Store) used(name string) []kept {
	versions := s.entries[name]
	states := s.keysets[setOf(name)]
	listed := slices.DeleteFunc(slices.Clone(versions), func(k kept) bool {
		return !slices.ContainsFunc(states, func(s state) bool { return s.Generation == k.generation })
	})
	if len(listed) > 0 {
		return listed
	}
	return versions[len(versions)-1:]
}

const ignoreAll = "*\n"

// ignored is the .gitignore of the store. Nothing may be committed while open
// keys are in use; later, all from the first generation on that needs none of
// them.
func (s *Store) ignored() string {
	if _, used := s.Unsealed(); used || s.recipientsText() == "" {
		return ignoreAll
	}
	text := "# Keys are encrypted to `recipients`, so the store may be committed, but for these:\nlock\n.*.*\n"
	if len(s.open) > 0 {
		for n := 1; n < s.firstSealed(); n++ {
			text += nameOf(n) + "\n"
		}
	}
	return text
}

// writePublic brings the files for people in line with the generations.
func (s *Store) writePublic() error {
	files := map[string]string{".gitignore": s.ignored()}
	if text := s.recipientsText(); text != "" {
		files[recipientsFile] = text
	}
	for name, text := range files {
		path := filepath.Join(s.dir, name)
		if is, err := os.ReadFile(path); err == nil && string(is) == text {
			continue
		}
		if err := durable.Replace(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write the store: %w", err)
		}
	}
	return nil
}
