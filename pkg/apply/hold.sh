# Holds a host for one operator for as long as standard input stays open: when
# the connection ends, whatever the reason, the kernel gives the lock back.
# Arguments: the directory that is taken for / (empty on real hosts), and who the
# operator is, for others to read. Says "held EPOCH", or "busy" and the owner.
# Standard input has lines: "epoch N" writes the epoch that steps must have from
# now on, and says in which state the last one has left the host: "epoch N" and
# "GENERATION=WORD" for each generation of the journal; "alive" answers whoever
# asked (see release.sh) whether the owner lives.
set -u
umask 077
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
base=$1/var/lib/kthwc
[ -d "$base" ] || mkdir -p "$base" || exit 1
exec 8>>"$base/held"
if ! flock -n 8; then
	for _ in 1 2 3 4 5 6 7 8 9 10; do # who has it just now writes his name next
		owner=$(sed -n 1p "$base/owner" 2>/dev/null)
		if [ -n "$owner" ] && kill -0 "$owner" 2>/dev/null; then break; fi
		sleep 0.1
	done
	printf 'busy %s\n' "$(sed -n 2p "$base/owner" 2>/dev/null)"
	exit 75
fi
printf '%s\n%s\n' "$$" "$2" >"$base/.owner" && mv -T -- "$base/.owner" "$base/owner" || exit 1
[ ! -e "$base/alive" ] || rm -f -- "$base/alive"
trap 'printf "asked\n"' USR1
epoch=0
if [ -f "$base/epoch" ]; then read -r epoch <"$base/epoch"; fi
printf 'held %s\n' "${epoch:-0}"
# A read that a signal interrupts looks like the end of input in some shells, so
# another process reads, and this one waits for it.
exec 3<&0
while read -r word value; do
	case $word in
	epoch)
		# A step that is under way belongs to the epoch before, and ends first.
		exec 9>>"$base/lock"
		flock -w 15 9 || { echo "a step of an earlier apply is still at work" >&2; exit 1; }
		printf '%s\n' "$value" >"$base/.epoch" && sync -- "$base/.epoch" && mv -T -- "$base/.epoch" "$base/epoch" && sync -- "$base" || exit 1
		exec 9>&-
		journal=
		for file in "$base"/journal/*; do
			if [ -f "$file" ] && IFS= read -r progress <"$file"; then journal="$journal ${file##*/}=$progress"; fi
		done
		printf 'epoch %s%s\n' "$value" "$journal"
		;;
	alive) : >"$base/alive" ;;
	esac
done <&3 8>&- &
reader=$! status=0
while kill -0 "$reader" 2>/dev/null; do
	wait "$reader"
	status=$?
done
rm -f -- "$base/owner"
exit "$status"
