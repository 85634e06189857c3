#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What the compiler does not check: formatting, clang-tidy, and the rules that grep can test.
# Usage: scripts/lint.sh [--fix | --no-tidy] [FILE…]   (--fix formats in place and stops)
set -euo pipefail
cd "$(dirname "$0")/.."

mode=check
if [[ ${1:-} == --fix || ${1:-} == --no-tidy ]]; then
  mode=${1#--}
  shift
fi

if (($# > 0)); then
  files=("$@")
else
  mapfile -t files < <(find core reference golden conformance cli cuda python tests benchmarks \
    \( -name '*.cpp' -o -name '*.hpp' -o -name '*.cu' -o -name '*.cuh' \) 2> /dev/null | sort)
fi

if [[ $mode == fix ]]; then
  clang-format -i "${files[@]}"
  exit 0
fi

echo "lint: clang-format (${#files[@]} files)"
clang-format --dry-run -Werror "${files[@]}"

echo "lint: architecture"
python3 tests/architecture_test.py .

[[ $mode == no-tidy ]] && exit 0
echo "lint: clang-tidy"
cmake --preset tidy > /dev/null
# Headers that the build writes.
cmake --build build-tidy --target dsv4_plant > /dev/null
sources=()
for file in "${files[@]}"; do
  if [[ $file == *.cpp ]] && grep -q "\"file\": \".*/$file\"" build-tidy/compile_commands.json; then
    sources+=("$file")
  fi
done
# g++'s warning flags that clang does not know are no finding.
printf '%s\0' "${sources[@]}" |
  xargs -0 -n 1 -P "$(nproc)" clang-tidy -p build-tidy --quiet --extra-arg=-Wno-unknown-warning-option \
    --extra-arg=-include --extra-arg="$PWD/scripts/source_location.hpp"
echo "lint: clean"
