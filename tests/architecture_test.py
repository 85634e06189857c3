#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The rules of CONTRIBUTING.md that a script can check. Usage: architecture_test.py ROOT"""

import pathlib
import re
import subprocess
import sys

# Which rooms a room may include.
ALLOWED = {
    "core": {"core"},
    "reference": {"core", "reference"},
    "golden": {"core", "golden"},
    "conformance": {"core", "golden", "conformance"},
    "cuda": {"core", "cuda"},
}
ROOMS = ["core", "reference", "golden", "conformance", "cli", "cuda"]
CPP = {".cpp", ".hpp", ".cu", ".cuh"}
MOST_LINES = 400
OUTSIDE = re.compile(r"\.\./shared\b|(?<![\w./-])/(?:work|root|home)/")
INCLUDE = re.compile(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', re.MULTILINE)
HDF5 = re.compile(r"^(hdf5|hdf5_hl|H5\w*)\.h$")


def repository_files(root):
    """The files that git tracks or would track; all files where there is no git."""
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, check=False)
    if listed.returncode == 0:
        names = listed.stdout.decode().split("\0")
        return [root / name for name in names if name and (root / name).is_file()]
    return [path for path in root.rglob("*")
            if path.is_file() and not re.match(r"(build|\.git)", str(path.relative_to(root)))]


def include_problems(path, room, text):
    for header in INCLUDE.findall(text):
        if HDF5.match(header.split("/")[-1]) and path.as_posix() != "golden/hdf5.cpp":
            yield f"{path}: includes {header}; only golden/hdf5.cpp may"
        target = header.split("/")[0]
        if room in ALLOWED and "/" in header and target in ROOMS and target not in ALLOWED[room]:
            yield f"{path}: room {room} may not include {header}"


def problems(root):
    for path in repository_files(root):
        name = path.relative_to(root)
        data = path.read_bytes()
        if b"\0" in data[:4096] or path.suffix in {".h5", ".safetensors"}:
            continue
        text = data.decode("utf-8", errors="replace")
        if name.as_posix() != "tests/architecture_test.py":
            for number, line in enumerate(text.splitlines(), 1):
                if OUTSIDE.search(line):
                    yield f"{name}:{number}: refers to a path outside the repository: {line.strip()[:80]}"
        if path.suffix in CPP:
            lines = text.count("\n")
            if lines > MOST_LINES:
                yield f"{name}: {lines} lines, at most {MOST_LINES} are allowed"
            if "SPDX-License-Identifier: Apache-2.0" not in text[:200]:
                yield f"{name}: the first line must be the SPDX line"
            if path.suffix in {".hpp", ".cuh"} and "#pragma once" not in text:
                yield f"{name}: #pragma once is missing"
            yield from include_problems(name, name.parts[0], text)


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    found = list(problems(root))
    for problem in found:
        print(problem)
    print(f"architecture: {len(found)} problem(s)")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
