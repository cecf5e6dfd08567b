#!/usr/bin/env bash
# Builds the binary of the release before, for the story of an upgrade (tests/e2e/upgrade.rs): the last commit whose
# log speaks one level less of the language (LEVEL in core/src/command.rs). Move it when LEVEL grows.
set -euo pipefail
commit=e2ddd55d95462b0ae610f4a161c71b9e0d9db52e
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
binary=$target/previous/tidelock
if [ -x "$binary" ] && [ "$(cat "$target/previous/commit" 2>/dev/null)" = "$commit" ]; then
  echo "previous: $commit is built"
  exit 0
fi
if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
  echo "previous: commit $commit is not in this checkout (a shallow clone?): the story of an upgrade does not run"
  exit 0
fi
work=$(mktemp -d)
trap 'git worktree remove --force "$work/tree" 2>/dev/null || true; rm -rf "$work"' EXIT
git worktree add --quiet --detach "$work/tree" "$commit"
# Embedded, and of no matter here.
cp -r admin-ui/dist "$work/tree/admin-ui/"
# The same target directory: what both builds depend on is compiled once.
(cd "$work/tree" && CARGO_TARGET_DIR=$target cargo build --locked --bin tidelock)
mkdir -p "$target/previous"
cp "$target/debug/tidelock" "$binary"
echo "$commit" >"$target/previous/commit"
# Its place is the present build's.
rm -f "$target/debug/tidelock"
