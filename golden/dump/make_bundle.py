# SPDX-License-Identifier: Apache-2.0
"""Makes the bundled checkpoints and goldens of golden/bundle.json and writes golden/manifest.json.

    python golden/dump/make_bundle.py --dsv4 build/dsv4 --inference-dir DIR [--only GLOB]

Checkpoints come from `dsv4 make-model`; expected values come from the official code or from transformers, never from
the code under test. The same inputs give the same bytes, so a second run changes nothing.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DUMP = Path("golden/dump")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_model(path: str, entry: dict, program: str) -> None:
    shutil.rmtree(ROOT / path, ignore_errors=True)
    subprocess.run([program, *entry["command"], "-o", path], cwd=ROOT, check=True)


def golden_command(path: str, entry: dict) -> list[str]:
    """The command of one golden, without what depends on the machine."""
    arguments = [*entry["arguments"], "--model", entry["model"], "-o", path]
    return ["python", str(DUMP / f"dump_{entry['producer']}.py"), *arguments]


def make_golden(path: str, entry: dict, inference_dir: str) -> None:
    command = [sys.executable, *golden_command(path, entry)[1:]]
    if entry["producer"] == "official":
        command += ["--inference-dir", inference_dir]
    subprocess.run(command, cwd=ROOT, check=True)


def manifest(bundle: dict) -> dict:
    models = {
        path: {
            "what": entry["what"],
            "command": " ".join(["dsv4", *entry["command"], "-o", path]),
            "sha256": {p.name: sha256(p) for p in sorted((ROOT / path).iterdir())},
        }
        for path, entry in bundle["models"].items()
    }
    goldens = [
        {
            "trace": path,
            "model": entry["model"],
            "what": entry["what"],
            "producer": entry["producer"],
            "command": " ".join(golden_command(path, entry)),
            "sha256": sha256(ROOT / path),
        }
        for path, entry in bundle["goldens"].items()
    ]
    return {"schema": "bundle/1", "models": models, "goldens": goldens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dsv4", default="build/dsv4", help="the program that makes the checkpoints")
    parser.add_argument("--inference-dir", required=True, help="folder with DeepSeek's own model.py")
    parser.add_argument("--only", default="*", help="only what matches this glob; the manifest covers everything")
    options = parser.parse_args()
    bundle = json.loads((ROOT / "golden/bundle.json").read_text())
    for path, entry in bundle["models"].items():
        if fnmatch.fnmatch(path, options.only):
            make_model(path, entry, options.dsv4)
    for path, entry in bundle["goldens"].items():
        if fnmatch.fnmatch(path, options.only):
            make_golden(path, entry, options.inference_dir)
    text = json.dumps(manifest(bundle), indent=2, ensure_ascii=False)
    (ROOT / "golden/manifest.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
