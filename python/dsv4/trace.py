# SPDX-License-Identifier: Apache-2.0
"""Traces of a port, for `dsv4 verify` and `dsv4 diagnose` (golden/schema.md).

From arrays that you have, numpy or torch, by the names of core/taps.tsv:

    from dsv4 import trace

    trace.write("mine.h5", {0: {"layers.0.attn.q": q, "logits": logits}}, input_ids=ids, config=CHECKPOINT)

From a torch model, by forward hooks:

    with trace.record(model, "mine.h5", names="transformers", config=CHECKPOINT):
        model(torch.tensor([ids]))

`config` is config.json: as a dict, its path, or its folder. Needs numpy and h5py, and no torch of its own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence, Union

import numpy as np

from dsv4.errors import Dsv4Error
from dsv4.names import Alias, Names, aliases_of, tap_of
from dsv4.trace_file import TraceReader, TraceWriter
from dsv4.transforms import Call, Place, as_array, steps_of, transform

__all__ = ["Dsv4Error", "Recorder", "TraceReader", "TraceWriter", "read", "record", "write"]

Config = Union[str, os.PathLike, Mapping[str, Any]]


def read_config(config: Config) -> Mapping[str, Any]:
    """config.json as a dict, from its path or its folder."""
    if isinstance(config, Mapping):
        return config
    path = Path(config)
    return json.loads((path / "config.json" if path.is_dir() else path).read_text(encoding="utf-8"))


def read(path: Union[str, os.PathLike]) -> TraceReader:
    """Opens a trace; a context manager."""
    return TraceReader(path)


def write(
    path: Union[str, os.PathLike],
    calls: Mapping[int, Mapping[str, Any]],
    *,
    input_ids: Sequence[int],
    config: Config,
    rounding: str = "official",
    **attributes: object,
) -> None:
    """Writes a whole trace. `calls`: position of a call's first token -> {tap: array}; `attributes`: optional ones
    of the file, such as producer="my engine" or arith="bf16"."""
    with TraceWriter(
        path, rounding=rounding, config=read_config(config), input_ids=input_ids, attributes=attributes
    ) as writer:
        for start in sorted(calls):
            writer.begin_call(start)
            for tap, value in calls[start].items():
                array, dtype = as_array(value)
                writer.write(tap, array, dtype=dtype)


def _first_ids(args: Sequence[Any], kwargs: Mapping[str, Any]) -> np.ndarray:
    """The token ids of one sequence, which a forward call was given first or by name."""
    value = kwargs.get("input_ids", args[0] if args else None)
    if value is None:
        raise Dsv4Error("the model was called without token ids", hint="record(…, ids_of=lambda args, kwargs: …)")
    ids, dtype = as_array(value)
    if dtype not in ("int", "uint8") or ids.size == 0 or ids.size != ids.shape[-1]:
        raise Dsv4Error(
            "a trace holds one sequence of token ids",
            expected="integers of shape [s] or [1, s]",
            found=f"{dtype} of shape {list(ids.shape)}",
            hint="record a batch one sequence at a time",
        )
    return ids.reshape(-1)


class Recorder:
    """Hooks on the modules of a model, while it is used as a context manager; see `record`. `missing` are the names
    to which no module answers."""

    def __init__(
        self,
        model: Any,
        writer: TraceWriter,
        config: Mapping[str, Any],
        aliases: Sequence[Alias],
        ids_of: Callable[[Sequence[Any], Mapping[str, Any]], Any],
    ):
        self._model, self._writer, self._config, self._ids_of = model, writer, config, ids_of
        self._hooks: list[Any] = []
        self._ids: list[int] = []
        self._call: Optional[Call] = None
        self._values: dict[str, tuple[np.ndarray, str]] = {}
        for alias in aliases:
            if isinstance(alias.transform, str):
                steps_of(alias.transform)  # a wrong table is refused before the model runs
        self._found = [
            (module, tap, alias)
            for name, module in model.named_modules()
            for alias in aliases
            if (tap := tap_of(alias, name)) is not None
        ]
        met = {alias.theirs for _, _, alias in self._found}
        self.missing = sorted({alias.theirs for alias in aliases} - met)
        if not self._found:
            raise Dsv4Error(
                "no module of the model has one of these names",
                expected=", ".join(self.missing[:3]),
                found=", ".join([name for name, _ in model.named_modules() if name][:3]),
            )

    def _begin(self, _: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        ids = as_array(self._ids_of(args, kwargs))[0].reshape(-1)
        self._call = Call(len(self._ids), len(ids))
        self._ids += [int(i) for i in ids]
        self._values = {}

    def _end(self, *_: Any) -> None:
        assert self._call is not None
        self._writer.begin_call(self._call.start, self._call.count)
        for tap, (array, dtype) in self._values.items():
            self._writer.write(tap, array, dtype=dtype)
        self._values, self._call = {}, None

    def _hook(self, tap: str, alias: Alias) -> Callable[..., None]:
        def keep(_: Any, inputs: Sequence[Any], output: Any) -> None:
            if self._call is None or tap in self._values:  # of a module that is used twice, the first time
                return
            place = Place(self._config, self._call, tap)
            if callable(alias.transform):
                output = alias.transform(output, place)
            chain = alias.transform if isinstance(alias.transform, str) else "-"
            self._values[tap] = transform(chain, output, inputs, place)

        return keep

    def __enter__(self) -> Recorder:
        self._hooks = [module.register_forward_hook(self._hook(tap, alias)) for module, tap, alias in self._found]
        self._hooks.append(self._model.register_forward_pre_hook(self._begin, with_kwargs=True))
        self._hooks.append(self._model.register_forward_hook(self._end))  # the last of the model's own hooks
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        if kind is None and not self._ids:
            self._writer.__exit__(Dsv4Error, None, None)
            raise Dsv4Error("the model was never called while it was recorded")
        if kind is None:
            self._writer.write_ids(self._ids)
        self._writer.__exit__(kind, error, traceback)


def record(
    model: Any,
    path: Union[str, os.PathLike],
    *,
    names: Names,
    config: Config,
    rounding: str = "official",
    ids_of: Callable[[Sequence[Any], Mapping[str, Any]], Any] = _first_ids,
    **attributes: object,
) -> Recorder:
    """Records what the modules of a torch model give, while it is used as a context manager.

    Every call of `model` becomes a call of the trace, at the position where the one before it ended; its values are
    written when it ends. The file appears when the context ends without an exception.

    `names`: "transformers", a table's path, or a dict; see `dsv4.names`. A transform may also be a function of the
    module's output and the `Place`. `ids_of(args, kwargs)` finds the token ids among the model's arguments;
    `attributes` as in `write`. Raises Dsv4Error for a name that fits no module if none does, a transform that there
    is not or that does not fit, and a batch of several sequences.
    """
    described = read_config(config)
    aliases = aliases_of(names)
    writer = TraceWriter(path, rounding=rounding, config=described, attributes=attributes)
    try:
        return Recorder(model, writer, described, aliases, ids_of)
    except BaseException as error:
        writer.__exit__(type(error), error, None)
        raise
