#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The quantiser as numpy and ml_dtypes do it: 256 MiB of float32, one thread; best of a few runs.

    ml_dtypes_quantize.py [--rounds 3]

The rows are those of quantize_bench; GB/s counts the array once, as there.
"""

from __future__ import annotations

import argparse
import time
from typing import Callable

import ml_dtypes
import numpy as np

VALUES = 1 << 26
CHUNK = 1 << 16  # values at a time, so that numpy's temporaries stay in the cache


def quantise(x: np.ndarray, block: int, largest: float, floor: float, dtype: type) -> None:
    """In place, as core/quantize.hpp."""
    for start in range(0, x.size, CHUNK):
        blocks = x[start : start + CHUNK].reshape(-1, block)
        amax = np.maximum(np.abs(blocks).max(1, keepdims=True), np.float32(floor))
        mantissa, exponent = np.frexp(amax * np.float32(1 / largest))
        scale = np.ldexp(np.float32(1), exponent - (mantissa == 0.5))
        blocks[:] = np.clip(blocks / scale, -largest, largest).astype(dtype).astype(np.float32) * scale


def best(work: Callable[[], None], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    x = np.random.default_rng(1).standard_normal(VALUES, dtype=np.float32)
    target, doubles = np.empty_like(x), x[: VALUES // 2].astype(np.float64)
    work: dict[str, Callable[[], None]] = {
        "memcpy": lambda: np.copyto(target, x),
        "FP8_1x128": lambda: quantise(target, 128, 448.0, 1e-4, ml_dtypes.float8_e4m3fn),
        "FP4_1x32": lambda: quantise(target, 32, 6.0, 6 * 2.0**-126, ml_dtypes.float4_e2m1fn),
        "round_bf16": lambda: np.copyto(doubles, doubles.astype(np.float32).astype(ml_dtypes.bfloat16)),
    }
    for name, function in work.items():
        seconds = best(function, rounds)
        print(f"{name:12} {1e3 * seconds:9.1f} ms  {x.nbytes / seconds * 1e-9:7.3f} GB/s", flush=True)


if __name__ == "__main__":
    main()
