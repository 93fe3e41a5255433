# Ends what a test binary started, and removes its files, when the test binary closes this script's standard
# input: on purpose, or because it died, of whatever cause.
#
# Arguments: the directories to remove. Input: "+PID" for a process that was started, which leads a process
# group, and "-PID" for one that has ended.

trap '' HUP INT QUIT TERM

pids=
while read -r line; do
	case $line in
	+*) pids="$pids ${line#+}" ;;
	-*)
		rest=
		for pid in $pids; do
			[ "$pid" = "${line#-}" ] || rest="$rest $pid"
		done
		pids=$rest
		;;
	esac
done

# PostgreSQL puts each of its processes in a process group of its own.
children() {
	if [ -r /proc/self/status ]; then
		grep -ls "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status | tr -dc '0-9\n'
	else
		ps -A -o ppid= -o pid= | while read -r parent pid; do
			[ "$parent" != "$1" ] || echo "$pid"
		done
	fi
}

# A zombie counts as ended: it is for its parent, or whoever inherits it, to bury.
alive() {
	kill -0 "$1" 2>/dev/null && ! grep -qs '^State:[[:space:]]*Z' "/proc/$1/status"
}

all=$pids
for pid in $pids; do
	kill -s STOP "$pid" # so that it has no more children
	for child in $(children "$pid"); do
		kill -s KILL "$child"
		all="$all $child"
	done
	kill -s KILL -- "-$pid"
done 2>/dev/null

tries=1000
for pid in $all; do
	while alive "$pid"; do
		[ "$tries" -gt 0 ] || exit 1
		tries=$((tries - 1))
		sleep 0.01
	done
done

# PostgreSQL's lock against being started twice is a piece of shared memory, which outlives it.
for dir; do
	for file in "$dir"/data-*/postmaster.pid; do
		[ ! -f "$file" ] || ipcrm -m "$(sed -n '7s/.* //p' "$file")" 2>/dev/null
	done
done

# The second try is for a directory that got a last file while it was being removed.
rm -rf -- "$@" 2>/dev/null || rm -rf -- "$@"
