#!/usr/bin/env bash
# /metrics against what dashboards and alerts ask for, and against a running etcd's page: names, types, labels, buckets, and the
# numbers after the same requests. Use: metrics.sh SERVER DIR [ETCDCTL [ETCD]]
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
server=$(realpath "${1:?use: metrics.sh SERVER DIR [ETCDCTL [ETCD]]}") dir=$(realpath -m "${2:?}") ctl=${3:-etcdctl} etcd=${4:-etcd} pid=
mkdir -p "$dir"
trap '[ -z "$pid" ] || kill -KILL "$pid"; wait' EXIT
e() { "$ctl" --command-timeout 3s --dial-timeout 3s --endpoints "$client" "$@"; }

# What etcd's own alerts and dashboard read, and its end-to-end tests; after the requests below all are there.
wanted='etcd_cluster_version etcd_debugging_mvcc_compact_revision etcd_debugging_mvcc_current_revision etcd_debugging_mvcc_events_total
etcd_debugging_mvcc_keys_total etcd_debugging_mvcc_slow_watcher_total etcd_debugging_mvcc_total_put_size_in_bytes
etcd_debugging_mvcc_watch_stream_total etcd_debugging_mvcc_watcher_total etcd_debugging_lease_granted_total
etcd_debugging_lease_renewed_total etcd_debugging_lease_revoked_total etcd_debugging_server_lease_expired_total
etcd_disk_backend_commit_duration_seconds etcd_disk_wal_fsync_duration_seconds etcd_disk_wal_write_bytes_total etcd_mvcc_db_total_size_in_bytes
etcd_mvcc_db_total_size_in_use_in_bytes etcd_mvcc_delete_total etcd_mvcc_put_total etcd_mvcc_range_total etcd_mvcc_txn_total
etcd_network_client_grpc_received_bytes_total etcd_network_client_grpc_sent_bytes_total etcd_network_known_peers etcd_server_has_leader
etcd_server_health_failures etcd_server_health_success etcd_server_id etcd_server_is_leader etcd_server_is_learner
etcd_server_leader_changes_seen_total etcd_server_proposals_applied_total etcd_server_proposals_committed_total
etcd_server_proposals_failed_total etcd_server_proposals_pending etcd_server_quota_backend_bytes etcd_server_read_indexes_failed_total
etcd_server_version grpc_server_handled_total grpc_server_msg_received_total grpc_server_msg_sent_total grpc_server_started_total
os_fd_limit os_fd_used process_cpu_seconds_total process_max_fds process_open_fds process_resident_memory_bytes
process_start_time_seconds process_virtual_memory_bytes process_virtual_memory_max_bytes process_network_receive_bytes_total
process_network_transmit_bytes_total'

page() { curl -sf "$client/metrics"; }
types() { sed -n 's/^# TYPE //p' "$1" | sort; }
value() { sed -n "s/^$2 //p" "$1"; }
# shape PAGE: each name with its labels, and each bucket's bound.
shape() {
    grep -v '^#' "$1" | sed -E 's/ [^ ]+$//; s/="[^"]*"/=/g; s/[{}]/ /g; s/=//g; s/_bucket ([^ ]*,)?le/_bucket \1le/' | sort -u
    grep -oE '^[a-z_]+_bucket\{.*le="[^"]*"' "$1" | sed -E 's/\{.*le="/ le /; s/"$//' | sort -u
}
# use_it: the same requests for both.
use_it() {
    local i watch
    for i in 1 2 3 4 5; do e put "key$i" "value$i" >/dev/null; done
    e get --prefix key >/dev/null; e get key1 >/dev/null
    e del key1 >/dev/null; e del nothing >/dev/null; e del --prefix key4 >/dev/null
    printf 'mod("key2") > "0"\n\nput key2 x\ndel key3\n\nget key3\n\n' | e txn >/dev/null
    e lease grant 60 >/dev/null
    e lease revoke 1 >/dev/null 2>&1
    "$ctl" --endpoints "$client" watch --prefix --rev 1 key >/dev/null 2>&1 & watch=$!
    until_true 10 eval 'page | grep -q "^etcd_debugging_mvcc_watcher_total 1"'
    until_true 10 eval 'page | grep -q "^etcd_debugging_mvcc_events_total 9"'
    kill -TERM $watch; wait $watch 2>/dev/null
    until_true 10 eval 'page | grep -q "^etcd_debugging_mvcc_watcher_total 0"'
    curl -s "$client/health" >/dev/null
}

start ours
use_it
page >"$dir/ours"
for name in $wanted; do grep -q "^# TYPE $name " "$dir/ours" || fail "$name" "on the page" "not there"; checks=$((checks + 1)); done
same "puts" 6 "$(value "$dir/ours" etcd_mvcc_put_total)"
same "deletes" 4 "$(value "$dir/ours" etcd_mvcc_delete_total)"
same "transactions" 1 "$(value "$dir/ours" etcd_mvcc_txn_total)"
same "keys" 2 "$(value "$dir/ours" etcd_debugging_mvcc_keys_total)"
same "leases" 1 "$(value "$dir/ours" etcd_debugging_lease_granted_total)"
handled() { value "$1" "grpc_server_handled_total{grpc_code=\"$2\",grpc_method=\"$3\",grpc_service=\"etcdserverpb.$4\",grpc_type=\"$5\"}"; }
same "puts handled" 5 "$(handled "$dir/ours" OK Put KV unary)"
same "a lease that was not found" 1 "$(handled "$dir/ours" NotFound LeaseRevoke Lease unary)"
same "a watch that went away" 1 "$(handled "$dir/ours" Canceled Watch Watch bidi_stream)"
same "messages received by puts" 5 "$(value "$dir/ours" 'grpc_server_msg_received_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}')"
like "nothing is timed unless asked for" '^0$' "$(grep -c handling_seconds "$dir/ours")"
like "syncs of the log are timed" '^[1-9]' "$(value "$dir/ours" etcd_disk_wal_fsync_duration_seconds_count)"
stop TERM
start extensive --metrics extensive
e put a b >/dev/null
page >"$dir/extensive"
same "--metrics=extensive times calls" 1 "$(value "$dir/extensive" 'grpc_server_handling_seconds_count{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}')"
stop TERM

if ! command -v "$etcd" >/dev/null; then skip "a running etcd's page" "etcd is not installed"
else
    server=$(command -v "$etcd")
    start theirs --metrics extensive
    until_true 30 e get x
    use_it
    page >"$dir/theirs"
    stop TERM
    cat "$dir/extensive" "$dir/ours" >"$dir/all"
    # Whatever both have is of one type, and has the same labels and the same buckets.
    join <(types "$dir/all" | sort -u) <(types "$dir/theirs") | while read -r name ours theirs; do
        [ "$ours" = "$theirs" ] || echo "$name $ours, etcd: $theirs"
    done >"$dir/types"
    same "types" "" "$(cat "$dir/types")"
    types "$dir/all" | cut -d' ' -f1 | sort -u >"$dir/names"
    known() { shape "$1" | grep -E "^($(paste -sd'|' "$dir/common"))(_bucket|_sum|_count)? "; }
    comm -12 "$dir/names" <(types "$dir/theirs" | cut -d' ' -f1) >"$dir/common"
    same "labels and buckets" "" "$(diff <(known "$dir/all" | grep -v ' grpc_code') <(known "$dir/theirs" | grep -v ' grpc_code'))"
    same "names of our own say so" "" "$(comm -23 "$dir/names" <(types "$dir/theirs" | cut -d' ' -f1) | grep -v '^mainstay_' | grep -vxF "$(tr ' ' '\n' <<<"$wanted")")"
    for name in etcd_mvcc_put_total etcd_mvcc_delete_total etcd_mvcc_txn_total etcd_debugging_mvcc_keys_total etcd_debugging_mvcc_events_total \
        etcd_debugging_lease_granted_total; do
        same "$name is etcd's after the same requests" "$(value "$dir/theirs" $name)" "$(value "$dir/ours" $name)"
    done
    echo "etcd has, and we do not: $(comm -13 "$dir/names" <(types "$dir/theirs" | cut -d' ' -f1) | grep -v '^go_' | paste -sd' ')"
fi
verdict
