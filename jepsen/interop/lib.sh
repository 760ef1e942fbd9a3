#!/usr/bin/env bash
# What the checks with shell and etcdctl share: comparing answers, counting them, starting a server, finding a port.
# Sourced, never run.

checks=0 failures=0 passes_over=0

# same WHAT EXPECTED GOT: equal texts.        like WHAT REGEX GOT: a match of an extended regular expression.
same() { checks=$((checks + 1)); [ "$3" = "$2" ] || fail "$1" "$2" "$3"; }
like() { checks=$((checks + 1)); [[ $3 =~ $2 ]] || fail "$1" "~ $2" "$3"; }
fail() { failures=$((failures + 1)); printf 'FAILED: %s\n  expected: %q\n  got:      %q\n' "$1" "$2" "$3"; }
# skip WHAT WHY: said aloud, and counted apart.
skip() { passes_over=$((passes_over + 1)); printf '!!! SKIPPED: %s because %s\n' "$1" "$2"; }
lines() { printf '%s\n' "$@"; }
# The last line of a script, and its exit code.
verdict() {
    printf '%s of %s answers as expected' $((checks - failures)) "$checks"
    [ "$passes_over" = 0 ] || printf ', %s passed over' "$passes_over"
    printf '%s\n' "${1:+ ($1)}"
    [ "$failures" = 0 ]
}

free_port() { # a port that nobody listens on now, below those that the kernel hands out by itself
    local port
    while port=$((20000 + RANDOM % 12000)); do (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }; done
}

# until_true SECONDS command…: repeats a command until it succeeds, at most so long.
until_true() {
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done
}

# What follows needs $server (the binary) and $dir (a directory of this run).

# start NAME FLAG…: starts a one-member server on free ports; $client is its URL, $pid its process, $dir/NAME.log its log.
# Its data directory is $dir/NAME.etcd unless the flags say otherwise. Waits until it serves, or has ended.
start() {
    local name=$1 scheme=http; shift
    [[ " $* " != *" --cert-file "* && " $* " != *" --auto-tls "* ]] || scheme=https
    client=$scheme://127.0.0.1:$(free_port) peer=http://127.0.0.1:$(free_port)
    "$server" --name "$name" --data-dir "$dir/$name.etcd" --listen-client-urls "$client" --advertise-client-urls "$client" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "$name=$peer" "$@" >"$dir/$name.log" 2>&1 &
    pid=$!
    until_true 30 served "$name"
}
served() { grep -q 'ready to serve client requests' "$dir/$1.log" || ! kill -0 "$pid" 2>/dev/null; }
# ended: waits for the server's end; $code is its exit code (128 + N if a signal N ended it).
ended() { wait "$pid"; code=$?; pid=; }
stop() { kill -"${1:-TERM}" "$pid"; ended; } 2>/dev/null
# refuses WHAT CODE REGEX FLAG…: the server ends by itself with this exit code and says this.
refuses() {
    local what=$1 expected=$2 regex=$3; shift 3
    start refused "$@"
    if kill -0 "$pid" 2>/dev/null; then fail "$what" "a refusal" "a running server"; stop KILL; return; fi
    ended
    same "$what: exit code" "$expected" "$code"
    like "$what" "$regex" "$(cat "$dir/refused.log")"
}
