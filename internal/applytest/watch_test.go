package applytest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/pkg/apply/sshconn"
)

// watchPerl looks again and again, until standard input ends, at what is true at
// every moment of an apply: each managed path is one of those that it may be; no
// process has a secret in its arguments or its environment; no file that holds one
// may be read by others. It prints each offence once. It uses a little of a
// processor only, so that there is something to watch.
const watchPerl = look + `$| = 1; shift @ARGV; my ($canary, %may);
while (<STDIN>) { chomp; last if $_ eq "."; my ($p, $s) = split /\t/; defined $s ? $may{$p}{$s}++ : ($canary = $p) }
print "watching\n";
my (%said, $rounds);
sub say_once { my ($what) = @_; print "$what\n" unless $said{$what}++ }
sub holds { my ($f) = @_; local $/; open(my $h, "<", $f) or return 0; my $t = <$h>; return defined $t && index($t, $canary) >= 0 }
sub below { my ($dir, $depth) = @_;
	opendir(my $d, $dir) or return;
	for my $name (readdir $d) {
		next if $name eq "." or $name eq "..";
		my $p = "$dir/$name"; my @s = lstat($p) or next;
		if (S_ISDIR($s[2])) { below($p, $depth - 1) if $depth > 0 }
		elsif (S_ISREG($s[2]) and $s[2] & 077 and holds($p)) { say_once(sprintf("%s may be read by others: %04o", $p, $s[2] & 07777)) }
	}
}
my $in = ""; vec($in, 0, 1) = 1;
while (1) {
	my $began = time;
	for my $p (keys %may) { my $is = look($p); say_once("$p is $is") unless $may{$p}{$is} or $is =~ /^dir / }
	for my $pid (glob "/proc/[0-9]*") {
		for my $f ("cmdline", "environ") { if (holds("$pid/$f")) { my $name = "?"; if (open(my $h, "<", "$pid/comm")) { $name = <$h>; chomp $name } say_once("$name has a secret in its $f") } }
	}
	below($_, 6) for "/var/lib/kthwc", "/etc/rig", "/etc/systemd/system", "/tmp", "/var/tmp", "/dev/shm", "/run/kthwc", "/opt/kthwc";
	$rounds++;
	my $ready = $in; last if select($ready, undef, undef, 12 * (time - $began)) > 0;
}
print "rounds $rounds\n";
`

// watch looks at a machine until the function that it gives is called, which
// fails the test for what was seen.
func (m *machine) watch(t *testing.T, pictures ...*picture) (end func()) {
	t.Helper()
	seen := m.watching(t, pictures...)
	return func() {
		t.Helper()
		offences, rounds := seen()
		for _, o := range offences {
			t.Errorf("%s: at some moment %s", m.Name, o)
		}
		t.Logf("%s was looked at %s times", m.Name, rounds)
	}
}

func (m *machine) watching(t *testing.T, pictures ...*picture) (seen func() (offences []string, rounds string)) {
	t.Helper()
	var may strings.Builder
	may.WriteString(canary + "\n")
	for _, path := range managed {
		for _, p := range pictures {
			may.WriteString(path + "\t" + p.managed[path] + "\n")
		}
	}
	may.WriteString(".\n")
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	t.Cleanup(cancel)
	conn, err := m.connected(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{feed: make(chan string, 1), ready: make(chan bool, 1), said: make(chan string, 1)}
	w.feed <- may.String()
	go w.run(ctx, conn, m.User != "root")
	select {
	case <-w.ready:
	case out := <-w.said:
		t.Fatalf("%s cannot be watched: %s", m.Name, out)
	}
	return func() ([]string, string) {
		close(w.feed)
		out := lines(<-w.said)
		rounds, ok := strings.CutPrefix(out[len(out)-1], "rounds ")
		if !ok || out[0] != "watching" {
			t.Fatalf("%s was not watched to the end: %q", m.Name, out)
		}
		return out[1 : len(out)-1], rounds
	}
}

// What a watcher is for is seen by it.
func TestWatcherSees(t *testing.T) {
	t.Parallel()
	m := take(t, 1)[0]
	bare := m.mustPicture(t)
	changed := *bare
	changed.managed = maps.Clone(bare.managed)
	changed.managed["/etc/rig/same"] = "file 0644 0:0 0123456789abcdef"
	seen := m.watching(t, bare, &changed)
	m.must(t, `mkdir /etc/rig; echo other >/etc/rig/same; printf '%s\n' "$1" >/var/lib/leak; install -m 0640 /var/lib/leak /etc/rig/leak; rm /var/lib/leak; sh -c 'sleep 3; :' sh "$1"`, canary)
	offences, _ := seen()
	for _, want := range []string{"/etc/rig/same is file 0644", "sh has a secret in its cmdline", "/etc/rig/leak may be read by others: 0640"} {
		if !slices.ContainsFunc(offences, func(o string) bool { return strings.HasPrefix(o, want) }) {
			t.Errorf("nobody saw that %s: %q", want, offences)
		}
	}
}

// watcher is a command that is fed, and heard, while it runs.
type watcher struct {
	feed  chan string
	ready chan bool
	said  chan string
	rest  []byte
}

func (w *watcher) run(ctx context.Context, c *sshconn.Conn, sudo bool) {
	r, err := c.Run(ctx, sshconn.Command{Script: `exec perl -e "$1" "$@"`, Args: []string{watchPerl}, Stdin: w, Watch: w, Sudo: sudo})
	out := string(r.Stdout)
	if err != nil || r.Exit != 0 {
		out += fmt.Sprintf("%v, status %d: %s\n", err, r.Exit, r.Stderr)
	}
	w.said <- out
}

// Read gives what is fed, until nothing more will be.
func (w *watcher) Read(p []byte) (int, error) {
	if len(w.rest) == 0 {
		text, more := <-w.feed
		if !more {
			return 0, io.EOF
		}
		w.rest = []byte(text)
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// Write learns that the watcher watches.
func (w *watcher) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("watching\n")) {
		select {
		case w.ready <- true:
		default:
		}
	}
	return len(p), nil
}
