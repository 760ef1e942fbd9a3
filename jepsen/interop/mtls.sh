#!/usr/bin/env bash
# Three members over mTLS (scripts/cluster), asked by etcdctl with the right certificate, with none and with a foreign one.
# Use: mtls.sh DIR
set -uo pipefail
dir=${1:?use: mtls.sh DIR}
root=$(cd "$(dirname "$0")/../.." && pwd)
"$root/scripts/cluster" start "$dir" >/dev/null 2>&1 &
trap '"$root/scripts/cluster" stop "$dir"; wait' EXIT
c=$dir/certs all=https://127.0.0.1:12379,https://127.0.0.1:22379,https://127.0.0.1:32379
right=(--cacert "$c/ca.crt" --cert "$c/client.crt" --key "$c/client.key")
die() { echo "FAILED: $*"; tail -n 5 "$dir"/m?.log; exit 1; }

for _ in {1..60}; do etcdctl --endpoints $all "${right[@]}" endpoint health >/dev/null 2>&1 && break; sleep 0.5; done
etcdctl --endpoints $all "${right[@]}" endpoint health 2>&1 | grep -c "is healthy" | grep -qx 3 || die "not all three are healthy"
etcdctl --endpoints $all "${right[@]}" endpoint status -w table
for port in 12379 22379 32379; do
    etcdctl --endpoints https://127.0.0.1:$port "${right[@]}" put mtls/$port yes | grep -qx OK || die "put on $port"
done
for port in 12379 22379 32379; do
    seen=$(etcdctl --endpoints https://127.0.0.1:$port "${right[@]}" get mtls/ --prefix --keys-only | grep -c mtls/)
    [ "$seen" = 3 ] || die "$port shows $seen keys of 3"
done
leaders=$(etcdctl --endpoints $all "${right[@]}" endpoint status | cut -d, -f5 | grep -c true)
[ "$leaders" = 1 ] || die "$leaders leaders"
hashes=$(etcdctl --endpoints $all "${right[@]}" endpoint hashkv | cut -d, -f2 | sort -u | wc -l)
[ "$hashes" = 1 ] || die "the members' hashes differ"

for port in 12379 22379 32379; do
    etcdctl --command-timeout 3s --dial-timeout 3s --endpoints https://127.0.0.1:$port --cacert "$c/ca.crt" get a >/dev/null 2>&1 &&
        die "$port serves without a certificate"
    etcdctl --command-timeout 3s --dial-timeout 3s --endpoints https://127.0.0.1:$port --cacert "$c/ca.crt" \
        --cert "$c/foreign.crt" --key "$c/foreign.key" get a >/dev/null 2>&1 && die "$port serves a foreign CA's certificate"
done
# The name in a certificate counts too: a client that trusts another CA refuses this server.
etcdctl --command-timeout 3s --dial-timeout 3s --endpoints https://127.0.0.1:12379 --cacert "$c/foreign-ca.crt" \
    --cert "$c/client.crt" --key "$c/client.key" get a >/dev/null 2>&1 && die "a foreign CA is trusted"
curl -sf --cacert "$c/ca.crt" --cert "$c/client.crt" --key "$c/client.key" https://127.0.0.1:12379/health | grep -q '"health":"true"' || die "curl /health"
curl -sf --cacert "$c/ca.crt" https://127.0.0.1:12379/health >/dev/null 2>&1 && die "curl without a certificate was served"
echo "three members answer over mTLS; no certificate and a foreign one are refused"
