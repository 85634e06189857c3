# SPDX-License-Identifier: Apache-2.0
"""Cases of number formats: exact, whatever arithmetic a port has."""

import ml_dtypes
import numpy as np

import twins
from book import FORMATS, numbers


def weights(book):
    codes = np.arange(256, dtype=np.uint8).reshape(2, 128)
    value = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    for scale, name in [(0, "weight_fp8_smallest_scale"), (120, "weight_fp8"), (254, "weight_fp8_largest_scale")]:
        book.add(name, "weight_fp8", f"all 256 codes of E4M3FN, scale byte {scale}", {"codes": codes,
                 "scale": np.array([[scale]], np.uint8)}, {}, exact={"value": value * twins.decode_e8m0(scale)}, producer=FORMATS)
    packed = np.arange(256, dtype=np.uint8).reshape(16, 16)
    nibbles = np.stack([packed & 15, packed >> 4], -1).reshape(16, 32)
    e2m1 = nibbles.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    scales = np.array([0, 1, 60, 120, 121, 126, 127, 128, 129, 130, 134, 140, 160, 200, 253, 254], np.uint8).reshape(16, 1)
    value = e2m1 * np.array([[twins.decode_e8m0(int(v[0]))] for v in scales])
    book.add("weight_fp4", "weight_fp4", "all 256 bytes of packed E2M1; scale bytes from 0 to 254", {"codes": packed, "scale": scales},
             {}, "§5.2.1", exact={"value": value}, producer=FORMATS)


def encoders(book):
    for kind, dtype in [("e4m3", ml_dtypes.float8_e4m3fn), ("e2m1", ml_dtypes.float4_e2m1fn)]:
        count = 128 if kind == "e4m3" else 8
        grid = np.arange(count, dtype=np.uint8).view(dtype).astype(np.float64)
        grid = grid[np.isfinite(grid)]
        middle = ((grid[1:] + grid[:-1]) / 2).astype(np.float32)
        above, below = np.nextafter(middle, np.float32(1e9)), np.nextafter(middle, np.float32(0))
        x = np.concatenate([grid, middle, above, below]).astype(np.float32)
        x = np.concatenate([x, -x])
        book.add(f"encode_{kind}", f"encode_{kind}", "every number, the middle between neighbours, and the float32 on each side of it",
                 {"x": x.astype(np.float64)}, {}, exact={"code": x.astype(dtype).view(np.uint8)}, producer=FORMATS)
    for block, largest, floor, dtype, name in [(64, 448.0, 1e-4, ml_dtypes.float8_e4m3fn, "quantise_fp8_64"),
                                               (32, 6.0, 6 * 2.0**-126, ml_dtypes.float4_e2m1fn, "quantise_fp4_32")]:
        x = numbers(name, 3 * block)
        x[block : 2 * block] *= 2.0**-9
        x[2 * block :] = 0
        x[2 * block] = largest  # amax / largest is a power of two
        scales = [twins.block_scale(np.abs(b).max(), np.float32(floor), largest) for b in x.reshape(3, block)]
        value = np.concatenate([(np.clip(b / twins.decode_e8m0(s), -largest, largest).astype(np.float32).astype(dtype)
                                 .astype(np.float64)) * twins.decode_e8m0(s) for b, s in zip(x.reshape(3, block), scales)])
        book.add(name, "quantise", f"blocks of {block}: ordinary, small, and one whose scale is exact", {"x": x}, {},
                 "§5.2.1" if block == 32 else "-", exact={"value": value, "scale": np.array(scales, np.uint8)},
                 producer=f"{FORMATS} and scalar twin", block=block)
