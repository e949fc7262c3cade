package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/readers"
)

// BenchmarkIssueProcess measures from process start to everything that a
// cluster of six nodes needs, against `kthwc version` and against the tutorial's
// way to the same certificates and kubeconfigs, in the same run.
func BenchmarkIssueProcess(b *testing.B) {
	program, tutorial := compiledProgram(b, b.TempDir()), newTutorial(b)
	var version, hardened, same, render, certificates, kubeconfigs time.Duration
	for b.Loop() {
		version += timed(b, program, "version")
		hardened += timed(b, program, "pki", "issue", "-f", alone(b, "lab.yaml"))
		file := alone(b, "kthw-1.21.yaml")
		same += timed(b, program, "pki", "issue", "-f", file)
		render += timed(b, program, "render", "-f", file, "-o", filepath.Join(filepath.Dir(file), "out"))
		c, k := tutorial.follow(b)
		certificates, kubeconfigs = certificates+c, kubeconfigs+k
	}
	report(b, version, "ms-version")
	report(b, hardened-version, "ms-more-than-version")
	report(b, same, "ms-nine-certificates")
	report(b, certificates, "ms-tutorial-certificates")
	report(b, kubeconfigs, "ms-tutorial-kubeconfigs")
	b.ReportMetric(float64(certificates)/float64(same), "times-certificates")
	b.ReportMetric(float64(certificates+kubeconfigs)/float64(same+render), "times-both")
}

// alone is a copy of an example in a directory of its own.
func alone(b *testing.B, example string) string {
	b.Helper()
	text, err := os.ReadFile(filepath.Join("../../examples", example))
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "cluster.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		b.Fatal(err)
	}
	return file
}

// A tutorial is the programs that the guide has one type.
type tutorial struct{ cfssl, cfssljson, kubectl string }

func newTutorial(b *testing.B) tutorial {
	b.Helper()
	dir := b.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/", "tool")
	build.Dir = "../../readers/cfssl"
	if out, err := build.CombinedOutput(); err != nil {
		readers.Missing(b, "cfssl cannot be built: "+string(out))
	}
	return tutorial{filepath.Join(dir, "cfssl"), filepath.Join(dir, "cfssljson"), readers.Path(b, "kubectl-1.37")}
}

// The guide's certificates: file, common name, organization, names.
var tutorialCertificates = [][4]string{
	{"admin", "admin", "system:masters", ""},
	{"worker-0", "system:node:worker-0", "system:nodes", "worker-0,203.0.113.20,10.240.0.20"},
	{"worker-1", "system:node:worker-1", "system:nodes", "worker-1,203.0.113.21,10.240.0.21"},
	{"worker-2", "system:node:worker-2", "system:nodes", "worker-2,203.0.113.22,10.240.0.22"},
	{"kube-controller-manager", "system:kube-controller-manager", "system:kube-controller-manager", ""},
	{"kube-proxy", "system:kube-proxy", "system:node-proxier", ""},
	{"kube-scheduler", "system:kube-scheduler", "system:kube-scheduler", ""},
	{"kubernetes", "kubernetes", "Kubernetes", "10.32.0.1,10.240.0.10,10.240.0.11,10.240.0.12,203.0.113.10,127.0.0.1,kubernetes,kubernetes.default,kubernetes.default.svc,kubernetes.default.svc.cluster,kubernetes.svc.cluster.local"},
	{"service-account", "service-accounts", "Kubernetes", ""},
}

const tutorialProfiles = `{"signing": {"default": {"expiry": "8760h"}, "profiles": {"kubernetes": {"usages": ["signing", "key encipherment", "server auth", "client auth"], "expiry": "8760h"}}}}`

// follow makes the authority, the nine certificates and the seven kubeconfigs
// as chapters 4 and 5 do, and says how long each took.
func (g tutorial) follow(b *testing.B) (certificates, kubeconfigs time.Duration) {
	b.Helper()
	dir := b.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	start := time.Now()
	write("ca-config.json", tutorialProfiles)
	write("ca-csr.json", request("Kubernetes", "Kubernetes"))
	shell(b, dir, g.cfssl+" gencert -initca ca-csr.json | "+g.cfssljson+" -bare ca")
	for _, c := range tutorialCertificates {
		write(c[0]+"-csr.json", request(c[1], c[2]))
		names := ""
		if c[3] != "" {
			names = " -hostname=" + c[3]
		}
		shell(b, dir, g.cfssl+" gencert -ca=ca.pem -ca-key=ca-key.pem -config=ca-config.json"+names+" -profile=kubernetes "+c[0]+"-csr.json | "+g.cfssljson+" -bare "+c[0])
	}
	certificates = time.Since(start)
	for _, c := range tutorialCertificates[:7] {
		server := "https://203.0.113.10:6443"
		if c[0] == "admin" || c[0] == "kube-controller-manager" || c[0] == "kube-scheduler" {
			server = "https://127.0.0.1:6443"
		}
		config := g.kubectl + " config --kubeconfig=" + c[0] + ".kubeconfig "
		shell(b, dir, config+"set-cluster kubernetes-the-hard-way --certificate-authority=ca.pem --embed-certs=true --server="+server)
		shell(b, dir, config+"set-credentials "+c[1]+" --client-certificate="+c[0]+".pem --client-key="+c[0]+"-key.pem --embed-certs=true")
		shell(b, dir, config+"set-context default --cluster=kubernetes-the-hard-way --user="+c[1])
		shell(b, dir, config+"use-context default")
	}
	return certificates, time.Since(start) - certificates
}

// request is a *-csr.json of the guide.
func request(cn, org string) string {
	text, _ := json.Marshal(map[string]any{ // strings alone: it cannot fail
		"CN": cn, "key": map[string]any{"algo": "rsa", "size": 2048},
		"names": []map[string]string{{"C": "US", "L": "Portland", "O": org, "OU": "Kubernetes The Hard Way", "ST": "Oregon"}},
	})
	return string(text)
}

func shell(b *testing.B, dir, command string) {
	b.Helper()
	cmd := exec.Command("/bin/sh", "-euc", command)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, strings.TrimSpace(string(out)))
	}
}
