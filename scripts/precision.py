#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The rounding error of the float64 reference itself, stage by stage, measured by its long double build.

    scripts/precision.py [MODEL_DIR]      (make precision builds what it needs)

A trace of the float64 build is judged by the same sources compiled with Real = long double: locally (each stage from
the float64 build's own inputs) and chained (from the token ids). Prints a Markdown table.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM, WITNESS = "build/dsv4", "build/dsv4-long-double"
PROMPT = ["--random", "140", "--seed", "5", "--prefill", "137", "--decode", "2", "--mtp"]


def judge(trace: str, model: str, mode: str) -> list[dict]:
    command = [WITNESS, "verify", trace, "--model", model, "--mode", mode, "--json", "--quiet"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["results"]


def largest(results: list[dict]) -> dict[str, tuple[float, float]]:
    """Per stage, over layers and calls: error / largest magnitude, and error / bound."""
    table: dict[str, tuple[float, float]] = {}
    for r in results:
        if not r["magnitude"]:
            continue
        stage = re.sub(r"^(layers|mtp)\.\d+\.", "", r["tap"])
        relative, share = table.get(stage, (0.0, 0.0))
        used = r["error"] / r["bound"] if r["bound"] else 0.0
        table[stage] = (max(relative, r["error"] / r["magnitude"]), max(share, used))
    return table


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "golden/models/tiny"
    with tempfile.TemporaryDirectory() as folder:
        trace = str(Path(folder) / "float64.h5")
        subprocess.run([PROGRAM, "trace", "--model", model, *PROMPT, "-o", trace, "--quiet"], check=True)
        local = largest(judge(trace, model, "local"))
        chained = largest(judge(trace, model, "chained"))
    print("| stage | one stage: error / max | share of the bound | from the token ids: error / max |\n|---|---|---|---|")
    for stage, (relative, share) in local.items():
        print(f"| `{stage}` | {relative:.1e} | {100 * share:.1f} % | {chained[stage][0]:.1e} |")


if __name__ == "__main__":
    main()
