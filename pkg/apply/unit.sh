# What a unit is, and what is done on a host beside its files. Arguments: what, and
# what it needs.
#
#   show UNIT       its state, as systemctl has it
#   since UNIT…     whether each runs, and since when
#   begin UNIT      start it, however often it has ended; do not wait for it
#   log UNIT N      the last lines of its log
#   user NAME HOME  a system user that nobody logs in as, unless there is one
#   packages NAME…  packages of the system, from wherever the host gets them
#   image PATH REF  give an archive to the container runtime, and keep the image from
#                   the kubelet, which removes what no pod uses when space is short
#   unpin REF…      images of ours that are not these are left to the kubelet again
#   sweep PATH…     remove programs and archives of images that are neither among
#                   these nor led to by a link of this generation or the one before
set -u
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
DEBIAN_FRONTEND=noninteractive
export LC_ALL PATH DEBIAN_FRONTEND
do=$1
shift
case $do in
show) systemctl show -p ActiveState,SubState,Result,InvocationID,NRestarts,ExecMainStatus -- "$1" ;;
since) systemctl show -p Id,ActiveState,ExecMainStartTimestampMonotonic -- "$@" ;;
begin)
	systemctl reset-failed -- "$1" 2>/dev/null
	systemctl start --no-block -- "$1"
	;;
log) journalctl -u "$1" -n "$2" --no-pager -o cat 2>/dev/null ;;
user) getent passwd "$1" >/dev/null || useradd --system --user-group --no-create-home --home-dir "$2" --shell /usr/sbin/nologin -- "$1" ;;
packages)
	apt-get install -y -q --no-install-recommends -- "$@" >&2 && exit 0
	apt-get update -q >&2 && apt-get install -y -q --no-install-recommends -- "$@" >&2
	;;
sweep)
	base=/var/lib/kthwc
	[ -d /opt/kthwc ] || exit 0
	printf '%s\n' "$@" >"$base/.kept"
	cat "$base"/gen/*/record "$base"/gen/*/saved/confirmed "$base/confirmed" 2>/dev/null | grep -o '"/opt/kthwc/[^"]*"' | tr -d '"' >>"$base/.kept"
	find /opt/kthwc -type f ! -name '.kthwc-*' | grep -vxF -f "$base/.kept" | tr '\n' '\0' | xargs -r -0 rm -f --
	find /opt/kthwc -mindepth 1 -type d -empty -delete
	rm -f -- "$base/.kept"
	;;
image)
	# containerd does not tell systemd when it listens.
	left=150
	until ctr version >/dev/null 2>&1 || [ "$left" = 0 ]; do
		sleep 0.2
		left=$((left - 1))
	done
	ctr -n k8s.io images import --no-unpack=false -- "$1" &&
		ctr -n k8s.io images label "$2" io.cri-containerd.pinned=pinned kthwc.dev/image=ours
	;;
unpin)
	printf '%s\n' "$@" >/run/kthwc-kept-images
	ctr -n k8s.io images ls -q 'labels."kthwc.dev/image"==ours' | grep -vxF -f /run/kthwc-kept-images | while IFS= read -r ref; do
		ctr -n k8s.io images label "$ref" io.cri-containerd.pinned= kthwc.dev/image=
	done
	rm -f /run/kthwc-kept-images
	;;
esac
