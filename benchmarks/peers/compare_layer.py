#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our prefill against the official code's, in turn, several times; medians and their ratio.

    compare_layer.py --layer-bench build/benchmarks/layer_bench --inference-dir DIR --model CKPT --tokens 512

Each round starts both programs afresh, so that what else runs on the machine meets both.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

PEER = Path(__file__).with_name("official_layer.py")


def ours(args: argparse.Namespace, environment: dict[str, str]) -> list[float]:
    command = [args.layer_bench, "--model", args.model, "--tokens", str(args.tokens), "--repeat", "2"]
    text = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return [float(s) for s in re.findall(r"^prefill \d+ tokens: ([\d.]+) s", text, re.MULTILINE)]


def theirs(args: argparse.Namespace, environment: dict[str, str]) -> list[float]:
    command = [sys.executable, str(PEER), "--inference-dir", args.inference_dir, "--model", args.model]
    command += ["--tokens", str(args.tokens), "--repeat", "2", "--threads", str(args.threads)]
    text = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return json.loads(text.splitlines()[-1])["prefill_s"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer-bench", required=True, help="the program layer_bench")
    parser.add_argument("--inference-dir", required=True, help="folder with DeepSeek's own model.py")
    parser.add_argument("--model", required=True, help="checkpoint folder, official layout")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    rows = []
    print("round   ours: first  again   official: first  again   [s]")
    for i in range(args.rounds):
        a, b = ours(args, environment), theirs(args, environment)
        rows.append((*a, *b))
        print(f"{i + 1:5}   {a[0]:11.2f}  {a[1]:5.2f}   {b[0]:15.2f}  {b[1]:5.2f}", flush=True)
    first = statistics.median(row[2] / row[0] for row in rows)
    again = statistics.median(row[3] / row[1] for row in rows)
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    print(f"median  {medians[0]:11.2f}  {medians[1]:5.2f}   {medians[2]:15.2f}  {medians[3]:5.2f}")
    print(f"official / ours, median of ratios: first prefill {first:.2f}, weights already in float64 {again:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
