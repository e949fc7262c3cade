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
