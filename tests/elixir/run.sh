#!/usr/bin/env bash
# Runs one BEAM endpoint in the foreground. Prints "READY <name> <port>" when it accepts connections; ends on SIGTERM
# as any Erlang release does. tests/elixir/setup.sh has to have run once.
#
#   PORT=4001 NAME=app-1 tests/elixir/run.sh
#
# PORT  0 (the default) takes a free one: read it from the READY line
# NAME  how the endpoint calls itself in its answers (default: app)
# BIND  the IPv4 address to listen on (default: 127.0.0.1)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cowboy=${here%/elixir}/.cache/cowboy

if ! command -v elixir >/dev/null || [ ! -d "$cowboy" ]; then
  echo "run.sh: Elixir or Cowboy is missing; run tests/elixir/setup.sh first" >&2
  exit 69
fi

paths=()
for ebin in "$cowboy"/*/ebin; do paths+=(-pa "$ebin"); done

# Schedulers that do not spin while idle: several endpoints share a small machine with the balancer under test.
export ERL_AFLAGS="${ERL_AFLAGS:-+sbwt none +sbwtdcpu none +sbwtdio none}"
export LC_ALL=C.UTF-8
exec elixir "${paths[@]}" "$here/app.exs" </dev/null
