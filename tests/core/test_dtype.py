# SPDX-License-Identifier: Apache-2.0
"""Our encoders and quantiser against ml_dtypes, an implementation that shares nothing with ours.

Where the two libraries mean different things (NaN, overflow of E4M3, E8M0's direction) the test says so.
"""

import os
import pathlib
import subprocess

import numpy as np
import pytest

ml_dtypes = pytest.importorskip(
    "ml_dtypes", minversion="0.5.0", reason="the second witness of the number formats, ml_dtypes, is not installed"
)

PROGRAM = pathlib.Path(os.environ.get("DSV4_PROGRAM", "build/dsv4")).parent / "tests" / "dsv4_dtype_stream"
LARGEST = {"e4m3": 448.0, "e2m1": 6.0}
pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not built"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]


def ours(operation, x):
    result = subprocess.run([PROGRAM, operation], input=x.tobytes(), stdout=subprocess.PIPE, check=True)
    return result.stdout


def theirs(x, dtype):
    return x.astype(dtype).view(np.uint16 if dtype == ml_dtypes.bfloat16 else np.uint8)


def inputs():
    """Every BF16 and every float16 as float32, their float32 neighbours, and 2^22 random patterns."""
    codes = np.arange(65536, dtype=np.uint16)
    bfloat, half = (codes.astype(np.uint32) << 16).view(np.float32), codes.view(np.float16).astype(np.float32)
    exact = np.concatenate([bfloat, half])
    random = np.random.default_rng(1).integers(0, 2**32, 2**22, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return np.concatenate([exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, -np.float32(np.inf)), random])


def test_bf16():
    x = inputs()
    found, expected = np.frombuffer(ours("bf16", x), np.uint16), theirs(x, ml_dtypes.bfloat16)
    nan = np.isnan(x)

    assert np.array_equal(found[~nan], expected[~nan])
    assert np.isnan(found[nan].view(ml_dtypes.bfloat16).astype(np.float32)).all()


@pytest.mark.parametrize("name, dtype", [("e4m3", ml_dtypes.float8_e4m3fn), ("e2m1", ml_dtypes.float4_e2m1fn)])
def test_small_floats(name, dtype):
    x = inputs()
    number = ~np.isnan(x)  # NaN: ours is CUDA's 0x7f and +6; ml_dtypes keeps the sign, and makes it zero in E2M1
    clamped = np.clip(x, -LARGEST[name], LARGEST[name])  # ml_dtypes's E4M3 overflows to NaN instead

    found = np.frombuffer(ours(name, x), np.uint8)

    assert np.array_equal(found[number], theirs(clamped, dtype)[number])


def test_e8m0_holds_every_power_of_two():
    x = np.ldexp(np.float32(1), np.arange(-127, 128)).astype(np.float32)

    assert np.array_equal(np.frombuffer(ours("e8m0", x), np.uint8), theirs(x, ml_dtypes.float8_e8m0fnu))


def test_e8m0_rounds_up():
    """ml_dtypes rounds to nearest: ours is its code, or the next where that lies below."""
    x = np.abs(inputs())
    x = x[(x >= 2.0**-127) & (x <= 2.0**127)]
    nearest = x.astype(ml_dtypes.float8_e8m0fnu)
    expected = nearest.view(np.uint8) + (nearest.astype(np.float64) < x)
    down = nearest.astype(np.float64) / 2 >= x  # a tie or a subnormal that went up by more than need be

    assert np.array_equal(np.frombuffer(ours("e8m0", x), np.uint8), expected - down)


@pytest.mark.parametrize(
    "operation, block, largest, floor, dtype",
    [
        ("fp8", 128, 448, 1e-4, ml_dtypes.float8_e4m3fn),
        ("fp8_64", 64, 448, 1e-4, ml_dtypes.float8_e4m3fn),
        ("fp4", 32, 6, 6 * 2.0**-126, ml_dtypes.float4_e2m1fn),
    ],
)
def test_quantiser(operation, block, largest, floor, dtype):
    random = np.random.default_rng(2)
    x = (random.standard_normal((4096, block)) * np.exp(6 * random.standard_normal((4096, 1)))).astype(np.float32)
    x = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    x[:3] = [[0.0], [-0.0], [1e-6]]
    amax = np.maximum(np.abs(x).max(1, keepdims=True), np.float32(floor))
    exponent = np.ceil(np.log2(amax.astype(np.float64) / largest)).astype(int)
    scale = np.ldexp(np.float32(1), exponent)
    code = np.clip(x / scale, -largest, largest).astype(dtype)

    raw = ours(operation, x)
    values, rest = np.frombuffer(raw[: x.nbytes], np.uint32), np.frombuffer(raw[x.nbytes :], np.uint8)

    assert np.array_equal(values, (code.astype(np.float32) * scale).view(np.uint32).ravel())
    assert np.array_equal(rest[: x.size], code.view(np.uint8).ravel())
    assert np.array_equal(rest[x.size :], exponent.ravel() + 127)


def test_float64_is_rounded_to_float32_first():
    random = np.random.default_rng(3)
    x = np.concatenate([random.standard_normal(2**20), random.integers(0, 2**64, 2**20, dtype=np.uint64).view(np.float64)])
    x = x[~np.isnan(x)]
    with np.errstate(over="ignore"):
        expected = x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)

    assert np.array_equal(np.frombuffer(ours("round_bf16", x), np.uint64), expected.view(np.uint64))
