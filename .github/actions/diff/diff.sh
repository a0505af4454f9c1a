#!/usr/bin/env bash
# Checks a revision of the repository in the working directory, and writes what it changes for Envoy against another:
#   RESULT/check.txt diff.txt result.json
# Exits 1 if the check found errors. Reads git objects only: nothing of the proposed change is run, no hook, no filter.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
path=${MOORGATE_PATH:-.} base=${MOORGATE_BASE:-HEAD^1} head=${MOORGATE_HEAD:-HEAD} result=${MOORGATE_RESULT:-moorgate-result}
# Commits by their ids: a revision that looks like a flag, or like two, is none.
commit() { git rev-parse --verify --quiet --end-of-options "$1^{commit}" || { echo "error: no such commit: $1 (is the history deep enough?)" >&2; exit 3; }; }
base=$(commit "$base") head=$(commit "$head")
args=()
while IFS= read -r line; do
  [ -z "$line" ] || args+=("$line")
done <<< "${MOORGATE_ARGS:-}"
[ "$path" = . ] || args+=("--path=$path")

mkdir -p "$result"
check=0 diff=0
moorgate check . --rev "$head" "${args[@]}" > "$result/check.txt" 2>&1 || check=$?
if [ "${GITHUB_ACTIONS:-}" = true ]; then
  # Workflow commands of moorgate's own making, in which what others wrote is escaped: notes at lines of files.
  moorgate check . --rev "$head" "${args[@]}" -o github 2> /dev/null || true
fi
moorgate diff "git:$base" "git:$head" "${args[@]}" > "$result/diff.txt" 2> "$result/diff.err" || diff=$?
[ "$diff" -le 1 ] || cat "$result/diff.err" >> "$result/diff.txt"
rm -f "$result/diff.err"
printf '{"format_version":1,"base":"%s","head":"%s","check":%d,"diff":%d}\n' "$base" "$head" "$check" "$diff" > "$result/result.json"
summary=$(python3 "$here/../comment/comment.py" --print "$result")
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
  printf '%s\n' "$summary" >> "$GITHUB_STEP_SUMMARY"
else
  printf '%s\n' "$summary"
fi
# 1: the change has errors. What neither says nor compiles (2 and more) is an error of this job.
if [ "$check" -ne 0 ]; then exit "$check"; fi
case $diff in 0 | 1) ;; *) exit "$diff" ;; esac
