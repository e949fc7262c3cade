# One transaction on one host. Arguments: what to do, the directory that is
# taken for / (empty on real hosts), a generation, the epoch of whoever holds
# the host ("-" for what the host does by itself), and what the step needs.
#
#   stage N     standard input is a tar of the generation: "entries", "sums" and
#               "units", three lists, "content/SLOT/NAME" for files and links,
#               "record" and "script"; nothing outside the generation's directory
#               is touched
#   install N T from now on a timer undoes the generation after T seconds, and a
#               unit at boot, unless it is committed; then save what is there, stop
#               what shall go, put every entry in its place, enable what shall be,
#               and let systemd read its files again
#   act N T VERB UNIT  the T seconds begin anew; start or restart one unit, and do not
#               wait for it; prints the invocation that it had before
#   extend N T  the T seconds begin anew
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
# that is made only if it is missing), mode, owner, group, path, and a link's target.
# Directories come first, parents before what is in them, then files and links,
# those of a directory together, then what shall go. "sums" is for sha256sum.
# "units" has what is done to each unit, a tab, and its name.
#
# Starting a program costs more than most of what it then does: so each is started
# for as many paths as possible, and what the shell can do by itself it does. A shell
# reads files byte by byte, so lists are read once and kept in variables, one item a
# line; nothing in them is a pattern.
set -euf
umask 077
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
do=$1 root=$2 n=${3:-} epoch=${4:--}
case $root in '' | /*) ;; *) root=$(cd -- "$root" && pwd -P) ;; esac
base=$root/var/lib/kthwc
tab='	' newline='
' ifs=$IFS
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

# ctl is systemctl; a directory that stands for a host has none. That systemd reads all
# of its files again starts a dozen programs, so it does so once, at the end.
ctl() { [ -n "$root" ] || systemctl --quiet "$@"; }

# write FILE TEXT: by cat where that fails, which says why, unlike a shell.
write() { printf '%s\n' "$2" 2>/dev/null >"$1" || printf '%s\n' "$2" | cat >"$1"; }

# note GENERATION WORD PATH...: progress, in one step, when the paths are on the disk.
note() {
	mark "$@"
	sync -- "$base/journal"
}

# mark is note where a power cut may leave the word before: nothing hangs on which.
# It may not leave an empty file, which says that nothing was begun.
mark() {
	noted=$base/journal/$1 ready=$base/journal/.$1
	write "$ready" "$2"
	shift 2
	sync -- "$ready" "$@"
	mv -T -- "$ready" "$noted"
}

# progress GENERATION: sets word.
progress() { first "$base/journal/$1" none; }

# all LIST COMMAND...: runs it with the paths of a list, as many at once as surely
# fit on a command line; not at all if there are none.
all() {
	list=$1 some='' count=0 IFS=$newline
	shift
	for item in $list; do
		some=$some$item$newline count=$((count + 1))
		# shellcheck disable=SC2086 # they are paths
		if [ "$count" -ge 200 ]; then
			"$@" $some || return
			some='' count=0
		fi
	done
	# shellcheck disable=SC2086 # they are paths
	[ -z "$some" ] || "$@" $some || return
	IFS=$ifs
}

# settle PATH: what was done to a name in its directory is on the disk.
settle() {
	above=${1%/*}
	sync -- "${above:-/}"
}

# each FUNCTION: call it with the fields of every line of entries.
each() {
	call=$1 IFS=$newline
	for line in $entries; do
		IFS=$tab
		# shellcheck disable=SC2086 # they are fields
		set -- $line
		# shellcheck disable=SC2034 # the functions use them
		index=$1 slot=$2 kind=$3 mode=$4 owner=$5 group=$6 path=$7 target=${8-}
		at=$root$path in=${path%/*} name=${path##*/}
		IFS=$ifs
		"$call"
	done
	IFS=$ifs
}

# verify makes sure that contents are what they shall be, and names one that is not.
verify() {
	[ -s "$dir/sums" ] || return 0
	cd "$dir/content"
	if sha256sum -c --status --strict "$dir/sums" 2>/dev/null; then return 0; fi
	each whole
	echo "the generation did not arrive whole" >&2
	exit 65
}

whole() {
	[ "$kind" = file ] || return 0
	sum=$(sha256sum <"$slot/$name") # and a dash
	grep -qxF -e "${sum%-}$slot/$name" "$dir/sums" || { echo "$path did not arrive whole" >&2; exit 65; }
}

stage() {
	progress "$n"
	[ "$word" = none ] || { echo "generation $n exists already" >&2; exit 65; }
	dir=$base/gen/$n.new
	set +f
	rm -rf -- "$base"/gen/*.new "$base/gen/$n"
	set -f
	trap 'rm -rf -- "$dir"' EXIT # a disk that was too small is as full as before
	mkdir "$dir"
	said=$(tar -x -m -C "$dir" --no-same-owner --same-permissions 2>&1) || { printf '%s\n' "$said" | grep -v 'Exiting with failure' | tail -n 1 >&2; exit 65; }
	[ -f "$dir/end" ] || { echo "the generation did not arrive whole" >&2; exit 65; }
	# Contents are on the disk before they are in their places.
	find "$dir" -type f -exec sync -- "$dir" {} +
	mv -T -- "$dir" "$base/gen/$n"
	trap - EXIT
	mark "$n" staged "$base/gen"
}

# sound refuses to write through what others may exchange: what is above a path
# must be directories of root's, or links of root's to such; a directory of ours
# is no link at all.
sound() {
	above='' links=''
	each plain
	unsafe=$({ all "$above" shared && all "$links" foreign; } || exit)
	[ -n "$unsafe" ] || return 0
	printf "%s is not root's alone: nothing is written below it\n" "${unsafe#"$root"}" | head -n 1 >&2
	exit 65
}

# shared prints directories that others than root may change, foreign links that
# others have made.
shared() { find -L "$@" -maxdepth 0 '(' ! -uid 0 -o -perm -002 ')'; }
foreign() { find "$@" -maxdepth 0 ! -uid 0; }

# plain says of one path whether it can be replaced, or written below.
plain() {
	[ -e "$at" ] || [ -L "$at" ] || return 0
	case $kind in
	parent | dir) ;;
	*)
		if [ ! -L "$at" ] && [ ! -f "$at" ] && [ ! -d "$at" ]; then echo "$path is no file, link or directory: nobody else knows what it is for" >&2; exit 65; fi
		case $newline$mounts$newline in *"$newline$at$newline"*) echo "$path is a mount: it cannot be replaced" >&2; exit 65 ;; esac
		return 0
		;;
	esac
	if [ "$kind" = dir ] && [ -L "$at" ]; then echo "$path is a link, and shall be a directory" >&2; exit 65; fi
	[ -d "$at" ] || { echo "$path is no directory" >&2; exit 65; }
	[ "$kind" = parent ] || return 0
	above=$above$at$newline
	[ ! -L "$at" ] || links=$links$at$newline
}

# save keeps what is at a path: nothing, or a copy with its owner and mode. Of a
# parent it is enough to know that it is there.
save() {
	[ -e "$at" ] || [ -L "$at" ] || return 0
	if [ "$kind" = parent ]; then
		there="$there $index "
	elif [ -d "$at" ] && [ ! -L "$at" ]; then
		stat -c "%a$tab%u$tab%g" -- "$at" >"$saved/$index.dir"
		kept=$kept$saved/$index.dir$newline
	else
		cp -a -T -- "$at" "$saved/$index"
		[ -L "$at" ] || kept=$kept$saved/$index$newline
	fi
}

# place FILE AT: replace a path by a file in one step.
place() {
	[ -L "$1" ] || sync -- "$1"
	mv -T -- "$1" "$2"
	settle "$2"
}

# put makes every path what it shall be: directories first, then each path is
# replaced in one step; then the directories are on the disk, too.
put() {
	missing='' accesses='' touched='' gone=''
	each arrange
	all "$missing" mkdir -m 0755 --
	for access in $accesses; do
		alike=''
		each compare
		case $access in
		dir:*) all "$alike" command install -d -m "$bits" -o "${of%:*}" -g "${of#*:}" -- ;;
		file:*)
			all "$alike" chown -- "$of"
			all "$alike" sync --
			;;
		esac
	done
	devices=$newline$(all "$base/gen/$newline$touched" stat -c "%d$tab%n" --)$newline
	gather bring
	gather move
	all "$gone" rm -f --
	all "$touched" sync --
}

# arrange finds what there is to do: which directories are made, who gets what (root
# has all contents that came), what goes, and the directories in which that is.
arrange() {
	case $kind in
	dir | parent)
		[ -d "$at" ] || missing=$missing$at$newline
		touches "$root$in/"
		[ "$kind" = parent ] || touches "$at/"
		;;
	absent)
		if [ -e "$at" ] || [ -L "$at" ]; then gone=$gone$at$newline; fi
		[ ! -d "$root$in/" ] || touches "$root$in/"
		;;
	*) touches "$root$in/" ;;
	esac
	case $kind:$owner:$group:$accesses in
	parent:* | absent:* | symlink:* | file:root:root:* | *" $kind:$mode:$owner:$group "*) ;;
	*) accesses="$accesses $kind:$mode:$owner:$group " ;;
	esac
}

touches() {
	case $newline$touched in *"$newline$1$newline"*) ;; *) touched=$touched$1$newline ;; esac
}

# compare collects those that have the same owner and mode.
compare() {
	[ "$kind:$mode:$owner:$group" = "$access" ] || return 0
	bits=$mode of=$owner:$group
	case $kind in
	dir) alike=$alike$at$newline ;;
	file) [ ! -e "$dir/content/$slot/$name" ] || alike=$alike$dir/content/$slot/$name$newline ;;
	esac
}

# gather FUNCTION: calls it for each directory that gets files or links: to is the
# directory, place is where its contents are in the generation, names has their names.
gather() {
	then=$1 to='' names=''
	each gathered
	[ -z "$names" ] || "$then"
	cd /
}

gathered() {
	case $kind in file | symlink) ;; *) return 0 ;; esac
	if [ "$root$in/" != "$to" ]; then
		[ -z "$names" ] || "$then"
		to=$root$in/ place=$dir/content/$slot names=''
	fi
	names=$names$name$newline
}

# near says whether a directory and the generation are in the same mount, and in the
# same part of a file system that has parts (btrfs): what is in the one can be renamed
# into the other then.
near() {
	case $mounts in *\\*) return 1 ;; esac # the name of a mount has spaces, or worse
	device=${devices%%"$tab$base/gen/$newline"*}
	case $devices in *"$newline${device##*"$newline"}$tab$to$newline"*) ;; *) return 1 ;; esac
	mount_of "$base/gen"
	home=$mount
	mount_of "$to"
	[ "$mount" = "$home" ]
}

# mount_of DIRECTORY: sets mount.
mount_of() {
	cd -P -- "$1" || exit
	mount=/ IFS=$newline
	for point in $mounts; do
		case $PWD/ in "$point"/*) [ ${#point} -le ${#mount} ] || mount=$point ;; esac
	done
	IFS=$ifs
}

# bring copies contents that are not near to where they wait: a directory beside their
# places, that only root looks into.
bring() {
	if near; then return 0; fi
	rm -rf -- "$to.kthwc-$n" # somebody may have put a link there
	mkdir -- "$to.kthwc-$n"
	cd "$place"
	all "$names" cp -d --preserve=mode,ownership -t "$to.kthwc-$n" --
	find "$to.kthwc-$n" -type f -exec sync -- {} +
}

# move replaces paths by what waits, each in one step.
move() {
	from=$place
	near || from=$to.kthwc-$n
	cd "$from"
	wait='' IFS=$newline
	for one in $names; do
		if [ -e "$one" ] || [ -L "$one" ]; then wait=$wait$one$newline; fi # and was not moved before
	done
	all "$wait" mv -f -t "$to" --
	[ "$from" = "$place" ] || rmdir -- "$from"
}

# arm makes sure that what follows is undone without us: a program of its own on the
# host, a unit that runs it at the next boot, and a timer. Note has it on the disk.
arm() {
	new=$base/gen/$n/script
	if [ -f "$new" ] && ! cmp -s "$new" "$base/recover"; then mv -T -- "$new" "$base/recover"; fi
	[ -z "$root" ] || return 0
	# Only the boot reads the unit and the link to it: systemd need not know now.
	unit=$units/kthwc-recover.service
	if [ "$(cat -- "$unit" 2>/dev/null)" != "$boot_unit" ]; then
		write "$unit.kthwc" "$boot_unit"
		chmod 0644 -- "$unit.kthwc"
		place "$unit.kthwc" "$unit"
	fi
	if ! [ -L "$units/sysinit.target.wants/kthwc-recover.service" ]; then
		ctl --no-reload enable kthwc-recover.service
		sync -- "$units/sysinit.target.wants" "$units"
	fi
	new_timer "$1"
}

# new_timer SECONDS: takes the place of one that there is still: it undoes an earlier
# generation, or systemd restarts it no more, because that was often enough.
new_timer() {
	if begin_timer "$1" 2>/dev/null; then return 0; fi
	ctl stop $timer.timer 2>/dev/null || true
	ctl reset-failed $timer.timer $timer.service 2>/dev/null || true
	said=$(begin_timer "$1" 2>&1) || { echo "no timer can be started that would undo this (systemd-run): ${said:-it does not say why}" >&2; exit 65; }
}

begin_timer() { systemd-run --quiet --unit=$timer --on-active="$1" --timer-property=AccuracySec=100ms /bin/sh "$base/recover" guard "" "$n"; }

# arm_again SECONDS: they begin anew.
arm_again() { ctl restart $timer.timer 2>/dev/null || new_timer "$1"; }

# disarm: a timer that goes off all the same finds nothing to undo.
disarm() {
	[ -n "$root" ] || ctl stop $timer.timer 2>/dev/null || true
}

units=/etc/systemd/system
boot_unit='[Unit]
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
WantedBy=sysinit.target'

# keep notes how each unit was before.
keep() {
	set --
	while IFS=$tab read -r _ unit; do set -- "$@" "$unit"; done <"$dir/units"
	if [ $# = 0 ]; then printf '' >"$saved/units"; else states "$@" | cat >"$saved/units"; fi
	[ "$(wc -l <"$saved/units")" -eq $# ] || { echo "systemd does not say how the units are" >&2; exit 65; }
}

# states prints each unit, whether it is active, and whether it is enabled or
# cannot be.
states() {
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
	case $word in staged | installing) ;; *) refuse ;; esac
	entries=$(cat -- "$dir/entries")
	mounts=$(cut -d ' ' -f 5 /proc/self/mountinfo)
	arm "$1"
	[ "$word" = installing ] || begin
	while IFS=$tab read -r verb unit; do
		if [ "$verb" = stop ]; then ctl --no-reload disable --now "$unit" || ctl stop "$unit"; fi
	done <"$dir/units"
	put
	set --
	while IFS=$tab read -r verb unit; do
		case $verb in start | enable) set -- "$@" "$unit" ;; esac
	done <"$dir/units"
	[ $# = 0 ] || ctl --no-reload enable "$@"
	[ ! -s "$dir/units" ] || ctl daemon-reload
	mark "$n" installed
}

# refuse says that this is not the time for a step.
refuse() {
	case $do,$word in
	act,rolled-back | extend,rolled-back | commit,rolled-back) echo "this host has undone generation $n: it was not confirmed in time" ;;
	*) echo "generation $n is $word" ;;
	esac >&2
	exit 65
}

# begin has on the disk what undoes the generation.
begin() {
	verify
	sound
	[ ! -e "$saved" ] || rm -rf -- "$saved"
	mkdir -- "$saved"
	kept='' there=''
	each save
	write "$saved/there" "$there"
	keep
	if [ -f "$base/confirmed" ]; then
		cp -T -- "$base/confirmed" "$saved/confirmed"
		kept=$kept$saved/confirmed$newline
	fi
	all "$kept" sync --
	write "$base/unconfirmed" "$n"
	note "$n" installing "$saved/there" "$saved/units" "$saved" "$dir" "$base/unconfirmed" "$base"
}

act() {
	extend "$1"
	[ -z "$root" ] || return 0
	systemctl show -p InvocationID --value "$3"
	ctl reset-failed "$3" 2>/dev/null || true
	ctl --no-block "$2" "$3"
}

extend() {
	progress "$n"
	[ "$word" = installed ] || refuse
	[ -n "$root" ] || arm_again "$1"
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
	beside=$root$in/.kthwc-$n
	if [ -e "$beside" ] || [ -L "$beside" ]; then rm -rf -- "$beside"; fi
}

# restore puts back what save kept.
restore() {
	temp=$root$in/.kthwc-$n-$index
	if [ -e "$temp" ] || [ -L "$temp" ]; then rm -f -- "$temp"; fi
	if [ "$kind" = parent ] || [ "$kind" = dir ] && [ ! -f "$saved/$index.dir" ]; then
		case $there in *" $index "*) return 0 ;; esac
		if [ -d "$at" ]; then rmdir --ignore-fail-on-non-empty -- "$at"; fi
	elif [ -f "$saved/$index.dir" ]; then
		[ -d "$at" ] || mkdir -- "$at"
		[ "$(stat -c "%a$tab%u$tab%g" -- "$at")" != "$(cat "$saved/$index.dir")" ] || return 0
		IFS=$tab read -r mode owner group <"$saved/$index.dir"
		chown -- "$owner:$group" "$at"
		chmod -- "$mode" "$at"
	elif [ -e "$saved/$index" ] || [ -L "$saved/$index" ]; then
		if untouched; then return 0; fi
		cp -a -T -- "$saved/$index" "$temp"
		place "$temp" "$at"
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
		[ "$enabled" = enabled ] || ctl --no-reload disable "$unit" 2>/dev/null || true
		[ "$active" = active ] || ctl ${turn:+"$turn"} stop "$unit" 2>/dev/null || true
	done
}

awaken() {
	[ -s "$saved/units" ] || return 0
	while IFS=$tab read -r unit active enabled; do
		[ "$enabled" != enabled ] || ctl --no-reload enable "$unit" || true
	done <"$saved/units"
	ctl daemon-reload
	while IFS=$tab read -r unit active enabled; do
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
	entries=$(tac -- "$dir/entries")
	each clear
	quieten
	read -r there <"$saved/there"
	there=" $there "
	each restore
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
	*)
		if [ "$(confirmed)" = "$n" ]; then
			note "$n" committed "$base"
			rollback
		fi
		undo
		;;
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
		write "$base/unconfirmed" "$n"
		note "$n" reverting "$base/unconfirmed" "$base"
		;;
	reverting) ;;
	*) refuse ;;
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
	rm -f -- "$base/unconfirmed"
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
		# It may have come so far before.
		if [ -f "$base/gen/$n/record" ]; then mv -T -- "$base/gen/$n/record" "$base/confirmed"; fi
		note "$n" committed "$base"
		;;
	committed) ;;
	*) refuse ;;
	esac
	disarm
	before=''
	if [ -f "$base/gen/$n/saved/confirmed" ]; then before=$(generation "$base/gen/$n/saved/confirmed"); fi
	set -- "$base/unconfirmed" "$base/gen/$n/content"
	set +f
	for old in "$base"/gen/*; do
		case ${old##*/} in
		"$n") ;;
		"$before") set -- "$@" "$old/saved" ;;
		*) set -- "$@" "$old" ;;
		esac
	done
	set -f
	rm -rf -- "$@"
}

recover() {
	set +f
	set -- "$base"/journal/*
	set -f
	for file; do
		[ -e "$file" ] || continue
		n=${file##*/}
		progress "$n"
		if [ "$word" = none ]; then rollback; else guard; fi
	done
	rm -f -- "$base/unconfirmed"
	[ "$do" = boot ] || disarm
}

boot() { recover; }

# guard brings a generation to its end, wherever it was left. One of which nothing is
# known is nobody's: another may be under way.
guard() {
	progress "$n"
	case $word in
	committed | rolled-back | none) ;;
	reverting) revert ;;
	*)
		if [ "$(confirmed)" = "$n" ]; then note "$n" committed "$base"; else rollback; fi
		;;
	esac
}

case $do in
stage | commit | rollback | revert | recover | guard | boot) "$do" ;;
install) install "$5" ;;
extend) extend "$5" ;;
act) act "$5" "$6" "$7" ;;
*)
	echo "no such step: $do" >&2
	exit 64
	;;
esac
