# One transaction on one host. Arguments: what to do, the directory that is
# taken for / (empty on real hosts), a generation, the epoch of whoever holds
# the host ("-" for what the host does by itself), and what the step needs.
#
#   stage N     standard input is a tar of the generation: "entries" and "units",
#               two lists, "content/SLOT/NAME" for files and links, "record";
#               nothing outside the generation's directory is touched
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
# one line per path with tabs: index, slot (a number for each directory that gets
# files or links, or -), kind (file, dir, symlink, absent, or parent: a directory
# that is made only if it is missing), mode, owner, group, SHA-256 or -, path, and a
# link's target. Directories come first, parents before what is in them, then files
# and links, those of a directory together, then what shall go. "units" has what is
# done to each unit, a tab, and its name.
#
# Starting a program costs more than most of what it then does: so each is started
# for as many paths as possible, and what the shell can do by itself it does.
set -eu
umask 077
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
do=$1 root=$2 n=${3:-} epoch=${4:--}
base=$root/var/lib/kthwc
tab=$(printf '\t')
timer=kthwc-guard

if ! [ -d "$base/gen" ] || ! [ -d "$base/journal" ]; then mkdir -p "$base/gen" "$base/journal"; fi
exec 9>"$base/lock"
# What was cut off may be ending still; the timer and the boot wait longer.
case $do in guard | boot) patience=300 ;; *) patience=10 ;; esac
flock -w "$patience" 9 || { echo "another step of an apply is at work on this host" >&2; exit 75; }
# first FILE WORD: sets word to the first line of a file, or to WORD without one.
first() {
	word=
	if [ -f "$1" ]; then read -r word <"$1" || true; fi
	[ -n "$word" ] || word=$2
}

first "$base/epoch" none
if [ "$epoch" != - ] && [ "$epoch" != "$word" ]; then
	echo "somebody else has taken this host over" >&2
	exit 76
fi

# ctl is systemctl; a directory that stands for a host has none.
ctl() { [ -n "$root" ] || systemctl --quiet "$@"; }

# enable_unit has systemd read all of its files again, which is not for nothing.
enable_unit() { [ -n "$root" ] || [ "$(systemctl is-enabled "$1" 2>/dev/null)" = enabled ] || ctl enable "$1"; }

# note GENERATION WORD: progress, in one step.
note() {
	echo "$2" | cat >"$base/journal/.$1" # which says why it cannot, unlike a shell
	sync -- "$base/journal/.$1"
	mv -T -- "$base/journal/.$1" "$base/journal/$1"
	sync -- "$base/journal"
}

# mark is note where a power cut may leave the word before: nothing hangs on which.
# It may not leave an empty file, which says that nothing was begun.
mark() {
	echo "$2" | cat >"$base/journal/.$1"
	sync -- "$base/journal/.$1"
	mv -T -- "$base/journal/.$1" "$base/journal/$1"
}

# progress GENERATION: sets word.
progress() { first "$base/journal/$1" none; }

# all COMMAND: runs it, which is words, with the paths that standard input has, one a
# line, as many at once as surely fit on a command line; not at all if there are none.
all() {
	todo=$1
	while :; do
		set --
		while [ $# -lt 200 ] && IFS= read -r line; do set -- "$@" "$line"; done
		[ $# -gt 0 ] || return 0
		$todo "$@"
	done
}

# settle PATH: what was done to a name in its directory is on the disk.
settle() {
	above=${1%/*}
	sync -- "${above:-/}"
}

# each FUNCTION FILE: call it with the fields of every line.
each() {
	# shellcheck disable=SC2034 # the functions use them
	while IFS=$tab read -r index slot kind mode owner group sum path target; do
		"$1"
	done <"$2"
}

# verify makes sure that contents are what they shall be, and names one that is not.
verify() {
	if (cd "$dir" && each sums entries | sha256sum -c --status --strict 2>/dev/null); then return 0; fi
	each whole "$dir/entries"
}

sums() { [ "$kind" != file ] || printf '%s  content/%s/%s\n' "$sum" "$slot" "${path##*/}"; }

whole() {
	[ "$kind" = file ] || return 0
	[ "$(sha256sum <"$dir/content/$slot/${path##*/}")" = "$sum  -" ] || { echo "$path did not arrive whole" >&2; exit 65; }
}

stage() {
	progress "$n"
	[ "$word" = none ] || { echo "generation $n exists already" >&2; exit 65; }
	dir=$base/gen/$n.new
	rm -rf -- "$base"/gen/*.new "$base/gen/$n"
	trap 'rm -rf -- "$dir"' EXIT # a disk that was too small is as full as before
	mkdir "$dir"
	said=$(tar -x -C "$dir" --no-same-owner --no-same-permissions 2>&1) || { printf '%s\n' "$said" | grep -v 'Exiting with failure' | tail -n 1 >&2; exit 65; }
	[ -f "$dir/end" ] || { echo "the generation did not arrive whole" >&2; exit 65; }
	verify
	# What undoes the generation must be on the disk, not what it brings: after a
	# power cut nobody goes on with it.
	sync -- "$dir/entries" "$dir/units" "$dir/record" "$dir/script" "$dir"
	mv -T -- "$dir" "$base/gen/$n"
	trap - EXIT
	sync -- "$base/gen"
	mark "$n" staged
}

# sound refuses to write through what others may exchange: what is above a path
# must be directories of root's, or links of root's to such; a directory of ours
# is no link at all.
sound() {
	mounts=$(echo; cut -d ' ' -f 5 /proc/self/mountinfo; echo .)
	each plain "$dir/entries"
	unsafe=$(cd "${root:-/}" && { each parents "$dir/entries" | all shared; each linked "$dir/entries" | all foreign; })
	[ -n "$unsafe" ] || return 0
	printf "%s is not root's alone: nothing is written below it\n" "${unsafe#.}" | head -n 1 >&2
	exit 65
}

# parents are the directories that are there already.
parents() { if [ "$kind" = parent ] && [ -d ".$path" ]; then printf '.%s\n' "$path"; fi; }

linked() { if [ "$kind" = parent ] && [ -L ".$path" ]; then printf '.%s\n' "$path"; fi; }

# shared prints directories that others than root may change, foreign links that
# others have made.
shared() { find -L "$@" -maxdepth 0 '(' ! -uid 0 -o -perm -002 ')'; }
foreign() { find "$@" -maxdepth 0 ! -uid 0; }

# plain says of one path whether it can be replaced, or written below.
plain() {
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
}

# save keeps what is at a path: nothing, or a copy with its owner and mode. Of a
# parent it is enough to know that it is there.
save() {
	at=$root$path
	[ -e "$at" ] || [ -L "$at" ] || return 0
	if [ "$kind" = parent ]; then
		: >"$saved/$index.there"
	elif [ -d "$at" ] && [ ! -L "$at" ]; then
		stat -c "%a$tab%U$tab%G" -- "$at" >"$saved/$index.dir"
	else
		cp -a -T -- "$at" "$saved/$index"
	fi
}

# kept are the files that save has made.
kept() {
	for file in "$saved/$index" "$saved/$index.dir"; do
		if [ -e "$file" ] && [ ! -L "$file" ]; then printf '%s\n' "$file"; fi
	done
}

# place FILE AT: replace a path by a file in one step.
place() {
	[ -L "$1" ] || sync -- "$1"
	mv -T -- "$1" "$2"
	settle "$2"
}

# put makes every path what it shall be: directories first; then contents come
# beside their places and to the disk; then each path is replaced in one step; then
# the directories are on the disk, too. Paths are relative to / here.
put() {
	cd "${root:-/}"
	missing='' owners='' modes=''
	each arrange "$dir/entries"
	printf %s "$missing" | all "mkdir -m 0755 --"
	each clear "$dir/entries"
	each besides "$dir/entries" | all "mkdir --"
	together bring
	for access in $owners; do each owned "$dir/entries" | all "chown -- $access"; done
	for access in $modes; do each moded "$dir/entries" | all "chmod -- $access"; done
	each contents "$dir/entries" | all "sync --"
	together move
	each besides "$dir/entries" | all "rmdir --"
	each gone "$dir/entries" | all "rm -f --"
	{
		printf %s "$missing"
		each touched "$dir/entries"
	} | all "sync --"
}

# arrange finds which directories are missing, and which owners and modes there are.
arrange() {
	case $kind in
	parent) [ -d ".$path" ] || missing="$missing.$path
" ;;
	dir | file)
		if [ "$kind" = dir ] && [ ! -d ".$path" ]; then missing="$missing.$path
"; fi
		case " $owners" in *" $owner:$group "*) ;; *) owners="$owners$owner:$group " ;; esac
		case " $modes" in *" $mode "*) ;; *) modes="$modes$mode " ;; esac
		;;
	esac
}

# waiting sets in to the directory of a path, and temp to where contents wait to be
# moved into it: a directory of the same file system, that only root looks into.
waiting() { in=.${path%/*} temp=.${path%/*}/.kthwc-$n; }

# ours prints what has an owner and a mode: a directory, or a file that waits.
ours() {
	waiting
	case $kind in
	dir) printf '.%s\n' "$path" ;;
	file) printf '%s\n' "$temp/${path##*/}" ;;
	esac
}

owned() { [ "$owner:$group" != "$access" ] || ours; }
moded() { [ "$mode" != "$access" ] || ours; }
contents() { [ "$kind" != file ] || ours; }
gone() { if [ "$kind" = absent ] && { [ -e ".$path" ] || [ -L ".$path" ]; }; then printf '.%s\n' "$path"; fi; }

# touched are the directories in which something has changed, those of a directory
# that was made among them.
touched() {
	waiting
	case $kind in
	dir) printf '.%s\n%s\n' "$path" "$in" ;;
	parent) case "
$missing" in *"
.$path
"*) printf '%s\n' "$in" ;; esac ;;
	absent) [ ! -d "$in" ] || printf '%s\n' "$in" ;;
	*)
		[ "$in" = "${before-}" ] || printf '%s\n' "$in"
		before=$in
		;;
	esac
}

# together FUNCTION: calls it for each directory that gets files or links, with
# their names in the generation.
together() {
	last=
	todo=$1
	set --
	while IFS=$tab read -r _ slot kind _ _ _ _ path _; do
		case $kind in file | symlink) ;; *) continue ;; esac
		waiting
		if [ "$in" != "$last" ]; then
			[ $# = 0 ] || "$todo" "$last" "$@"
			set --
			last=$in
		fi
		set -- "$@" "$dir/content/$slot/${path##*/}"
	done <"$dir/entries"
	[ $# = 0 ] || "$todo" "$last" "$@"
}

# bring copies contents to where they wait.
bring() {
	beside=$1/.kthwc-$n
	shift
	cp -d -t "$beside" -- "$@"
}

# move replaces paths by what waits, each in one step.
move() {
	to=$1
	shift
	for content; do
		set -- "$@" "$to/.kthwc-$n/${content##*/}"
		shift
	done
	mv -f -t "$to" -- "$@"
}

# besides are the directories where contents wait.
besides() {
	waiting
	case $kind in file | symlink) ;; *) return 0 ;; esac
	[ "$in" = "${before-}" ] || printf '%s
' "$temp"
	before=$in
}

# arm makes sure that what follows is undone without us: a program of its own
# on the host, a unit that runs it at the next boot, and a timer.
arm() {
	progress "$n"
	case $word in
	staged | installing | installed) ;;
	*)
		echo "generation $n is $word" >&2
		exit 65
		;;
	esac
	if ! cmp -s "$base/gen/$n/script" "$base/recover"; then
		cp -T -- "$base/gen/$n/script" "$base/.recover"
		place "$base/.recover" "$base/recover"
	fi
	[ -z "$root" ] || return 0
	# Only the boot reads the unit and the link to it: systemd need not know now.
	units=/etc/systemd/system
	unit=$units/kthwc-recover.service
	if ! boot_unit | cmp -s - "$unit"; then
		boot_unit >"$unit.kthwc"
		chmod 0644 -- "$unit.kthwc"
		place "$unit.kthwc" "$unit"
	fi
	if ! [ -L $units/sysinit.target.wants/kthwc-recover.service ]; then
		ctl --no-reload enable kthwc-recover.service
		sync -- $units/sysinit.target.wants $units
	fi
	if ctl is-active $timer.timer; then
		ctl restart $timer.timer
		return 0
	fi
	set -- systemd-run --quiet --unit=$timer --on-active="$1" --timer-property=AccuracySec=100ms /bin/sh "$base/recover" guard "" "$n"
	"$@" 2>/dev/null && return 0
	ctl reset-failed $timer.service 2>/dev/null || true # of an earlier one
	"$@"
}

# disarm: a timer that goes off all the same finds nothing to undo.
disarm() {
	[ -n "$root" ] || ctl stop $timer.timer 2>/dev/null || true
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
	set --
	while IFS=$tab read -r _ unit; do set -- "$@" "$unit"; done <"$dir/units"
	states "$@" | cat >"$saved/units"
}

# states prints each unit, whether it is active, and whether it is enabled or
# cannot be.
states() {
	[ $# -gt 0 ] || return 0
	if [ -n "$root" ]; then
		printf "%s${tab}active${tab}enabled\n" "$@"
		return 0
	fi
	active=inactive enabled=disabled
	{ systemctl show -p ActiveState,UnitFileState -- "$@"; echo; } | while IFS= read -r line; do
		case $line in
		ActiveState=active | ActiveState=reloading) active=active ;;
		UnitFileState=enabled* | UnitFileState=static | UnitFileState=alias | UnitFileState=indirect | UnitFileState=generated) enabled=enabled ;;
		'')
			printf '%s\t%s\t%s\n' "$1" "$active" "$enabled"
			active=inactive enabled=disabled
			shift
			;;
		esac
	done
}

install() {
	dir=$base/gen/$n saved=$base/gen/$n/saved
	progress "$n"
	case $word in
	staged)
		verify
		sound
		rm -rf "$saved"
		mkdir "$saved"
		each save "$dir/entries"
		each kept "$dir/entries" | all "sync --"
		keep
		if [ -f "$base/confirmed" ]; then cp -T -- "$base/confirmed" "$saved/confirmed"; fi
		sync -- "$saved/units" "$saved"
		echo "$n" | cat >"$base/unconfirmed"
		sync -- "$base/unconfirmed" "$base"
		note "$n" installing
		;;
	installing) ;;
	*)
		echo "generation $n is $word" >&2
		exit 65
		;;
	esac
	while IFS=$tab read -r verb unit; do
		if [ "$verb" = stop ]; then ctl disable --now "$unit" || ctl stop "$unit"; fi
	done <"$dir/units"
	put
	if [ -s "$dir/units" ]; then ctl daemon-reload; fi
	mark "$n" installed
}

act() {
	progress "$n"
	[ "$word" = installed ] || { echo "generation $n is $word" >&2; exit 65; }
	[ -z "$root" ] || return 0
	systemctl show -p InvocationID --value "$2"
	ctl reset-failed "$2" 2>/dev/null || true
	case $1 in
	start) enable_unit "$2" && ctl --no-block start "$2" ;;
	restart) ctl --no-block restart "$2" ;;
	enable) enable_unit "$2" ;;
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

# clear removes what waits beside a path.
clear() {
	at=$root${path%/*}/.kthwc-$n
	if [ -e "$at" ] || [ -L "$at" ]; then rm -rf -- "$at"; fi
}

# restore puts back what save kept.
restore() {
	at=$root$path
	temp=${at%/*}/.kthwc-$n-$index
	rm -f -- "$temp"
	if [ -f "$saved/$index.there" ]; then
		return 0
	elif [ -f "$saved/$index.dir" ]; then
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
		[ "$enabled" != enabled ] || enable_unit "$unit" || true
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
	each clear "$dir/entries"
	quieten
	tac "$dir/entries" >"$dir/reversed"
	each restore "$dir/reversed"
	awaken
}

rollback() {
	dir=$base/gen/$n saved=$base/gen/$n/saved
	progress "$n"
	case $word in
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
	progress "$n"
	[ "$word" = none ] || note "$n" rolled-back
	rm -rf -- "$dir"
	rm -f -- "$base/unconfirmed"
	[ "$do" = guard ] || disarm
}

# revert undoes the generation that was committed last; what the host was before
# is then what it shall be.
revert() {
	dir=$base/gen/$n saved=$base/gen/$n/saved
	progress "$n"
	case $word in
	committed)
		[ "$(confirmed)" = "$n" ] || { echo "generation $n is not the last: it is $(confirmed)" >&2; exit 65; }
		[ -d "$saved" ] || { echo "generation $n was not kept" >&2; exit 65; }
		note "$n" reverting
		;;
	reverting) ;;
	*)
		echo "generation $n is $word" >&2
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
	progress "$n"
	case $word in
	installed)
		cp -T -- "$base/gen/$n/record" "$base/.confirmed"
		place "$base/.confirmed" "$base/confirmed"
		note "$n" committed
		;;
	committed) ;;
	*)
		echo "generation $n is $word" >&2
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
		progress "$n"
		case $word in
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
	progress "$n"
	case $word in
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
