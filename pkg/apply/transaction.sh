# One transaction on one host. Arguments: what to do, the directory that is
# taken for / (empty on real hosts), and a generation.
#
#   stage N     standard input is a tar of the generation: "entries", a list, and
#               "content/INDEX" for regular files; nothing outside the
#               generation's directory is touched
#   install N   save what is there, then put every entry in its place
#   commit N    the generation is what this host shall be from now on
#   rollback N  put back what install saved; safe to repeat
#   recover     roll back whatever was begun and not committed
#
# The journal has one word of progress per generation, each replaced in one
# step. A path is at any moment what it was or what it shall be. "entries" has
# one line per path, parents before what is in them, with tabs: index, kind (file,
# dir, symlink, absent, or parent: a directory that is made only if it is
# missing), mode, owner, group, SHA-256 or -, path, and a link's target.
set -eu
umask 077
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
do=$1 root=$2 n=${3:-}
base=$root/var/lib/kthwc
tab=$(printf '\t')

mkdir -p "$base/gen" "$base/journal"
exec 9>"$base/lock"
flock -n 9 || { echo "another apply is at work on this host" >&2; exit 75; }

# note GENERATION WORD: progress, in one step.
note() {
	printf '%s\n' "$2" >"$base/journal/.$1"
	sync -- "$base/journal/.$1"
	mv -T -- "$base/journal/.$1" "$base/journal/$1"
	sync -- "$base/journal"
}

progress() { cat "$base/journal/$1" 2>/dev/null || echo none; }

# each FUNCTION FILE: call it with the fields of every line.
each() {
	while IFS=$tab read -r index kind mode owner group sum path target; do
		"$1"
	done <"$2"
}

verify() {
	[ "$kind" = file ] || return 0
	[ "$(sha256sum <"$dir/content/$index")" = "$sum  -" ] || { echo "$path did not arrive whole" >&2; exit 65; }
	sync -- "$dir/content/$index"
}

stage() {
	[ "$(progress "$n")" = none ] || { echo "generation $n exists already" >&2; exit 65; }
	dir=$base/gen/$n.new
	rm -rf "$dir" "$base/gen/$n"
	mkdir "$dir"
	tar -x -C "$dir" --no-same-owner --no-same-permissions
	[ -f "$dir/end" ] || { echo "the generation did not arrive whole" >&2; exit 65; }
	each verify "$dir/entries"
	sync -- "$dir/entries" "$dir/content" "$dir"
	mv -T -- "$dir" "$base/gen/$n"
	sync -- "$base/gen"
	note "$n" staged
}

# save keeps what is at a path: nothing, or a copy with its owner and mode.
save() {
	at=$root$path
	[ -e "$at" ] || [ -L "$at" ] || return 0
	if [ -d "$at" ] && [ ! -L "$at" ]; then
		stat -c "%a$tab%U$tab%G" -- "$at" >"$saved/$index.dir"
		sync -- "$saved/$index.dir"
		return 0
	fi
	cp -a -T -- "$at" "$saved/$index"
	[ -L "$saved/$index" ] || sync -- "$saved/$index"
}

# place FILE AT: replace a path by a file in one step.
place() {
	[ -L "$1" ] || sync -- "$1"
	mv -T -- "$1" "$2"
	sync -- "${2%/*}"
}

put() {
	at=$root$path
	temp=${at%/*}/.kthwc-$n-$index
	case $kind in
	parent)
		[ -d "$at" ] || mkdir -m 0755 -- "$at"
		sync -- "${at%/*}"
		;;
	dir)
		[ -d "$at" ] || mkdir -- "$at"
		chown -- "$owner:$group" "$at"
		chmod -- "$mode" "$at"
		sync -- "${at%/*}"
		;;
	file)
		cp -T -- "$dir/content/$index" "$temp"
		chown -- "$owner:$group" "$temp"
		chmod -- "$mode" "$temp"
		place "$temp" "$at"
		;;
	symlink)
		rm -f -- "$temp"
		ln -s -- "$target" "$temp"
		place "$temp" "$at"
		;;
	absent)
		[ ! -e "$at" ] && [ ! -L "$at" ] && return 0
		rm -f -- "$at"
		sync -- "${at%/*}"
		;;
	esac
}

install() {
	dir=$base/gen/$n saved=$base/gen/$n/saved
	case $(progress "$n") in
	staged)
		rm -rf "$saved"
		mkdir "$saved"
		each save "$dir/entries"
		sync -- "$saved"
		note "$n" installing
		;;
	installing) ;;
	*)
		echo "generation $n is $(progress "$n")" >&2
		exit 65
		;;
	esac
	each put "$dir/entries"
	note "$n" installed
}

# restore puts back what save kept.
restore() {
	at=$root$path
	temp=${at%/*}/.kthwc-$n-$index
	rm -f -- "$temp"
	if [ -f "$saved/$index.dir" ]; then
		[ -d "$at" ] || mkdir -- "$at"
		IFS=$tab read -r mode owner group <"$saved/$index.dir"
		chown -- "$owner:$group" "$at"
		chmod -- "$mode" "$at"
	elif [ -e "$saved/$index" ] || [ -L "$saved/$index" ]; then
		cp -a -T -- "$saved/$index" "$temp"
		place "$temp" "$at"
	elif [ "$kind" = dir ] || [ "$kind" = parent ]; then
		if [ -d "$at" ]; then rmdir --ignore-fail-on-non-empty -- "$at"; fi
	elif [ -e "$at" ] || [ -L "$at" ]; then
		rm -f -- "$at"
		sync -- "${at%/*}"
	fi
}

rollback() {
	dir=$base/gen/$n saved=$base/gen/$n/saved
	case $(progress "$n") in
	none | staged | rolled-back) ;;
	committed)
		echo "generation $n is committed" >&2
		exit 65
		;;
	*)
		tac "$dir/entries" >"$dir/reversed"
		each restore "$dir/reversed"
		;;
	esac
	[ ! -d "$dir" ] || note "$n" rolled-back
}

commit() {
	[ "$(progress "$n")" = installed ] || { echo "generation $n is $(progress "$n")" >&2; exit 65; }
	cp -T -- "$base/gen/$n/record" "$base/.confirmed"
	place "$base/.confirmed" "$base/confirmed"
	note "$n" committed
}

recover() {
	for file in "$base"/journal/*; do
		[ -e "$file" ] || continue
		n=${file##*/}
		case $(progress "$n") in
		committed | rolled-back) ;;
		*)
			if [ "$(sed -n 's/.*"generation":\([0-9]*\).*/\1/p' "$base/confirmed" 2>/dev/null)" = "$n" ]; then
				note "$n" committed
			else
				rollback
			fi
			;;
		esac
	done
}

case $do in
stage | install | commit | rollback | recover) "$do" ;;
*)
	echo "no such step: $do" >&2
	exit 64
	;;
esac
