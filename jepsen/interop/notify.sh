#!/usr/bin/env bash
# Whether a service manager is told: a listener on NOTIFY_SOCKET, as systemd is for units of Type=notify, by path and by
# abstract name. Use: notify.sh SERVER DIR
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
server=$(realpath "${1:?use: notify.sh SERVER DIR}") dir=$(realpath -m "${2:?}") pid= listener=
mkdir -p "$dir"
trap '[ -z "$pid" ] || kill -KILL "$pid"; [ -z "$listener" ] || kill "$listener"; wait' EXIT
# listen NAME FILE: writes each datagram that comes to a socket as a line of a file, with the time in milliseconds.
listen() {
    python3 -uc '
import socket, sys, time
name = sys.argv[1]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("\0" + name[1:] if name.startswith("@") else name)
print("listening", flush=True)
while True:
    print(s.recv(4096).decode(), int(time.time() * 1000), flush=True)
' "$1" >"$2" 2>&1 &
    listener=$!
    until_true 10 grep -q listening "$2"
}
says() { sed 's/ [0-9]*$//' "$1" | tail -n +2; }

for socket in "$dir/notify" "@mainstay-$$"; do
    listen "$socket" "$dir/told"
    NOTIFY_SOCKET=$socket start told
    same "$socket: ready once it serves" READY=1 "$(until_true 5 grep -q READY "$dir/told"; says "$dir/told")"
    same "$socket: and it does serve" '{"health":"true","reason":""}' "$(curl -s "$client/health")"
    like "the log says so" 'notifying init daemon.*successfully notified init daemon' "$(tr '\n' ' ' <"$dir/told.log")"
    stop TERM
    same "$socket: stopping when it is told to" "$(lines READY=1 STOPPING=1)" "$(says "$dir/told")"
    kill "$listener"; wait "$listener" 2>/dev/null; listener=
done
listen "$dir/early" "$dir/told"
NOTIFY_SOCKET=$dir/early refuses "a server that cannot start" 1 'bind: ' --listen-client-urls http://192.0.2.1:1 --advertise-client-urls http://192.0.2.1:1
same "says nothing" "" "$(says "$dir/told")"
NOTIFY_SOCKET=$dir/nowhere start deaf
same "a socket that is not there stops nobody" '{"health":"true","reason":""}' "$(curl -s "$client/health")"
like "and is an error in the log" 'failed to notify systemd for readiness' "$(cat "$dir/deaf.log")"
stop TERM
verdict
