#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs transformers' DeepSeek-V4 in float64 and writes its intermediates, under our names, to a trace file.

    dump_transformers.py --model CKPT --random 200 --chunks 50,7,100 --decode 43 -o out.h5

Names are translated by python/dsv4/names/transformers.tsv. transformers has no MTP block, no activation quantisation,
no Hadamard rotation; taps that none of its modules returns (q after RoPE, attention before the inverse RoPE,
...) are absent.
"""

from __future__ import annotations

import argparse
import re
from typing import Any, Callable, Optional

import numpy as np
import torch
import transformers

from checkpoint import Checkpoint
from common import Plan, add_common_arguments, make_plan, make_selection, torch_version, write_call
from errors import DumpError, run_main
from package import Call, Place, TraceWriter, aliases_of, tap_of, transform
from taps import Selection, TapList
from transformers_model import build

class TransformersRun:
    """The hooked model with one cache; `call` runs one chunk and returns its taps by name."""

    def __init__(self, checkpoint: Checkpoint, taps: TapList, selection: Selection, plan: Plan):
        self.plan, self.config = plan, checkpoint.config
        self.call_now = Call(0, 0)
        self.values: dict[str, tuple[np.ndarray, str]] = {}
        self.model, new_cache = build(checkpoint)
        self.cache = new_cache()
        for alias in aliases_of("transformers"):
            for theirs, module in self.model.named_modules():
                ours = tap_of(alias, theirs)
                if ours is None:
                    continue
                tap = taps.find(ours)
                if tap is None:
                    raise DumpError(f"{ours}: not a tap", hint="the names are those of core/taps.tsv")
                if selection.wants(ours, tap):
                    module.register_forward_hook(self._hook(ours, alias.transform))

    def _hook(self, name: str, chain: str) -> Callable[..., None]:
        def record(_: Any, inputs: tuple[Any, ...], output: Any) -> None:
            self.values[name] = transform(chain, output, inputs, Place(self.config, self.call_now, name))

        return record

    def call(self, start: int, count: int) -> dict[str, tuple[np.ndarray, str]]:
        self.values, self.call_now = {}, Call(start, count)
        with torch.inference_mode():
            self.model(
                torch.tensor([self.plan.ids[start : start + count]]),
                past_key_values=self.cache,
                use_cache=True,
            )
        return self.values


def parse_arguments(argv: Optional[list[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    parser.add_argument(
        "--chunks", metavar="A,B,…", help="prefill in pieces of these lengths instead of --prefill"
    )
    return parser.parse_args(argv)


def read_chunks(text: Optional[str]) -> Optional[list[int]]:
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise DumpError("cannot read the chunk lengths", expected="like 50,7,100", found=text)
    return [int(part) for part in text.split(",")]


def main(argv: Optional[list[str]] = None) -> int:
    args = parse_arguments(argv)
    torch.set_num_threads(args.threads)
    checkpoint, taps, selection = Checkpoint(args.model), TapList(args.tap_list), make_selection(args)
    plan = make_plan(args, checkpoint.config, chunks=read_chunks(args.chunks))
    run = TransformersRun(checkpoint, taps, selection, plan)
    attributes: dict[str, object] = {
        "producer": "transformers on cpu, float64 arithmetic",
        "producer_revision": f"transformers {transformers.__version__}, torch {torch_version()}",
        "model_fingerprint": checkpoint.fingerprint(),
    }
    if args.random is not None:
        attributes["seed"] = args.seed
    with TraceWriter(
        args.output, rounding="exact", config=checkpoint.config, input_ids=plan.ids, attributes=attributes
    ) as writer:
        for start, count in plan.calls:
            write_call(writer, taps, selection, start, count, run.call(start, count))
    return 0


if __name__ == "__main__":
    run_main(main)
