package lab

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/internal/sshtest"
	"github.com/kthwc/kthwc/pkg/apply/sshconn"
)

func signer(t *testing.T, file string) gossh.Signer {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := gossh.ParsePrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// What writes to hosts logs in to a machine by the settings that the lab wrote,
// by its name and by its address; a machine with another key is refused.
func TestHostsAreReachedByTheSettings(t *testing.T) {
	readers.Path(t, "ssh-keygen")
	l, err := Open(Options{State: filepath.Join(t.TempDir(), "lab"), Cache: "/cache"})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.begin(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	defer l.end()
	server := &sshtest.Server{}
	server.Start(t)
	at := netip.MustParseAddrPort(server.Addr)
	f := &Fleet{Machines: []Machine{{Name: "worker-0", Addresses: []netip.Prefix{single(at.Addr())}, User: "root", Port: int(at.Port())}}}
	if err := l.writeFleet(f); err != nil {
		t.Fatal(err)
	}
	for _, s := range []Step{{keys, "", nil}, {hostKey, "worker-0", nil}, {access, "", f.accessLines()}} {
		if err := l.engine().kinds[s.Kind].ensure(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	server.Accept = []gossh.PublicKey{signer(t, l.path("id_ed25519")).PublicKey()}
	server.ChangeHostKey(signer(t, l.path("machines", "worker-0", "host_key")))
	login := func(name string) error {
		c, err := sshconn.Dial(t.Context(), sshconn.Target{Address: name}, sshconn.Options{ConfigFile: l.SSHConfig(), Home: t.TempDir(), LocalUser: "nobody", Attempts: 1})
		if err == nil {
			err = c.Close()
		}
		return err
	}
	for _, name := range []string{"worker-0", at.Addr().String()} {
		if err := login(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	server.ChangeHostKey(sshtest.Key(t))
	if err := login("worker-0"); sshconn.KindOf(err) != sshconn.HostKeyChanged {
		t.Errorf("of a machine with another key: %v", err)
	}
}
