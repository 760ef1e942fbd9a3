#!/usr/bin/env bash
# etcdctl against one server, answers compared with what etcd answers. Use: etcdctl.sh ENDPOINT [ETCDCTL]
# Works with etcdctl 3.4 to 3.7; its answers that differ by version are compared by a pattern.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
endpoint=${1:?use: etcdctl.sh ENDPOINT [ETCDCTL]}
ctl=("${2:-etcdctl}" --endpoints "$endpoint")

e() { "${ctl[@]}" "$@"; }
refused() { # WHAT REGEX command…: exits non-zero and says so
    local what=$1 regex=$2 out; shift 2
    if out=$(e "$@" 2>&1); then fail "$what" "a refusal" "$out"; else like "$what" "$regex" "$out"; fi
}
b64() { printf %s "$1" | base64 -w0; }
revision() { e get / -w json | grep -o '"revision":[0-9]*' | cut -d: -f2; }

p=smoke/$$-$RANDOM
same "put" OK "$(e put $p/a 1)"
first=$(revision)
same "put --prev-kv" "$(lines OK $p/a 1)" "$(e put $p/a 2 --prev-kv)"
e put $p/b 22 >/dev/null; e put $p/c 111 >/dev/null; printf 'from stdin' | e put $p/d >/dev/null
same "get" "$(lines $p/a 2)" "$(e get $p/a)"
same "get --print-value-only" 22 "$(e get $p/b --print-value-only)"
same "get of nothing" "" "$(e get $p/none)"
same "get --rev" "$(lines $p/a 1)" "$(e get $p/a --rev "$first")"
same "get --prefix --keys-only" "$(lines $p/a "" $p/b "" $p/c "" $p/d)" "$(e get $p/ --prefix --keys-only)"
same "get --limit" "$(lines $p/a 2 $p/b 22)" "$(e get $p/ --prefix --limit 2)"
same "get --sort-by VALUE --order DESCEND" "$(lines "from stdin" 22 2 111)" \
    "$(e get $p/ --prefix --sort-by VALUE --order DESCEND --print-value-only)"
same "get --sort-by CREATE --limit" "$(lines $p/a 2)" "$(e get $p/ --prefix --sort-by CREATE --order ASCEND --limit 1)"
same "get of a range" "$(lines $p/b 22 $p/c 111)" "$(e get $p/b $p/d)"
same "get --from-key" "$(lines $p/c 111 $p/d)" "$(e get $p/c --from-key | head -3)"
if "${ctl[0]}" get --help | grep -q count-only; then
    same "get --count-only" '"Count" : 4' "$(e get $p/ --prefix --count-only -w fields | grep Count)"
fi
like "get -w json" "^\{\"header\":\{\"cluster_id\":[0-9]+,\"member_id\":[0-9]+,\"revision\":$((first + 4)),\"raft_term\":[0-9]+\},\"kvs\":\[\{\"key\":\"$(b64 $p/a)\",\"create_revision\":$first,\"mod_revision\":$((first + 1)),\"version\":2,\"value\":\"$(b64 2)\"\}\],\"count\":1\}$" \
    "$(e get $p/a -w json)"
refused "get of a future revision" "required revision is a future revision" get $p/a --rev 999999999
refused "put without a key" "key is not provided" put "" x
refused "put --ignore-value on nothing" "key not found" put $p/none --ignore-value
refused "put with an unknown lease" "requested lease not found" put $p/a 1 --lease=1234567

same "del" 1 "$(e del $p/d)"
same "del of nothing" 0 "$(e del $p/d)"
same "del --prev-kv" "$(lines 1 $p/c 111)" "$(e del $p/c --prev-kv)"
same "del of a range" 2 "$(e del $p/a $p/z)"

e put $p/t 1 >/dev/null
same "txn, then" "$(lines SUCCESS "" OK "" $p/t 2)" "$(e txn <<<"value(\"$p/t\") = \"1\"

put $p/t 2
get $p/t

put $p/t 3
")"
same "txn, else" "$(lines FAILURE "" $p/t 2)" "$(e txn <<<"version(\"$p/t\") > \"7\"

del $p/t

get $p/t
")"
refused "txn with a key twice" "duplicate key given in txn request" txn <<<"

put $p/t 2
put $p/t 3

"

# Watches: from a past revision with the value before, then a prefix and its deletes, live.
from=$(($(revision) + 1))
e put $p/w/a 1 >/dev/null; e put $p/w/a 2 >/dev/null; e del $p/w/a >/dev/null
# watched N ARGUMENT…: the first N lines that a watch prints, or what it had printed after 15 s.
watched() {
    local n=$1 out pid; shift
    out=$(mktemp -p "${TMPDIR:-/tmp}"); "${ctl[@]}" watch "$@" >"$out" 2>/dev/null & pid=$!
    has_lines() { [ "$(wc -l <"$out")" -ge "$n" ]; }
    until_true 15 has_lines
    kill $pid; wait $pid 2>/dev/null
    head -n "$n" "$out"; rm "$out"
}
same "watch --rev --prev-kv" "$(lines PUT $p/w/a 1 PUT $p/w/a 1 $p/w/a 2 DELETE $p/w/a 2 $p/w/a "")" \
    "$(watched 13 $p/w/ --prefix --rev "$from" --prev-kv)"
# A live watch cannot say that it has begun, so writes are repeated until it has seen a put and a delete.
(while sleep 0.3; do e put $p/live/b 1; e put $p/other 1; e del $p/live/b; done >/dev/null 2>&1) &
writer=$!
same "watch --prefix" "$(lines PUT $p/live/b 1 DELETE $p/live/b)" "$(watched 7 $p/live/ --prefix | sed -n '/^PUT$/,$p' | head -5)"
kill $writer; wait $writer 2>/dev/null

granted=$(e lease grant 300)
like "lease grant" '^lease [0-9a-f]+ granted with TTL\(300s\)$' "$granted"
lease=$(cut -d' ' -f2 <<<"$granted")
e put $p/leased 1 --lease="$lease" >/dev/null
like "lease timetolive --keys" "^lease $lease granted with TTL\(300s\), remaining\((300|29[0-9])s\), attached keys\(\[$p/leased\]\)$" \
    "$(e lease timetolive "$lease" --keys)"
same "lease keep-alive --once" "lease $lease keepalived with TTL(300)" "$(e lease keep-alive --once "$lease")"
like "lease list" "$lease" "$(e lease list)"
same "lease revoke" "lease $lease revoked" "$(e lease revoke "$lease")"
same "leased keys go with the lease" "" "$(e get $p/leased)"
same "lease timetolive of none" "lease $lease already expired" "$(e lease timetolive "$lease")"
refused "lease revoke of none" "requested lease not found" lease revoke "$lease"

at=$(revision)
same "compaction" "compacted revision $at" "$(e compaction "$at")"
refused "compaction again" "required revision has been compacted" compaction "$at"
refused "get below the compaction" "required revision has been compacted" get $p/t --rev "$((at - 1))"
e put $p/t 4 >/dev/null
same "physical compaction" "compacted revision $((at + 1))" "$(e compaction --physical $((at + 1)))"

like "endpoint health" "is healthy: successfully committed proposal" "$(e endpoint health 2>&1)"
like "endpoint status" "^${endpoint#http*://}|^$endpoint" "$(e endpoint status)"
like "endpoint status -w json" '"version":"3\.[0-9]+\.[0-9]+".*"leader":[0-9]+,"raftIndex":[0-9]+,"raftTerm":[0-9]+' "$(e endpoint status -w json)"
like "endpoint status -w table" 'ENDPOINT.*ID.*VERSION' "$(e endpoint status -w table)"
like "endpoint hashkv" ", [0-9]+" "$(e endpoint hashkv)"
like "endpoint hashkv -w json" "\"hash\":[0-9]+,\"compact_revision\":$((at + 1))" "$(e endpoint hashkv -w json)"
like "member list" "^[0-9a-f]+, started, " "$(e member list)"
like "member list -w table" 'ID.*STATUS.*NAME.*PEER ADDRS.*started' "$(e member list -w table)"
like "member list -w json" '"members":\[\{"ID":[0-9]+,"name":"[^"]+","peerURLs":\[' "$(e member list -w json)"
like "alarm list" '^$' "$(e alarm list)"

same "/health" '{"health":"true","reason":""}' "$(curl -sf "$endpoint/health" | sed 's/{"health":"true"}/{"health":"true","reason":""}/')"
like "/version" '^\{"etcdserver":"3\.[0-9]+\.[0-9]+","etcdcluster":"3\.[0-9]+\.0"' "$(curl -sf "$endpoint/version")"
like "/metrics" '(^|'$'\n'')etcd_server_has_leader 1' "$(curl -sf "$endpoint/metrics")"
verdict "$("${ctl[0]}" version | head -1)"
