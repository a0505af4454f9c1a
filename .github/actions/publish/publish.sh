#!/usr/bin/env bash
# Publishes the fleets of a commit of the repository in the working directory. Store, trust and key are said by
# MOORGATE_STORE, MOORGATE_TRUST and MOORGATE_KEY; the key itself is in an environment variable of its own, or with a program.
set -euo pipefail
: "${MOORGATE_STORE:?the store}" "${MOORGATE_TRUST:?whose signatures count}" "${MOORGATE_KEY:?the key to sign with}"
commit=$(git rev-parse --verify --end-of-options "${MOORGATE_COMMIT:-HEAD}^{commit}")
args=()
while IFS= read -r line; do
  [ -z "$line" ] || args+=("$line")
done <<< "${MOORGATE_ARGS:-}"
[ "${MOORGATE_PATH:-.}" = . ] || args+=("--path=$MOORGATE_PATH")
[ -z "${MOORGATE_RUN:-}" ] || args+=("--run=$MOORGATE_RUN")
exec moorgate publish . --rev "$commit" --channel "${MOORGATE_CHANNEL:-stable}" "${args[@]}"
