#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Verifies every golden that golden/manifest.json lists: entries {"trace": …, "model": …}, paths from the
# repository's root. Usage: scripts/verify_goldens.sh [PROGRAM [ARGUMENTS OF verify…]]
# Exit code: the largest of the single ones; 3 if the manifest lists nothing.
set -uo pipefail
cd "$(dirname "$0")/.."

program=${1:-build/dsv4}
shift || true
if [[ ! -x $program ]]; then
  echo "verify: $program not found; build it first: make build" >&2
  exit 2
fi

pairs=$(python3 - golden/manifest.json << 'PYTHON'
import json, sys

try:
    manifest = json.load(open(sys.argv[1], encoding="utf-8"))
except (OSError, ValueError) as error:
    sys.exit(f"verify: {sys.argv[1]}: {error}")

def entries(node):
    """Every object that names a trace and a model, wherever it stands."""
    if isinstance(node, dict):
        if isinstance(node.get("trace"), str) and isinstance(node.get("model"), str):
            yield node["trace"], node["model"]
        for value in node.values():
            yield from entries(value)
    elif isinstance(node, list):
        for value in node:
            yield from entries(value)

for trace, model in entries(manifest):
    print(f"{trace}\t{model}")
PYTHON
) || exit 2

worst=0
count=0
while IFS=$'\t' read -r trace model; do
  [[ -n $trace ]] || continue
  count=$((count + 1))
  echo "── $trace"
  "$program" verify "$trace" --model "$model" "$@" < /dev/null
  code=$?
  ((code > worst)) && worst=$code
done <<< "$pairs"

if ((count == 0)); then
  echo "verify: golden/manifest.json lists no golden" >&2
  exit 3
fi
if ((worst == 0)); then
  echo "verify: all $count goldens agree with the reference"
else
  echo "verify: of $count goldens at least one differs (exit code $worst)" >&2
fi
exit "$worst"
