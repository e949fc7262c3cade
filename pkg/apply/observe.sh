# Says what a host is, and what is at the paths and units that standard input
# names. Changes nothing. Arguments: a word that no output has, and a directory
# to take for / (empty on real hosts). Sections begin with the word; a host that
# did not print "end" has not answered in full.
set -u
mark=$1 root=$2
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
section() { printf '\n%s %s\n' "$mark" "$1"; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
# Standard input: five parts, each of texts that end with NUL, cut by a lone dot.
tr '\0' '\n' | awk -v dir="$work" 'BEGIN { part = 1 } $0 == "." { part++; next } { print > (dir "/" part) }'
touch "$work/1" "$work/2" "$work/3" "$work/4" "$work/5"

section facts
printf 'boot=%s\n' "$(cat /proc/sys/kernel/random/boot_id)"
printf 'machine=%s\n' "$(cat "$root/etc/machine-id" 2>/dev/null)"
printf 'hostname=%s\n' "$(uname -n)"
printf 'arch=%s\n' "$(uname -m)"
printf 'kernel=%s\n' "$(uname -r)"
printf 'now=%s\n' "$(date +%s)"
printf 'user=%s\n' "$(id -u)"
printf 'init=%s\n' "$(cat /proc/1/comm)"
printf 'cgroup=%s\n' "$(stat -f -c %T /sys/fs/cgroup)"
sed -n 's/^\(ID\|VERSION_ID\)=/os.\1=/p' "$root/etc/os-release" 2>/dev/null
mkdir=$root/var/lib
[ -d "$root/var/lib/kthwc" ] && mkdir=$root/var/lib/kthwc
df -P -B1 "$mkdir" | awk 'NR == 2 { print "bytes=" $4 }'
df -P -i "$mkdir" | awk 'NR == 2 && $2 > 0 { print "inodes=" $4 }'
awk 'NR > 1 { print "swap=" $1 }' /proc/swaps
printf 'resolvers=%s\n' "$(grep -c '^nameserver' "$root/etc/resolv.conf" 2>/dev/null)"
for tool in tar flock sync sha256sum systemctl systemd-run; do
	command -v $tool >/dev/null && printf 'tool=%s\n' $tool
done

section stat
# shellcheck disable=SC2016 # the inner shell expands them
xargs -r -d '\n' -a "$work/1" sh -c 'root=$1; shift; for p; do set -- "$@" "$root$p"; shift; done; stat --printf "%F\t%a\t%U\t%G\t%s\t%n\0" -- "$@"' sh "$root" 2>"$work/errors"
section errors
cat "$work/errors"
section links
while IFS= read -r p; do
	[ -L "$root$p" ] && printf '%s\t%s\n' "$p" "$(readlink -n -- "$root$p" | base64 -w0)"
done <"$work/1"
section digests
while IFS= read -r p; do
	[ -f "$root$p" ] && [ ! -L "$root$p" ] && printf '%s\0' "$root$p"
done <"$work/1" | xargs -r -0 sha256sum -z -- 2>&1
section contents
while IFS= read -r p; do
	[ -f "$root$p" ] && printf '%s\t%s\n' "$p" "$(head -c 1048577 -- "$root$p" | base64 -w0)"
done <"$work/4"
section blobs
# shellcheck disable=SC2016 # the inner shell expands them
xargs -r -d '\n' -a "$work/5" sh -c 'root=$1; shift; for p; do set -- "$@" "$root$p"; shift; done; stat --printf "%s\t%n\0" -- "$@" 2>/dev/null' sh "$root"
section images
if [ -z "$root" ] && [ -S /run/containerd/containerd.sock ] && command -v ctr >/dev/null; then
	timeout 10 ctr -n k8s.io images ls -q 2>/dev/null
fi
section journal
base=$root/var/lib/kthwc
for file in "$base"/journal/*; do
	[ -f "$file" ] && printf '%s\t%s\n' "${file##*/}" "$(cat "$file")"
done
[ -f "$base/epoch" ] && printf 'epoch\t%s\n' "$(cat "$base/epoch")"
if [ -f "$base/owner" ] && ! flock -n -- "$base/held" true; then printf 'owner\t%s\n' "$(sed -n 2p "$base/owner")"; fi
section units
[ -s "$work/2" ] && xargs -r -d '\n' -a "$work/2" systemctl show -p Id,LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,ExecMainStartTimestampMonotonic -- 2>&1
section packages
# shellcheck disable=SC2016 # dpkg-query expands them
[ -s "$work/3" ] && xargs -r -d '\n' -a "$work/3" dpkg-query -W -f '${Package}\t${db:Status-Status}\n' 2>/dev/null
section users
getent passwd | cut -d: -f1
section ports
awk 'FNR > 1 && $4 == "0A" { print $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null
section confirmed
cat "$root/var/lib/kthwc/confirmed" 2>/dev/null
section end
