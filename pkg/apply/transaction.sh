# One transaction on one host. Arguments: what to do, the directory that is
# taken for / (empty on real hosts), a generation, the epoch of whoever holds
# the host ("-" for what the host does by itself), and what the step needs.
#
#   stage N     standard input is a tar of the generation: "entries" and "units",
#               two lists, "content/INDEX" for regular files, "record"; nothing
#               outside the generation's directory is touched
#   arm N T     from now on a timer undoes the generation after T seconds, and a
#               unit at boot, unless it is committed; again: T seconds from now
#   install N   save what is there, stop what shall go, put every entry in its
#               place, and let systemd read its files again
#   act N VERB UNIT  start, restart or enable one unit, and do not wait for it;
#               prints the invocation that it had before
#   commit N    the generation is what this host shall be from now on
#   rollback N  put back what install saved, units included; safe to repeat
#   revert N    the same with the generation that was committed last; prints how
#               each of its units was before it, and its invocation until now
#   recover     roll back whatever was begun and not committed
#   guard N     what the timer does: rollback, unless it is committed
#   boot        what the unit at boot does: recover, before anything is started
#
# The journal has one word of progress per generation, each replaced in one
# step. A path is at any moment what it was or what it shall be. "entries" has
# one line per path, parents before what is in them, with tabs: index, kind (file,
# dir, symlink, absent, or parent: a directory that is made only if it is
# missing), mode, owner, group, SHA-256 or -, path, and a link's target.
# "units" has what is done to each unit, a tab, and its name.
set -eu
umask 077
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
do=$1 root=$2 n=${3:-} epoch=${4:--}
base=$root/var/lib/kthwc
tab=$(printf '\t')
timer=kthwc-guard

mkdir -p "$base/gen" "$base/journal"
exec 9>"$base/lock"
# What was cut off may be ending still; the timer and the boot wait longer.
case $do in guard | boot) patience=300 ;; *) patience=10 ;; esac
flock -w "$patience" 9 || { echo "another step of an apply is at work on this host" >&2; exit 75; }
if [ "$epoch" != - ] && [ "$epoch" != "$(cat "$base/epoch" 2>/dev/null)" ]; then
	echo "somebody else has taken this host over" >&2
	exit 76
fi

# ctl is systemctl; a directory that stands for a host has none.
ctl() { [ -n "$root" ] || systemctl --quiet "$@"; }

# enable has systemd read all of its files again, which is not for nothing.
enable() { [ -n "$root" ] || [ "$(systemctl is-enabled "$1" 2>/dev/null)" = enabled ] || ctl enable "$1"; }

# note GENERATION WORD: progress, in one step.
note() {
	echo "$2" | cat >"$base/journal/.$1" # which says why it cannot, unlike a shell
	sync -- "$base/journal/.$1"
	mv -T -- "$base/journal/.$1" "$base/journal/$1"
	sync -- "$base/journal"
}

progress() { cat "$base/journal/$1" 2>/dev/null || echo none; }

# settle PATH: what was done to a name in its directory is on the disk.
settle() {
	above=${1%/*}
	sync -- "${above:-/}"
}

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
	rm -rf -- "$base"/gen/*.new "$base/gen/$n"
	trap 'rm -rf -- "$dir"' EXIT # a disk that was too small is as full as before
	mkdir "$dir"
	said=$(tar -x -C "$dir" --no-same-owner --no-same-permissions 2>&1) || { printf '%s\n' "$said" | grep -v 'Exiting with failure' | tail -n 1 >&2; exit 65; }
	[ -f "$dir/end" ] || { echo "the generation did not arrive whole" >&2; exit 65; }
	each verify "$dir/entries"
	sync -- "$dir/entries" "$dir/units" "$dir/record" "$dir/script" "$dir/content" "$dir"
	mv -T -- "$dir" "$base/gen/$n"
	trap - EXIT
	sync -- "$base/gen"
	note "$n" staged
}

# sound refuses to write through what others may exchange: what is above a path
# must be directories of root's, or links of root's to such; a directory of ours
# is no link at all.
sound() {
	at=$root$path
	[ -e "$at" ] || [ -L "$at" ] || return 0
	case $kind in
	parent | dir) ;;
	*)
		if [ ! -L "$at" ] && [ ! -f "$at" ] && [ ! -d "$at" ]; then echo "$path is no file, link or directory: nobody else knows what it is for" >&2; exit 65; fi
		case "$mounts" in *"
$at
"*) echo "$path is a mount: it cannot be replaced" >&2; exit 65 ;; esac
		return 0
		;;
	esac
	if [ "$kind" = dir ] && [ -L "$at" ]; then echo "$path is a link, and shall be a directory" >&2; exit 65; fi
	[ -d "$at" ] || { echo "$path is no directory" >&2; exit 65; }
	[ "$kind" = parent ] || return 0
	if [ "$(stat -c %u -- "$at")" != 0 ] || [ "$(stat -L -c %u -- "$at")" != 0 ] || [ -n "$(find "$at/" -prune -perm -002)" ]; then
		echo "$path is not root's alone: nothing is written below it" >&2
		exit 65
	fi
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
	settle "$2"
}

put() {
	at=$root$path
	temp=${at%/*}/.kthwc-$n-$index
	case $kind in
	parent)
		[ -d "$at" ] || mkdir -m 0755 -- "$at"
		settle "$at"
		;;
	dir)
		[ -d "$at" ] || mkdir -- "$at"
		chown -- "$owner:$group" "$at"
		chmod -- "$mode" "$at"
		settle "$at"
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
		settle "$at"
		;;
	esac
}

# arm makes sure that what follows is undone without us: a program of its own
# on the host, a unit that runs it at the next boot, and a timer.
arm() {
	case $(progress "$n") in
	staged | installing | installed) ;;
	*)
		echo "generation $n is $(progress "$n")" >&2
		exit 65
		;;
	esac
	if ! cmp -s "$base/gen/$n/script" "$base/recover"; then
		cp -T -- "$base/gen/$n/script" "$base/.recover"
		place "$base/.recover" "$base/recover"
	fi
	[ -z "$root" ] || return 0
	unit=/etc/systemd/system/kthwc-recover.service
	boot_unit >"$base/.unit"
	if ! cmp -s "$base/.unit" "$unit"; then
		cp -T -- "$base/.unit" "$unit.kthwc"
		chmod 0644 -- "$unit.kthwc"
		place "$unit.kthwc" "$unit"
		ctl daemon-reload
	fi
	rm -f -- "$base/.unit"
	enable kthwc-recover.service
	if ctl is-active $timer.timer; then
		ctl restart $timer.timer
		return 0
	fi
	ctl reset-failed $timer.service 2>/dev/null || true
	systemd-run --quiet --unit=$timer --on-active="$1" --timer-property=AccuracySec=100ms /bin/sh "$base/recover" guard "" "$n"
}

disarm() {
	[ -z "$root" ] || return 0
	if ctl is-active $timer.timer; then ctl stop $timer.timer; fi
}

boot_unit() {
	cat <<EOF
[Unit]
Description=Undo what an apply has not confirmed
DefaultDependencies=no
Conflicts=shutdown.target
RequiresMountsFor=/var/lib/kthwc /etc
After=local-fs.target
Before=sysinit.target shutdown.target
ConditionPathExists=/var/lib/kthwc/unconfirmed

[Service]
Type=oneshot
ExecStart=/bin/sh /var/lib/kthwc/recover boot ""

[Install]
WantedBy=sysinit.target
EOF
}

# keep notes how each unit was before.
keep() {
	while IFS=$tab read -r verb unit; do
		printf '%s\t%s\t%s\n' "$unit" "$(ctl is-active "$unit" && echo active || echo inactive)" "$(ctl is-enabled "$unit" 2>/dev/null && echo enabled || echo disabled)"
	done <"$dir/units" >"$saved/units"
	sync -- "$saved/units"
}

install() {
	dir=$base/gen/$n saved=$base/gen/$n/saved
	case $(progress "$n") in
	staged)
		each verify "$dir/entries"
		mounts=$(echo; cut -d ' ' -f 5 /proc/self/mountinfo; echo .)
		each sound "$dir/entries"
		rm -rf "$saved"
		mkdir "$saved"
		each save "$dir/entries"
		keep
		if [ -f "$base/confirmed" ]; then cp -T -- "$base/confirmed" "$saved/confirmed"; fi
		sync -- "$saved"
		echo "$n" | cat >"$base/unconfirmed"
		sync -- "$base/unconfirmed" "$base"
		note "$n" installing
		;;
	installing) ;;
	*)
		echo "generation $n is $(progress "$n")" >&2
		exit 65
		;;
	esac
	while IFS=$tab read -r verb unit; do
		if [ "$verb" = stop ]; then ctl disable --now "$unit" || ctl stop "$unit"; fi
	done <"$dir/units"
	each put "$dir/entries"
	if [ -s "$dir/units" ]; then ctl daemon-reload; fi
	note "$n" installed
}

act() {
	[ "$(progress "$n")" = installed ] || { echo "generation $n is $(progress "$n")" >&2; exit 65; }
	[ -z "$root" ] || return 0
	systemctl show -p InvocationID --value "$2"
	ctl reset-failed "$2" 2>/dev/null || true
	case $1 in
	start) enable "$2" && ctl --no-block start "$2" ;;
	restart) ctl --no-block restart "$2" ;;
	enable) enable "$2" ;;
	esac
}

# untouched says that what save kept is there still: what cannot be changed was
# not, and need not be put back.
untouched() {
	if [ -L "$saved/$index" ]; then
		[ -L "$at" ] && [ "$(readlink -- "$at")" = "$(readlink -- "$saved/$index")" ]
	else
		[ -f "$at" ] && [ ! -L "$at" ] && cmp -s -- "$saved/$index" "$at" && [ "$(stat -c %a:%u:%g -- "$at")" = "$(stat -c %a:%u:%g -- "$saved/$index")" ]
	fi
}

# restore puts back what save kept.
restore() {
	at=$root$path
	temp=${at%/*}/.kthwc-$n-$index
	rm -f -- "$temp"
	if [ -f "$saved/$index.dir" ]; then
		[ -d "$at" ] || mkdir -- "$at"
		[ "$(stat -c "%a$tab%U$tab%G" -- "$at")" != "$(cat "$saved/$index.dir")" ] || return 0
		IFS=$tab read -r mode owner group <"$saved/$index.dir"
		chown -- "$owner:$group" "$at"
		chmod -- "$mode" "$at"
	elif [ -e "$saved/$index" ] || [ -L "$saved/$index" ]; then
		if untouched; then return 0; fi
		cp -a -T -- "$saved/$index" "$temp"
		place "$temp" "$at"
	elif [ "$kind" = dir ] || [ "$kind" = parent ]; then
		if [ -d "$at" ]; then rmdir --ignore-fail-on-non-empty -- "$at"; fi
	elif [ -e "$at" ] || [ -L "$at" ]; then
		rm -f -- "$at"
		settle "$at"
	fi
}

# quieten stops and disables what did not run before, awaken starts again what
# did. At boot nothing runs yet, but systemd has made its list of what it will
# start from what it found enabled: what is wrong there is taken out, what is
# missing is put in, and waits for its turn.
quieten() {
	[ -f "$saved/units" ] || return 0
	tac "$saved/units" | while IFS=$tab read -r unit active enabled; do
		[ "$enabled" = enabled ] || ctl disable "$unit" 2>/dev/null || true
		[ "$active" = active ] || ctl ${turn:+"$turn"} stop "$unit" 2>/dev/null || true
	done
}

awaken() {
	[ -s "$saved/units" ] || return 0
	ctl daemon-reload
	while IFS=$tab read -r unit active enabled; do
		[ "$enabled" != enabled ] || enable "$unit" || true
		if [ "$active" = active ]; then
			ctl reset-failed "$unit" 2>/dev/null || true
			ctl --no-block "$again" "$unit" || echo "$unit does not start again" >&2
		fi
	done <"$saved/units"
}

undo() {
	turn='' again=restart
	if [ "$do" = boot ]; then turn=--no-block again=start; fi
	rm -rf -- "$dir/content" # there must be space for what is put back
	quieten
	tac "$dir/entries" >"$dir/reversed"
	each restore "$dir/reversed"
	awaken
}

rollback() {
	dir=$base/gen/$n saved=$base/gen/$n/saved
	case $(progress "$n") in
	none | staged | rolled-back) ;;
	committed)
		echo "generation $n is committed" >&2
		exit 77
		;;
	reverting)
		revert
		return 0
		;;
	*) undo ;;
	esac
	[ "$(progress "$n")" = none ] || note "$n" rolled-back
	rm -rf -- "$dir"
	rm -f -- "$base/unconfirmed"
	[ "$do" = guard ] || disarm
}

# revert undoes the generation that was committed last; what the host was before
# is then what it shall be.
revert() {
	dir=$base/gen/$n saved=$base/gen/$n/saved
	case $(progress "$n") in
	committed)
		[ "$(confirmed)" = "$n" ] || { echo "generation $n is not the last: it is $(confirmed)" >&2; exit 65; }
		[ -d "$saved" ] || { echo "generation $n was not kept" >&2; exit 65; }
		note "$n" reverting
		;;
	reverting) ;;
	*)
		echo "generation $n is $(progress "$n")" >&2
		exit 65
		;;
	esac
	while IFS=$tab read -r unit active enabled; do
		printf '%s\t%s\t%s\n' "$unit" "$active" "$([ -n "$root" ] || systemctl show -p InvocationID --value "$unit")"
	done <"$saved/units"
	undo
	if [ -f "$saved/confirmed" ]; then
		cp -T -- "$saved/confirmed" "$base/.confirmed"
		place "$base/.confirmed" "$base/confirmed"
	else
		rm -f -- "$base/confirmed"
		sync -- "$base"
	fi
	note "$n" rolled-back
}

# generation reads the number out of a record.
generation() { sed -n 's/^{"generation":\([0-9]*\).*/\1/p' "$1" 2>/dev/null || true; }

confirmed() { generation "$base/confirmed"; }

# commit keeps what can be reverted to: what this generation replaced, and the
# record of the one before. Contents are on the host already, and secrets among them.
commit() {
	case $(progress "$n") in
	installed)
		cp -T -- "$base/gen/$n/record" "$base/.confirmed"
		place "$base/.confirmed" "$base/confirmed"
		note "$n" committed
		;;
	committed) ;;
	*)
		echo "generation $n is $(progress "$n")" >&2
		exit 65
		;;
	esac
	rm -f -- "$base/unconfirmed"
	disarm
	rm -rf -- "$base/gen/$n/content"
	before=$(generation "$base/gen/$n/saved/confirmed")
	for old in "$base"/gen/*; do
		case ${old##*/} in "$n" | "$before") ;; *) rm -rf -- "$old" ;; esac
	done
	[ -z "$before" ] || rm -rf -- "$base/gen/$before/saved"
}

recover() {
	for file in "$base"/journal/*; do
		[ -e "$file" ] || continue
		n=${file##*/}
		case $(progress "$n") in
		committed | rolled-back) ;;
		reverting) revert ;;
		*)
			if [ "$(confirmed)" = "$n" ]; then
				note "$n" committed
			else
				rollback
			fi
			;;
		esac
	done
	rm -f -- "$base/unconfirmed"
	[ "$do" = boot ] || disarm
}

boot() { recover; }

guard() {
	case $(progress "$n") in
	committed | rolled-back | none) ;;
	*)
		if [ "$(confirmed)" = "$n" ]; then note "$n" committed; else rollback; fi
		;;
	esac
}

case $do in
stage | install | commit | rollback | revert | recover | guard | boot) "$do" ;;
arm) arm "$5" ;;
act) act "$5" "$6" ;;
*)
	echo "no such step: $do" >&2
	exit 64
	;;
esac
