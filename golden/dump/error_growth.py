#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How far two traces of the same run have parted after each layer: a table in Markdown.

    error_growth.py OFFICIAL.h5 OTHER.h5

Both hold `hc_ffn.out` of the layers and `logits`. Two dumps of the official code with the same ids, one with
--rounding official, one with --rounding official_float32, show what two correct implementations of official
numerics may differ by. Rows are joined by absolute position; what only one trace has is left out.

  relative RMS   root of sum (a - b)^2 / sum a^2, over the rows in both
  equal          share of values that are the same number
  choices        rows in which the layer chose other experts or other entries, of all rows recorded

Exit code: 0, 2 unreadable or of different token ids, 3 nothing in common.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from typing import Optional

import numpy as np

from compare import collect
from errors import DumpError, run_main
from taps import TapList
from package import TraceReader

Rows = dict[int, np.ndarray]
BLOCK = re.compile(r"((?:layers|mtp)\.\d+)\.hc_ffn\.out")
HEAD = ("norm.out", "logits")


@dataclass
class Distance:
    """What separates one tap of two traces."""

    values: int = 0
    equal: int = 0
    squares: float = 0.0  # of the differences
    power: float = 0.0  # squares of the first trace's values

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        if a.shape != b.shape:
            raise DumpError("the shapes of a tap differ", expected=a.shape, found=b.shape)
        a, b = a.astype(np.float64), b.astype(np.float64)
        self.values += a.size
        self.equal += int((a == b).sum())
        self.squares += float(np.square(a - b).sum())
        self.power += float(np.square(a).sum())

    @property
    def relative_rms(self) -> float:
        if self.squares == 0:
            return 0.0
        return float(np.sqrt(self.squares / self.power)) if self.power else float("inf")

    @property
    def share(self) -> float:
        return self.equal / self.values


def distance(a: Rows, b: Rows) -> Distance:
    result = Distance()
    for key in sorted(a.keys() & b.keys()):
        result.add(a[key], b[key])
    return result


def other_choices(a: Rows, b: Rows) -> tuple[int, int]:
    """(rows with different sets, rows); -1 is no choice."""
    keys = a.keys() & b.keys()
    return sum(set(a[key][a[key] >= 0]) != set(b[key][b[key] >= 0]) for key in keys), len(keys)


def choices(a: dict[str, Rows], b: dict[str, Rows], block: str) -> str:
    parts = []
    for leaf, word in (("ffn.gate.indices", "experts"), ("attn.indexer.topk_idxs", "entries")):
        name = f"{block}.{leaf}"
        if name in a and name in b:
            differ, rows = other_choices(a[name], b[name])
            parts.append(f"{word} {differ} of {rows}")
    return ", ".join(parts) or "not recorded"


def table(a: dict[str, Rows], b: dict[str, Rows]) -> list[str]:
    """Lines of Markdown; empty if the traces have no tap of the table in common."""
    lines = []
    for name in [name for name in a if BLOCK.fullmatch(name)] + list(HEAD):
        if name not in a or name not in b:
            continue
        d = distance(a[name], b[name])
        if not d.values:
            continue
        block = BLOCK.fullmatch(name)
        last = choices(a, b, block[1]) if block else "–"
        lines.append(f"| `{name}` | {d.relative_rms:.1e} | {100 * d.share:.2f} % | {last} |")
    if not lines:
        return []
    return ["| stage | relative RMS | equal | other choices |", "|---|---|---|---|", *lines]


def main(argv: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", metavar="OFFICIAL")
    parser.add_argument("b", metavar="OTHER")
    args, taps = parser.parse_args(argv), TapList()
    with TraceReader(args.a) as first, TraceReader(args.b) as second:
        if not np.array_equal(first.input_ids, second.input_ids):
            raise DumpError("the two traces have different token ids", where=args.b)
        a, b = collect(first, taps), collect(second, taps)
    lines = table(a, b)
    if not lines:
        print("nothing in common", file=sys.stderr)
        return 3
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    run_main(main)
