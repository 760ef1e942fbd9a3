#!/usr/bin/env bash
# Makes a certificate of the CA in DIR that ended yesterday, for 127.0.0.1. Use: expired.sh DIR NAME SUBJECT USAGE
set -euo pipefail
cd "$1"
openssl ecparam -name prime256v1 -genkey -noout -out "$2.key" 2>/dev/null
openssl req -new -key "$2.key" -subj "$3" -out "$2.csr" 2>/dev/null
: >"$2.index"; echo 4711 >"$2.serial"
cat >"$2.cnf" <<CNF
[ca]
default_ca = it
[it]
database = $2.index
serial = $2.serial
new_certs_dir = .
default_md = sha256
policy = any
[any]
commonName = supplied
CNF
openssl ca -batch -notext -config "$2.cnf" -in "$2.csr" -out "$2.crt" -cert ca.crt -keyfile ca.key \
    -startdate 20200101000000Z -enddate "$(date -u -d yesterday +%Y%m%d000000Z)" \
    -extfile <(printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=%s\n' "$4") 2>/dev/null
