#!/usr/bin/env bash
# Makes the image from a binary that exists, without pulling anything and without a container daemon.
#
#   deploy/container/build.sh BINARY TAG
#
# BINARY is static:  RUSTFLAGS="-C target-feature=+crt-static" \
#                      cargo build --release --bin tidelock --target x86_64-unknown-linux-gnu
# Needs buildah. The vfs driver and chroot isolation work where overlay mounts and user namespaces do not (inside
# another container, in CI). IMAGE_REVISION, if set, becomes the label org.opencontainers.image.revision.
set -euo pipefail

if [ $# -ne 2 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 64
fi
binary=$1 tag=$2
here=$(cd "$(dirname "$0")" && pwd)

[ -f "$binary" ] || { echo "build.sh: no such file: $binary" >&2; exit 66; }
command -v buildah >/dev/null || { echo "build.sh: buildah is missing (Debian: apt-get install buildah)" >&2; exit 69; }

# A binary with an interpreter would start nowhere: the image has no loader.
if LC_ALL=C readelf -lW "$binary" | grep -q 'INTERP'; then
  echo "build.sh: $binary is linked dynamically; the image has no libc. See the command above." >&2
  exit 65
fi

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir -p "$context/out/data"
install -m 0755 "$binary" "$context/out/tidelock"
install -m 0644 "$here/tidelock.toml" "$here/../../LICENSE" "$context/out/"

# The folder takes the place of the Containerfile's `build` stage; the stages before it are then needed by nobody and
# are skipped, so no base image is pulled.
buildah --storage-driver vfs bud --isolation chroot --quiet \
  --label "org.opencontainers.image.revision=${IMAGE_REVISION:-unknown}" \
  --build-context "build=$context" \
  --file "$here/Containerfile" --tag "$tag" "$context"
