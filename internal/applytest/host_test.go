package applytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kthwc/kthwc/pkg/apply/sshconn"
	"github.com/kthwc/kthwc/pkg/lab"
)

func asError[T error](err error, into *T) bool { return errors.As(err, into) }

// A machine is a host of the rig, and the rig's own way to it, which no operator
// uses.
type machine struct {
	lab.Machine
	lost error // why it can be used no more

	mu   sync.Mutex
	conn *sshconn.Conn
}

// sh runs a script as root and gives what it printed.
func (m *machine) sh(ctx context.Context, script string, args ...string) (string, error) {
	return m.input(ctx, "", script, args...)
}

func (m *machine) input(ctx context.Context, stdin, script string, args ...string) (string, error) {
	c, err := m.connected(ctx)
	if err != nil {
		return "", err
	}
	r, err := c.Run(ctx, sshconn.Command{Script: sshconn.Script(script), Args: args, Stdin: strings.NewReader(stdin), Sudo: m.User != "root", MaxOutput: 16 << 20})
	if err != nil {
		m.drop()
		return "", err
	}
	if r.Exit != 0 {
		return string(r.Stdout), fmt.Errorf("status %d: %s", r.Exit, r.Stderr)
	}
	return string(r.Stdout), nil
}

// must is sh for what cannot fail.
func (m *machine) must(t *testing.T, script string, args ...string) string {
	t.Helper()
	out, err := m.sh(bounded(t, time.Minute), script, args...)
	if err != nil {
		t.Fatalf("%s: %v", m.Name, err)
	}
	return out
}

func (m *machine) connected(ctx context.Context) (*sshconn.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		return m.conn, nil
	}
	c, err := sshconn.Dial(ctx, m.target(), options(rig.lab))
	if err == nil {
		m.conn = c
	}
	return c, err
}

// drop forgets a connection that does not work any more.
func (m *machine) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		m.conn.Close()
		m.conn = nil
	}
}

func (m *machine) target() sshconn.Target {
	return sshconn.Target{Name: m.Name, Address: m.Address(), Port: m.Port, User: m.User}
}

// kept are the places that an apply of the rig changes, which are put back as
// they were before a test.
const kept = "etc/hosts etc/motd etc/rig etc/passwd etc/passwd- etc/group etc/group- etc/shadow etc/shadow- etc/gshadow etc/gshadow- etc/subuid etc/subuid- etc/subgid etc/subgid- etc/systemd/system usr/local/bin opt/kthwc var/lib/kthwc"

// park keeps what the machine is as its bare state.
func (m *machine) park(ctx context.Context) error { return m.parkAs(ctx, "bare") }

func (m *machine) parkAs(ctx context.Context, name string) error {
	_, err := m.sh(ctx, `cd / && mkdir -p /root/park && present=
for p in $2; do [ ! -e "$p" ] || present="$present $p"; done
tar -cf "/root/park/$1.tar" $present`, name, kept)
	return err
}

// toBare is the end of a test: what it has parked goes, too.
func (m *machine) toBare(ctx context.Context) error {
	if err := m.back(ctx, "bare"); err != nil {
		return err
	}
	_, err := m.sh(ctx, `find /root/park -type f ! -name bare.tar -delete`)
	return err
}

// back makes the machine what it was when it was parked, whatever has been done
// to it since, and ends whatever is left of an operator.
func (m *machine) back(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	_, err := m.sh(ctx, `cd /
systemctl stop kthwc-guard.timer kthwc-guard.service 'rig-*.service' 2>/dev/null
for p in /proc/[0-9]*; do
	# What holds one of our locks and is not this shell is left of an operator.
	ls -l "$p/fd" 2>/dev/null | grep -q '/var/lib/kthwc/\(lock\|held\)$' && kill -9 "${p#/proc/}"
done
lsattr -R -d /etc/rig 2>/dev/null | grep -q i && chattr -R -i /etc/rig
rm -rf -- $2
tar -xf "/root/park/$1.tar" || exit 1
systemctl daemon-reload
systemctl reset-failed
[ ! -e /etc/systemd/system/rig-web.service ] || systemctl start rig-web.service rig-tick.service rig-calm.service rig-gone.service
exit 0`, name, kept)
	return err
}

// story is what there is to read when a test has failed.
func (m *machine) story() string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := m.sh(ctx, `cd /var/lib/kthwc 2>/dev/null && tail -n 3 epoch owner unconfirmed journal/* 2>&1; ls -la . gen/* 2>&1; systemctl --no-pager list-units 'rig-*' 'kthwc-*' --all; systemctl list-jobs --no-pager; journalctl --no-pager -n 15 -o short-monotonic -u 'rig-*' -u 'kthwc-*'; exit 0`)
	return fmt.Sprintf("%v\n%s", err, out)
}

// A picture is what a machine is: what is at each managed path, the state of the
// units, and the rest of /etc and of the programs.
type picture struct {
	managed map[string]string
	units   map[string]string
	rest    map[string]string
	left    []string // our own files that are for a moment only
}

// look is the one program that both pictures and watchers are made with: what is
// at a path, in one word that is right for one moment. A file is opened, and then
// asked what it is: what is renamed over it meanwhile is another file.
const look = `use strict; use Digest::SHA; use Fcntl qw(:DEFAULT :mode); use Time::HiRes qw(time sleep);
sub look {
	my ($p) = @_;
	my @l = lstat($p) or return "absent";
	if (S_ISLNK($l[2])) { my $to = readlink($p); return defined $to ? "link $to" : look($p) }
	return sprintf("dir %04o %d:%d", $l[2] & 07777, $l[4], $l[5]) if S_ISDIR($l[2]);
	return "other" unless S_ISREG($l[2]);
	sysopen(my $f, $p, O_RDONLY | O_NOFOLLOW) or return look($p);
	my @s = stat($f); local $/; my $text = <$f>;
	return sprintf("file %04o %d:%d %s", $s[2] & 07777, $s[4], $s[5], substr(Digest::SHA::sha256_hex(defined $text ? $text : ""), 0, 16));
}
`

const pictureScript = `perl -e "$1" "$@"
echo
systemctl show -p Id,ActiveState,UnitFileState rig-web.service rig-tick.service rig-calm.service rig-gone.service rig-new.service | tr '\n' ' ' | sed 's/  /\n/g'
echo
echo
find /etc /usr/local /opt /var/lib/kthwc \( -name '.*' -o -name '*.new' -o -name '*.kthwc' \) ! -name .pwd.lock -newer /root/park/bare.tar 2>/dev/null
[ ! -e /var/lib/kthwc/unconfirmed ] || echo unconfirmed
systemctl is-active --quiet kthwc-guard.timer && echo the guard
exit 0`

const picturePerl = look + `use File::Find;
shift @ARGV;
my %managed = map { $_ => 1 } @ARGV;
print "$_\t", look($_), "\n" for @ARGV;
print "\n";
find({no_chdir => 1, wanted => sub {
	return if $managed{$_} or m{^/etc/rig(/|$)} or -d $_ && ! -l $_ or m{/kthwc-recover\.service$};
	print "$_\t", look($_), "\n";
}}, grep { -d } "/etc", "/usr/local");
`

func (m *machine) picture(ctx context.Context) (*picture, error) {
	out, err := m.sh(ctx, pictureScript, append([]string{picturePerl}, managed...)...)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(out, "\n\n")
	if len(parts) != 4 {
		return nil, fmt.Errorf("%s gives a picture of %d parts", m.Name, len(parts))
	}
	p := &picture{managed: pairs(parts[0]), rest: pairs(parts[1]), units: map[string]string{}}
	for line := range strings.Lines(parts[2]) {
		fields := map[string]string{}
		for _, word := range strings.Fields(line) {
			key, value, _ := strings.Cut(word, "=")
			fields[key] = value
		}
		p.units[fields["Id"]] = fields["ActiveState"] + " " + fields["UnitFileState"]
	}
	if text := strings.TrimSpace(parts[3]); text != "" {
		p.left = lines(text)
	}
	if len(p.managed) != len(managed) || len(p.rest) < 50 {
		return nil, fmt.Errorf("%s gives a picture of %d managed and %d other paths", m.Name, len(p.managed), len(p.rest))
	}
	return p, nil
}

func pairs(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok {
			out[key] = value
		}
	}
	return out
}

func (m *machine) mustPicture(t *testing.T) *picture {
	t.Helper()
	p, err := m.picture(bounded(t, time.Minute))
	if err != nil {
		t.Fatalf("%s: %v", m.Name, err)
	}
	return p
}

// between lists the paths of a picture that are neither as in the one nor as in
// the other. A directory is made, and then given its mode.
func (p *picture) between(one, other *picture) []string {
	var out []string
	for path, is := range p.managed {
		if is != one.managed[path] && is != other.managed[path] && !strings.HasPrefix(is, "dir ") {
			out = append(out, path+" is "+is)
		}
	}
	slices.Sort(out)
	return out
}

// sameAs lists what differs from another picture.
func (p *picture) sameAs(o *picture) []string {
	out := slices.Concat(differ("", p.managed, o.managed), differ("", p.units, o.units), differ("", p.rest, o.rest))
	for _, l := range p.left {
		out = append(out, l+" is left")
	}
	return out
}

func differ(what string, is, wanted map[string]string) []string {
	var out []string
	for key, want := range wanted {
		if got := is[key]; got != want {
			out = append(out, fmt.Sprintf("%s%s is %q, not %q", what, key, got, want))
		}
	}
	for key, got := range is {
		if _, known := wanted[key]; !known {
			out = append(out, fmt.Sprintf("%s%s is %q, and was not there", what, key, got))
		}
	}
	slices.Sort(out)
	return out
}
