#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs DeepSeek's own `model.py` on a checkpoint and writes every intermediate to a trace file (trace/1).

    dump_official.py --inference-dir DIR --model CKPT --ids 1,2,3,4 --decode 1 -o out.h5

DIR is the `inference/` folder of a DeepSeek-V4 release. That code knows prefill and single-token decode only.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable, ContextManager, Optional

import numpy as np
import torch

import kernels
from checkpoint import Checkpoint
from common import Plan, add_common_arguments, make_plan, make_selection, torch_version, write_call
from errors import DumpError, run_main
from official_model import DEFAULT_TYPES, build, identify, load_module
from package import TraceWriter, as_array
from record import Frame, Recorder, read_sites
from round_once import RoundOnce
from taps import Selection, TapList

SITES_FILE = Path(__file__).with_name("official_sites.tsv")


# ---- values that need a word of explanation ------------------------------------------------------


def window_rows_to_positions(value: torch.Tensor, frame: Frame) -> torch.Tensor:
    """Rows of the ring buffer [1,s,u] (decode) to absolute positions; prefill indices are positions
    already."""
    last, window = frame.latest["start_pos"], frame.module.window_size
    if last == 0:
        return value
    return torch.where(value < 0, -1, last - (last - value) % window)


def remove_offset(value: torch.Tensor, frame: Frame) -> torch.Tensor:
    """Row numbers in the attended tensor to entry numbers: the window rows in front of the entries are
    subtracted."""
    return torch.where(value < 0, -1, value - frame.latest["offset"])


TRANSFORMS: dict[str, Callable[[torch.Tensor, Frame], torch.Tensor]] = {
    "window_rows_to_positions": window_rows_to_positions,
    "remove_offset": remove_offset,
}


# ---- running -------------------------------------------------------------------------------------


class OfficialRun:
    """The instrumented official model; `call` runs one forward call and returns its taps by name."""

    def __init__(
        self,
        args: argparse.Namespace,
        checkpoint: Checkpoint,
        taps: TapList,
        selection: Selection,
        plan: Plan,
    ):
        self.taps, self.selection, self.plan, self.device = taps, selection, plan, args.device
        path = Path(args.inference_dir) / "model.py"
        source = path.read_bytes()
        self.sha256, self.revision = identify(source, args.allow_unknown_revision)
        if self.revision.warning:
            print(f"warning: {self.revision.warning}", file=sys.stderr)
        self.own_kernels = args.device != "cpu" and args.rounding == "official_float32"
        if self.own_kernels:
            sys.path.insert(0, str(args.inference_dir))
        else:
            kernels.install(args.rounding)
        self.mode: Callable[[], ContextManager[Any]] = (
            nullcontext if args.rounding == "exact" or self.own_kernels else RoundOnce
        )
        self.default_type = DEFAULT_TYPES[args.rounding]
        sites = read_sites(SITES_FILE)
        self.recorder = Recorder(sites, self._wants, self._keep, TRANSFORMS)
        module = load_module(path, source, args.rounding, sites, self.recorder)
        layers = None if selection.layers is None else selection.layers[1] + 1
        self.model = build(
            module,
            checkpoint,
            rounding=args.rounding,
            length=max(plan.length, args.earlier),
            layers=layers,
            mtp=plan.mtp,
            device=args.device,
        )
        self.recorder.bind(self.model.named_modules())
        self.streams: Optional[torch.Tensor] = None
        self.model.layers[-1].register_forward_hook(self._remember_streams)

    def _remember_streams(self, module: Any, inputs: Any, output: torch.Tensor) -> None:
        self.streams = output  # what the MTP block starts from

    def _wants(self, name: str) -> bool:
        tap = self.taps.find(name)
        return tap is not None and self.selection.wants(name, tap)

    def _keep(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A copy (the official code works in place), without the batch axis, with the axes that taps.tsv
        gives it."""
        tap = self.taps.find(name)
        assert tap is not None
        rank = len(tap.axes.split(","))
        self._keep_codes(name, value)
        return (value.squeeze(0) if value.ndim == rank + 1 else value).clone()

    def _keep_codes(self, name: str, value: torch.Tensor) -> None:
        """Codes and scales of a value that the kernels have just quantised, where asked for. Columns that are
        not quantised (the rotated ones) have code 0."""
        if not self.selection.codes or not self.taps.quantised(name) or kernels.latest_codes is None:
            return
        codes, scales = (part.squeeze(0) for part in kernels.latest_codes)
        padded = codes.new_zeros(value.squeeze(0).shape)
        padded[..., : codes.size(-1)] = codes
        self.recorder.values[f"{name}.code"] = padded
        self.recorder.values[f"{name}.scale"] = scales.flatten(1)

    def earlier_prompt(self, ids: list[int]) -> None:
        """Runs another prompt, so that the recorded one finds caches and states in use."""
        self._forward(ids, 0, len(ids))

    def call(self, start: int, count: int) -> dict[str, torch.Tensor]:
        """One forward call of positions start … start+count-1, then the MTP blocks on its result."""
        return self._forward(self.plan.ids, start, count)

    def _forward(self, prompt: list[int], start: int, count: int) -> dict[str, torch.Tensor]:
        ids = torch.tensor([prompt], device=self.device)
        self.recorder.values = {}
        torch.set_default_dtype(self.default_type)
        with self.mode(), torch.device(self.device):
            self.model(ids[:, start : start + count], start)
            for block in self.model.mtp:
                block(self.streams, start, ids[:, start + 1 : start + count + 1])
            self._all_logits()
        return self.recorder.values

    def _all_logits(self) -> None:
        """logits_all [s,v], not in the official code: its own head on every row instead of the last."""
        if self._wants("logits_all") and "norm.out" in self.recorder.values:
            rows = self.recorder.values["norm.out"].unsqueeze(1)
            self.recorder.values["logits_all"] = self.model.head.get_logits(rows)


def parse_arguments(argv: Optional[list[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--inference-dir", required=True, help="folder with DeepSeek's own model.py (and kernel.py for a GPU)"
    )
    add_common_arguments(parser)
    parser.add_argument("--mtp", action="store_true", help="run the MTP blocks too; needs one id more")
    parser.add_argument(
        "--rounding",
        choices=kernels.ROUNDINGS,
        default="exact",
        help="exact: float64, nothing rounded. official: rounds where the code stores BF16, FP8, FP4. "
        "official_float32: the code's own types",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda with official_float32 runs DeepSeek's own kernels, otherwise our stand-ins",
    )
    parser.add_argument(
        "--codes", action="store_true", help="codes and scale bytes too, beside every quantised tap that is written"
    )
    parser.add_argument(
        "--earlier", type=int, default=0, metavar="N", help="another prompt of N random ids runs before, unrecorded"
    )
    parser.add_argument("--allow-unknown-revision", action="store_true")
    return parser.parse_args(argv)


def check(args: argparse.Namespace, checkpoint: Checkpoint) -> None:
    if args.mtp and args.layers:
        raise DumpError(
            "--mtp needs the whole model", found=f"--layers {args.layers}", hint="drop one of the two"
        )
    if args.codes and (args.rounding == "exact" or args.device == "cuda"):
        raise DumpError(
            "--codes needs quantisation by our stand-in kernels",
            found=f"--rounding {args.rounding} --device {args.device}",
            hint="--rounding official on the CPU",
        )
    if args.mtp and args.earlier:
        raise DumpError("--earlier runs no MTP block", found="--mtp", hint="drop one of the two")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise DumpError("no CUDA device", expected="a GPU that torch can use", hint="--device cpu")


def file_attributes(args: argparse.Namespace, run: OfficialRun, checkpoint: Checkpoint) -> dict[str, object]:
    where = "on a GPU with its own kernels" if run.own_kernels else f"on {args.device} with stand-in kernels"
    arithmetic = "float32" if args.rounding == "official_float32" else "float64"
    attributes: dict[str, object] = {
        "producer": f"official model.py {where}, {arithmetic} arithmetic",
        "producer_revision": f"model.py sha256 {run.sha256}, torch {torch_version()}",
        "official_revision": run.revision.name,
        "model_fingerprint": checkpoint.fingerprint(),
    }
    if args.random is not None:
        attributes["seed"] = args.seed
    return attributes


def main(argv: Optional[list[str]] = None) -> int:
    args = parse_arguments(argv)
    torch.set_num_threads(args.threads)
    checkpoint, taps = Checkpoint(args.model), TapList(args.tap_list)
    check(args, checkpoint)
    plan, selection = make_plan(args, checkpoint.config, mtp=args.mtp), make_selection(args)
    run = OfficialRun(args, checkpoint, taps, selection, plan)
    if args.earlier:
        vocabulary = int(checkpoint.config["vocab_size"])
        run.earlier_prompt(np.random.default_rng([args.seed, 1]).integers(0, vocabulary, args.earlier).tolist())
    with TraceWriter(
        args.output,
        rounding="exact" if args.rounding == "exact" else "official",
        config=checkpoint.config,
        input_ids=plan.ids,
        attributes=file_attributes(args, run, checkpoint),
    ) as writer:
        for start, count in plan.calls:
            values = {name: as_array(value) for name, value in run.call(start, count).items()}
            write_call(writer, taps, selection, start, count, values)
    return 0


if __name__ == "__main__":
    run_main(main)
