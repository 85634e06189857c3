# SPDX-License-Identifier: Apache-2.0
"""From what a module of a port gives to the tap it is: a chain of steps, from left to right.

| step | does |
|---|---|
| `-` | nothing |
| `item(K)` | element K of the module's output, which is a tuple |
| `input(K)` | argument K of the module instead of its output; first in the chain |
| `drop_batch` | drops a first axis of one |
| `heads_second` | [h,s,c] to [s,h,c] |
| `split(N)` | the last axis into N parts, [s,h*c] to [s,h,c]; N is a number or a field of config.json |
| `flatten` | the last two axes into one |
| `last_row` | the last row alone |
| `rows(A-B)`, `columns(A-B)` | rows, or elements of the last axis, A to B, both included |
| `scale(X)` | times X |
| `new_entries` | all compressed entries so far [t,c] to those completed in this call [e,c] |
| `scale_index_weights` | divided by sqrt(j i): the factor of eq. 15, for ports that apply it later |
| `mask_future` | index scores [s,t]: -inf where the query may not look yet |
"""

from __future__ import annotations

import math
import re
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import numpy as np

from dsv4.errors import Dsv4Error

NARROW = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}


def as_array(value: Any) -> tuple[np.ndarray, str]:
    """(array, `dtype` attribute) of a numpy array or torch tensor: 16-bit floats become float32, integers
    int32, raw bytes and booleans uint8."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # numpy has none
            return value.float().numpy(), "bf16"
        value = value.numpy()
    array = np.asarray(value)
    name = array.dtype.name
    if name in NARROW:
        return array.astype(np.float32) if array.dtype.itemsize == 2 else array, NARROW[name]
    if name in ("bool", "uint8"):
        return array.astype(np.uint8), "uint8"
    if array.dtype.kind in "iu":
        if array.size and (array.min() < -(2**31) or array.max() >= 2**31):
            raise Dsv4Error("an integer does not fit 32 bits", found=max(abs(int(array.min())), int(array.max())))
        return array.astype(np.int32), "int"
    raise Dsv4Error(
        "a trace cannot hold this type", expected="float64, float32, bfloat16, float16 or integers", found=name
    )


class Call(NamedTuple):
    """A forward call: position of its first token, number of tokens."""

    start: int
    count: int


class Place(NamedTuple):
    """Where a value was met: which model (its config.json), which call, which tap."""

    config: Mapping[str, Any]
    call: Call
    tap: str

    def ratio(self) -> int:
        """The compression ratio of the tap's layer."""
        layer = re.match(r"layers\.(\d+)\.", self.tap)
        if layer is None:
            raise ValueError("there is no layer in the tap's name")
        return int(self.config["compress_ratios"][int(layer[1])])


def _split(a: np.ndarray, n: str, place: Place) -> np.ndarray:
    return a.reshape(*a.shape[:-1], int(n) if n.isdigit() else int(place.config[n]), -1)


def _index_scale(a: np.ndarray, _: str, place: Place) -> np.ndarray:
    return a / a.dtype.type(math.sqrt(int(place.config["index_head_dim"]) * int(place.config["index_n_heads"])))


def _mask_future(a: np.ndarray, _: str, place: Place) -> np.ndarray:
    visible = (np.arange(place.call.count) + place.call.start + 1) // place.ratio()
    return np.where(np.arange(a.shape[1]) >= visible[:, None], a.dtype.type(-np.inf), a)


def _span(text: str, size: int) -> slice:
    first, last = (int(end) for end in text.split("-"))
    if not first <= last < size:
        raise ValueError(f"{text} lies outside an axis of {size}")
    return slice(first, last + 1)


STEPS: dict[str, Callable[[np.ndarray, str, Place], np.ndarray]] = {
    "drop_batch": lambda a, _, place: np.squeeze(a, 0),
    "heads_second": lambda a, _, place: np.transpose(a, (1, 0, 2)),
    "split": _split,
    "flatten": lambda a, _, place: a.reshape(*a.shape[:-2], a.shape[-2] * a.shape[-1]),
    "last_row": lambda a, _, place: a[-1],
    "rows": lambda a, span, place: a[_span(span, a.shape[0])],
    "columns": lambda a, span, place: a[..., _span(span, a.shape[-1])],
    "scale": lambda a, factor, place: a * a.dtype.type(float(factor)),
    "new_entries": lambda a, _, place: a[place.call.start // place.ratio() :],
    "scale_index_weights": _index_scale,
    "mask_future": _mask_future,
}
PICKS = ("item", "input")  # one tensor of several


def steps_of(chain: str) -> list[tuple[str, str]]:
    """(name, argument) of each step. Raises Dsv4Error for one that there is not."""
    found = []
    for step in chain.split():
        name, _, argument = step.removesuffix(")").partition("(")
        if name in PICKS or name in STEPS:
            found.append((name, argument))
        elif step != "-":
            raise Dsv4Error("no such transform", found=step, hint=f"there are -, {', '.join([*PICKS, *STEPS])}")
    return found


def transform(chain: str, output: Any, inputs: Sequence[Any], place: Place) -> tuple[np.ndarray, str]:
    """What the chain makes of a module's output or inputs, and its `dtype` attribute."""
    steps, value = steps_of(chain), output
    while steps and steps[0][0] in PICKS:
        name, argument = steps.pop(0)
        value = (value if name == "item" else inputs)[int(argument)]
    array, dtype = as_array(value)
    for name, argument in steps:
        try:
            array = STEPS[name](array, argument, place)
        except (ValueError, IndexError, KeyError) as error:
            raise Dsv4Error(
                f"{place.tap}: {name} cannot be applied", found=f"shape {list(array.shape)}, {error}"
            ) from error
    return np.array(array, order="C"), dtype  # a copy: what a hook sees may be overwritten later
