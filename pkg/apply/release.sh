# Takes a host away from an operator who is gone. The owner is asked for a sign
# of life through the connection that holds the host; one who answers keeps it.
# Arguments: the directory that is taken for / (empty on real hosts), and how many
# seconds to wait. Says "free", "alive OWNER" or "released OWNER".
set -u
umask 077
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
base=$1/var/lib/kthwc
[ -d "$base" ] || { echo free; exit 0; }
exec 8>>"$base/held"
if flock -n 8; then
	rm -f -- "$base/owner"
	echo free
	exit 0
fi
owner=$(sed -n 2p "$base/owner" 2>/dev/null) pid=$(sed -n 1p "$base/owner" 2>/dev/null)
rm -f -- "$base/alive"
kill -s USR1 "$pid" 2>/dev/null
left=$(($2 * 10))
while [ "$left" -gt 0 ]; do
	if [ -e "$base/alive" ]; then
		echo "alive $owner"
		exit 75
	fi
	if flock -n 8; then break; fi
	sleep 0.1
	left=$((left - 1))
done
# Steps of the old owner that are on their way must find another epoch.
printf '%s\n' "$(($(cat "$base/epoch" 2>/dev/null || echo 0) + 1))" >"$base/.epoch" && sync -- "$base/.epoch" && mv -T -- "$base/.epoch" "$base/epoch" && sync -- "$base" || exit 1
kill -s KILL "$pid" 2>/dev/null
flock -w 5 8 || { echo "the process $pid still holds the host" >&2; exit 1; }
rm -f -- "$base/owner"
echo "released $owner"
