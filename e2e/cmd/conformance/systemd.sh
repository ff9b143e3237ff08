#!/bin/sh
# Stands in for systemd-run and systemctl where there is no systemd: what the node suite calls of them, for one service. A
# unit is a directory beside this file that has the command's arguments, one a line, the path of its log, and the process.
set -eu
units=$(dirname "$0")/units

# alive says whether the unit's process runs its command; a process that has ended and is not waited for has none.
alive() {
	[ -s "$unit/pid" ] && [ "$(readlink "/proc/$(cat "$unit/pid")/exe")" = "$(readlink -f "$(head -n 1 "$unit/command")")" ]
}

start() {
	alive && return
	set --
	while IFS= read -r arg; do set -- "$@" "$arg"; done <"$unit/command"
	cd /
	setsid "$@" </dev/null >>"$(cat "$unit/log")" 2>&1 &
	echo $! >"$unit/pid"
	for _ in 1 2 3 4 5 6 7 8 9 10; do alive && return; sleep 0.1; done
	echo "$unit does not run" >&2
	exit 1
}

# stop waits as long as a service has for its end.
stop() {
	left=900
	while alive; do
		case $left in
		900) kill -TERM "$(cat "$unit/pid")" ;;
		0) kill -KILL "$(cat "$unit/pid")" ;;
		esac
		left=$((left - 1))
		sleep 0.1
	done
}

if [ "${0##*/}" = systemd-run ]; then
	log=/dev/null
	while :; do
		case $1 in
		--version) echo "systemd 257" && exit ;; # from 240 on a log can be added to
		-p) case $2 in StandardError=append:*) log=${2#*:} ;; esac && shift ;;
		--unit=*) unit=$units/${1#--unit=} ;;
		--*) ;;
		*) break ;;
		esac
		shift
	done
	mkdir -p "$unit"
	echo "$log" >"$unit/log"
	program=$(command -v "$1")
	shift
	printf '%s\n' "$program" "$@" | sed 's/%%/%/g; s/\$\$/$/g' >"$unit/command"
	start
	exit
fi

verb=$1 unit=$units/${2%.service}.service
case $verb in
list-units)
	for unit in "$units"/$2; do
		[ -d "$unit" ] || continue
		state=exited
		if alive; then state=running; fi
		case ${3:---state=$state} in --state=$state) echo "  ${unit##*/} loaded active $state $(head -n 1 "$unit/command")" ;; esac
	done
	exit
	;;
esac
[ -d "$unit" ] || { echo "there is no unit $2" >&2; exit 1; }
case $verb in
reset-failed) ;;
start) start ;;
stop) stop && rm -r "$unit" ;; # systemd forgets a unit that was only run
restart) stop && start ;;
kill) if alive; then kill -TERM "$(cat "$unit/pid")"; fi ;;
*) echo "systemctl $verb is not stood in for" >&2 && exit 1 ;;
esac
