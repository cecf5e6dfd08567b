#!/usr/bin/env bash
# Builds target/release/tidelock by a profile of itself: an instrumented build serves a mixed load, then the compiler
# optimises for what it saw. Worth 8 to 19 % of the CPU that a request costs (ARCHITECTURE.md has the numbers).
#
#   deploy/release/pgo.sh [TARGET]       TARGET as for cargo --target; the host's if left out
#
# Needs h2load (Debian: nghttp2-client), curl, openssl, python3, and an llvm-profdata that reads this compiler's
# profiles: `rustup component add llvm-tools`, or LLVM's own of the same major version (LLVM_PROFDATA names another).
# RUSTFLAGS is kept; with `-C target-feature=+crt-static` the binary is the image's. Takes two release builds, ten minutes
# on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${1:-$(rustc -vV | sed -n 's/^host: //p')}
target_dir=${CARGO_TARGET_DIR:-target}
major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
work=$(mktemp -d)
say() { printf 'pgo: %s\n' "$*"; }

find_profdata() {
  local candidate
  for candidate in "${LLVM_PROFDATA:-}" "$(rustc --print sysroot)/lib/rustlib/$target/bin/llvm-profdata" \
    "llvm-profdata-$major" llvm-profdata; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
    "$candidate" --version 2>/dev/null | grep -q "version $major\." && { echo "$candidate"; return; }
  done
  echo "pgo: no llvm-profdata of LLVM $major: rustup component add llvm-tools, or apt-get install llvm-$major" >&2
  exit 69
}
profdata=$(find_profdata)
for tool in h2load curl openssl python3; do
  command -v "$tool" >/dev/null || { echo "pgo: $tool is missing" >&2; exit 69; }
done

pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap cleanup EXIT

say "building with instrumentation"
RUSTFLAGS="${RUSTFLAGS:-} -Cprofile-generate=$work/raw" CARGO_TARGET_DIR="$target_dir/pgo" \
  cargo build --locked --release --bin tidelock --target "$target"
binary=$target_dir/pgo/$target/release/tidelock

# --- The load. What is measured elsewhere is not repeated here: sizes, mixes and clients are this script's own. ---

# The endpoints are the same binary, but their profile is not wanted.
endpoint() {
  LLVM_PROFILE_FILE=/dev/null "$binary" demo-endpoint --name "$1" >"$work/$1.out" &
  pids+=($!)
  until grep -q listening "$work/$1.out"; do sleep 0.1; done
  sed -n 's/^listening on //p' "$work/$1.out"
}
say "starting two endpoints and a node"
endpoint one >"$work/one" && endpoint two >"$work/two"
one=$(cat "$work/one") two=$(cat "$work/two")

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost -keyout "$work/key.pem" -out "$work/chain.pem" 2>/dev/null
free_ports() {
  python3 -c 'import socket
sockets = [socket.socket() for _ in range(3)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in sockets])'
}
read -r plain tls admin < <(free_ports)

pool() { # NAME PROTOCOL
  printf '[[initial.pools]]\nname = "%s"\nspec = { protocol = "%s" }\n' "$1" "$2"
  printf '[[initial.pools.endpoints]]\nname = "one"\naddress = "%s"\n' "$one"
  printf '[[initial.pools.endpoints]]\nname = "two"\naddress = "%s"\n' "$two"
}
route() { # NAME POOL HOST
  printf '[[initial.routes]]\nname = "%s"\nspec = { pool = "%s", host = "%s" }\n' "$1" "$2" "$3"
}
cat >"$work/node.toml" <<TOML
[node]
name = "pgo"
data_dir = "$work/data"
workers = 1
[admin]
listen = "127.0.0.1:$admin"
[access_log]
format = "off"
[drain]
settle_ms = 0
[[listeners]]
address = "127.0.0.1:$plain"
[[listeners]]
address = "127.0.0.1:$tls"
tls = { certificate = "$work/chain.pem", key = "$work/key.pem" }
$(pool h2 h2c)
$(pool h1 http1)
$(route h2 h2 h2.test)
$(route h1 h1 h1.test)
TOML
LLVM_PROFILE_FILE="$work/raw/%p-%m.profraw" "$binary" serve --config "$work/node.toml" >/dev/null 2>"$work/node.log" &
node=$!
pids+=("$node")
for _ in $(seq 100); do curl -sf "http://127.0.0.1:$admin/readyz" >/dev/null && break || sleep 0.1; done

head -c 1048576 /dev/urandom >"$work/large"
head -c 3000 /dev/urandom >"$work/small"
load() { # REQUESTS, then h2load's own arguments
  h2load -n "$1" -t 1 "${@:2}" >"$work/load.log" 2>&1 || { cat "$work/load.log" >&2; exit 1; }
  grep -E '^finished|^requests' "$work/load.log" | sed 's/^/pgo:   /'
  # A profile of refusals would be worse than none.
  grep -q "^requests: $1 total, $1 started, $1 done, $1 succeeded" "$work/load.log" || { echo "pgo: requests failed" >&2; exit 1; }
}
# Names go to the node by --connect-to: h2load adds a Host of its own beside a given one, which the node refuses.
for pool in h2 h1; do
  plain_url=http://$pool.test:$plain tls_url=https://$pool.test:$tls
  fields=(-H "accept: */*" -H "accept-encoding: gzip" -H "user-agent: Mozilla/5.0 (X11; Linux)")
  to_plain=(--connect-to="127.0.0.1:$plain" "${fields[@]}") to_tls=(--connect-to="127.0.0.1:$tls" "${fields[@]}")
  cookie=$(curl -si "http://127.0.0.1:$plain/counter" -H "host: $pool.test" | sed -n 's/^set-cookie: \([^;]*\).*/\1/ip' | tr -d '\r')
  cookie=$(tr '\n' ';' <<<"$cookie")
  say "load on the pool $pool"
  load 60000 --h1 -c 32 -m 1 "${to_plain[@]}" -H "cookie: $cookie" "$plain_url/counter"
  load 120000 -c 8 -m 32 "${to_plain[@]}" -H "cookie: a=b; $cookie" "$plain_url/counter"
  load 40000 -c 32 -m 1 "${to_plain[@]}" "$plain_url/"
  load 80000 -c 8 -m 16 "${to_tls[@]}" "$tls_url/counter"
  load 40000 --h1 -c 16 -m 1 "${to_tls[@]}" -H "cookie: $cookie" "$tls_url/counter"
  load 30000 -c 8 -m 8 "${to_plain[@]}" -d "$work/small" "$plain_url/upload"
  load 20000 --h1 -c 8 -m 1 "${to_plain[@]}" -d "$work/small" "$plain_url/upload"
  load 600 -c 2 -m 2 "${to_plain[@]}" -d "$work/large" "$plain_url/upload"
  load 600 -c 2 -m 2 "${to_plain[@]}" "$plain_url/stream?chunks=16&interval_ms=0&bytes=65536"
done
say "WebSockets"
python3 deploy/release/websockets.py "$plain" h1.test 60000
say "handshakes"
for _ in $(seq 60); do h2load -n 4 -c 4 -m 1 --connect-to="127.0.0.1:$tls" "https://h2.test:$tls/counter" >/dev/null 2>&1; done

# The profile is written at a clean end.
kill -TERM "$node"
wait "$node" || { cat "$work/node.log" >&2; exit 1; }
"$profdata" merge -o "$work/merged.profdata" "$work/raw"

say "building with the profile"
RUSTFLAGS="${RUSTFLAGS:-} -Cprofile-use=$work/merged.profdata" cargo build --locked --release --bin tidelock --target "$target"
mkdir -p "$target_dir/release"
cp "$target_dir/$target/release/tidelock" "$target_dir/release/tidelock"
say "done: $target_dir/release/tidelock"
