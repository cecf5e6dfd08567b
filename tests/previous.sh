#!/usr/bin/env bash
# Builds the binary of the release before, for the story of an upgrade (tests/e2e/upgrade.rs): the last commit whose
# log speaks one level less of the language (LEVEL in core/src/command.rs). Move it when LEVEL grows.
set -euo pipefail
commit=ff002c10c7d4f2ae968566d42b78de027ffb54c3
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
there=$target/previous
if [ -x "$there/tidelock" ] && [ "$(cat "$there/commit" 2>/dev/null)" = "$commit" ]; then
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
# What both builds depend on is taken from the present one. Our own crates are not: cargo knows the two apart by
# nothing but their files' times.
for part in deps build .fingerprint; do
  mkdir -p "$there/build/debug/$part"
  find "$target/debug/$part" -mindepth 1 -maxdepth 1 ! -name '*tidelock*' -exec cp -a -t "$there/build/debug/$part" {} +
done
(cd "$work/tree" && CARGO_TARGET_DIR=$there/build cargo build --locked --bin tidelock)
mv "$there/build/debug/tidelock" "$there/tidelock"
rm -rf "$there/build"
echo "$commit" >"$there/commit"
