package artifact

import (
	"fmt"
	"slices"
	"strings"
)

// source says where programs of one release come from. In its texts {version},
// {arch} and {name} stand for what is needed, {url} for the file's own address.
type source struct {
	names    []string
	url      string
	checksum string // the published SHA-256: alone, or in lines with names of files
	member   string // in the archive; "" where the file is the program
}

var sources = []source{
	{[]string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"},
		"https://dl.k8s.io/v{version}/bin/linux/{arch}/{name}", "{url}.sha256", ""},
	{[]string{"etcd", "etcdctl", "etcdutl"},
		"https://github.com/etcd-io/etcd/releases/download/v{version}/etcd-v{version}-linux-{arch}.tar.gz",
		"https://github.com/etcd-io/etcd/releases/download/v{version}/SHA256SUMS", "etcd-v{version}-linux-{arch}/{name}"},
	{[]string{"containerd", "containerd-shim-runc-v2", "ctr"},
		"https://github.com/containerd/containerd/releases/download/v{version}/containerd-{version}-linux-{arch}.tar.gz", "{url}.sha256sum", "bin/{name}"},
	{[]string{"runc"},
		"https://github.com/opencontainers/runc/releases/download/v{version}/runc.{arch}",
		"https://github.com/opencontainers/runc/releases/download/v{version}/runc.sha256sum", ""},
	{[]string{"cni-plugins"},
		"https://github.com/containernetworking/plugins/releases/download/v{version}/cni-plugins-linux-{arch}-v{version}.tgz", "{url}.sha256", everyProgram},
	{[]string{"crictl"},
		"https://github.com/kubernetes-sigs/cri-tools/releases/download/v{version}/crictl-v{version}-linux-{arch}.tar.gz", "{url}.sha256", "crictl"},
}

// place is where one need is found officially.
type place struct {
	url, checksum, member string
}

// placeOf finds the official place of a program. An image has one for mirrors
// and directories, where it lies as an archive; the registry itself is asked
// otherwise (see registry.go).
func placeOf(n Need) (place, error) {
	if n.IsImage() {
		return place{url: fmt.Sprintf("https://%s/%s-linux-%s.tar", n.Name, n.Version, n.Arch)}, nil
	}
	at := slices.IndexFunc(sources, func(s source) bool { return slices.Contains(s.names, n.Name) })
	if at < 0 {
		return place{}, fmt.Errorf("no place is known that %s comes from", n.Name)
	}
	s := sources[at]
	fill := strings.NewReplacer("{version}", n.Version, "{arch}", n.Arch, "{name}", n.Name)
	p := place{url: fill.Replace(s.url), member: fill.Replace(s.member)}
	p.checksum = strings.Replace(fill.Replace(s.checksum), "{url}", p.url, 1)
	return p, nil
}

// below is an official address as a mirror or a directory has it: the host is
// the first directory.
func below(url string) string { return strings.TrimPrefix(url, "https://") }
