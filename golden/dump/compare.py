#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares two traces tap by tap: greatest absolute and relative difference, rows in one only.

    compare.py A.h5 B.h5 [--taps GLOB] [--tol 1e-12]

Rows are joined by layer, tap and absolute position (entries by entry number), whatever the calls were. Index
taps are sets; gate weights are permuted with their indices. "rel" is the greatest difference over the
tensor's greatest finite magnitude. Exit code: 0 all within --tol, 1 not, 2 unreadable, 3 nothing in common.
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import sys
from dataclasses import dataclass
from typing import Optional

import numpy as np

from checkpoint import compress_ratio
from errors import run_main
from taps import TapList
from package import TraceReader

SET_AXES = ("s,k", "s,u", "s,a")


def call_ends(trace: TraceReader) -> dict[str, int]:
    """Last position of each call: the next call's start less one; for the last call from a tap that has all
    its rows."""
    starts = [trace.start_pos(call) for call in trace.calls]
    last = trace.calls[-1]
    count = 1
    for tap in trace.taps(last):
        attributes = trace.tap_attributes(last, tap)
        if str(attributes.get("axes", "")).startswith("s") and "rows" not in attributes:
            count = trace.read(last, tap).shape[0]
            break
    return dict(zip(trace.calls, [start - 1 for start in starts[1:]] + [starts[-1] + count - 1], strict=True))


def collect(trace: TraceReader, taps: TapList) -> dict[str, dict[int, np.ndarray]]:
    """{tap: {position or entry number: row}}"""
    ends, result = call_ends(trace), {}
    for call in trace.calls:
        for name in trace.taps(call):
            tap = taps.find(name)
            axis = tap.axes.split(",")[0] if tap else "s"
            values = trace.read(call, name)
            rows = result.setdefault(name, {})
            if axis in ("v", "b", "y"):
                rows[ends[call]] = values
                continue
            first = trace.start_pos(call)
            if axis == "e":
                first //= compress_ratio(trace.config, _layer(name, trace))
            numbers = trace.tap_attributes(call, name).get("rows", range(values.shape[0]))
            rows.update({first + int(number): value for number, value in zip(numbers, values, strict=True)})
    return result


def _layer(name: str, trace: TraceReader) -> int:
    match = re.match(r"(layers|mtp)\.(\d+)\.", name)
    assert match is not None
    extra = (
        int(trace.config.get("num_hidden_layers", trace.config.get("n_layers", 0)))
        if match[1] == "mtp"
        else 0
    )
    return extra + int(match[2])


@dataclass
class Difference:
    """Result for one tap: elements compared, those that differ, greatest differences, rows in one trace
    only."""

    name: str
    elements: int = 0
    unequal: int = 0
    absolute: float = 0.0
    magnitude: float = 0.0
    lonely_rows: int = 0
    note: str = ""

    @property
    def relative(self) -> float:
        return self.absolute / self.magnitude if self.magnitude else self.absolute

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        self.elements += a.size
        if a.shape != b.shape:
            self.note, self.absolute = f"shapes {a.shape} and {b.shape}", np.inf
            return
        a, b = a.astype(np.float64), b.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        self.unequal += int(a.size - same.sum())
        finite = np.isfinite(a) & np.isfinite(b)
        if not np.all(same | finite):
            self.note, self.absolute = "infinite or NaN in one only", np.inf
        if finite.any():
            self.absolute = max(self.absolute, float(np.abs(a[finite] - b[finite]).max()))
            self.magnitude = max(self.magnitude, float(np.abs(a[finite]).max()))


def _pad(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns that one row of index scores lacks are -inf."""
    width = max(a.size, b.size)
    return _widen(a, width), _widen(b, width)


def _widen(row: np.ndarray, width: int) -> np.ndarray:
    return np.concatenate([row, np.full(width - row.size, -np.inf)])


def compare_rows(
    name: str, a: dict[str, dict[int, np.ndarray]], b: dict[str, dict[int, np.ndarray]], axes: str
) -> Difference:
    result = Difference(name)
    left, right = a[name], b[name]
    result.lonely_rows = len(left.keys() ^ right.keys())
    indices = name.removesuffix("weights") + "indices" if name.endswith(".gate.weights") else ""
    for key in sorted(left.keys() & right.keys()):
        x, y = left[key], right[key]
        if indices and key in a.get(indices, {}) and key in b.get(indices, {}):
            x, y = x[np.argsort(a[indices][key])], y[np.argsort(b[indices][key])]
        elif axes in SET_AXES and not indices:
            x, y = np.sort(x[x >= 0]), np.sort(y[y >= 0])
        elif axes == "s,t":
            x, y = _pad(x, y)
        result.add(x, y)
    return result


def parse_arguments(argv: Optional[list[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--taps", default="*", metavar="GLOB")
    parser.add_argument(
        "--tol", type=float, default=0.0, help="greatest relative difference that is accepted"
    )
    parser.add_argument("--quiet", action="store_true", help="only taps beyond --tol, and the summary")
    return parser.parse_args(argv)


def main(argv: Optional[list[str]] = None) -> int:
    args, taps = parse_arguments(argv), TapList()
    with TraceReader(args.a) as first, TraceReader(args.b) as second:
        a, b = collect(first, taps), collect(second, taps)
    names = [name for name in a if name in b and fnmatch.fnmatchcase(name, args.taps)]
    results = []
    for name in names:
        tap = taps.find(name)
        results.append(compare_rows(name, a, b, tap.axes if tap else ""))
    for result in results:
        if not args.quiet or result.relative > args.tol:
            print(
                f"{result.name:48} elements {result.elements:8}  unequal {result.unequal:8}  "
                f"abs {result.absolute:9.2e}  rel {result.relative:9.2e}  {result.note}"
            )
    compared = [result for result in results if result.elements]
    if not compared:
        print("nothing in common", file=sys.stderr)
        return 3
    worst = max(compared, key=lambda result: result.relative)
    only_a, only_b = len(a.keys() - b.keys()), len(b.keys() - a.keys())
    print(
        f"{len(compared)} taps, {sum(r.elements for r in compared)} elements, "
        f"{sum(r.unequal for r in compared)} unequal; "
        f"worst rel {worst.relative:.2e} ({worst.name}); taps only in A {only_a}, only in B {only_b}; "
        f"rows in one only {sum(r.lonely_rows for r in compared)}"
    )
    return int(worst.relative > args.tol)


if __name__ == "__main__":
    run_main(main)
