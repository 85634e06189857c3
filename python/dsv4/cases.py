# SPDX-License-Identifier: Apache-2.0
"""Case files: one component of DeepSeek-V4, its inputs, and what it must give (golden/cases/schema.md).

    import pytest
    from dsv4 import cases

    @pytest.mark.parametrize("case", cases.all(component="rope"), ids=str)
    def test_rope(case):
        y = my_rope(case.inputs["x"], case.inputs["frequencies"], **case.config)
        cases.judge(case, {"y": y}, dtype="fp32").check()

Needs numpy, and h5py only for files that are not safetensors.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import unittest
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Optional

import numpy as np

from .errors import Dsv4Error

DTYPES = ("fp64", "fp32", "fp16", "bf16")
TYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
PARTS = ("inputs", "expected", "bound")
SETS = ("indices", "chosen", "topk_idxs")  # their order is free, -1 is none


class SaysNothing(unittest.SkipTest):
    """The bound is as large as the numbers themselves: no answer could be wrong. Test runners count it as skipped."""


@dataclasses.dataclass(frozen=True)
class Case:
    id: str
    component: str
    what: str
    flags: tuple[str, ...]  # ids of docs/bugs.md that it was seen to kill
    port_only: tuple[str, ...]  # and those that it shows in a port, though the suite plants them elsewhere
    equation: str
    producer: str
    config: dict[str, float]
    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    bound: dict[str, np.ndarray]  # "fp32.y": how far rounding alone can move y in float32; none: exact

    def __str__(self) -> str:
        return self.id


@dataclasses.dataclass(frozen=True)
class Miss:
    name: str
    problem: str
    index: tuple[int, ...] = ()
    expected: float = 0.0
    got: float = 0.0
    bound: float = 0.0


@dataclasses.dataclass(frozen=True)
class Verdict:
    case: Case
    misses: tuple[Miss, ...]
    silent: tuple[str, ...] = ()  # what the case can say nothing about in this type
    dtype: str = "fp64"

    @property
    def outcome(self) -> str:
        """PASSED, FAILED, or MISTRUSTED: nothing is wrong, and something could not have been."""
        return "FAILED" if self.misses else "MISTRUSTED" if self.silent else "PASSED"

    @property
    def passed(self) -> bool:
        return self.outcome == "PASSED"

    def check(self) -> None:
        """Raises AssertionError that names the worst element of every array that differs, SaysNothing when nothing could differ."""
        if self.misses:
            known = ", ".join(self.case.flags + self.case.port_only) or "no mistake that was reported"
            raise AssertionError("\n".join([f"{self.case.id} ({self.case.what}) differs; it can show {known}",
                                            *[_line(m) for m in self.misses]]))
        if self.silent:
            raise SaysNothing(f"{self.case.id} says nothing in {self.dtype}: rounding alone may move {', '.join(self.silent)} by as "
                              "much as there is; compute it in a wider type")


def _line(m: Miss) -> str:
    if m.problem:
        return f"  {m.name}: {m.problem}"
    return f"  {m.name}{list(m.index)}: expected {m.expected!r}, got {m.got!r}, allowed {m.bound:.3g}"


def folder() -> Path:
    """$DSV4_CASES, else golden/cases of the repository that this package lies in."""
    return Path(os.environ.get("DSV4_CASES") or Path(__file__).resolve().parents[2] / "golden" / "cases")


def index() -> list[dict[str, Any]]:
    return json.loads((folder() / "index.json").read_text())["cases"]


def all(component: Optional[str] = None, flag: Optional[str] = None) -> list[Case]:  # noqa: A001
    """Every case, or those of one component, or those that can show one bug. Never an empty list: a test over it would pass."""
    entries = index()
    shown = {f for e in entries for f in e["flags"] + e["port_only"]}
    for name, known in (("component", {e["component"] for e in entries}), ("flag", shown)):
        asked = {"component": component, "flag": flag}[name]
        if asked is not None and asked not in known:
            raise _unknown(f"no case has the {name} {asked!r}", asked, known)
    found = [load(e["id"]) for e in entries
             if component in (None, e["component"]) and (flag is None or flag in e["flags"] + e["port_only"])]
    if not found:
        raise Dsv4Error(f"no case of {component} can show {flag}", hint="ask for one of the two")
    return found


def _unknown(what: str, asked: str, known: Iterable[str]) -> Dsv4Error:
    near = difflib.get_close_matches(asked, sorted(known), n=1, cutoff=0.0)
    return Dsv4Error(what, expected=f"one of {', '.join(sorted(known))}", hint=f"the nearest is {near[0]!r}" if near else "")


def load(case: str | Path) -> Case:
    """By id, or from a .safetensors or .h5 file."""
    path = Path(case)
    if path.suffix not in (".safetensors", ".h5"):
        path = folder() / f"{case}.safetensors"
        if not path.exists():
            raise _unknown(f"no case {str(case)!r}", str(case), {e["id"] for e in index()})
    attributes, arrays = _read_hdf5(path) if path.suffix == ".h5" else _read_safetensors(path)
    if attributes.get("dsv4_schema") != "case/1":
        raise Dsv4Error("not a case file", where=path, expected='dsv4_schema = "case/1"', found=attributes.get("dsv4_schema"))
    parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in PARTS}
    for name, array in arrays:
        part, _, key = name.partition(".")
        parts[part][key] = array
    texts = {k: attributes[k] for k in ("id", "component", "what", "equation", "producer")}
    lists = {k: tuple(filter(None, attributes[k].split(","))) for k in ("flags", "port_only")}
    return Case(**texts, **lists, config=json.loads(attributes["config_json"]), **parts)


def _read_safetensors(path: Path) -> tuple[dict[str, str], Iterator[tuple[str, np.ndarray]]]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    attributes = header.pop("__metadata__", {})

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        for name, entry in header.items():
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            yield name, np.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])

    return attributes, arrays()


def _read_hdf5(path: Path) -> tuple[dict[str, str], Iterator[tuple[str, np.ndarray]]]:
    import h5py  # noqa: PLC0415

    found: list[tuple[str, np.ndarray]] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: found.append((name.replace("/", "."), item[()])) if isinstance(item, h5py.Dataset) else None)
        return dict(file.attrs), iter(found)


def judge(case: Case, outputs: Mapping[str, Any], dtype: str = "fp64") -> Verdict:
    """Compares each expected array with the output of that name.

    `dtype` is the type that the port stores its numbers in; sums, products of matrices and angles are accumulated in float32 or
    wider. What the bounds count is in golden/cases/schema.md."""
    if dtype not in DTYPES:
        raise _unknown(f"unknown dtype {dtype!r}", str(dtype), DTYPES)
    misses = tuple(m for name in case.expected if (m := _miss(case, name, outputs, dtype)))
    return Verdict(case, misses, tuple(name for name in case.expected if says_nothing(case, name, dtype)), dtype)


def says_nothing(case: Case, name: str, dtype: str) -> bool:
    """Whether the bound is as large as the expected numbers, both as root mean squares; then zeros would do."""
    bound = case.bound.get(f"{dtype}.{name}")
    if bound is None or bound.size == 0:
        return False
    finite = np.isfinite(case.expected[name])
    size = np.where(finite, case.expected[name], 0).astype(np.float64)
    return bool(np.square(np.where(finite, bound, 0)).sum() >= np.square(size).sum())


def _numbers(output: Any) -> tuple[Optional[np.ndarray], str]:
    """As an array of real numbers, or why it is none. Torch tensors may be in any type, on any device."""
    if hasattr(output, "detach"):
        output = output.detach().cpu()
        output = output.float() if "bfloat16" in str(output.dtype) else output.numpy()
    got = np.asarray(output)
    if got.dtype.name == "bfloat16":  # of ml_dtypes
        got = got.astype(np.float32)
    return (got, "") if got.dtype.kind in "fiu" else (None, f"expected real numbers, got {got.dtype}")


def _miss(case: Case, name: str, outputs: Mapping[str, Any], dtype: str) -> Optional[Miss]:
    if name not in outputs:
        return Miss(name, "missing")
    expected = case.expected[name]
    got, problem = _numbers(outputs[name])
    if got is None:
        return Miss(name, problem)
    if got.shape != expected.shape:
        return Miss(name, f"expected shape {list(expected.shape)}, got {list(got.shape)}")
    if name in SETS:
        got, expected = _sorted(got), _sorted(expected)
    if name == "weights" and "indices" in case.expected:  # weights stand beside their indices
        indices, _ = _numbers(outputs.get("indices", ()))
        got = _aligned(got, indices, case.expected["indices"])
    return _worst(name, expected.astype(np.float64), got.astype(np.float64),
                  case.bound.get(f"{dtype}.{name}", np.zeros(expected.shape)))


def _worst(name: str, want: np.ndarray, have: np.ndarray, bound: np.ndarray) -> Optional[Miss]:
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(have - want)
        error[(have == want) | (np.isnan(have) & np.isnan(want))] = 0
        error[np.isnan(error) | (np.isinf(have) & (have != want))] = np.inf
        over = (error > bound) | np.isinf(error)
        if not over.any():
            return None
        ratio = np.where(over, np.nan_to_num(error / np.maximum(bound, 1e-300), nan=np.inf), 0)
    at = np.unravel_index(int(np.argmax(ratio)), want.shape)
    return Miss(name, "", tuple(map(int, at)), float(want[at]), float(have[at]), float(bound[at]))


def _sorted(rows: np.ndarray) -> np.ndarray:
    """A set per row: what stands in it twice is not the same as once, and -1 is none wherever it stands."""
    return np.sort(rows, axis=-1)


def _aligned(weights: np.ndarray, indices: Optional[np.ndarray], expected: np.ndarray) -> np.ndarray:
    """The weights in the order of the expected indices, row by row; as they are where the sets differ."""
    out = weights.copy()
    if indices is None or indices.shape != expected.shape:
        return out
    for r, (row, want) in enumerate(zip(indices.tolist(), expected.tolist())):
        if sorted(row) == sorted(want):
            out[r] = [weights[r][row.index(e)] for e in want]
    return out
