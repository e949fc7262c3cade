#!/bin/sh
# Builds what a cluster runs from the components' own Go modules, and images of
# it, into DIR (build/artifacts), laid out as the official places are:
# `kthwc artifacts lock --from DIR` reads them. What is there already is kept:
# paths have versions. ARCH=arm64 builds for the other architecture (runc, which
# needs a C compiler, only for this machine's own). MINOR=1.32 builds what a
# cluster of another minor runs, from modules that are made from those here.
#
#	lab/artifacts/build.sh [DIR [COMPONENT...]]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${1:-$root/build/artifacts}
[ $# -eq 0 ] || shift
mkdir -p "$out"
out=$(cd "$out" && pwd)
machine=$(cd "$root" && GOARCH='' go env GOARCH)
arch=${ARCH:-$machine}
export CGO_ENABLED=0 GOOS=linux GOARCH="$arch"
work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

say() { echo "artifacts: $*" >&2; }

# version COMPONENT MODULE: without a v. For the newest minor a component's go.mod
# is the one place, for others the table of versions.
version() {
	case ${MINOR:-}/$1 in
	/*) (cd "$here/$1" && go list -m -f '{{.Version}}' "$2") | sed 's/^v//' ;;
	*/kubernetes) pack setting "$MINOR" patch ;;
	*) pack setting "$MINOR" "$1" ;;
	esac
}

# module COMPONENT MODULE VERSION: the directory of the Go module whose tools are
# built. That of another minor has the same tools, at their version; which versions
# they need they say themselves.
module() {
	[ -n "${MINOR:-}" ] || { echo "$here/$1"; return 0; }
	derived=$out/.modules/$1-$3
	mkdir -p "$derived"
	if [ ! -f "$derived/go.mod" ]; then
		awk -v old="$(MINOR='' version "$1" "$2")" -v new="$3" '
			FNR == NR { if ($NF ~ /\//) tools[$NF]; next }
			/^require/ { required = 1 }
			/^\)/ { required = 0 }
			required && NF > 1 && !/^require/ {
				for (tool in tools) if (index(tool "/", $1 "/") == 1 && $2 == "v" old) { print "\t" $1, "v" new; next }
				next
			}
			{ sub(" v0." substr(old, 3) "$", " v0." substr(new, 3)); print }
		' "$here/$1/go.mod" "$here/$1/go.mod" >"$derived/.go.mod"
		mv "$derived/.go.mod" "$derived/go.mod"
	fi
	echo "$derived"
}

# build COMPONENT MODULE VERSION TAGS LDFLAGS: every tool of the module, into
# $work/COMPONENT.
build() {
	say "$1 $3 ($arch)"
	mkdir -p "$work/$1"
	in=$(module "$1" "$2" "$3")
	(cd "$in" && nice -n 15 go build ${MINOR:+-mod=mod} -trimpath -tags "$4" -ldflags "-s -w -buildid= $5" -o "$work/$1/" tool)
}

# starts VERSION PROGRAM [ARGUMENT]: the program runs and says its version.
starts() {
	wanted=$1
	shift
	[ "$arch" = "$machine" ] || return 0
	"$@" 2>&1 | grep -qF -- "$wanted" || { say "$* does not say that it is version $wanted"; exit 1; }
}

# keep FILE PATH: into its place below $out, in one step.
keep() {
	mkdir -p "$out/$(dirname "$2")"
	mv "$1" "$out/$2"
}

# have PATH: it was built by an earlier run.
have() { [ -f "$out/$1" ]; }

# pack is this repository's own program for archives and images. It runs here,
# whatever it packs for.
(cd "$root" && GOARCH='' GOOS='' go build -o "$work/pack" ./lab/artifacts/pack)
pack() { "$work/pack" "$@"; }

kubernetes() {
	module=k8s.io/kubernetes
	v=$(version kubernetes $module)
	at=dl.k8s.io/v$v/bin/linux/$arch
	for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
		have "$at/$name" || missing=yes
	done
	[ -n "${missing:-}" ] || return 0
	flags=
	for package in k8s.io/client-go/pkg/version k8s.io/component-base/version; do
		flags="$flags -X $package.gitVersion=v$v -X $package.gitMajor=1 -X $package.gitMinor=$(echo "$v" | cut -d. -f2)"
		flags="$flags -X $package.gitTreeState=clean -X $package.buildDate=1970-01-01T00:00:00Z"
	done
	build kubernetes $module "$v" selinux,notest,grpcnotrace "$flags"
	for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy; do
		starts "v$v" "$work/kubernetes/$name" --version
	done
	starts "v$v" "$work/kubernetes/kubectl" version --client
	for name in "$work"/kubernetes/*; do keep "$name" "$at/$(basename "$name")"; done
}

etcd() {
	module=go.etcd.io/etcd/server/v3
	v=$(version etcd $module)
	stem=etcd-v$v-linux-$arch
	at=github.com/etcd-io/etcd/releases/download/v$v/$stem.tar.gz
	have "$at" && return 0
	build etcd $module "$v" "" ""
	mv "$work/etcd/server" "$work/etcd/etcd"
	starts "$v" "$work/etcd/etcd" --version
	starts "$v" "$work/etcd/etcdctl" version
	starts "$v" "$work/etcd/etcdutl" version
	pack archive "$work/$stem" "$stem" "$work"/etcd/*
	keep "$work/$stem" "$at"
}

containerd() {
	module=github.com/containerd/containerd/v2
	v=$(version containerd $module)
	at=github.com/containerd/containerd/releases/download/v$v/containerd-$v-linux-$arch.tar.gz
	have "$at" && return 0
	build containerd $module "$v" urfave_cli_no_docs,no_btrfs "-X $module/version.Version=v$v -X $module/version.Package=$module"
	starts "v$v" "$work/containerd/containerd" --version
	starts "v$v" "$work/containerd/ctr" --version
	starts "v$v" "$work/containerd/containerd-shim-runc-v2" -v
	pack archive "$work/containerd.tgz" bin "$work"/containerd/*
	keep "$work/containerd.tgz" "$at"
}

# runc enters namespaces in C. Without libseccomp it is built without seccomp.
runc() {
	module=github.com/opencontainers/runc
	v=$(version runc $module)
	at=github.com/opencontainers/runc/releases/download/v$v/runc.$arch
	have "$at" && return 0
	[ "$arch" = "$machine" ] || { say "runc needs a C compiler for $arch: not built"; return 0; }
	tags=netgo,osusergo
	if pkg-config --exists libseccomp 2>/dev/null; then tags=$tags,seccomp; else say "libseccomp is not installed: runc is built without seccomp"; fi
	(export CGO_ENABLED=1 && build runc $module "$v" "$tags" "-linkmode external -extldflags -static")
	starts "$v" "$work/runc/runc" --version
	keep "$work/runc/runc" "$at"
}

cni_plugins() {
	module=github.com/containernetworking/plugins
	v=$(version cni-plugins $module)
	at=github.com/containernetworking/plugins/releases/download/v$v/cni-plugins-linux-$arch-v$v.tgz
	have "$at" && return 0
	build cni-plugins $module "$v" "" "-X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v$v"
	for plugin in "$work"/cni-plugins/*; do starts "v$v" "$plugin"; done
	pack archive "$work/cni.tgz" . "$work"/cni-plugins/*
	keep "$work/cni.tgz" "$at"
}

crictl() {
	module=sigs.k8s.io/cri-tools
	v=$(version crictl $module)
	at=github.com/kubernetes-sigs/cri-tools/releases/download/v$v/crictl-v$v-linux-$arch.tar.gz
	have "$at" && return 0
	build crictl $module "$v" "" "-X sigs.k8s.io/cri-tools/pkg/version.Version=v$v"
	starts "v$v" "$work/crictl/crictl" --version
	pack archive "$work/crictl.tgz" . "$work/crictl/crictl"
	keep "$work/crictl.tgz" "$at"
}

coredns() {
	module=github.com/coredns/coredns
	v=$(version coredns $module)
	at=registry.k8s.io/coredns/coredns/v$v-linux-$arch.tar
	have "$at" && return 0
	build coredns $module "$v" "" ""
	starts "$v" "$work/coredns/coredns" -version
	pack image "$work/coredns.tar" "registry.k8s.io/coredns/coredns:v$v" "$arch" "$work/coredns/coredns"
	keep "$work/coredns.tar" "$at"
}

# small NAME IMAGE TAG: an image of a program in images/.
small() {
	at=$2/$3-linux-$arch.tar
	have "$at" && return 0
	say "$1 $3 ($arch)"
	mkdir -p "$work/small"
	(cd "$here/images" && nice -n 15 go build -trimpath -ldflags "-s -w -buildid= -X main.version=$3" -o "$work/small/$1" "./$1")
	pack image "$work/$1.tar" "$2:$3" "$arch" "$work/small/$1"
}

pause() {
	v=3.10.2
	[ -z "${MINOR:-}" ] || v=$(pack setting "$MINOR" pause)
	small pause registry.k8s.io/pause "$v"
	[ ! -f "$work/pause.tar" ] || { starts "$v" "$work/small/pause" -v; keep "$work/pause.tar" "$at"; }
}

toolbox() {
	small toolbox kthwc.dev/lab/toolbox 1
	[ ! -f "$work/toolbox.tar" ] || { starts "toolbox 1" "$work/small/toolbox" version; keep "$work/toolbox.tar" "$at"; }
}

if [ $# -gt 0 ]; then
	for component; do "$component"; done
	exit
fi
for component in pause toolbox runc etcd cni_plugins crictl containerd coredns kubernetes; do
	"$component"
done

# What a user would do with it: pin, prove. Only this machine's architecture is
# in the example.
example=$root/examples/lab.yaml
if [ -n "${MINOR:-}" ]; then
	example=$work/lab.yaml
	sed "s/^    version: .*/    version: \"$(version kubernetes k8s.io/kubernetes)\"/" "$root/examples/lab.yaml" >"$example"
fi
if [ "$arch" = "$machine" ] && [ "$arch" = amd64 ]; then
	(cd "$root" && go build -o "$work/kthwc" ./cmd/kthwc)
	prove() {
		"$work/kthwc" artifacts "$@" -f "$example" --state "$work/state" --cache "$work/cache" >/dev/null 2>"$work/said" || { cat "$work/said" >&2; exit 1; }
	}
	prove lock --from "$out"
	prove verify
fi
say "done: kthwc artifacts lock --from $out"
