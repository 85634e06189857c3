# SPDX-License-Identifier: Apache-2.0
"""What the dump tools share: command line, the plan of forward calls, and writing one call's taps."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional

import numpy as np
import torch

from errors import DumpError
from taps import ALWAYS_WHOLE, TAPS_FILE, Selection, TapList, parse_layers, parse_positions
from package import TraceWriter


@dataclass(frozen=True)
class Plan:
    """The token ids and the forward calls (start_pos, number of tokens) that consume them."""

    ids: list[int]
    calls: list[tuple[int, int]]
    mtp: bool

    @property
    def length(self) -> int:
        return self.calls[-1][0] + self.calls[-1][1]


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, help="folder with config.json and safetensors, official names"
    )
    ids = parser.add_mutually_exclusive_group(required=True)
    ids.add_argument("--ids", help="token ids, 1,2,3")
    ids.add_argument("--ids-file", type=Path, help="file of token ids, separated by commas or white space")
    ids.add_argument("--random", type=int, metavar="N", help="N ids drawn with --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--prefill", type=int, metavar="N", help="tokens of the first call (default: all but --decode)"
    )
    parser.add_argument(
        "--decode", type=int, default=0, metavar="M", help="single-token calls after it, from the ids"
    )
    parser.add_argument(
        "--taps", action="append", default=[], metavar="GLOB", help="only these taps; * crosses dots"
    )
    parser.add_argument("--optional", action="store_true", help="also the taps that taps.tsv calls optional")
    parser.add_argument("--layers", metavar="A-B", help="run layers 0…B, record A…B, no head")
    parser.add_argument("--rows", metavar="LIST", help="only these absolute positions, 0-2,195")
    parser.add_argument(
        "--keep-rows",
        action="append",
        metavar="GLOB",
        help=f"taps that stay whole in spite of --rows (default {' '.join(ALWAYS_WHOLE)})",
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="torch threads; 1 gives the same bytes on every run"
    )
    parser.add_argument("--tap-list", type=Path, default=TAPS_FILE, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, required=True)


def read_ids(args: argparse.Namespace, config: Mapping[str, Any]) -> list[int]:
    """The ids of --ids, --ids-file or --random, checked against the vocabulary."""
    vocabulary = int(config["vocab_size"])
    if args.random is not None:
        return np.random.default_rng(args.seed).integers(0, vocabulary, args.random).tolist()
    text = args.ids if args.ids is not None else args.ids_file.read_text(encoding="utf-8")
    words = [word for word in re.split(r"[\s,]+", text) if word]
    bad = [word for word in words if not word.isdigit() or int(word) >= vocabulary]
    if bad or not words:
        raise DumpError(
            "cannot use these token ids",
            where=args.ids_file or "--ids",
            expected=f"numbers from 0 to {vocabulary - 1}",
            found=", ".join(bad[:5]) or "none",
        )
    return [int(word) for word in words]


def make_plan(
    args: argparse.Namespace,
    config: Mapping[str, Any],
    *,
    mtp: bool = False,
    chunks: Optional[list[int]] = None,
) -> Plan:
    """Prefill (whole, or in `chunks`), then `--decode` single tokens; with MTP one id more is read. Ids in
    excess go."""
    ids, extra = read_ids(args, config), int(mtp)
    prefill = chunks or [args.prefill if args.prefill is not None else len(ids) - args.decode - extra]
    counts = prefill + [1] * args.decode
    needed = sum(counts) + extra
    if min(counts) < 1 or needed > len(ids):
        raise DumpError(
            "not enough token ids",
            found=f"{len(ids)} ids",
            expected=f"{needed}: prefill {'+'.join(map(str, prefill))}, decode {args.decode}, MTP {extra}",
        )
    if needed < len(ids):
        print(f"note: {len(ids) - needed} of {len(ids)} ids are not used", file=sys.stderr)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).tolist()
    return Plan(ids[:needed], list(zip(starts, counts, strict=True)), mtp)


def make_selection(args: argparse.Namespace) -> Selection:
    return Selection(
        taps=args.taps,
        layers=parse_layers(args.layers) if args.layers else None,
        rows=parse_positions(args.rows) if args.rows else None,
        optional=args.optional,
        codes=getattr(args, "codes", False),
        whole=args.keep_rows or ALWAYS_WHOLE,
    )


def torch_version() -> str:
    """Without the build suffix ("+cpu"), which would differ between machines."""
    return torch.__version__.split("+")[0]


def write_call(
    writer: TraceWriter,
    taps: TapList,
    selection: Selection,
    start: int,
    count: int,
    values: Mapping[str, tuple[np.ndarray, str]],
) -> None:
    """Write one call's taps, in the order of taps.tsv. Taps without entries or without columns are left
    out."""
    axes_of = {name: taps.find(name).axes for name in values}
    kept = {name: selection.kept_rows(name, axes, start, count) for name, axes in axes_of.items()}
    whole = any(
        kept[name] is None and axes.startswith("s") and not name.startswith("mtp.") for name, axes in axes_of.items()
    )
    writer.begin_call(start, None if whole else count)  # a whole tap tells the length
    for name in sorted(values, key=taps.order):
        tap = taps.find(name)
        assert tap is not None
        array, dtype = values[name]
        axes = tap.axes.split(",")
        if array.ndim != len(axes):
            raise DumpError(
                f"{name}: wrong number of axes",
                expected=tap.axes,
                found=array.shape,
                hint="the table of sites does not fit this revision of the code",
            )
        if array.size == 0 and tap.dtype != "int":
            continue
        rows = kept[name]
        if rows == []:
            continue
        writer.write(
            name,
            array if rows is None else array[rows],
            axes=tap.axes,
            dtype=dtype,
            site=tap.site,
            eq=tap.eq,
            rows=rows,
        )
