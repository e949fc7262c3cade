package verify

import (
	"bytes"
	"encoding/xml"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func failed(l Layer, node, name string, after ...Layer) Result {
	return Result{Layer: l, Node: node, Name: name, Status: Failed, Expected: "this", Actual: "that", Cause: "c-" + name, Help: "h-" + name, after: after}
}

// What follows from a broken layer is filed under it, where it was seen on the
// same node, and is not what is broken first.
func TestFailuresAreFiledUnderTheirCause(t *testing.T) {
	lower := []Layer{LayerKubelet, LayerRoute, LayerService}
	rows := []struct {
		name  string
		list  []Result
		first string
		layer Layer
	}{
		{"alone", []Result{failed(LayerDNS, "w0", "lookup", lower...)}, "w0: lookup", LayerDNS},
		{"a lookup after a route", []Result{failed(LayerDNS, "w0", "lookup", lower...), failed(LayerRoute, "w0", "route")}, "w0: route", LayerRoute},
		{"the lowest of two", []Result{failed(LayerService, "w0", "svc"), failed(LayerDNS, "w0", "lookup", lower...), failed(LayerRoute, "w0", "route")}, "w0: route", LayerRoute},
		{"of another node", []Result{failed(LayerDNS, "w0", "lookup", lower...), failed(LayerRoute, "w1", "route")}, "w0: lookup", LayerDNS},
		{"of the cluster", []Result{failed(LayerDNS, "w0", "lookup", lower...), failed(LayerRoute, "", "route")}, "route", LayerRoute},
		{"of a chain", []Result{failed(LayerKubelet, "w0", "node"), failed(LayerRoute, "w0", "pod to pod", LayerKubelet), failed(LayerDNS, "w0", "lookup", lower...)}, "w0: node", LayerKubelet},
		{"what is lower anyway", []Result{failed(LayerWorkload, "", "web"), failed(LayerTCP, "", "port")}, "port", LayerTCP},
	}
	for _, row := range rows {
		r := &Report{Results: row.list}
		r.settle()
		first := r.First()
		if first == nil || first.title() != row.first || first.Layer != row.layer {
			t.Errorf("%s: first is %+v", row.name, first)
		}
		for i := range r.Results[1:] {
			if rank(r.Results[i].Layer) > rank(r.Results[i+1].Layer) {
				t.Errorf("%s: %s stands before %s", row.name, r.Results[i].Layer, r.Results[i+1].Layer)
			}
		}
	}
	if (&Report{Results: []Result{{Status: OK}, {Status: Skipped}}}).First() != nil {
		t.Error("something is broken first where nothing failed")
	}
}

// sample is a report with one result of each kind.
func sample() *Report {
	r := &Report{Cluster: "lab", Profile: "hardened", Kubernetes: "1.37.2", Started: time.Unix(0, 0).UTC(), Took: 1500 * time.Millisecond, Results: []Result{
		{Layer: LayerTLS, Node: "w0", Name: "certificate", Status: OK, Expected: "e", Actual: "e", Took: 12},
		failed(LayerRoute, "w0", "route <to> w1"), failed(LayerRoute, "w1", "route <to> w1"),
		{Layer: LayerService, Node: "c0", Name: "Service from the node", Status: NotPossible, Reason: "no kube-proxy & no rules"},
		{Layer: LayerTCP, Name: "load balancer", Status: Skipped, Reason: "not asked for"},
	}, Leftovers: []string{"namespace x: stuck"}}
	r.settle()
	return r
}

func TestTextNamesWhatIsBroken(t *testing.T) {
	var plain, colored, verbose bytes.Buffer
	sample().Text(&plain, TextOptions{})
	sample().Text(&colored, TextOptions{Color: true})
	sample().Text(&verbose, TextOptions{Verbose: true})
	for _, want := range []string{"broken first: route: w0: route <to> w1", "h-route <to> w1", "n/a", "skip", "1 ok, 2 failed, 1 not possible, 1 skipped in 1.5s", "left behind: namespace x: stuck", "the same  w1: route"} {
		if !strings.Contains(plain.String(), want) {
			t.Errorf("%q is not in\n%s", want, plain.String())
		}
	}
	if strings.Contains(plain.String(), "\x1b") || strings.Contains(plain.String(), "certificate") {
		t.Errorf("plain text has colours, or what holds:\n%s", plain.String())
	}
	if got := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(colored.String(), ""); got != plain.String() {
		t.Errorf("without its colours it is\n%s", got)
	}
	if !strings.Contains(verbose.String(), "w0: certificate: e") {
		t.Errorf("what holds is not in\n%s", verbose.String())
	}
	for line := range strings.Lines(plain.String()) {
		if n := utf8.RuneCountInString(line); n > 112 {
			t.Errorf("%d characters: %s", n, line)
		}
	}
}

func TestJUnitIsXMLWithTheSameCounts(t *testing.T) {
	var b bytes.Buffer
	r := sample()
	if err := r.JUnit(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Skipped  int `xml:"skipped,attr"`
		Suites   []struct {
			Name  string `xml:"name,attr"`
			Cases []struct {
				Name    string `xml:"name,attr"`
				Failure *struct {
					Text string `xml:",chardata"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	if got.Tests != len(r.Results)+1 || got.Failures != 3 || got.Skipped != 2 || len(got.Suites) != 5 {
		t.Errorf("%+v", got)
	}
	if text := b.String(); !strings.Contains(text, "route &lt;to&gt; w1") || !strings.Contains(text, "expected: this") {
		t.Error(text)
	}
}

// What a server says never reaches a terminal as it is.
func TestForeignTextIsHarmless(t *testing.T) {
	if got := short("a\x1b[2Jb\n\n c\x00"); strings.ContainsAny(got, "\x1b\x00\n") || !strings.HasPrefix(got, "a") {
		t.Errorf("%q", got)
	}
	if got := short(strings.Repeat("ä", 400)); utf8.RuneCountInString(got) > 161 || !utf8.ValidString(got) {
		t.Errorf("%d characters", utf8.RuneCountInString(got))
	}
	if got := said(errors.New("it is so\n  help: do that")); got != "it is so" {
		t.Errorf("%q", got)
	}
}
