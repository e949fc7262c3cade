package sshconn

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// settings are what ~/.ssh/config says about one host: lower-case keyword to
// values. ssh takes the first value that it finds; only keys add up.
type settings map[string][]string

// How a keyword's values are read. Keywords that are not here do not concern
// the way to a host, or must not: StrictHostKeyChecking has no say.
var keywords = map[string]struct{ whole, adds, many bool }{
	"hostname":             {},
	"user":                 {},
	"port":                 {},
	"hostkeyalias":         {},
	"identitiesonly":       {},
	"identityagent":        {},
	"identityfile":         {adds: true},
	"certificatefile":      {adds: true},
	"userknownhostsfile":   {many: true},
	"globalknownhostsfile": {many: true},
	"proxyjump":            {whole: true},
	"proxycommand":         {whole: true},
}

func (s settings) first(keyword string) string {
	if len(s[keyword]) == 0 {
		return ""
	}
	return s[keyword][0]
}

func (s settings) add(keyword string, values []string) {
	how, known := keywords[keyword]
	_, set := s[keyword]
	if keyword == "proxyjump" || keyword == "proxycommand" { // whichever comes first
		set = len(s["proxyjump"])+len(s["proxycommand"]) > 0
	}
	switch {
	case !known || set && !how.adds || how.adds && slices.Contains(s[keyword], values[0]):
	case how.many:
		s[keyword] = values
	default:
		s[keyword] = append(s[keyword], values[0])
	}
}

// lookup reads configuration files for one host.
type lookup struct {
	env       environment
	original  string // the name that was asked for
	host      string // the name that Host patterns see
	user      string // "" unless the caller says
	final     bool   // the second reading, for `Match final`
	sawFinal  bool
	seen      settings
	system    bool // relative Includes are in /etc/ssh
	filesRead int
}

// Bounds of Include: deeper or more is a loop or a mistake.
const (
	includeDepth = 16
	includeFiles = 200
	configBytes  = 1 << 20
)

// configOf is what the user's and the system's files say about a host.
func configOf(env environment, host, user string) (settings, error) {
	l := &lookup{env: env, original: host, host: host, user: user, seen: settings{}}
	if err := l.files(); err != nil {
		return nil, err
	}
	if l.sawFinal {
		l.final, l.host = true, l.hostName()
		if err := l.files(); err != nil {
			return nil, err
		}
	}
	return l.seen, nil
}

func (l *lookup) files() error {
	for _, f := range []struct {
		path   string
		system bool
	}{{l.env.configFile, false}, {l.env.systemConfigFile, true}} {
		l.system = f.system
		if f.path == "" {
			continue
		}
		if err := l.file(f.path, 0, true); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// file reads one file; outer is false inside a Host block that does not match.
func (l *lookup) file(path string, depth int, outer bool) error {
	if l.filesRead++; depth > includeDepth || l.filesRead > includeFiles {
		return fmt.Errorf("%s: too many files include one another", path)
	}
	content, err := readFile(path, configBytes)
	if err != nil {
		return err
	}
	active := outer
	for i, line := range strings.Split(string(content), "\n") {
		if err := l.line(line, depth, outer, &active); err != nil {
			return fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
	}
	return nil
}

func (l *lookup) line(line string, depth int, outer bool, active *bool) error {
	keyword, rest := keywordOf(line)
	if keyword == "" {
		return nil
	}
	if rest == "" {
		return fmt.Errorf("%s has no value", keyword)
	}
	how, known := keywords[keyword]
	if how.whole {
		if value := strings.TrimLeft(rest, " \t="); *active && value != "" {
			l.seen.add(keyword, []string{value})
		}
		return nil
	}
	if keyword == "match" {
		matched, err := l.match(strings.Fields(rest))
		*active = outer && matched
		return err
	}
	if !known && keyword != "host" && keyword != "include" {
		return nil
	}
	words, err := splitWords(rest)
	if err != nil {
		return fmt.Errorf("%s: %w", keyword, err)
	}
	if len(words) == 0 || known && words[0] == "" {
		return fmt.Errorf("%s has no value", keyword)
	}
	switch {
	case keyword == "host":
		*active = outer && matchWords(words, l.host)
	case keyword == "include":
		return l.include(words, depth, *active)
	case *active:
		l.seen.add(keyword, words)
	}
	return nil
}

// include reads what the patterns name, in the order of their names.
func (l *lookup) include(patterns []string, depth int, active bool) error {
	dir := filepath.Join(l.env.home, ".ssh")
	if l.system {
		dir = "/etc/ssh"
	}
	for _, p := range patterns {
		p = l.env.tilde(p)
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		files, err := filepath.Glob(p)
		if err != nil {
			return fmt.Errorf("include %s: %w", p, err)
		}
		for _, f := range files {
			if err := l.file(f, depth+1, active); err != nil {
				return err
			}
		}
	}
	return nil
}

// match is whether every criterion of a Match line holds.
func (l *lookup) match(words []string) (bool, error) {
	matched := true
	for i := 0; i < len(words); i++ {
		word, negated := strings.CutPrefix(strings.ToLower(words[i]), "!")
		holds := false
		switch word {
		case "all":
			holds = true
		case "canonical", "final":
			l.sawFinal = l.sawFinal || word == "final"
			holds = l.final
		case "host", "originalhost", "user", "localuser", "exec":
			if i++; i == len(words) {
				return false, fmt.Errorf("match %s has no value", word)
			}
			if word == "exec" && matched {
				return false, errors.New("match exec is not supported: name the hosts in a Host line")
			}
			holds = matchList(strings.Trim(words[i], `"`), l.criterion(word))
		default:
			return false, fmt.Errorf("match %s is not supported", word)
		}
		matched = matched && holds != negated
	}
	return matched, nil
}

func (l *lookup) criterion(name string) string {
	switch name {
	case "host":
		return strings.ToLower(l.hostName())
	case "originalhost":
		return l.original
	case "user":
		return firstOf(l.user, l.seen.first("user"), l.env.localUser)
	}
	return l.env.localUser
}

func (l *lookup) hostName() string {
	name := l.seen.first("hostname")
	if name == "" {
		return l.host
	}
	return strings.NewReplacer("%%", "%", "%h", l.original).Replace(name)
}

// keywordOf splits a line into its keyword and all that follows.
func keywordOf(line string) (keyword, rest string) {
	line = strings.Trim(line, " \t\r\f")
	if line == "" || line[0] == '#' {
		return "", ""
	}
	end := strings.IndexAny(line, " \t=")
	if end < 0 {
		return strings.ToLower(line), ""
	}
	rest = strings.TrimLeft(line[end:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	return strings.ToLower(strings.Trim(line[:end], `"`)), rest
}

// splitWords splits as ssh does: by blanks, with quotes and backslashes, up to a comment.
func splitWords(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote byte
	inWord := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s) && (strings.IndexByte(`'"\`, s[i+1]) >= 0 || quote == 0 && s[i+1] == ' '):
			i++
			word.WriteByte(s[i])
			inWord = true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, inWord = c, true
		case quote == 0 && (c == ' ' || c == '\t'):
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		case quote == 0 && c == '#' && !inWord:
			return words, nil
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// matchWords is whether a Host line's patterns match: one does, and none that is negated.
func matchWords(patterns []string, host string) bool {
	matched := false
	for _, p := range patterns {
		p, negated := strings.CutPrefix(p, "!")
		if !wildcard(p, host) {
			continue
		}
		if negated {
			return false
		}
		matched = true
	}
	return matched
}

func matchList(list, value string) bool { return matchWords(strings.Split(list, ","), value) }

// wildcard matches * and ?, nothing else, in time that is linear in both for
// each star.
func wildcard(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p, i = p+1, i+1
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// environment is what the files are read with: a parameter, so that tests and
// CI say what there is.
type environment struct {
	configFile, systemConfigFile string
	home, localUser              string
	getenv                       func(string) string
}

func (e environment) tilde(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		return filepath.Join(e.home, rest)
	}
	return path
}

// expand replaces ~, ${NAME} and %tokens in a value.
func (e environment) expand(value string, tokens map[byte]string) (string, error) {
	var b strings.Builder
	value = e.tilde(value)
	for i := 0; i < len(value); i++ {
		switch {
		case value[i] == '%':
			if i++; i == len(value) {
				return "", fmt.Errorf("%q ends in %%", value)
			}
			text, ok := tokens[value[i]]
			if !ok {
				return "", fmt.Errorf("%q: %%%c is not supported", value, value[i])
			}
			b.WriteString(text)
		case strings.HasPrefix(value[i:], "${"):
			name, _, closed := strings.Cut(value[i+2:], "}")
			if !closed || e.getenv(name) == "" {
				return "", fmt.Errorf("%q: the variable %s is not set", value, name)
			}
			b.WriteString(e.getenv(name))
			i += len(name) + 2
		default:
			b.WriteByte(value[i])
		}
	}
	return b.String(), nil
}

// readFile reads a regular file of at most so many bytes.
func readFile(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > most {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", path, most)
	}
	return os.ReadFile(path)
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
