#!/bin/sh
# Writes a second and their latency, three nodes on this machine: Tidelock's control plane against etcd (Debian's
# etcd-server), both over HTTP/1.1 with JSON, both with every write on three disks before it is answered.
#
#   bench/consensus.sh [tidelock binary]
#
# Needs etcd and h2load. The leader is asked in both cases.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
binary=${1:-$here/target/release/tidelock}
work=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null; wait 2>/dev/null; rm -rf "$work"' EXIT INT TERM
base=24600

load() { # name, url, body, method
  printf '%s' "$3" >"$work/body"
  for clients in 1 16 64; do
    count=$((clients * 150))
    h2load --h1 -n "$count" -c "$clients" -d "$work/body" -H ":method: $4" -H "content-type: application/json" "$2" \
      >"$work/out"
    grep -q " $count succeeded, 0 failed" "$work/out" || { cat "$work/out"; exit 1; }
    rate=$(sed -n 's/^finished in [^,]*, \([0-9.]*\) req.*/\1/p' "$work/out")
    mean=$(awk '$1 == "time" && $3 == "request:" { print $6 }' "$work/out")
    printf '%-10s %3d clients  %8s writes/s  mean %s\n' "$1" "$clients" "$rate" "$mean"
  done
}

# etcd
peers=
for i in 1 2 3; do peers="$peers,e$i=http://127.0.0.1:$((base + i))"; done
for i in 1 2 3; do
  etcd --name "e$i" --data-dir "$work/e$i" --listen-peer-urls "http://127.0.0.1:$((base + i))" \
    --initial-advertise-peer-urls "http://127.0.0.1:$((base + i))" --initial-cluster "${peers#,}" \
    --listen-client-urls "http://127.0.0.1:$((base + 10 + i))" \
    --advertise-client-urls "http://127.0.0.1:$((base + 10 + i))" >"$work/e$i.log" 2>&1 &
  pids="$pids $!"
done
leads() { # the etcd whose own id is its leader's
  curl -s -X POST "http://127.0.0.1:$1/v3/maintenance/status" -d '{}' |
    grep -Eo '"(member_id|leader)":"[0-9]+"' | cut -d'"' -f4 | uniq -d | grep -q .
}
leader=
while [ -z "$leader" ]; do
  sleep 0.3
  for i in 1 2 3; do if leads $((base + 10 + i)); then leader=$((base + 10 + i)); fi; done
done
value=$(printf '{"address":"10.0.0.1:4000","weight":1}' | base64)
load etcd "http://127.0.0.1:$leader/v3/kv/put" "{\"key\":\"cG9vbHMvYXBwL2E=\",\"value\":\"$value\"}" POST
kill $pids; wait 2>/dev/null || true
pids=

# Tidelock
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$work/secret"
founders="\"127.0.0.1:$((base + 21))\", \"127.0.0.1:$((base + 22))\", \"127.0.0.1:$((base + 23))\""
for i in 1 2 3; do
  cat >"$work/t$i.toml" <<TOML
[node]
name = "t$i"
data_dir = "$work/t$i"
workers = 1
[fleet]
listen = "127.0.0.1:$((base + 20 + i))"
founders = [$founders]
secret_file = "$work/secret"
[admin]
listen = "127.0.0.1:$((base + 30 + i))"
[access_log]
format = "off"
[drain]
settle_ms = 0
[[listeners]]
address = "127.0.0.1:$((base + 40 + i))"
TOML
  "$binary" serve --config "$work/t$i.toml" >/dev/null 2>"$work/t$i.log" &
  pids="$pids $!"
done
leader=
while [ -z "$leader" ]; do
  sleep 0.3
  name=$(curl -s "http://127.0.0.1:$((base + 31))/v1/status" | sed -n 's/.*"leader":"t\([123]\)".*/\1/p')
  if [ -n "$name" ]; then leader=$((base + 30 + name)); fi
done
curl -sf -X PUT -H 'content-type: application/json' -d '{}' "http://127.0.0.1:$leader/v1/pools/app" >/dev/null
load tidelock "http://127.0.0.1:$leader/v1/pools/app/endpoints/a" '{"address":"10.0.0.1:4000","weight":1}' PUT
