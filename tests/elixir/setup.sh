#!/usr/bin/env bash
# Gets what the BEAM endpoint needs, from Debian's packages alone: Elixir, and Cowboy with its two libraries, which
# lie inside the rabbitmq-server package. That package is unpacked into tests/.cache, never installed: no service is
# started, no user is made. Runs as often as you like; says what it does and skips what is there.
set -euo pipefail
cd "$(dirname "$0")"
cache=$(cd .. && pwd)/.cache
cowboy=$cache/cowboy

say() { printf 'elixir setup: %s\n' "$*"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else say "need root for: $*"; exit 1
  fi
}

if ! command -v apt-get >/dev/null; then
  say "this script knows Debian's packages only; install Elixir yourself and put the ebin folders of cowboy 2.8,"
  say "cowlib and ranch under $cowboy"
  exit 1
fi

# Once a run, and only when something has to be fetched.
update_lists() {
  [ -z "${updated:-}" ] || return 0
  say "refreshing the package lists"
  as_root apt-get update -qq
  updated=1
}

if command -v elixir >/dev/null; then
  say "elixir is here"
else
  update_lists
  say "installing elixir (with the TLS library that ranch wants)"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends elixir erlang-ssl >/dev/null
fi

if compgen -G "$cowboy/cowboy-2.*/ebin/cowboy.app" >/dev/null; then
  say "cowboy is here"
else
  update_lists
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  chmod 755 "$work"
  say "downloading rabbitmq-server for the Cowboy inside it (not installed, not started)"
  (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root rabbitmq-server)
  dpkg-deb -x "$work"/rabbitmq-server_*.deb "$work/unpacked"
  # Laid beside and then renamed, so that an interrupted run leaves nothing half there.
  mkdir -p "$cache" "$work/cowboy"
  cp -r "$work"/unpacked/usr/lib/rabbitmq/lib/rabbitmq_server-*/plugins/{cowboy,cowlib,ranch}-[0-9]* "$work/cowboy/"
  rm -rf "$cowboy" "$cowboy.new"
  cp -r "$work/cowboy" "$cowboy.new"
  mv "$cowboy.new" "$cowboy"
  say "unpacked $(cd "$cowboy" && echo *)"
fi
