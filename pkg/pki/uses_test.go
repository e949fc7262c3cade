package pki_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/pki"
	"github.com/kthwc/kthwc/schema"
)

// sources are the examples and the golden scenarios.
func sources(t *testing.T) []string {
	t.Helper()
	examples, err := filepath.Glob("../../examples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	scenarios, err := filepath.Glob("../../golden/*/cluster.yaml")
	if err != nil || len(examples) == 0 || len(scenarios) == 0 {
		t.Fatal(err, examples, scenarios)
	}
	return append(examples, scenarios...)
}

func usesOf(t *testing.T, path string) (*compile.Cluster, []pki.Use) {
	t.Helper()
	c := model(t, example(t, strings.TrimPrefix(path, "../../")))
	return c, pki.Uses(c)
}

func TestEverythingIsShownAndJudged(t *testing.T) {
	for _, path := range sources(t) {
		_, uses := usesOf(t, path)
		for _, u := range uses {
			judged := slices.ContainsFunc(u.Showings, func(s pki.Showing) bool { return s.As == pki.TokenSigning || s.Bundle != "" })
			if judged == (u.Apart != "") {
				t.Errorf("%s: %s %s has %d showings, judged: %v, and stands apart because %q", path, u.Kind, u.Name, len(u.Showings), judged, u.Apart)
			}
			if u.Why == "" {
				t.Errorf("%s: nothing says why there is %s", path, u.Name)
			}
		}
	}
}

// Each usage of a certificate of the hardened profile is made of, and nothing
// is used for what it is not.
func TestUsagesAreThoseOfTheShowings(t *testing.T) {
	for _, path := range sources(t) {
		c, uses := usesOf(t, path)
		for _, u := range uses {
			at := slices.IndexFunc(c.Certs, func(cert *compile.Cert) bool { return cert.Name == u.Name })
			if u.Kind != pki.Certificate {
				continue
			}
			made := map[string]bool{}
			for _, s := range u.Showings {
				made[s.As] = true
			}
			for _, usage := range []string{compile.ServerAuth, compile.ClientAuth} {
				allowed := slices.Contains(c.Certs[at].Usages, usage)
				peerless := u.Role == "etcd-peer" && len(c.Etcd.Members) == 1
				switch {
				case made[usage] && !allowed:
					t.Errorf("%s: %s is used for %s and is not for it", path, u.Name, usage)
				case c.Profile.V == schema.Hardened && allowed && !made[usage] && u.Apart == "" && !peerless:
					t.Errorf("%s: %s is for %s and is not used for it", path, u.Name, usage)
				}
			}
		}
	}
}

func TestEveryFileIsRead(t *testing.T) {
	for _, path := range sources(t) {
		_, uses := usesOf(t, path)
		for _, u := range uses {
			for _, f := range u.Files {
				if len(f.Readers) == 0 {
					t.Errorf("%s: nothing reads %s:%s, which holds %s of %s", path, f.Node, f.Path, f.Holds, u.Name)
				}
				for _, r := range f.Readers {
					if r.Reference == "" || r.Pickup == "" {
						t.Errorf("%s: %s %s: it is not said how a change is picked up", path, r.Component, r.Field)
					}
				}
			}
		}
	}
}

// A placeholder in a name means that the certificate waits, and nothing else does.
func TestWaiting(t *testing.T) {
	doc, faults := schema.Load("cluster.yaml", []byte(example(t, "examples/cluster.yaml")))
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	c, _ := compile.Compile(doc, compile.Facts{})
	for _, u := range pki.Uses(c) {
		if waits := len(u.Waits) > 0; waits != (u.Kind == pki.Certificate && u.Role == "apiserver-serving") {
			t.Errorf("%s waits: %v", u.Name, u.Waits)
		}
	}
}

func TestRestarts(t *testing.T) {
	_, uses := usesOf(t, "../../examples/lab.yaml")
	for name, want := range map[string][]pki.Party{
		"apiserver-serving@controller-0": nil,
		"etcd-peer@controller-1":         nil,
		"kube-proxy@worker-2":            {{Component: "kube-proxy", Node: "worker-2"}},
		"admin":                          nil,
		"encryption/key1":                nil,
		"etcd-peer": {
			{Component: "etcd", Node: "controller-0"}, {Component: "etcd", Node: "controller-1"}, {Component: "etcd", Node: "controller-2"},
		},
	} {
		at := slices.IndexFunc(uses, func(u pki.Use) bool { return u.Name == name })
		if at < 0 {
			t.Fatalf("there is no %s", name)
		}
		if got := uses[at].Restarts(); !slices.Equal(got, want) {
			t.Errorf("%s restarts %v, not %v", name, got, want)
		}
	}
}

// What users write is what is read: a flag of extraArgs, and a field of
// configPatches.
func TestUsersPathsAreFollowed(t *testing.T) {
	source := example(t, "examples/lab.yaml") + `
  extraArgs:
    kube-apiserver: {encryption-provider-config-automatic-reload: "false"}
  configPatches:
    kubelet: {tlsCertFile: /etc/own.crt}
`
	for _, u := range pki.Uses(model(t, source)) {
		switch {
		case u.Kind == pki.Key:
			if len(u.Restarts()) != 3 {
				t.Errorf("without the flag that reloads it, %s restarts %v", u.Name, u.Restarts())
			}
		case u.Kind == pki.Certificate && u.Role == "kubelet-serving":
			if f := u.Files[0]; len(f.Readers) != 0 {
				t.Errorf("%s is read by %v, and the kubelet has another path", f.Path, f.Readers)
			}
		}
	}
}

// Every row of ways is about a field that something has.
func TestPickupsAreOfFieldsThatExist(t *testing.T) {
	seen := map[string]bool{}
	for _, path := range sources(t) {
		_, uses := usesOf(t, path)
		for _, u := range uses {
			for _, f := range u.Files {
				for _, r := range f.Readers {
					seen[r.Component+" "+r.Field] = true
				}
			}
		}
	}
	for _, name := range pki.PickupFields() {
		if !seen[name] {
			t.Errorf("nothing in any example reads a file by %s", name)
		}
	}
}
