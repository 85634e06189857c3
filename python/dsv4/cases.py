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
import json
import os
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

import numpy as np

UNIT_ROUNDOFF = {"fp64": 2.0**-53, "fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
TYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
PARTS = ("inputs", "expected", "scale")


@dataclasses.dataclass(frozen=True)
class Case:
    id: str
    component: str
    what: str
    flags: tuple[str, ...]  # ids of docs/bugs.md that it can show
    equation: str
    producer: str
    config: dict[str, float]
    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    scale: dict[str, np.ndarray]  # E: |computed - expected| <= u E; none: exact

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

    @property
    def passed(self) -> bool:
        return not self.misses

    def check(self) -> None:
        """Raises AssertionError that names the worst element of every array that differs."""
        if self.misses:
            raise AssertionError("\n".join([f"{self.case.id} ({self.case.what}) differs; it can show {', '.join(self.case.flags)}",
                                            *[_line(m) for m in self.misses]]))


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
    """Every case, or those of one component, or those that can show one bug."""
    return [load(e["id"]) for e in index() if component in (None, e["component"]) and (flag is None or flag in e["flags"])]


def load(case: str | Path) -> Case:
    """By id, or from a .safetensors or .h5 file."""
    path = Path(case)
    if path.suffix not in (".safetensors", ".h5"):
        path = folder() / f"{case}.safetensors"
    attributes, arrays = _read_hdf5(path) if path.suffix == ".h5" else _read_safetensors(path)
    if attributes.get("dsv4_schema") != "case/1":
        raise ValueError(f"{path}: not a case file: expected dsv4_schema = \"case/1\"")
    parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in PARTS}
    for name, array in arrays:
        part, _, key = name.partition(".")
        parts[part][key] = array
    texts = {k: attributes[k] for k in ("id", "component", "what", "equation", "producer")}
    return Case(**texts, flags=tuple(filter(None, attributes["flags"].split(","))), config=json.loads(attributes["config_json"]), **parts)


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

    with h5py.File(path, "r") as file:
        arrays = [(f"{part}.{name}", file[part][name][()]) for part in PARTS if part in file for name in file[part]]
        return dict(file.attrs), iter(arrays)


def judge(case: Case, outputs: Mapping[str, Any], dtype: str = "fp64") -> Verdict:
    """Compares each expected array with the output of that name. `dtype`: the arithmetic that computed it."""
    return Verdict(case, tuple(m for name, expected in case.expected.items() if (m := _miss(case, name, expected, outputs, dtype))))


def _miss(case: Case, name: str, expected: np.ndarray, outputs: Mapping[str, Any], dtype: str) -> Optional[Miss]:
    if name not in outputs:
        return Miss(name, "missing")
    got = np.asarray(outputs[name])
    if got.size != expected.size:
        return Miss(name, f"expected shape {list(expected.shape)}, got {list(got.shape)}")
    got = got.reshape(expected.shape)
    if name == "indices" or name == "chosen":  # sets: their order is free, -1 is none
        if [set(r) - {-1} for r in got.tolist()] == [set(r) - {-1} for r in expected.tolist()]:
            return None
    if name == "weights" and "indices" in outputs:  # weights stand beside their indices
        got = _aligned(got, np.asarray(outputs["indices"]), case.expected["indices"])
    want, have = expected.astype(np.float64), got.astype(np.float64)
    bound = (UNIT_ROUNDOFF[dtype] + 2.0**-53) * case.scale.get(name, np.zeros_like(want))
    with np.errstate(invalid="ignore"):
        error = np.abs(have - want)
    error[(have == want) | (np.isnan(have) & np.isnan(want))] = 0
    error[np.isnan(error)] = np.inf
    over = error > bound
    if not over.any():
        return None
    ratio = np.where(over, error / np.maximum(bound, 1e-300), 0)
    at = np.unravel_index(int(np.argmax(ratio)), want.shape)
    return Miss(name, "", tuple(map(int, at)), float(want[at]), float(have[at]), float(bound[at]))


def _aligned(weights: np.ndarray, indices: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The weights in the order of the expected indices, row by row; as they are where the sets differ."""
    out = weights.copy()
    for r, (row, want) in enumerate(zip(indices.tolist(), expected.tolist())):
        if sorted(row) == sorted(want):
            out[r] = [weights[r][row.index(e)] for e in want]
    return out
