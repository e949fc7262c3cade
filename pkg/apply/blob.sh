# Brings one file to a place that is named by its digest: a program, or an
# archive of an image. Arguments: the directory that is taken for / (empty on
# real hosts), the path, its SHA-256, and its mode. The content is standard input.
# What is there already is of the same bytes, and stays.
set -eu
umask 077
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
at=$1$2
dir=${at%/*}
[ -d "$dir" ] || { (umask 022; mkdir -p -- "$dir"); sync -- "$dir" "${dir%/*}" "${dir%/*/*}"; }
temp=$dir/.kthwc-new
exec 9>>"$dir/.kthwc-lock"
flock -w 300 9 || { echo "another upload of $2 is at work" >&2; exit 75; }
trap 'rm -f -- "$temp" "$dir/.kthwc-lock"' EXIT
cat >"$temp"
[ "$(sha256sum <"$temp")" = "$3  -" ] || { echo "$2 did not arrive whole" >&2; exit 65; }
chmod -- "$4" "$temp"
sync -- "$temp"
mv -T -- "$temp" "$at"
sync -- "$dir"
