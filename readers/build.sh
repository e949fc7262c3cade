#!/bin/sh
# Builds the reader programs into $KTHWC_READERS, or build/readers.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
out=${KTHWC_READERS:-$root/build/readers}
mkdir -p "$out"
export CGO_ENABLED=0
build() { # NAME DIRECTORY [go build flags and package]
	name=$1
	directory=$2
	shift 2
	echo "readers: $name"
	(cd "$root/readers/$directory" && go build -ldflags "-s -w" -o "$out/$name" "$@")
}
build k8s-reader-1.37 k8s .
build kubectl-1.37 k8s k8s.io/kubernetes/cmd/kubectl
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
build k8s-reader-1.21 k8s -modfile=1.21.mod -tags k8s1_21 .
