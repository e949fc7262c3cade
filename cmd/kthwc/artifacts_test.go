package main

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kthwc/kthwc/pkg/artifact"
)

// released are the files of the newest release as a directory has them: where
// they lie, and for archives what is in them.
var released = map[string][]string{
	"dl.k8s.io/v1.37.2/bin/linux/amd64/kube-apiserver":                                                   nil,
	"dl.k8s.io/v1.37.2/bin/linux/amd64/kube-controller-manager":                                          nil,
	"dl.k8s.io/v1.37.2/bin/linux/amd64/kube-scheduler":                                                   nil,
	"dl.k8s.io/v1.37.2/bin/linux/amd64/kubectl":                                                          nil,
	"dl.k8s.io/v1.37.2/bin/linux/amd64/kubelet":                                                          nil,
	"dl.k8s.io/v1.37.2/bin/linux/amd64/kube-proxy":                                                       nil,
	"github.com/etcd-io/etcd/releases/download/v3.7.3/etcd-v3.7.3-linux-amd64.tar.gz":                    {"etcd-v3.7.3-linux-amd64/etcd", "etcd-v3.7.3-linux-amd64/etcdctl"},
	"github.com/containerd/containerd/releases/download/v2.4.2/containerd-2.4.2-linux-amd64.tar.gz":      {"bin/containerd", "bin/containerd-shim-runc-v2", "bin/ctr"},
	"github.com/opencontainers/runc/releases/download/v1.5.2/runc.amd64":                                 nil,
	"github.com/containernetworking/plugins/releases/download/v1.9.1/cni-plugins-linux-amd64-v1.9.1.tgz": {"./bridge", "./host-local", "./loopback", "./portmap"},
	"github.com/kubernetes-sigs/cri-tools/releases/download/v1.37.0/crictl-v1.37.0-linux-amd64.tar.gz":   {"crictl"},
	"registry.k8s.io/pause/3.10.2-linux-amd64.tar":                                                       {"pause"},
	"registry.k8s.io/coredns/coredns/v1.14.6-linux-amd64.tar":                                            {"coredns"},
}

// releaseCommand writes such a directory for a script: release DIR.
func releaseCommand(ts *testscript.TestScript, _ bool, args []string) {
	for name, members := range released {
		path := filepath.Join(ts.MkAbs(args[0]), filepath.FromSlash(name))
		ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
		content, err := releasedFile(name, members)
		ts.Check(err)
		ts.Check(os.WriteFile(path, content, 0o644))
	}
}

func releasedFile(name string, members []string) ([]byte, error) {
	if members == nil {
		return header(name), nil
	}
	var b bytes.Buffer
	if image, ok := strings.CutSuffix(name, "-linux-amd64.tar"); ok {
		at := strings.LastIndexByte(image, '/')
		err := artifact.WriteImage(&b, artifact.Image{Ref: image[:at] + ":" + image[at+1:], Arch: "amd64", Files: []artifact.Packed{{Name: members[0], Content: header(name)}}})
		return b.Bytes(), err
	}
	var files []artifact.Packed
	for _, m := range members {
		files = append(files, artifact.Packed{Name: m, Content: header(m)})
	}
	err := artifact.WriteArchive(&b, files...)
	return b.Bytes(), err
}

// header is how a program for amd64 begins, and its name.
func header(name string) []byte {
	head := make([]byte, 64)
	copy(head, elf.ELFMAG)
	head[elf.EI_CLASS], head[elf.EI_DATA], head[18] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EM_X86_64)
	return append(head, name...)
}

// What --mirror is given is read by everybody who reads the lock.
func TestMirrorIsPublic(t *testing.T) {
	for _, mirror := range []string{"http://mirror.example", "https://me:secret@mirror.example", "https://mirror.example/?token=1", "mirror.example", "%"} {
		var out, errs bytes.Buffer
		code := run(t.Context(), []string{"artifacts", "lock", "-f", "../../examples/lab.yaml", "--state", t.TempDir(), "--cache", t.TempDir(), "--mirror", mirror},
			stdio{nil, &out, &errs}, func(string) string { return "" })
		if code != exitUsage || !strings.Contains(errs.String(), "is not an https address") || strings.Contains(errs.String(), "secret") {
			t.Errorf("%s: exit %d\n%s", mirror, code, errs.String())
		}
	}
}
