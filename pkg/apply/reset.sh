# Makes a host bare again. Arguments: the directory that is taken for / (empty on
# real hosts), the epoch of whoever holds the host, and "etcd" and its data
# directory, if that shall go too. Standard input names what was put here, one a
# line with a tab: "unit NAME", "block PATH" for files that others write too, or
# "path PATH". Safe to repeat. Directories go when they
# are empty and nothing is mounted there; what others put there stays.
set -eu
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
root=$1 epoch=$2
base=$root/var/lib/kthwc
[ "$epoch" = "$(cat "$base/epoch" 2>/dev/null)" ] || { echo "somebody else has taken this host over" >&2; exit 76; }
list=$(mktemp)
trap 'rm -f -- "$list"' EXIT
cat >"$list"
tab=$(printf '\t')
ctl() { [ -n "$root" ] || systemctl --quiet "$@" 2>/dev/null || true; }

ctl stop kthwc-guard.timer
while IFS=$tab read -r kind name; do
	[ "$kind" != unit ] || ctl disable --now "$name"
done <"$list"

# Pods outlive the kubelet and the runtime: their processes, mounts and links.
if [ -z "$root" ]; then
	for dir in /sys/fs/cgroup/kubepods* /sys/fs/cgroup/*/kubepods* /sys/fs/cgroup/*/kubepods.slice /sys/fs/cgroup/kubepods.slice /sys/fs/cgroup/*/k8s.io /sys/fs/cgroup/k8s.io; do
		[ -d "$dir" ] || continue
		find "$dir" -name cgroup.procs -exec cat {} + 2>/dev/null | tr "\n" "\0" | xargs -r -0 kill -s KILL 2>/dev/null || true
	done
	pkill -KILL -f '^/[^ ]*containerd-shim-runc-v2 -namespace k8s.io' || true
	sleep 0.5
	awk '$2 ~ "^/var/lib/kubelet/" || $2 ~ "^/run/containerd/" || $2 ~ "^/run/netns/cni-" { print $2 }' /proc/mounts | sort -r | while read -r at; do umount -l -- "$at" || true; done
	for link in cnio0 cni0; do ip link delete "$link" 2>/dev/null || true; done
	if command -v kube-proxy >/dev/null; then timeout 30 kube-proxy --cleanup >/dev/null 2>&1 || true; fi
	find /var/lib/kubelet /var/lib/containerd /var/lib/cni /run/containerd -mindepth 1 -maxdepth 1 -exec rm -rf -- {} + 2>/dev/null || true
fi

sort -r "$list" | while IFS=$tab read -r kind path; do
	at=$root$path
	case $kind in
	path)
		if [ -d "$at" ] && [ ! -L "$at" ]; then
			mountpoint -q -- "$at" || rmdir --ignore-fail-on-non-empty -- "$at"
		else
			rm -f -- "$at"
		fi
		;;
	block) [ ! -f "$at" ] || sed -i '/^# kthwc: begin\./,/^# kthwc: end\./d' "$at" ;;
	esac
done
if [ "${3:-}" = etcd ]; then rm -rf -- "$root${4:?}"; fi
ctl disable kthwc-recover.service
rm -f -- "$root/etc/systemd/system/kthwc-recover.service"
rm -rf -- "$root/opt/kthwc"
ctl daemon-reload
ctl reset-failed
# What says what was here goes last.
find "$base" -mindepth 1 -maxdepth 1 ! -name held ! -name epoch ! -name owner ! -name lock -exec rm -rf -- {} +
sync -- "$base"
