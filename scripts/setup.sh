#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing: Debian/Ubuntu packages (through sudo unless root) and build/venv, the Python
# environment of the tests. Quick and silent when everything is there. Flags: --no-python.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(g++ make cmake ninja-build pkg-config libeigen3-dev libhdf5-dev nlohmann-json3-dev
          libcli11-dev libfmt-dev libgtest-dev libbenchmark-dev libssl-dev
          python3 python3-venv clang-format clang-tidy)

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done

if ((${#missing[@]} > 0)); then
  if ! command -v apt-get > /dev/null; then
    echo "setup: apt-get not found; please install: ${missing[*]}" >&2
    exit 2
  fi
  run=()
  if ((EUID != 0)); then
    if ! command -v sudo > /dev/null; then
      echo "setup: neither root nor sudo; please run as root: apt-get install ${missing[*]}" >&2
      exit 2
    fi
    run=(sudo)
  fi
  echo "setup: installing ${missing[*]}" >&2
  "${run[@]}" apt-get update -qq
  "${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

mkdir -p build
[[ ${1:-} == --no-python ]] && exit 0

# The stamp holds the requirements that build/venv was made from.
stamp=build/venv/requirements.stamp
if ! cmp -s tests/requirements.txt "$stamp"; then
  echo "setup: creating build/venv for the Python tests" >&2
  rm -rf build/venv
  /usr/bin/python3 -m venv build/venv
  build/venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt "$stamp"
fi
