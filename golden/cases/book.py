# SPDX-License-Identifier: Apache-2.0
"""What the files of cases share: numbers that every type holds, and the list that becomes the index."""

import hashlib
import math
from pathlib import Path

import ml_dtypes
import numpy as np

import roundings

HERE = Path(__file__).resolve().parent
KILLS = HERE.parents[1] / "conformance" / "bugs" / "kills.tsv"
TWIN = "scalar twin"
FORMATS = f"ml_dtypes {ml_dtypes.__version__}"
NORM_EPS = HC_EPS = 1e-6


def rounded(x):
    """To BF16: eight bits that float16, float32 and float64 hold as well."""
    return np.asarray(x, np.float64).astype(ml_dtypes.bfloat16).astype(np.float64)


def numbers(name, *shape, scale=1.0):
    """Reproducible without a library's generator: splitmix64 of the name, roughly normal, rounded to BF16."""
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
    return rounded(np.round(out * 2**12) / 2**12).reshape(shape)


def flat(row):
    """[[a, b], [c]] -> [a, b, c], to any depth."""
    return [v for part in row for v in flat(part)] if isinstance(row, (list, tuple)) else [row]


class Book:
    """All cases, in the order of the index."""

    def __init__(self):
        self.cases = []
        lines = (line.split("\t") for line in KILLS.read_text().splitlines())
        self.kills = {case: [i for i in ids.split(",") if i and not i.startswith("S-")] for case, ids in lines}

    def add(self, case, component, what, inputs, results, equation="-", exact=None, undecided=(), port_only=(), producer=TWIN,
            **config):
        """results: nested lists of roundings.Number, which give expected values and bounds. exact: arrays that have no bound, in
        the types of `undecided` an infinite one: rounding may turn their decision. port_only: bugs that this case shows in a port,
        although the reference's plant of them lies elsewhere."""
        expected = {k: np.array(roundings.values(v)) for k, v in results.items()}
        bound = {}
        for name, result in results.items():
            for kind, values in roundings.bounds(result).items():
                bound[f"{kind}/{name}"] = np.array(values, np.float64).reshape(expected[name].shape)
        for name, array in (exact or {}).items():
            expected[name] = np.asarray(array)
            bound |= {f"{kind}/{name}": np.full(expected[name].shape, math.inf) for kind in undecided}
        measured = self.kills.get(f"cases/{case}", [])
        self.cases.append({"id": case, "component": component, "what": what, "flags": measured,
                           "port_only": [f for f in port_only if f not in measured], "equation": equation, "producer": producer,
                           "config": config, "inputs": {k: np.asarray(v) for k, v in inputs.items()}, "expected": expected,
                           "bound": bound})


def undecided(margins):
    """The types in which rounding may turn one of these decisions."""
    made = [(float(m), roundings.bounds(m)) for m in margins if m is not None]
    return [kind for kind in roundings.TYPES if any(bound[kind] >= margin for margin, bound in made)]
