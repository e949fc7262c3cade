# Says what a host is, and what is at the paths and units that standard input
# names. Changes nothing. Arguments: a word that no output has, and a directory
# to take for / (empty on real hosts). Sections begin with the word; a host that
# did not print "end" has not answered in full.
#
# Standard input is lines: units, packages, users, modules and settings of the
# kernel, files whose text is wanted, and files whose size is wanted, each part
# ended by a dot; then the paths. What is a
# path has the directory that is taken for / before it. Starting a program costs more than
# all else here, so what the shell can read by itself it reads.
set -u
mark=$1 root=$2
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
section() { printf '\n%s %s\n' "$mark" "$1"; }

# fact NAME FILE: the first line of a file.
fact() {
	[ -r "$2" ] || return 0
	IFS= read -r line <"$2" || [ -n "$line" ] || return 0
	printf '%s=%s\n' "$1" "$line"
}

# First where runs stand, and then what they change: what one does meanwhile makes
# this differ from what is seen by whoever holds the host next.
section journal
base=$root/var/lib/kthwc
for file in "$base"/journal/*; do
	[ -f "$file" ] || continue
	IFS= read -r line <"$file"
	printf '%s\t%s\n' "${file##*/}" "$line"
done
[ -f "$base/epoch" ] && IFS= read -r line <"$base/epoch" && printf 'epoch\t%s\n' "$line"
if [ -f "$base/owner" ] && ! flock -n -- "$base/held" true; then
	{ IFS= read -r line && IFS= read -r line; } <"$base/owner" && printf 'owner\t%s\n' "$line"
fi
section units
set --
while IFS= read -r line && [ "$line" != . ]; do set -- "$@" "$line"; done
[ $# = 0 ] || [ ! -d /run/systemd/system ] || systemctl show -p Id,LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,ExecMainStartTimestampMonotonic -- "$@" </dev/null 2>&1
section packages
set --
while IFS= read -r line && [ "$line" != . ]; do set -- "$@" "$line"; done
# shellcheck disable=SC2016 # dpkg-query expands them
[ $# = 0 ] || dpkg-query -W -f '${Package}\t${db:Status-Status}\n' "$@" </dev/null 2>/dev/null
section users
set --
while IFS= read -r line && [ "$line" != . ]; do set -- "$@" "$line"; done
[ $# = 0 ] || getent passwd -- "$@" </dev/null
section modules
while IFS= read -r line && [ "$line" != . ]; do
	[ -z "$root" ] || continue
	if [ -d "/sys/module/$line" ]; then
		echo "loaded $line"
	elif [ -d "/lib/modules/$(uname -r)" ] && command -v modprobe >/dev/null; then
		case $(modprobe -qD -- "$line" </dev/null 2>/dev/null) in
		builtin*) echo "loaded $line" ;;
		?*) echo "loadable $line" ;;
		*) echo "missing $line" ;;
		esac
	fi
done
section settings
# A number there ends for whoever reads it byte by byte, as shells do, after the
# first digit.
set --
while IFS= read -r line && [ "$line" != . ]; do
	if [ -n "$root" ]; then continue; fi
	if [ -e "$line" ]; then set -- "$@" "$line"; else printf '%s\n' "$line"; fi
done
[ $# = 0 ] || grep -sHZ '' -- "$@" </dev/null
section contents
while IFS= read -r line && [ "$line" != . ]; do
	[ -f "$line" ] || continue
	printf '%s\t' "$line"
	head -c 1048577 -- "$line" | base64 -w0
	echo
done
section blobs
set --
while IFS= read -r line && [ "$line" != . ]; do set -- "$@" "$line"; done
[ $# = 0 ] || stat --printf '%s\t%n\0' -- "$@" 2>/dev/null
# For each path seven texts that end with NUL: what it is, mode, owner, group,
# size, a link's target, and the path. Digests of files stand between them. One
# find is for as many paths as surely fit on a command line.
look() {
	while :; do
		set --
		while [ $# -lt 200 ] && IFS= read -r line; do set -- "$@" "$line"; done
		[ $# -gt 0 ] || return 0
		find "$@" -maxdepth 0 -printf '%y\0%m\0%u\0%g\0%s\0%l\0%p\0' -type f -exec sha256sum -z -- {} + </dev/null
	done
}
section paths
{ errors=$(look 2>&1 >&3 3>&-); } 3>&1
section errors
printf '%s\n' "$errors"

section facts
fact boot /proc/sys/kernel/random/boot_id
fact machine "$root/etc/machine-id"
fact hostname /proc/sys/kernel/hostname
fact kernel /proc/sys/kernel/osrelease
fact init /proc/1/comm
fact arch /proc/sys/kernel/arch
[ -r /proc/sys/kernel/arch ] || printf 'arch=%s\n' "$(uname -m)"
printf 'now=%s\n' "$(date +%s)"
while read -r key _ value _; do
	[ "$key" != Uid: ] || { printf 'user=%s\n' "$value"; break; }
done </proc/self/status
if [ -r "$root/etc/os-release" ]; then
	while IFS= read -r line; do
		case $line in ID=* | VERSION_ID=*) printf 'os.%s\n' "$line" ;; esac
	done <"$root/etc/os-release"
fi
state=$root/var/lib/kthwc
[ -d "$state" ] || state=$root/var/lib
stat -f -c 'fs=%T %a %S %c %d %n' -- /sys/fs/cgroup "$state" 2>/dev/null
while read -r device kind _; do
	[ "$kind" = Type ] || printf 'swap=%s\n' "$device"
done </proc/swaps
if [ -r "$root/etc/fstab" ]; then
	while read -r device _ type _; do
		case $device in \#*) ;; *) [ "$type" != swap ] || printf 'fstab=%s\n' "$device" ;; esac
	done <"$root/etc/fstab"
fi
if [ -r "$root/etc/resolv.conf" ]; then
	while read -r key _; do
		[ "$key" != nameserver ] || echo resolver=
	done <"$root/etc/resolv.conf"
fi
for tool in tar flock sync sha256sum systemctl systemd-run; do
	command -v $tool >/dev/null && printf 'tool=%s\n' $tool
done

section images
if [ -z "$root" ] && [ -S /run/containerd/containerd.sock ] && command -v ctr >/dev/null; then
	timeout 10 ctr -n k8s.io images ls -q 2>/dev/null
fi
section ports
# The files have every connection, and take long to read.
if command -v ss >/dev/null; then
	ss -Hltn | awk '{ sub(/.*:/, "", $4); print $4 }'
else
	awk 'FNR > 1 && $4 == "0A" { sub(/.*:/, "", $2); print "hexadecimal " $2 }' /proc/net/tcp /proc/net/tcp6
fi 2>/dev/null
section confirmed
cat "$base/confirmed" 2>/dev/null
section end
