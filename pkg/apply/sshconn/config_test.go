package sshconn

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/internal/sshtest"
)

// configs are read by us and by the real ssh.
var configs = []string{
	"",
	"Host a\n HostName 10.0.0.1\nHost *\n User everybody\n Port 2222\n",
	"Host *\n User first\nHost a\n User second\n",
	"Host a b !c\n User named\nHost !a *\n User negated\n",
	"Host *.example.net !b.example.net\n HostName x.%h\n Port 23\n",
	"Host ?.example.net\n User one-letter\n",
	"User=equals\nPort = 99\nHostName=\"quoted name\"\n",
	"  \t# a comment\n\nhOsT a\n\tUSER upper # and a comment\n",
	"IdentityFile ~/one\nIdentityFile \"~/two three\"\nHost a\nIdentityFile /four\nIdentityFile ~/one\nIdentitiesOnly yes\n",
	"CertificateFile ~/c\nCertificateFile ~/d\n",
	"ProxyJump one,two:23\nProxyCommand nc %h %p\n",
	"ProxyCommand nc \"%h\" %p # not a comment\nProxyJump one\n",
	"Host a\n ProxyJump none\nHost *\n ProxyJump bastion\n",
	"Host a\n ProxyCommand none\nHost *\n ProxyJump bastion\n",
	"UserKnownHostsFile ~/k1 \"/k 2\"\nGlobalKnownHostsFile /g\nUserKnownHostsFile /k3\n",
	"HostKeyAlias alias\nIdentityAgent ~/agent.sock\n",
	"IdentityAgent none\n",
	"Match host a\n User matched\nMatch all\n User all\n",
	"Match originalhost a,b.* !user root\n Port 77\n",
	"HostName 10.1.1.1\nMatch host 10.1.1.1\n User by-hostname\n",
	"Host a\n HostName z.example.net\nMatch final host z.example.net\n User finally\n",
	"User u\nMatch user u\n Port 78\nMatch user nobody\n Port 79\n",
	"Match !host a\n User not-a\n",
	"Include INC/one INC/missing\nHost a\n User after\n",
	"Host b.example.net\n Include INC/*\nHost *\n User rest\n",
	"Include INC/nested\n",
	"Host a\n\tUnknownThing no\n",
	"User 'single quotes'\n",
	"HostName %h.%h%%\n",
	"Host \"a\" 'b.example.net'\n Port 5\n",
	"Host a#b\n Port 6\nHost a #b\n Port 7\n",
	"User back\\\\slash\\ blank\n",
}

var includes = map[string]string{
	"one":    "User from-one\nHost a\n Port 11\n",
	"two":    "Host *\n Port 12\n User from-two\n",
	"nested": "Host a\n Include INC/two\nHost b.example.net\n Port 13\n",
}

// The configuration means to us what it means to ssh.
func TestConfigIsSSHs(t *testing.T) {
	program := readers.Path(t, "ssh")
	dir := t.TempDir()
	fill := func(s string) string { return strings.ReplaceAll(s, "INC", dir) }
	for name, content := range includes {
		put(t, filepath.Join(dir, name), fill(content))
	}
	file := filepath.Join(t.TempDir(), "config")
	for _, content := range configs {
		put(t, file, "IgnoreUnknown UnknownThing\n"+fill(content))
		for _, host := range []string{"a", "b.example.net", "bb.example.net", "10.1.1.1"} {
			said, err := exec.Command(program, "-G", "-F", file, host).CombinedOutput()
			if err != nil {
				t.Fatalf("ssh refuses:\n%s%s", content, said)
			}
			ours, err := configOf(environment{configFile: file, home: "/home/u", localUser: localUser(t), getenv: func(string) string { return "" }}, host, "")
			if err != nil {
				t.Errorf("%q for %s: %v", content, host, err)
				continue
			}
			compare(t, content, host, ours, string(said))
		}
	}
}

func localUser(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("id", "-un").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// userHome is the home of the account: ssh does not ask the environment.
func userHome(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.HomeDir
}

// compare holds what we read against ssh -G, which writes defaults too.
func compare(t *testing.T, content, host string, ours settings, said string) {
	t.Helper()
	theirs := settings{}
	for line := range strings.Lines(said) {
		keyword, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		theirs[keyword] = append(theirs[keyword], value)
	}
	for keyword := range keywords {
		want, got := theirs[keyword], slices.Clone(ours[keyword])
		switch {
		case keyword == "hostname":
			name := (&lookup{original: host, host: host, seen: ours}).hostName()
			got = []string{name}
		case len(got) == 1 && strings.EqualFold(got[0], "none") && strings.HasPrefix(keyword, "proxy"):
			got = nil
		case strings.HasSuffix(keyword, "knownhostsfile") && len(got) > 0:
			got = []string{strings.Join(got, " ")}
		}
		for i := range got { // ssh writes some paths with ~ and some without
			got[i] = strings.ReplaceAll(got[i], "~", userHome(t))
		}
		for i := range want {
			want[i] = strings.ReplaceAll(want[i], "~", userHome(t))
		}
		if len(ours[keyword]) == 0 && keyword != "hostname" && !strings.HasPrefix(keyword, "proxy") {
			continue // ssh's default stands there; ours are in files
		}
		if !slices.Equal(want, got) {
			t.Errorf("%q for %s: %s is %q to us, %q to ssh", content, host, keyword, got, want)
		}
	}
	for _, keyword := range []string{"user", "port", "hostkeyalias"} {
		if len(ours[keyword]) == 0 && len(theirs[keyword]) > 0 && theirs[keyword][0] != localUser(t) && theirs[keyword][0] != "22" {
			t.Errorf("%q for %s: %s is %q to ssh, and nothing to us", content, host, keyword, theirs[keyword])
		}
	}
}

// What cannot be honoured is refused with file and line.
func TestConfigRefuses(t *testing.T) {
	dir := t.TempDir()
	loop := filepath.Join(dir, "loop")
	put(t, loop, "Include "+loop+"\n")
	for content, words := range map[string]string{
		"Host a\nUser \"open\n":               ":2: user: a quote",
		"User\n":                              ":1: user has no value",
		"Match exec \"true\"\nUser x\n":       "match exec is not supported",
		"Match host\n":                        "no value",
		"Match moon full\n":                   "not supported",
		"Include " + loop + "\n":              "include one another",
		"Match host other exec false\nPort 1": "",
	} {
		file := filepath.Join(dir, "config")
		put(t, file, content)
		_, err := configOf(environment{configFile: file, getenv: os.Getenv}, "a", "")
		if words == "" && err != nil || words != "" && (err == nil || !strings.Contains(err.Error(), words)) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestExpand(t *testing.T) {
	e := environment{home: "/home/u", getenv: func(name string) string { return map[string]string{"SOCK": "/run/s"}[name] }}
	tokens := map[byte]string{'h': "host", '%': "%"}
	for value, want := range map[string]string{"~/x": "/home/u/x", "a%h%%": "ahost%", "${SOCK}/y": "/run/s/y", "plain~": "plain~"} {
		if got, err := e.expand(value, tokens); err != nil || got != want {
			t.Errorf("%q: %q, %v", value, got, err)
		}
	}
	for _, value := range []string{"%", "%z", "${NONE}", "${open"} {
		if got, err := e.expand(value, tokens); err == nil {
			t.Errorf("%q became %q", value, got)
		}
	}
}

func TestParseJump(t *testing.T) {
	for s, want := range map[string]Target{
		"host":                 {Address: "host"},
		"admin@host:23":        {Address: "host", User: "admin", Port: 23},
		"ssh://admin@host:23/": {Address: "host", User: "admin", Port: 23},
		"a@fd00::1":            {Address: "fd00::1", User: "a"},
		"a@[fd00::1]:24":       {Address: "fd00::1", User: "a", Port: 24},
	} {
		got, err := ParseJump(s)
		got.Name = ""
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "a@", "host:0", "host:99999", "host:x", "-oProxyCommand=x", "a b"} {
		if got, err := ParseJump(s); err == nil {
			t.Errorf("%q became %+v", s, got)
		}
	}
}

// Which lines of known_hosts are a host's is what ssh-keygen says, and x/crypto.
func TestKnownHostsIsSSHs(t *testing.T) {
	program := readers.Path(t, "ssh-keygen")
	key := sshtest.Key(t).PublicKey()
	text := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	names := []string{"a.example.net", "A.Example.net", "[a.example.net]:2222", "10.0.0.1,b", "*.example.net", "!a.example.net,*.example.net", "10.0.0.?", "*", "[*]:2222", "[10.0.0.1]:*",
		"@cert-authority *.example.net", "@cert-authority b", "[fd00::1]:22", "fd00::1",
		knownhosts.HashHostname("a.example.net"), knownhosts.HashHostname("[a.example.net]:2222"), knownhosts.HashHostname("10.0.0.1"), "|1|bad|line", "|1|AAAA|AAAA"}
	var lines []string
	for _, n := range names {
		lines = append(lines, n+" "+text+" a comment")
	}
	content := "# comment\n\n" + strings.Join(lines, "\n") + "\n"
	file := filepath.Join(t.TempDir(), "known_hosts")
	put(t, file, content)
	for _, address := range []string{"a.example.net:22", "a.example.net:2222", "b.example.net:22", "b:22", "10.0.0.1:22", "10.0.0.1:2222", "[fd00::1]:22", "other:22"} {
		name := knownhosts.Normalize(address)
		out, _ := exec.Command(program, "-F", name, "-f", file).Output() // exit 1: none
		var want []string
		for line := range strings.Lines(string(out)) {
			if _, at, found := strings.Cut(line, "found: line "); found {
				want = append(want, strings.Fields(at)[0])
			}
		}
		keys, err := readKnownHosts(file, []byte(content), name)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, k := range keys {
			got = append(got, strings.TrimPrefix(k.place(), file+":"))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: lines %v to us, %v to ssh-keygen", name, got, want)
		}
	}
}

// However the file looks, reading ends, and nothing that is not written there is known.
func FuzzKnownHosts(f *testing.F) {
	_, signer := newPair(f)
	key := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	f.Add("host "+key, "host")
	f.Add("@revoked * "+key, "host")
	f.Add("*a*a*a*a*a*b "+key, strings.Repeat("a", 100))
	f.Add(knownhosts.HashHostname("host")+" "+key, "host")
	f.Fuzz(func(t *testing.T, content, host string) {
		keys, err := readKnownHosts("file", []byte(content), host)
		if err != nil && (len(keys) > 0 || !strings.Contains(content, "@revoked")) {
			t.Fatalf("%v with %v", err, keys)
		}
		for _, k := range keys {
			if !strings.Contains(content, k.algorithm) || k.line > strings.Count(content, "\n")+1 {
				t.Fatalf("%+v is not in %q", k, content)
			}
			_ = k.fingerprint()
		}
	})
}

// However the file looks, reading ends, and gives only known keywords with values.
func FuzzConfig(f *testing.F) {
	for _, c := range configs {
		f.Add(c, "a")
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content, host string) {
		if strings.Contains(strings.ToLower(content), "include") {
			t.Skip("it would read what it names")
		}
		l := &lookup{env: environment{home: dir, getenv: func(string) string { return "" }}, original: host, host: host, seen: settings{}}
		active := true
		for line := range strings.Lines(content) {
			if l.line(line, 0, true, &active) != nil {
				break
			}
		}
		for keyword, values := range l.seen {
			if _, known := keywords[keyword]; !known || len(values) == 0 || values[0] == "" {
				t.Fatalf("%q: %q", keyword, values)
			}
		}
	})
}
