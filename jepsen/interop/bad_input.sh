#!/usr/bin/env bash
# What a person can get wrong at the command line, and requests beyond the limits: each must be answered by a clear error,
# with etcd's exit code, status code and text where etcd has one. Use: bad_input.sh SERVER DIR [ETCDCTL]
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
server=$(realpath "${1:?use: bad_input.sh SERVER DIR [ETCDCTL]}") dir=$(realpath -m "${2:?}") ctl=${3:-etcdctl} pid=
mkdir -p "$dir"
trap '[ -z "$pid" ] || kill -KILL "$pid"' EXIT
e() { "$ctl" --endpoints "$client" "$@"; }

echo "-- flags and environment"
refuses "unknown flag" 2 'flag provided but not defined: -no-such-flag' --no-such-flag
refuses "bad value" 2 'invalid value "soon" for flag -heartbeat-interval: parse error' --heartbeat-interval=soon
refuses "bad boolean" 2 'invalid boolean value "maybe" for -?-client-cert-auth: parse error' --client-cert-auth=maybe
refuses "bad log level" 2 'unrecognized level: "shout"' --log-level shout
refuses "an argument that is no flag" 1 '"leftover\\?" is not a valid flag' leftover
refuses "timeouts that do not fit" 1 'election-timeout\[300ms\] should be at least as 5 times as --heartbeat-interval\[100ms\]' --election-timeout 300
refuses "two ways to bootstrap" 1 'multiple discovery or bootstrap flags are set' --discovery-srv example.org
refuses "own URL missing from the cluster" 1 'initial-cluster' --initial-cluster refused=http://127.0.0.1:1
refuses "own name missing from the cluster" 1 "couldn't find local name" --initial-cluster other=http://127.0.0.1:1
refuses "a host name to listen on" 1 'expected IP in URL for binding' --listen-client-urls http://example.org:2379
refuses "a URL without a port" 2 'URL address does not have the form "host:port"' --listen-client-urls http://127.0.0.1
ETCD_NAME=other refuses "flag and variable" 1 'conflicting environment variable is shadowed by corresponding command-line flag'
ETCD_HEARTBEAT_INTERVAL=soon refuses "bad variable" 1 'invalid value \\"soon\\" for ETCD_HEARTBEAT_INTERVAL: parse error'
refuses "a flag whose feature is not there" 1 'force-new-cluster is not supported yet' --force-new-cluster

echo "-- directories and ports"
: >"$dir/file"
refuses "a data directory that is a file" 1 'Not a directory|File exists' --data-dir "$dir/file"
if [ "$(id -u)" != 0 ]; then
    mkdir -m 500 "$dir/closed"
    refuses "a data directory that cannot be written" 1 'Permission denied' --data-dir "$dir/closed/data"
elif setpriv --reuid 65534 --clear-groups "$server" --version >/dev/null 2>&1; then
    mkdir -m 700 "$dir/closed"
    out=$(setpriv --reuid 65534 --clear-groups timeout 20 "$server" --data-dir "$dir/closed/data" --listen-client-urls http://127.0.0.1:"$(free_port)" \
        --advertise-client-urls http://127.0.0.1:1 --listen-peer-urls http://127.0.0.1:"$(free_port)" 2>&1); code=$?
    same "a data directory that cannot be written: exit code" 1 $code
    like "a data directory that cannot be written" 'Permission denied' "$out"
else skip "a data directory that cannot be written" "this is root, and nobody else can run the binary"; fi

start first; first=$pid url=$client
same "put" OK "$(e put kept yes)"
refuses "a client port in use" 1 "listen tcp ${client#http://}: bind: address already in use" --listen-client-urls "$client"
refuses "a peer port in use" 1 "bind: address already in use" --listen-peer-urls "http://127.0.0.1:${url##*:}"
refuses "the data directory of a running server" 1 'in use by another process' --data-dir "$dir/first.etcd"
client=$url pid=$first
same "the running server has not suffered" "$(lines kept yes)" "$(e get kept)"

echo "-- requests over the limits"
big() { head -c "$1" /dev/zero | tr '\0' x; }
like "a value over --max-request-bytes" 'etcdserver: request is too large' "$(big 1600000 | e put big 2>&1)"
same "nothing of it is there" "" "$(e get big)"
ops() { printf '\n'; for ((i = 0; i < $1; i++)); do echo "put many/$i 1"; done; printf '\n\n'; }
like "129 operations in a transaction" 'etcdserver: too many operations in txn request' "$(ops 129 | e txn 2>&1)"
like "128 operations in a transaction" '^SUCCESS' "$(ops 128 | e txn 2>&1)"
like "/health after all that" '"health":"true"' "$(curl -sf "$client/health")"
stop TERM
same "SIGTERM ends it by that signal" 143 $code
like "it says so" 'received signal; shutting down.*closed etcd server' "$(tr '\n' ' ' <"$dir/first.log")"
start first --metrics basic
same "a stopped server comes back with everything" "$(lines kept yes)" "$(e get kept)"
stop INT
same "SIGINT ends it by that signal" 130 $code

echo "-- certificates"
"$here/../../scripts/certs" "$dir/certs" >/dev/null
c=$dir/certs
tls() { lines --cert-file "$1" --key-file "$2" --trusted-ca-file "$3" --client-cert-auth; }
mapfile -t right < <(tls "$c/server.crt" "$c/server.key" "$c/ca.crt")
refuses "https without a certificate" 1 'TLS key/cert \(--cert-file, --key-file\) must be provided' --listen-client-urls https://127.0.0.1:1 --advertise-client-urls https://127.0.0.1:1
refuses "a certificate that is none" 1 'failed to find any PEM data in certificate input' --cert-file "$dir/file" --key-file "$dir/file"
refuses "a certificate that is not there" 1 '[Nn]o such file or directory' --cert-file "$c/none.crt" --key-file "$c/none.key"
refuses "a key of another certificate" 1 'tls: private key does not match public key' --cert-file "$c/server.crt" --key-file "$c/client.key"
refuses "a CA that is none" 1 'failed to find any PEM data in certificate input' --cert-file "$c/server.crt" --key-file "$c/server.key" --trusted-ca-file "$dir/file"
start tls "${right[@]}"
as() { "$ctl" --command-timeout 3s --dial-timeout 3s --endpoints "$client" --cacert "$c/ca.crt" --cert "$c/$1.crt" --key "$c/$1.key" "${@:2}"; }
same "the right certificate" OK "$(as client put secret 1)"
# denied WHAT command…: neither done nor answered.
denied() { local what=$1 out; shift; if out=$("$@" 2>&1); then fail "$what" "a refusal" "$out"; else checks=$((checks + 1)); fi; }
denied "a foreign CA's certificate" as foreign get secret
denied "no certificate" "$ctl" --command-timeout 3s --dial-timeout 3s --endpoints "$client" --cacert "$c/ca.crt" get secret
denied "a server's certificate of another CA" "$ctl" --command-timeout 3s --dial-timeout 3s --endpoints "$client" --cacert "$c/foreign-ca.crt" --cert "$c/client.crt" --key "$c/client.key" get secret
denied "plain HTTP on a TLS port" curl -sf "http://${client#https://}/health"
like "the server says who it refused" 'rejected connection on client endpoint' "$(cat "$dir/tls.log")"
if "$here/expired.sh" "$c" client-old "/CN=alice" clientAuth && "$here/expired.sh" "$c" server-old "/CN=mainstay-server" serverAuth; then
    denied "an expired certificate" as client-old get secret
    stop TERM
    mapfile -t old < <(tls "$c/server-old.crt" "$c/server-old.key" "$c/ca.crt")
    start tls "${old[@]}"
    denied "a server whose certificate has expired" as client get secret
else skip "expired certificates" "openssl made none"; fi
stop TERM

start auto --auto-tls
like "--auto-tls" '"health":"true"' "$(curl -skf "$client/health")"
denied "--auto-tls with a client that checks" curl -sf "$client/health"
stop TERM
metrics=http://127.0.0.1:$(free_port)
start metrics --listen-metrics-urls "$metrics" --log-level error
like "--listen-metrics-urls: /metrics" 'etcd_server_has_leader 1' "$(curl -sf "$metrics/metrics")"
like "--listen-metrics-urls: /health" '"health":"true"' "$(curl -sf "$metrics/health")"
stop TERM
same "--log-level error says nothing in a healthy run" "" "$(cat "$dir/metrics.log")"
verdict
