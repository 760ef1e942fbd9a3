#!/usr/bin/env bash
# Three members over mTLS (scripts/cluster), asked by etcdctl with the right certificate, with none and with a foreign one.
# Use: mtls.sh DIR [ETCDCTL]
set -uo pipefail
dir=${1:?use: mtls.sh DIR [ETCDCTL]} ctl=${2:-etcdctl}
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/jepsen/interop/lib.sh"
free_pair() { # a port that nobody listens on, nor on the next one
    local port
    while port=$(free_port); do (: >"/dev/tcp/127.0.0.1/$((port + 1))") 2>/dev/null || { echo "$port"; return; }; done
}
export PORTS="$(free_pair) $(free_pair) $(free_pair)"
"$root/scripts/cluster" start "$dir" >/dev/null 2>&1 &
trap '"$root/scripts/cluster" stop "$dir"; wait' EXIT
read -ra ports <<<"$PORTS"
c=$dir/certs all=https://127.0.0.1:${ports[0]},https://127.0.0.1:${ports[1]},https://127.0.0.1:${ports[2]}
right=(--cacert "$c/ca.crt" --cert "$c/client.crt" --key "$c/client.key")
die() { echo "FAILED: $*"; tail -n 5 "$dir"/m?.log; exit 1; }

for _ in {1..60}; do "$ctl" --endpoints $all "${right[@]}" endpoint health >/dev/null 2>&1 && break; sleep 0.5; done
"$ctl" --endpoints $all "${right[@]}" endpoint health 2>&1 | grep -c "is healthy" | grep -qx 3 || die "not all three are healthy"
"$ctl" --endpoints $all "${right[@]}" endpoint status -w table
for port in "${ports[@]}"; do
    "$ctl" --endpoints https://127.0.0.1:$port "${right[@]}" put mtls/$port yes | grep -qx OK || die "put on $port"
done
for port in "${ports[@]}"; do
    seen=$("$ctl" --endpoints https://127.0.0.1:$port "${right[@]}" get mtls/ --prefix --keys-only | grep -c mtls/)
    [ "$seen" = 3 ] || die "$port shows $seen keys of 3"
done
leaders=$("$ctl" --endpoints $all "${right[@]}" endpoint status | cut -d, -f5 | grep -c true)
[ "$leaders" = 1 ] || die "$leaders leaders"
hashes=$("$ctl" --endpoints $all "${right[@]}" endpoint hashkv | cut -d, -f2 | sort -u | wc -l)
[ "$hashes" = 1 ] || die "the members' hashes differ"

for port in "${ports[@]}"; do
    "$ctl" --command-timeout 3s --dial-timeout 3s --endpoints https://127.0.0.1:$port --cacert "$c/ca.crt" get a >/dev/null 2>&1 &&
        die "$port serves without a certificate"
    "$ctl" --command-timeout 3s --dial-timeout 3s --endpoints https://127.0.0.1:$port --cacert "$c/ca.crt" \
        --cert "$c/foreign.crt" --key "$c/foreign.key" get a >/dev/null 2>&1 && die "$port serves a foreign CA's certificate"
done
# The name in a certificate counts too: a client that trusts another CA refuses this server.
"$ctl" --command-timeout 3s --dial-timeout 3s --endpoints https://127.0.0.1:${ports[0]} --cacert "$c/foreign-ca.crt" \
    --cert "$c/client.crt" --key "$c/client.key" get a >/dev/null 2>&1 && die "a foreign CA is trusted"
curl -sf --cacert "$c/ca.crt" --cert "$c/client.crt" --key "$c/client.key" https://127.0.0.1:${ports[0]}/health | grep -q '"health":"true"' || die "curl /health"
curl -sf --cacert "$c/ca.crt" https://127.0.0.1:${ports[0]}/health >/dev/null 2>&1 && die "curl without a certificate was served"
echo "three members answer over mTLS; no certificate and a foreign one are refused"
