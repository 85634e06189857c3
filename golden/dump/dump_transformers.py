#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs transformers' DeepSeek-V4 in float64 and writes its intermediates, under our names, to a trace file.

    dump_transformers.py --model CKPT --random 200 --chunks 50,7,100 --decode 43 -o out.h5

Names are translated by aliases/transformers.tsv. transformers has no MTP block, no activation quantisation,
no Hadamard rotation; taps that none of its modules returns (q after RoPE, attention before the inverse RoPE,
...) are absent.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import torch
import transformers

from checkpoint import Checkpoint, compress_ratio, model_args
from common import Plan, add_common_arguments, make_plan, make_selection, to_numpy, torch_version, write_call
from errors import DumpError, run_main
from taps import Selection, TapList
from trace_file import TraceWriter
from transformers_model import build

ALIASES = Path(__file__).with_name("aliases") / "transformers.tsv"


class Transforms:
    """The steps that the third column of the alias table may name. `value` is what the step before left."""

    def __init__(self, config: dict[str, Any]):
        self.config, self.args = config, model_args(config)
        self.start = self.count = self.layer = 0
        self.inputs: tuple[Any, ...] = ()

    def apply(self, chain: str, value: Any) -> torch.Tensor:
        for step in chain.split():
            if step != "-":
                name, _, argument = step.removesuffix(")").partition("(")
                value = getattr(self, name)(value, *([argument] if argument else []))
        return value

    def item(self, value: Any, index: str) -> Any:
        return value[int(index)]

    def input(self, value: Any, index: str) -> Any:
        return self.inputs[int(index)]

    def drop_batch(self, value: torch.Tensor) -> torch.Tensor:
        return value.squeeze(0)

    def heads_second(self, value: torch.Tensor) -> torch.Tensor:
        """[h,s,c] -> [s,h,c]"""
        return value.transpose(0, 1)

    def flatten(self, value: torch.Tensor) -> torch.Tensor:
        """[s,g,x] -> [s,g*x]"""
        return value.flatten(1)

    def split(self, value: torch.Tensor, count: str) -> torch.Tensor:
        """[s,h*c] -> [s,h,c], the number of heads by its config name"""
        return value.unflatten(1, (int(self.config[count]), -1))

    def last_row(self, value: torch.Tensor) -> torch.Tensor:
        return value[-1]

    def new_entries(self, value: torch.Tensor) -> torch.Tensor:
        """All compressed entries so far [t,c] -> those completed in this call [e,c]"""
        return value[self.start // compress_ratio(self.config, self.layer) :]

    def scale_index_weights(self, value: torch.Tensor) -> torch.Tensor:
        """transformers scales later: times j^-1/2 · i^-1/2 (eq. 15)"""
        return value / math.sqrt(int(self.args["index_head_dim"]) * int(self.args["index_n_heads"]))

    def mask_future(self, value: torch.Tensor) -> torch.Tensor:
        """[s,t]: -inf where the query may not look, which transformers applies after its scorer"""
        visible = (torch.arange(self.start, self.start + self.count) + 1) // compress_ratio(
            self.config, self.layer
        )
        return value.masked_fill(torch.arange(value.shape[1]) >= visible.unsqueeze(1), float("-inf"))


def read_aliases(layers: int) -> Iterator[tuple[str, str, str, int]]:
    """(their module, our tap, transform, layer) of the alias table, with L replaced by each layer."""
    with ALIASES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            for layer in range(layers if ".L" in row["their_name"] else 1):
                names = [
                    re.sub(r"\.L(?=\.|$)", f".{layer}", row[column]) for column in ("their_name", "our_name")
                ]
                yield names[0], names[1], row["transform"], layer


class TransformersRun:
    """The hooked model with one cache; `call` runs one chunk and returns its taps by name."""

    def __init__(self, checkpoint: Checkpoint, taps: TapList, selection: Selection, plan: Plan):
        self.plan, self.values = plan, {}
        self.transforms = Transforms(checkpoint.config)
        self.model, new_cache = build(checkpoint)
        self.cache = new_cache()
        modules = dict(self.model.named_modules())
        for theirs, ours, chain, layer in read_aliases(int(self.transforms.args["n_layers"])):
            tap = taps.find(ours)
            if tap is None:
                raise DumpError(
                    f"{ours}: not a tap", where=ALIASES, hint="the names are those of core/taps.tsv"
                )
            if theirs in modules and selection.wants(ours, tap):
                modules[theirs].register_forward_hook(self._hook(ours, chain, layer))

    def _hook(self, name: str, chain: str, layer: int) -> Callable[..., None]:
        def record(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            self.transforms.inputs, self.transforms.layer = inputs, layer
            self.values[name] = self.transforms.apply(chain, output).clone()

        return record

    def call(self, start: int, count: int) -> dict[str, torch.Tensor]:
        self.values: dict[str, torch.Tensor] = {}
        self.transforms.start, self.transforms.count = start, count
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
            values = {name: to_numpy(value) for name, value in run.call(start, count).items()}
            write_call(writer, taps, selection, start, count, values)
    return 0


if __name__ == "__main__":
    run_main(main)
