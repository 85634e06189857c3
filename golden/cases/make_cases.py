#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the case files: one small case per component and edge, with inputs, expected values and error scales.

    python golden/cases/make_cases.py           (numpy, h5py, ml_dtypes; the same bytes every time)

Expected values come from twins.py (scalar code) and from ml_dtypes (number formats), never from the code under test.
"""

import hashlib
import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np

import twins
from case_file import write_hdf5, write_safetensors

HERE = Path(__file__).resolve().parent
NORM_EPS = HC_EPS = 1e-6


def numbers(name, *shape, scale=1.0):
    """Reproducible without a library's generator: splitmix64 of the name, to 24 bits, roughly normal."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    out = np.zeros(math.prod(shape))
    for i in range(out.size):
        total = 0.0
        for _ in range(4):
            seed = (seed + 0x9E3779B97F4A7C15) % 2**64
            z = seed
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
                z = (z ^ (z >> shift)) * factor % 2**64
            total += ((z ^ (z >> 31)) >> 40) / 2.0**23 - 1
        out[i] = total / 4 * math.sqrt(12) * scale / 2
    return np.round(out * 2**16).reshape(shape) / 2**16


class Book:
    """All cases, in the order of the index."""

    def __init__(self):
        self.cases = []

    def add(self, case, component, what, flags, equation, producer, inputs, expected, scale=None, **config):
        arrays = {k: np.asarray(v) for k, v in inputs.items()}
        results = {k: np.asarray(v) for k, v in expected.items()}
        scales = {k: np.asarray(v, np.float64) for k, v in (scale or {}).items()}
        self.cases.append({"id": case, "component": component, "what": what, "flags": flags, "equation": equation,
                           "producer": producer, "config": config, "inputs": arrays, "expected": results, "scale": scales})


# ---- error scales: |computed - expected| <= (u + 2^-53) * scale to first order (reference/error_bound.hpp) --------

def norm_scale(y, n):
    return (n / 2 + 5) * np.abs(y)


def rope_scale(x, freqs, positions):
    out = np.zeros_like(x)
    tail = x.shape[-1] - 2 * len(freqs)
    for s, p in enumerate(positions):
        for i, f in enumerate(freqs):
            pair = slice(tail + 2 * i, tail + 2 * i + 2)
            out[s, ..., pair] = (20 * abs(p * f) + 4) * np.abs(x[s, ..., pair]).sum(-1, keepdims=True)
    return out


# ---- the cases --------------------------------------------------------------------------------

TWIN = "scalar twin"
FORMATS = f"ml_dtypes {ml_dtypes.__version__}"


def norms(book):
    x, w = numbers("norm x", 3, 24), numbers("norm w", 24)
    x[2] *= 1e-4  # eps matters
    y = np.array([twins.rms_norm(r, w, NORM_EPS) for r in x])
    book.add("rms_norm", "rms_norm", "weights of both signs; a row so small that eps matters", ["M49"], "-", TWIN,
             {"x": x, "weight": w}, {"y": y}, {"y": norm_scale(y, 24)}, eps=NORM_EPS)
    q = numbers("heads", 2, 3 * 16)
    ones = np.ones(16)
    y = np.array([np.concatenate([twins.rms_norm(r[h * 16:(h + 1) * 16], ones, NORM_EPS) for h in range(3)]) for r in q])
    book.add("rms_norm_heads", "rms_norm_heads", "every head by itself, without a weight", ["M48"], "-", TWIN, {"x": q},
             {"y": y}, {"y": norm_scale(y, 16)}, heads=3, eps=NORM_EPS)
    x = numbers("hadamard", 2, 2 * 16)
    y = np.array([np.concatenate([twins.hadamard(r[h * 16:(h + 1) * 16]) for h in range(2)]) for r in x])
    e = np.array([np.repeat([np.abs(r[h * 16:(h + 1) * 16]).sum() * 4 for h in range(2)], 16) for r in x])
    book.add("hadamard", "hadamard", "two heads of 16 numbers", ["M37", "M38"], "-", TWIN, {"x": x}, {"y": y}, {"y": e}, heads=2)


def rotations(book):
    sets = {
        "plain": (None, 10000.0, ["M03", "M03b"]),
        "yarn": ((16.0, 65536, 32.0, 1.0), 160000.0, ["M04", "M06", "M10"]),
        "yarn_short": ((8.0, 256, 32.0, 1.0), 160000.0, ["M06"]),
    }
    for name, (yarn, base, flags) in sets.items():
        f = np.array(twins.frequencies(64, base, yarn))
        factor, length, fast, slow = yarn or (1.0, 0, 32.0, 1.0)
        config = {"dims": 64, "base": base, "factor": factor, "original": length, "beta_fast": fast, "beta_slow": slow}
        book.add(f"frequencies_{name}", "frequencies", f"angular frequencies, {name}", flags, "-", TWIN, {},
                 {"f": f}, {"f": 40 * f}, **config)
    f = np.array(twins.frequencies(8, 10000.0))
    x = numbers("rope x", 4, 2, 12)
    for name, first, step, inverse, flags in [("rope", 0, 1, 0, ["M01", "M02", "M09"]), ("rope_far", 65533, 1, 0, ["M01"]),
                                              ("rope_entries", 12, 4, 0, ["M11"]), ("rope_inverse", 5, 1, 1, ["M13", "M14b"])]:
        at = [first + step * s for s in range(4)]
        y = np.array([[twins.rope(h, f, p, bool(inverse)) for h in row] for row, p in zip(x, at)])
        book.add(name, "rope", f"positions {at[0]} to {at[-1]} in steps of {step}", flags, "-", TWIN,
                 {"x": x.reshape(4, -1), "frequencies": f}, {"y": y.reshape(4, -1)},
                 {"y": rope_scale(x, f, at).reshape(4, -1)}, heads=2, first=first, step=step, inverse=inverse)


def hyper_connections(book):
    logits = numbers("sinkhorn", 4, 4, scale=3)
    for rounds, name in [(1, "sinkhorn_one_round"), (2, "sinkhorn_few_rounds"), (20, "sinkhorn")]:
        c = np.array(twins.sinkhorn(logits, rounds, HC_EPS))
        book.add(name, "sinkhorn", f"{rounds} rounds; the last step is over columns", ["M66", "M66b", "M66c", "M66d"], "8", TWIN,
                 {"logits": logits}, {"comb": c}, {"comb": (6 * 8 + 2 * rounds * 6) * c}, rounds=rounds, eps=HC_EPS)
    n, d, s = 4, 6, 2
    streams = numbers("streams", s, n * d)
    fn, base = numbers("fn", 24, n * d, scale=0.3), numbers("base", 24)
    scale = np.array([0.75, 1.25, 1.5])
    rows = [twins.hc_pre(r.reshape(n, d), fn, base, scale, 20, NORM_EPS, HC_EPS) for r in streams]
    mixes, pre, post, comb, x = (np.array([r[i] for r in rows]) for i in range(5))
    y = numbers("sublayer out", s, d)
    out = np.array([twins.hc_post(y[i], streams[i].reshape(n, d), post[i], comb[i]) for i in range(s)])
    book.add("hc_pre", "hc_pre", "four streams", ["M66", "M67", "M68"], "3-8", TWIN,
             {"streams": streams, "fn": fn, "base": base, "scale": scale},
             {"mixes": mixes, "pre": pre, "post": post, "comb": comb.reshape(s, -1), "x": x},
             {"mixes": np.full_like(mixes, 400.0), "pre": np.full_like(pre, 400.0), "post": np.full_like(post, 800.0),
              "comb": 2000 * comb.reshape(s, -1), "x": np.full_like(x, 2000.0)},
             rounds=20, norm_eps=NORM_EPS, hc_eps=HC_EPS)
    book.add("hc_post", "hc_post", "an asymmetric comb: the sum runs over its first index", ["M65"], "1", TWIN,
             {"streams": streams, "y": y, "post": post, "comb": comb.reshape(s, -1)}, {"streams_out": out.reshape(s, -1)},
             {"streams_out": 6 * (np.abs(out).reshape(s, -1) + 4)})


def compressors(book):
    for ratio, name, flags in [(4, "compress_overlap", ["M11", "M12", "M18", "M20"]), (8, "compress_plain", ["M11", "M20"])]:
        overlap, c, d, s = ratio == 4, 8, 5, 2 * ratio + 3
        w = 2 * c if overlap else c
        x = numbers(name + " x", s, d)
        wkv, wgate = numbers(name + " wkv", w, d), numbers(name + " wgate", w, d, scale=1.5)
        ape, norm = numbers(name + " ape", ratio, w), numbers(name + " norm", c)
        f = np.array(twins.frequencies(4, 160000.0))
        pooled, entries = twins.compress(x, wkv, wgate, ape, norm, NORM_EPS, ratio, f, overlap)
        for calls, suffix in [([s], ""), ([ratio, 1, ratio, 2], "_chunks"), ([ratio - 1, *[1] * (s - ratio + 1)], "_steps")]:
            book.add(name + suffix, "compress", f"ratio {ratio}, calls of {', '.join(map(str, calls))} tokens", flags,
                     "9-12" if overlap else "20-23", TWIN,
                     {"x": x, "wkv": wkv, "wgate": wgate, "ape": ape, "norm": norm, "frequencies": f, "calls": np.array(calls, np.int32)},
                     {"pooled": np.array(pooled), "entries": np.array(entries)},
                     {"pooled": np.full((len(pooled), c), 400.0), "entries": np.full((len(pooled), c), 4000.0)},
                     ratio=ratio, eps=NORM_EPS)


def selection(book):
    scores = np.full((4, 9), -math.inf)
    for row, visible in enumerate([0, 2, 7, 9]):
        scores[row, :visible] = numbers(f"scores {row}", visible)
    chosen = np.full((4, 4), -1, np.int32)
    for row in range(4):
        best = sorted((e for e in range(9) if scores[row, e] > -math.inf), key=lambda e: -scores[row, e])[:4]
        chosen[row, : len(best)] = best
    book.add("top_k", "top_k", "none, fewer and more entries than places", ["M33", "M35", "M83"], "17", TWIN, {"scores": scores},
             {"chosen": chosen}, k=4)
    q, raw, entries = numbers("q", 3 * 8), numbers("raw", 5, 8), numbers("entries", 4, 8)
    sink = np.array([-0.5, 0.75, 2.0])
    places = np.array([2, -1, 0, -1], np.int32)
    seen = [*raw[1:4], entries[2], entries[0]]
    o = np.array(twins.attend(q.reshape(3, 8), seen, sink))
    book.add("core_attention", "core_attention", "window and entries in one softmax, distinct sinks, -1 between entries",
             ["M07", "M30", "M33", "M45", "M46"], "27", TWIN,
             {"q": q.reshape(1, -1), "raw": raw, "entries": entries, "chosen": places, "sink": sink},
             {"o": o.reshape(1, -1)}, {"o": np.full((1, 24), 200.0)}, window_first=1, window_count=3)


def experts(book):
    logits = numbers("router", 4, 6, scale=2)
    logits[2] = [-104, -40, -17, 21, 90, 200]
    logits[3] = [-100, -90, -80, -70, -60, -50]
    bias = np.array([0.5, -0.25, 3.0, 0.125, -12.0, 0.0])
    table = np.array([[5, 0], [1, 4], [0, 1], [3, 5]], np.int32)
    for name, rows, use_table, flags in [("gate_scored", [0, 1], False, ["M56", "M56b", "M62", "M62b", "M63", "M64"]),
                                         ("gate_hash", [0, 1], True, ["M58", "M60", "M61", "M63"]),
                                         ("gate_extreme", [2, 3], False, ["M57"])]:
        ids = [3, 1] if use_table else [0, 0]
        made = [twins.route(logits[r], 2, 1.5, bias=None if use_table else bias, table=table[i] if use_table else None)
                for r, i in zip(rows, ids)]
        scores, chosen, weights = (np.array([m[i] for m in made]) for i in range(3))
        inputs = {"x": logits[rows], "weight": np.eye(6), "ids": np.array(ids, np.int32)}
        inputs |= {"tid2eid": table} if use_table else {"bias": bias}
        book.add(name, "gate", "the router's weight is the identity: x are its logits", flags, "-", TWIN, inputs,
                 {"scores": scores, "indices": chosen.astype(np.int32), "weights": weights},
                 {"scores": 8 * scores, "weights": 6 * weights}, active=2, route_scale=1.5)
    gate = np.array([[-30.0, -12.0, -1.0, 0.25, 9.5, 40.0], [2.0, -9.0, 0.0, 11.0, -0.5, 7.0]])
    up = np.array([[25.0, 3.0, -40.0, 1.0, -11.0, 0.5], [-2.0, 30.0, 5.0, -6.0, 10.5, -0.25]])
    weight = np.array([[0.75], [1.5]])
    for limit, name in [(10.0, "swiglu_limit"), (0.0, "swiglu")]:
        hidden = np.array([twins.swiglu(g, u, w[0], limit) for g, u, w in zip(gate, up, weight)])
        book.add(name, "swiglu", f"limit {limit:g}: gate from above, up on both sides", ["M51", "M52", "M53", "M53b"], "-", TWIN,
                 {"gate": gate, "up": up, "weight": weight}, {"hidden": hidden}, {"hidden": 12 * np.abs(hidden)}, limit=limit)


def weights(book):
    codes = np.arange(256, dtype=np.uint8).reshape(2, 128)
    value = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    for scale, name in [(0, "weight_fp8_smallest_scale"), (120, "weight_fp8"), (254, "weight_fp8_largest_scale")]:
        book.add(name, "weight_fp8", f"all 256 codes of E4M3FN, scale byte {scale}", ["M42", "M75", "M76", "M77", "M80"], "-", FORMATS,
                 {"codes": codes, "scale": np.array([[scale]], np.uint8)}, {"value": value * twins.decode_e8m0(scale)})
    packed = np.arange(256, dtype=np.uint8).reshape(16, 16)
    nibbles = np.stack([packed & 15, packed >> 4], -1).reshape(16, 32)
    e2m1 = nibbles.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    scales = np.array([0, 1, 60, 120, 121, 126, 127, 128, 129, 130, 134, 140, 160, 200, 253, 254], np.uint8).reshape(16, 1)
    book.add("weight_fp4", "weight_fp4", "all 256 bytes of packed E2M1; scale bytes from 0 to 254", ["M74", "M75", "M77", "M78", "M85"], "-",
             FORMATS, {"codes": packed, "scale": scales}, {"value": e2m1 * np.array([[twins.decode_e8m0(int(v[0]))] for v in scales])})


def encoders(book):
    for kind, dtype, name, flags in [("e4m3", ml_dtypes.float8_e4m3fn, "encode_e4m3", ["M79"]),
                                     ("e2m1", ml_dtypes.float4_e2m1fn, "encode_e2m1", ["M81", "M82"])]:
        count = 128 if kind == "e4m3" else 8
        grid = np.arange(count, dtype=np.uint8).view(dtype).astype(np.float64)
        grid = grid[np.isfinite(grid)]
        middle = (grid[1:] + grid[:-1]) / 2
        above, below = np.nextafter(middle.astype(np.float32), np.float32(1e9)), np.nextafter(middle.astype(np.float32), np.float32(0))
        x = np.concatenate([grid, middle, above, below]).astype(np.float32)
        x = np.concatenate([x, -x])
        book.add(name, name, "every number, the middle between neighbours, and the float32 on each side of it", flags, "-", FORMATS,
                 {"x": x.astype(np.float64)}, {"code": x.astype(dtype).view(np.uint8)})
    for block, largest, floor, dtype, name, flags in [(64, 448.0, 1e-4, ml_dtypes.float8_e4m3fn, "quantise_fp8_64", ["M43", "M55"]),
                                                     (32, 6.0, 6 * 2.0**-126, ml_dtypes.float4_e2m1fn, "quantise_fp4_32", ["M43", "M81", "M82"])]:
        x = numbers(name, 3 * block, scale=1.0)
        x[block:2 * block] *= 2.0**-9
        x[2 * block:] = 0
        x[2 * block] = largest  # amax / largest is a power of two
        x = x.astype(ml_dtypes.bfloat16).astype(np.float64)
        scales = [twins.block_scale(np.abs(b).max(), np.float32(floor), largest) for b in x.reshape(3, block)]
        value = np.concatenate([(np.clip(b / twins.decode_e8m0(s), -largest, largest).astype(np.float32).astype(dtype).astype(np.float64))
                                * twins.decode_e8m0(s) for b, s in zip(x.reshape(3, block), scales)])
        book.add(name, "quantise", f"blocks of {block}: ordinary, small, and one whose scale is exact", flags, "-",
                 f"{FORMATS} and scalar twin", {"x": x}, {"value": value, "scale": np.array(scales, np.uint8)}, block=block)


def all_cases():
    book = Book()
    for part in (norms, rotations, hyper_connections, compressors, selection, experts, weights, encoders):
        part(book)
    return book.cases


def main():
    index = {"schema": "case/1", "cases": []}
    for case in all_cases():
        write_hdf5(HERE / f"{case['id']}.h5", case)
        write_safetensors(HERE / f"{case['id']}.safetensors", case)
        entry = {k: case[k] for k in ("id", "component", "what", "flags", "equation", "producer", "config")}
        for part in ("inputs", "expected", "scale"):
            entry[part] = {name: list(array.shape) for name, array in case[part].items()}
        entry["sha256"] = {suffix: hashlib.sha256((HERE / f"{case['id']}.{suffix}").read_bytes()).hexdigest()
                           for suffix in ("h5", "safetensors")}
        index["cases"].append(entry)
    (HERE / "index.json").write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
