#!/bin/sh
# Measures an apply against ssh, tar and Ansible, on six hosts that it makes: the
# lab's. Needs root and what `kthwc lab up` needs. Everything goes again.
#
# The benchmarks run in the lab's network. Ansible is installed on this machine, and
# its Python on the hosts, unless they are there.
set -eu
cd "$(dirname "$0")/../.."
rounds=${ROUNDS:-9}
GO=${GO:-go}
dir=$(mktemp -d)
kthwc=$dir/kthwc
lab() {
	verb=$1
	shift
	"$kthwc" lab "$verb" -f "$dir/cluster.yaml" "$@"
}
end() {
	lab down >/dev/null 2>&1 || lab down || echo "the lab does not go down: $dir" >&2
	rm -rf -- "$dir"
}
trap end EXIT
trap 'exit 130' INT TERM

echo "building" >&2
"$GO" build -o "$kthwc" ./cmd/kthwc
"$GO" test -c -o "$dir/bench.test" ./internal/bench
cp examples/lab.yaml "$dir/cluster.yaml"
lab up >/dev/null
config=$dir/lab.kthwc/lab/ssh_config
hosts=$(sed -n 's/^Host \([^ ]*\) .*/\1/p' "$config")

# measure BENCHMARK ROUNDS
measure() {
	(cd internal/bench && lab exec -- env KTHWC_BENCH_SSH_CONFIG="$config" "$dir/bench.test" -test.run '^$' -test.bench "^$1\$" -test.benchtime "$2x" -test.timeout 2h)
}

# python gives every host the Python that Ansible's modules need. The hosts reach no
# archive, so this machine fetches the packages.
python() {
	missing=
	for host in $hosts; do lab exec "$host" -- sh -c 'command -v python3 >/dev/null' || missing="$missing $host"; done
	[ -n "$missing" ] || return 0
	mkdir -p "$dir/python/root"
	packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances python3-minimal libpython3-stdlib |
		grep -E '^((lib)?python3|libexpat1$|libsqlite3-0$|libreadline8$|libffi8$|libnsl2$|libtirpc3$)')
	# shellcheck disable=SC2086 # they are words
	(cd "$dir/python" && apt-get download -q $packages >/dev/null 2>&1)
	for package in "$dir"/python/*.deb; do dpkg -x "$package" "$dir/python/root"; done
	for host in $missing; do
		(cd "$dir/python/root" && tar -c -- *) | lab exec "$host" -- tar -x --keep-directory-symlink -C /
		lab exec "$host" -- python3 -c 'import json, zipfile, hashlib'
	done
}

measure BenchmarkLabNothing "$rounds"
measure BenchmarkLabFirst "$rounds"
(cd internal/bench && "$dir/bench.test" -test.run '^$' -test.bench '^BenchmarkCrowd$' -test.benchtime 3x)
if ! command -v ansible-playbook >/dev/null; then
	apt-get install -y -q --no-install-recommends ansible-core >/dev/null || {
		echo "Ansible is not here and cannot be installed: it is not measured" >&2
		exit 1
	}
fi
python
measure BenchmarkLabAnsible "${ANSIBLE_ROUNDS:-7}"
