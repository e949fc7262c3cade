package schema

import (
	"crypto/sha256"
	"embed"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/cuecontext"

	"github.com/kthwc/kthwc/pkg/diag"
	"github.com/kthwc/kthwc/pkg/origin"
)

//go:generate go run ./gen

// Release is the version table at one Kubernetes minor: what exists there, and
// what goes with it. It is made by [ReleaseOf] from rows that CUE proved to be
// gap-free; nothing else in the program compares versions.
type Release struct {
	minor   int
	rows    map[string]Row // "component flag" -> the row that mentions it
	answers map[string]Answer
}

// Row is one row of versions.cue: names exist from since (inclusive) to until
// (exclusive), as ref says.
type Row struct {
	ID        string   `json:"id"`
	Component string   `json:"component"`
	Names     []string `json:"names"`
	Since     int      `json:"since"`
	Until     int      `json:"until"`
	Ref       string   `json:"ref"`
}

// Answer is a row of one of the tables of versions.cue.
type Answer struct {
	Value string `json:"value"`
	Since int    `json:"since"`
	Until int    `json:"until"`
	Ref   string `json:"ref"`
}

// Versions is versions.cue, evaluated.
type Versions struct {
	Supported []int               `json:"supported"`
	Rows      []Row               `json:"rows"`
	Tables    map[string][]Answer `json:"tables"`
}

// Verdict is the table's answer about one flag or field.
type Verdict struct {
	Keep bool
	Row  origin.Origin // the row that decided; zero when no row mentions it, or the row has no bound
}

//go:embed versions.cue
var versionsSource []byte

//go:embed versions.json
var versionsJSON []byte

//go:embed flagsets
var flagSets embed.FS

// EvaluateVersions lets CUE prove versions.cue and writes it as JSON.
func EvaluateVersions() ([]byte, error) {
	v := cuecontext.New().CompileBytes(versionsSource, cue.Filename("versions.cue"))
	if err := v.Validate(cue.Final(), cue.Concrete(true)); err != nil {
		return nil, fmt.Errorf("versions.cue: %w", err)
	}
	var out Versions
	for field, into := range map[string]any{"supported": &out.Supported, "rows": &out.Rows, "tables": &out.Tables} {
		if err := v.LookupPath(cue.ParsePath(field)).Decode(into); err != nil {
			return nil, fmt.Errorf("versions.cue: %s: %w", field, err)
		}
	}
	text, err := json.MarshalIndent(out, "", "  ")
	return append(text, '\n'), err
}

// AllVersions is the embedded version table.
var AllVersions = lazily(func() Versions {
	var v Versions
	_ = json.Unmarshal(versionsJSON, &v) // a test compares it with versions.cue
	return v
})

// Revision names the state of the version table: 12 digits of its SHA-256.
func Revision() string { return fmt.Sprintf("%x", sha256.Sum256(versionsJSON))[:12] }

// Supported lists the minors that can be rendered, oldest first: "1.21".
func Supported() []string {
	var out []string
	for _, m := range AllVersions().Supported {
		out = append(out, "1."+strconv.Itoa(m))
	}
	return out
}

var releases = lazily(func() map[int]*Release {
	out := map[int]*Release{}
	for _, m := range AllVersions().Supported {
		out[m] = newRelease(m)
	}
	return out
})

func newRelease(minor int) *Release {
	r := &Release{minor: minor, rows: map[string]Row{}, answers: map[string]Answer{}}
	for _, row := range AllVersions().Rows {
		for _, name := range row.Names {
			r.rows[row.Component+" "+name] = row
		}
	}
	for name, ranges := range AllVersions().Tables {
		at := slices.IndexFunc(ranges, func(a Answer) bool { return a.Since <= minor && minor < a.Until })
		r.answers[name] = ranges[at]
	}
	return r
}

// ReleaseOf finds the version table for "1.37.2" or "1.37". The error says
// which minors there are.
func ReleaseOf(version string) (*Release, error) {
	parts := strings.Split(version, ".")
	if len(parts) >= 2 && parts[0] == "1" {
		if m, err := strconv.Atoi(parts[1]); err == nil && releases()[m] != nil {
			return releases()[m], nil
		}
	}
	return nil, fmt.Errorf("Kubernetes %s is not supported; the supported minors are %s", version, strings.Join(Supported(), ", "))
}

// Minor is the release without its patch: "1.37".
func (r *Release) Minor() string { return "1." + strconv.Itoa(r.minor) }

// Patch is the newest patch that the table knows: "1.37.2".
func (r *Release) Patch() string { return r.answers["patch"].Value }

// Newest says whether no newer minor is supported.
func (r *Release) Newest() bool { return r.minor == slices.Max(AllVersions().Supported) }

// Behind is how many minors r is older than other; negative when it is newer.
func (r *Release) Behind(other *Release) int { return other.minor - r.minor }

// Flag says whether the component has the flag at this minor.
func (r *Release) Flag(component, flag string) Verdict { return r.verdict(component + " " + flag) }

// Field says whether the configuration kind has the top-level field at this minor.
func (r *Release) Field(kind, field string) Verdict { return r.verdict(kind + " " + field) }

func (r *Release) verdict(name string) Verdict {
	row, ok := r.rows[name]
	if !ok || row.Since == oldest && row.Until == open {
		return Verdict{Keep: true}
	}
	return Verdict{Keep: row.Since <= r.minor && r.minor < row.Until, Row: origin.Row(row.ID)}
}

// API is the apiVersion of a configuration kind; "" when it does not exist yet.
func (r *Release) API(kind string) origin.Value[string] { return r.Setting("api/" + kind) }

// Companion is the version of a program that goes with this minor.
func (r *Release) Companion(name string) origin.Value[string] { return r.Setting(name) }

// Setting is the answer of one of the tables of versions.cue at this minor.
func (r *Release) Setting(name string) origin.Value[string] {
	return origin.Of(r.answers[name].Value, origin.Row(name))
}

// Reference is the source of a version row or table at this minor; "" if there
// is no such row.
func (r *Release) Reference(id string) string {
	if a, ok := r.answers[id]; ok {
		return a.Ref
	}
	at := slices.IndexFunc(AllVersions().Rows, func(row Row) bool { return row.ID == id })
	if at < 0 {
		return ""
	}
	return AllVersions().Rows[at].Ref
}

var flagMinors = lazily(func() map[string]map[string][]string {
	out := map[string]map[string][]string{}
	entries, _ := flagSets.ReadDir("flagsets")
	for _, e := range entries {
		text, _ := flagSets.ReadFile("flagsets/" + e.Name())
		flags := map[string][]string{}
		for line := range strings.Lines(string(text)) {
			if words := strings.Fields(line); len(words) > 1 {
				flags[words[0]] = words[1:]
			}
		}
		out[strings.TrimSuffix(e.Name(), ".txt")] = flags
	}
	return out
})

// Varies says whether a table's answer depends on the minor.
func Varies(name string) bool { return len(AllVersions().Tables[name]) > 1 }

// The bounds of a row that has none (versions.cue).
const (
	oldest = 20
	open   = 99
)

// Known says whether the component's own option set has the flag at this
// minor. Where no set is recorded every flag is known.
func (r *Release) Known(component, flag string) bool {
	flags := flagMinors()[component]
	recorded := slices.Contains(flags["config"], r.Minor()) || slices.Contains(flags["bind-address"], r.Minor())
	return !recorded || slices.Contains(flags[flag], r.Minor())
}

// Nearest is the component's flag that is closest to a mistyped one; "" if none is.
func (r *Release) Nearest(component, flag string) string {
	var names []string
	for name := range flagMinors()[component] {
		if r.Known(component, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return diag.Nearest(flag, names)
}

// MinorsWith lists the supported minors whose option set has the flag.
func MinorsWith(component, flag string) []string { return flagMinors()[component][flag] }
