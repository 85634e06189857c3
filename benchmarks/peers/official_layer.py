#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seconds that DeepSeek's own `model.py` takes for a prefill in float64 on the CPU, without the head.

    official_layer.py --inference-dir DIR --model CKPT --tokens 512 --repeat 2

DIR is the `inference/` folder of a DeepSeek-V4 release; its GPU kernels are replaced by the stand-ins of golden/dump.
The first prefill dequantises every weight; with enough memory (--cache-gb) the later ones find them in float64, which
is the best that the official code can do here.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "golden" / "dump"))

import kernels  # noqa: E402
import torch  # noqa: E402
from checkpoint import Checkpoint  # noqa: E402
from official_model import build, identify, load_module  # noqa: E402
from record import Recorder  # noqa: E402


class NoHead(torch.nn.Module):
    """Stands where the head was: the streams after the last layer go nowhere."""

    def forward(self, *arguments: object) -> None:
        return None


def load(inference_dir: Path, folder: str, tokens: int) -> torch.nn.Module:
    path = inference_dir / "model.py"
    source = path.read_bytes()
    identify(source, allow_unknown=True)
    kernels.install("exact")
    silent = Recorder([], lambda name: False, lambda name, value: value, {})
    module = load_module(path, source, "exact", [], silent)
    checkpoint = Checkpoint(folder)
    model = build(
        module, checkpoint, rounding="exact", length=tokens, layers=None, mtp=False, device="cpu"
    )
    model.head = NoHead()
    return model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inference-dir", type=Path, required=True)
    parser.add_argument("--model", required=True, help="checkpoint folder, official layout")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cache-gb", type=float, default=8, help="dequantised weights kept from prefill to prefill")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    kernels.CACHE_BYTES = int(args.cache_gb * 1e9)
    model = load(args.inference_dir, args.model, args.tokens)
    vocabulary = Checkpoint(args.model).config["vocab_size"]
    ids = torch.randint(0, vocabulary, (1, args.tokens), generator=torch.Generator().manual_seed(1))
    seconds = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        model(ids, 0)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"threads": torch.get_num_threads(), "tokens": args.tokens, "prefill_s": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
