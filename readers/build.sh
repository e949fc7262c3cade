#!/bin/sh
# Builds the reader programs into $KTHWC_READERS, or build/readers.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
out=${KTHWC_READERS:-$root/build/readers}
mkdir -p "$out"
export CGO_ENABLED=0
build() { # NAME DIRECTORY [go build flags and package]; NAME/ holds several programs
	name=$1
	directory=$2
	shift 2
	echo "readers: $name"
	(cd "$root/readers/$directory" && go build -ldflags "-s -w" -o "$out/$name" "$@")
}
build k8s-reader-1.37 k8s .
build kubectl-1.37 k8s k8s.io/kubernetes/cmd/kubectl
build encryption-reader-1.37 k8s ./encryption
build k8s-reader-1.32 k8s -modfile=1.32.mod .

# The module of Kubernetes 1.21 lacks one generated package, and the module
# cache must not be changed: a copy has an empty one in its place.
source=$(cd "$root/readers/k8s" && go mod download -json k8s.io/kubernetes@v1.21.0 | sed -n 's/^.*"Dir": "\(.*\)",$/\1/p')
copy=$root/build/kubernetes-1.21
if [ ! -f "$copy/go.mod" ]; then
	rm -rf "$copy.new"
	mkdir -p "$copy.new"
	(cd "$source" && tar -cf - --exclude='*_test.go' cmd pkg plugin third_party) | tar -xf - -C "$copy.new"
	chmod -R u+w "$copy.new"
	cp "$root/readers/k8s/openapi_1.21.txt" "$copy.new/pkg/generated/openapi/zz_generated.openapi.go"
	cp "$source/go.mod" "$copy.new/go.mod"
	chmod u+w "$copy.new/go.mod"
	mv "$copy.new" "$copy"
fi
# Its place does not matter to what was compiled before: -trimpath.
build k8s-reader-1.21 k8s -trimpath -modfile=1.21.mod -tags k8s1_21 .
build containerd-reader-2.4 containerd -tags no_btrfs .
build containerd-reader-2.1 containerd -modfile=2.1.mod -tags no_btrfs .
build containerd-reader-1.4 containerd-1.4 .
build etcd-3.7 etcd go.etcd.io/etcd/server/v3
build etcd-3.6 etcd -modfile=3.6.mod go.etcd.io/etcd/server/v3
build etcd-3.4 etcd-3.4 go.etcd.io/etcd
build cni-reader-1.9 cni .
build cni-plugins-1.9/ cni tool
build cni-reader-0.9 cni -modfile=0.9.mod .
build cni-plugins-0.9/ cni -modfile=0.9.mod tool
build zlint-reader zlint .

# What reads the charts of `kthwc pki map`.
if command -v npm >/dev/null; then
	echo "readers: mermaid"
	npm install --silent --no-audit --no-fund --no-save --no-package-lock --ignore-scripts --prefix "$out" mermaid@11 jsdom@26 >/dev/null
fi
