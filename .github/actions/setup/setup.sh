#!/usr/bin/env bash
# Fetches a release of moorgate into a folder, and takes it only if it has the digest that was asked for.
#   setup.sh FOLDER      MOORGATE_VERSION, MOORGATE_SHA256, and MOORGATE_RELEASES for a mirror
set -euo pipefail
folder=${1:?usage: setup.sh FOLDER}
: "${MOORGATE_VERSION:?a release, such as v0.1.0}" "${MOORGATE_SHA256:?the digest of its archive}"
[[ $MOORGATE_VERSION =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || { echo "error: not a version: $MOORGATE_VERSION" >&2; exit 2; }
case $(uname -m) in
  x86_64) machine=amd64 ;;
  aarch64 | arm64) machine=arm64 ;;
  *) echo "error: there is no release for $(uname -m)" >&2; exit 3 ;;
esac
releases=${MOORGATE_RELEASES:-https://github.com/moorgate/moorgate/releases/download}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
curl --fail --silent --show-error --location --retry 5 --max-filesize 268435456 \
  --output "$work/archive" "$releases/$MOORGATE_VERSION/moorgate-$MOORGATE_VERSION-linux-$machine.tar.gz"
echo "$MOORGATE_SHA256  $work/archive" | sha256sum --check --quiet --strict || { echo "error: the archive has another digest" >&2; exit 5; }
mkdir -p "$folder"
tar --extract --gzip --file "$work/archive" --directory "$folder" --no-same-owner moorgate moorgate-relay
"$folder/moorgate" version
