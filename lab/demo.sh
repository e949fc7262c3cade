#!/bin/sh
# From a clone to a running cluster on this machine, in build/demo: artefacts,
# machines, keys, plan, apply, verify, and a kubeconfig for your own shell. What
# is there already is kept: run it again after an interruption or a change of
# build/demo/cluster.yaml. `sudo lab/demo.sh down` throws the machines away.
#
#	sudo lab/demo.sh [up|down] [EXAMPLE]
#
# Programs and images are those of build/artifacts where `make lab-artifacts` has
# built them, else the official ones, else they are built now.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
verb=${1:-up}
example=${2:-lab}
dir=$root/build/demo/$example
built=$root/build/artifacts
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kthwc
began=$(date +%s)

# step TEXT COMMAND...: says what is done, how it is typed, and how long it took.
step() {
	title=$1
	shift
	printf '\n== %s\n   kthwc %s\n' "$title" "$*" >&2
	from=$(date +%s)
	"$kthwc" "$@"
	printf '   %d s\n' $(($(date +%s) - from)) >&2
}

fail() {
	printf 'demo: %s\n' "$1" >&2
	exit 1
}

# place writes down what everything comes from: the official places, or a
# directory.
place() {
	lock=$state/kthwc.lock
	[ ! -f "$lock" ] || grep -q 'url: dir:' "$lock" || return 0 # it was official before
	if [ ! -d "$built/dl.k8s.io" ] && [ ! -f "$lock" ]; then
		step "What the cluster runs, pinned by digest: the official releases" artifacts lock && return 0
		printf '   the official places are out of reach: it is built here, ten minutes or more\n' >&2
		sh "$root/lab/artifacts/build.sh" "$built"
	fi
	from_built="--from $built"
	# shellcheck disable=SC2086 # two words
	step "What the cluster runs, pinned by digest" artifacts lock $from_built
}

# tools takes kubectl, as it was pinned, out of the cache.
tools() {
	digest=$(awk '/- name: kubectl$/ { found = 1 } found && $1 == "sha256:" { print $2; exit }' "$state/kthwc.lock")
	install -D -m 0755 "$cache/sha256/$digest" "$dir/bin/kubectl"
}

up() {
	[ "$(uname -s)" = Linux ] || fail "the lab needs Linux; everything else of kthwc works here"
	[ "$(id -u)" = 0 ] || fail "the lab makes namespaces and machines, which only root may: sudo make demo"
	mkdir -p "$dir"
	[ -f "$dir/cluster.yaml" ] || cp "$root/examples/$example.yaml" "$dir/cluster.yaml"
	from_built=
	place
	# shellcheck disable=SC2086 # two words or none
	step "Programs and images, into the cache" artifacts fetch $from_built
	tools
	lab=$(date +%s)
	step "The machines" lab up
	step "Certificates and keys" pki issue
	step "What will be done to the machines" plan --lab
	step "Do it" apply --lab --auto-approve
	sh "$root/lab/artifacts/build.sh" "$built" toolbox
	step "Is it what cluster.yaml says, and does it work?" verify --lab --external-name external.lab.test \
		--image-archive "$(ls "$built"/kthwc.dev/lab/toolbox/*.tar)"
	printf '   from the machines to here: %d s\n' $(($(date +%s) - lab)) >&2
	step "A kubeconfig for this shell" kubeconfig --lab
	printf '\n== kubectl get nodes\n' >&2
	"$dir/bin/kubectl" --kubeconfig "$state/admin.kubeconfig" --request-timeout=10s get nodes -o wide
	cat >&2 <<-END

		The cluster is up after $(($(date +%s) - began)) s. In your own shell (as root, who has the key):

		  export KUBECONFIG=$state/admin.kubeconfig
		  $dir/bin/kubectl get pods --all-namespaces
		  cd $dir && $kthwc lab ssh worker-0

		Change $dir/cluster.yaml and run this again, or
		\`kthwc plan --lab\` there. \`sudo lab/demo.sh down\` throws the machines away; docs/lab.md walks on.
	END
}

down() {
	step "Throw the machines away" lab down
}

(cd "$root" && "${GO:-go}" build -o bin/kthwc ./cmd/kthwc)
kthwc=$root/bin/kthwc
export KTHWC_FILE="$dir/cluster.yaml"
state=$dir/$example.kthwc
case $verb in
up | down) "$verb" ;;
*) fail "it is up or down, not $verb" ;;
esac
