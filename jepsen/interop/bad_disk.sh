#!/usr/bin/env bash
# What can be wrong with a disk: full, read-only, another member's, in pieces. The server says what is the matter, ends or goes
# on as it should, and nothing that it acknowledged is lost. The parts that need a small file system mount a tmpfs; where that is
# not permitted they are passed over aloud. Use: bad_disk.sh SERVER DIR [ETCDCTL]
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
server=$(realpath "${1:?use: bad_disk.sh SERVER DIR [ETCDCTL]}") dir=$(realpath -m "${2:?}") ctl=${3:-etcdctl} pid=
mkdir -p "$dir"
small=$dir/small
trap '[ -z "$pid" ] || kill -KILL "$pid"; wait; umount "$small" 2>/dev/null' EXIT
e() { "$ctl" --command-timeout 3s --dial-timeout 3s --endpoints "$client" "$@"; }
full='etcdserver: mvcc: database space exceeded'
mkdir -p "$small"

# fill PREFIX N: puts up to N values of 1 MB under PREFIX until one is refused; $filled is how many were acknowledged, $out
# what the refusal said.
head -c 1000000 /dev/zero | tr '\0' x >"$dir/value"
fill() {
    filled=0 out=
    while [ "$filled" -lt "$2" ]; do
        out=$(e put "$1$(printf %04d $filled)" <"$dir/value" 2>&1) || return 0
        filled=$((filled + 1))
    done
}
holds() { e get --prefix "$1" --keys-only | grep -c .; }
alive() { kill -0 "$pid" 2>/dev/null; }
free_kb() { df --output=avail -k "$small" | tail -1 | tr -d ' '; }

if ! mount -t tmpfs -o size=320m none "$small" 2>/dev/null; then
    skip "a disk that fills" "mounting a tmpfs is not permitted here"
else
    echo "-- a disk that fills"
    start filling --data-dir "$small/etcd"
    fill a/ 400
    like "writes are refused before the disk is full" "$full" "$out"
    like "with room left" '^[0-9]{5,}$' "$(free_kb)"
    alive || fail "the server goes on" "a process" "none: $(tail -2 "$dir/filling.log")"
    like "there was room for some" '^[1-9]' "$filled"
    same "everything acknowledged can be read" "$filled" "$(holds a/)"
    like "the alarm is on" 'alarm:NOSPACE' "$(e alarm list)"
    like "/health says so" 'ALARM NOSPACE' "$(curl -s "$client/health")"
    same "/livez does not mind" ok "$(curl -s "$client/livez")"
    same "a delete goes through" 1 "$(e del a/0000)"
    like "a put does not" "$full" "$(e put a/0000 x 2>&1)"
    like "nor does a lease" "$full" "$(e lease grant 60 2>&1)"
    like "the log says so" 'the disk is nearly full; writes are refused until there is room' "$(cat "$dir/filling.log")"
    stop KILL
    start filling --data-dir "$small/etcd"
    same "after kill -9 everything is there" $((filled - 1)) "$(holds a/)"
    same "the deletion, too" "" "$(e get a/0000)"
    like "and puts are still refused" "$full" "$(until_true 5 [ "$(e alarm list | grep -c NOSPACE)" = 1 ]; e put a/0000 x 2>&1)"
    mount -o remount,size=640m "$small"
    until_true 10 e put a/0000 again || fail "with room again, puts go on without a restart" OK "$(e put a/0000 again 2>&1)"
    same "and the alarm is off" "" "$(e alarm list)"
    like "/health is well" '"health":"true"' "$(curl -s "$client/health")"
    like "the log says so, too" 'there is room again: the alarm is taken back' "$(cat "$dir/filling.log")"
    stop TERM

    echo "-- a disk that is filled by somebody else, to the last byte"
    start filling --data-dir "$small/etcd" --auto-disarm-nospace=false
    same "a put" OK "$(e put b/1 kept)"
    # A batch on its way to the store would be a write that fails, and that ends the member: see below.
    sleep 1
    dd if=/dev/zero of="$small/ballast" bs=1M status=none 2>/dev/null
    same "nothing is free" 0 "$(free_kb)"
    sleep 1.5
    like "a put is refused" "$full" "$(e put b/2 x 2>&1)"
    like "a delete as well: there is no room to write it down" "$full" "$(e del b/1 2>&1)"
    alive || fail "the server goes on" "a process" "none: $(tail -2 "$dir/filling.log")"
    same "reads go on" "$(lines b/1 kept)" "$(e get b/1)"
    same "serializable reads, too" "$(lines b/1 kept)" "$(e get --consistency=s b/1)"
    # Some room, and not enough: the alarm stays until it is taken back by hand, as the flag asks for.
    truncate -s -50M "$small/ballast"
    until_true 10 eval 'e alarm list | grep -q NOSPACE' || fail "the alarm is on" NOSPACE "$(e alarm list 2>&1)"
    rm "$small/ballast"
    sleep 2
    like "--auto-disarm-nospace=false waits for a person" 'alarm:NOSPACE' "$(e alarm list)"
    like "and refuses meanwhile" "$full" "$(e put b/2 x 2>&1)"
    like "alarm disarm" 'alarm:NOSPACE' "$(e alarm disarm)"
    same "then puts go on" OK "$(e put b/2 y)"
    stop TERM

    echo "-- a write that fails nonetheless"
    # A disk that says it has room and has none: a limit on the size of files is such a lie.
    rm -rf "$small/etcd"
    (ulimit -f $((80 * 1024)); trap '' XFSZ; exec "$server" --name lied --data-dir "$small/etcd" --listen-client-urls "${client}" --advertise-client-urls "$client" \
        --listen-peer-urls http://127.0.0.1:"${peer##*:}" --initial-advertise-peer-urls "$peer" --initial-cluster "lied=$peer" >"$dir/lied.log" 2>&1) &
    pid=$!
    until_true 30 served lied
    fill c/ 100
    like "some were acknowledged" '^[1-9]' "$filled"
    until_true 10 eval '! alive'
    ended
    same "a failed write ends the process with" 1 "$code"
    like "and says why" 'the member has stopped.*the store.s file system: Input/output error' "$(tail -1 "$dir/lied.log")"
    start lied --data-dir "$small/etcd" --initial-cluster "lied=$peer"
    same "with room it starts again, with everything acknowledged" yes "$([ "$(holds c/)" -ge "$filled" ] && echo yes)"
    stop TERM

    echo "-- a read-only disk"
    mount -o remount,ro "$small"
    refuses "a read-only file system" 1 'Read-only file system' --data-dir "$small/etcd"
    refuses "a new directory on it" 1 'Read-only file system' --data-dir "$small/other"
    mount -o remount,rw "$small"
    umount "$small"
fi

echo "-- a store at its quota"
start quota --quota-backend-bytes $((16 << 20))
fill q/ 40
like "writes are refused at the quota" "$full" "$out"
like "after some" '^1[5-6]$' "$filled"
like "the alarm is on" 'alarm:NOSPACE' "$(e alarm list)"
index() { e endpoint status -w json | sed 's/.*"raftIndex":\([0-9]*\).*/\1/'; }
before=$(index)
for n in 1 2 3; do e put more <"$dir/value" >/dev/null 2>&1; done
same "refused writes write nothing into the log" "$before" "$(index)"
same "everything acknowledged can be read" "$filled" "$(holds q/)"
same "deletes go through" "$filled" "$(e del --prefix q/)"
like "compaction, too" '^compacted revision' "$(e compact --physical "$(e get x -w json | sed 's/.*"revision":\([0-9]*\).*/\1/')")"
until_true 10 e put q/again x || fail "then puts go on by themselves" OK "$(e put q/again x 2>&1)"
same "and the alarm is off" "" "$(e alarm list)"
stop TERM

echo "-- whose directory"
# Two of three: the third is never started, so its directory is nobody's.
ports=("$(free_port)" "$(free_port)" "$(free_port)")
mapfile -t urls < <(printf 'http://127.0.0.1:%s\n' "${ports[@]}")
cluster="m1=${urls[0]},m2=${urls[1]},m3=${urls[2]}"
# member N FLAG…: starts member N of these; $pid and $client are its own. Later flags count.
member() {
    local n=$1; shift
    client=http://127.0.0.1:$(free_port)
    "$server" --name "m$n" --data-dir "$dir/m$n.etcd" --listen-client-urls "$client" --advertise-client-urls "$client" --initial-cluster "$cluster" \
        --listen-peer-urls "${urls[n - 1]}" --initial-advertise-peer-urls "${urls[n - 1]}" "$@" >"$dir/m$n.log" 2>&1 &
    pid=$!
}
member 2; second=$pid
member 1
until_true 30 served m1
same "two of three serve" OK "$(e put who m1)"
stop TERM
member 3 --data-dir "$dir/m1.etcd"
until_true 20 eval '! alive'
kill -KILL "$pid" 2>/dev/null; ended 2>/dev/null
same "another member's directory: exit code" 1 "$code"
like "another member's directory" 'belongs to member .*m1.* and the flags are those of member .* of the same cluster' "$(cat "$dir/m3.log")"

member 1; first=$pid first_client=$client
until_true 30 served m1
same "its own member may have it" "$(lines who m1)" "$(e get who)"
member 3 --initial-cluster-token another --data-dir "$dir/foreign.etcd"; third=$pid
until_true 20 grep -q 'request cluster ID mismatch' "$dir/m1.log" || fail "a member of another cluster" "request cluster ID mismatch" "$(tail -1 "$dir/m1.log")"
until_true 5 grep -q 'peer refused the stream' "$dir/m3.log"
like "it is told why it is refused" 'peer refused the stream.*cluster ID mismatch' "$(cat "$dir/m3.log")"
kill -KILL "$third"; wait "$third" 2>/dev/null
member 3; third=$pid
until_true 30 served m3
client=$first_client
sleep 6 # connected for as long as a change of members asks for
like "member remove" 'removed from cluster' "$(e member remove "$(e member list | grep ', m3,' | cut -d, -f1)" 2>&1)"
wait "$third"; same "a removed member ends well" 0 $?
member 3
until_true 20 eval '! alive'
kill -KILL "$pid" 2>/dev/null; ended 2>/dev/null
same "a removed member that is started again: exit code" 1 "$code"
like "a removed member that is started again" 'server is stopping: member [0-9a-f]+ has been permanently removed' "$(cat "$dir/m3.log")"
for pid in "$first" "$second"; do stop KILL; done

start moved
same "put" OK "$(e put kept yes)"
id=$(e member list | cut -d, -f1)
stop TERM
port=$(free_port)
client=http://127.0.0.1:$(free_port)
"$server" --name elsewhere --data-dir "$dir/moved.etcd" --listen-client-urls "$client" --advertise-client-urls "$client" --listen-peer-urls "http://127.0.0.1:$port" \
    --initial-advertise-peer-urls "http://127.0.0.1:$port" --initial-cluster "elsewhere=http://127.0.0.1:$port" >"$dir/elsewhere.log" 2>&1 &
pid=$!
until_true 30 served elsewhere
same "a machine that moved comes back with its data" "$(lines kept yes)" "$(e get kept)"
like "under its id and its new name" "^$id, started, elsewhere, $peer," "$(e member list)"
like "and says what it makes of it" 'it keeps its id, its cluster and its peer URLs' "$(cat "$dir/elsewhere.log")"
stop TERM

echo "-- pieces of a directory"
start apart --wal-dir "$dir/apart.wal"
same "put" OK "$(e put kept yes)"
stop TERM
refuses "--wal-dir forgotten" 1 'is --wal-dir the one it was started with' --data-dir "$dir/apart.etcd"
start apart --wal-dir "$dir/apart.wal"
same "with it everything is there" "$(lines kept yes)" "$(e get kept)"
stop TERM
start other --wal-dir "$dir/other.wal"
stop TERM
refuses "the log of another cluster" 1 'belongs to cluster|does not belong' --data-dir "$dir/apart.etcd" --wal-dir "$dir/other.wal"
mv "$dir/apart.etcd/member/store" "$dir/store"
refuses "a lost store" 1 'discovery failed' --data-dir "$dir/apart.etcd" --wal-dir "$dir/apart.wal"
mv "$dir/store" "$dir/apart.etcd/member/store"
mkdir -p "$dir/odd/member" && : >"$dir/odd/member/log"
refuses "a file where the log should be" 1 'Not a directory|File exists' --data-dir "$dir/odd"

echo "-- damage"
start hurt
same "put" OK "$(e put kept yes)"
stop TERM
# damaged NAME: a copy of that directory; $segment is its log, $batches where its batches begin.
damaged() {
    rm -rf "$dir/$1.etcd"; cp -a "$dir/hurt.etcd" "$dir/$1.etcd"
    segment=$(find "$dir/$1.etcd/member/log" -name '*.log' | sort | tail -1)
    mapfile -t batches < <(LC_ALL=C grep -abo MLB1 "$segment" | cut -d: -f1)
}
# scribble OFFSET BYTES: random bytes over the log.
scribble() { head -c "$2" /dev/urandom | dd of="$segment" bs=1 seek="$1" conv=notrunc status=none; }
data=$(find "$dir/hurt.etcd/member/store" -name data.mdb)
damaged middle
like "the log has several batches" '^[0-9]{1,3}$' "$((${#batches[@]} - 3))"
scribble $((batches[1] + 50)) 8
refuses "rot in the middle of the log" 1 'the log is damaged in .*\.log at byte [0-9]+' --data-dir "$dir/middle.etcd"
damaged half
truncate -s "${batches[1]}" "$segment"
refuses "half of the log cut off" 1 'the log is damaged in .*the file ends here, and once was longer' --data-dir "$dir/half.etcd"
damaged header
scribble 8 8
refuses "rot in the log's header" 1 'the log is damaged in .*\.log at byte 0' --data-dir "$dir/header.etcd"
damaged store
dd if=/dev/urandom of="${data/hurt.etcd/store.etcd}" bs=8192 count=1 conv=notrunc status=none
refuses "rot in the store's header" 1 'is not a readable LMDB environment' --data-dir "$dir/store.etcd"

# A kill in the middle of a write leaves half a batch behind the last one that was synced.
start hurt
for n in 1 2 3; do e put "kept$n" yes >/dev/null; done
sleep 1
stop KILL
damaged torn
# The last thing in the file is the seal of the stop before.
scribble "${batches[-2]}" 30
start torn
like "half a batch at the end is cut, and that is said" 'cut a torn tail off the log' "$(cat "$dir/torn.log")"
same "and everything acknowledged is there" "$(lines kept yes kept1 yes kept2 yes kept3 yes)" "$(e get --prefix kept)"
stop TERM
verdict
