# SPDX-License-Identifier: Apache-2.0
"""Writer and reader of trace files, schema `trace/1` (HDF5; see golden/schema.md). numpy in, numpy out.

    /                     attributes dsv4_schema, rounding, config_json, then optional ones
    /inputs/input_ids     int32 [number of ids]
    /calls/0000           attribute start_pos; one dataset a tap, layers.2.attn.qr is layers/2/attn/qr

Same inputs give the same file bytes: no times, creation order tracked, fixed chunking. A file appears under
its name only once it is complete.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Iterator, Mapping, Optional, Sequence

import h5py
import numpy as np

from dsv4.errors import Dsv4Error

SCHEMA = "trace/1"
CHUNK_BYTES = 1 << 20  # a chunk is whole rows, at most about this size
COMPACT_BYTES = 2048  # up to here an array lies in its object header, which has a checksum of its own
BESIDE = ("margin", "code", "scale")  # of a tap, in datasets of their own
FILE_TYPES = {"f4": "<f4", "f8": "<f8", "i4": "<i4", "u1": "|u1"}


def _group_properties(make: object) -> h5py.h5p.PropGCID:
    """Property list of a group (or of a file, for the root): creation order tracked, no times."""
    order = h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED
    properties = h5py.h5p.create(make)
    properties.set_link_creation_order(order)
    properties.set_attr_creation_order(order)
    properties.set_obj_track_times(False)
    return properties


def _create_file(path: Path) -> h5py.File:
    """Formats of HDF5 1.10: those of 1.8 spend two kilobytes on the index of every dataset of one chunk."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    properties = _group_properties(h5py.h5p.FILE_CREATE)
    return h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_TRUNC, fcpl=properties, fapl=access))


def _require_group(parent: h5py.Group, name: str) -> h5py.Group:
    """The group `a/b/c` below `parent`, made level by level with our properties."""
    for part in name.split("/"):
        if part not in parent:
            h5py.h5g.create(parent.id, part.encode(), gcpl=_group_properties(h5py.h5p.GROUP_CREATE))
        parent = parent[part]
    return parent


def _chunk_shape(shape: tuple[int, ...], item_bytes: int) -> tuple[int, ...]:
    row_bytes = max(1, int(np.prod(shape[1:], dtype=np.int64)) * item_bytes)
    return (min(shape[0], max(1, CHUNK_BYTES // row_bytes)), *shape[1:])


def _dataset_properties(shape: tuple[int, ...], item_bytes: int) -> h5py.h5p.PropDCID:
    """Shuffle, gzip and fletcher32 in chunks of whole rows; a small array in its object header; an empty one
    contiguous, without filters."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    properties.set_attr_creation_order(h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED)
    if not shape or 0 in shape:
        return properties
    if int(np.prod(shape, dtype=np.int64)) * item_bytes <= COMPACT_BYTES:
        properties.set_layout(h5py.h5d.COMPACT)
    else:
        properties.set_chunk(_chunk_shape(shape, item_bytes))
        properties.set_shuffle()
        properties.set_deflate(4)
        properties.set_fletcher32()
    return properties


def _write_array(parent: h5py.Group, name: str, values: np.ndarray) -> h5py.Dataset:
    kind = f"{values.dtype.kind}{values.dtype.itemsize}"
    if kind not in FILE_TYPES:
        raise Dsv4Error(
            f"{parent.name}/{name}: a trace cannot hold this type",
            expected="float32, float64, int32 or uint8",
            found=values.dtype,
            hint="store BF16 as float32 with dtype='bf16', integers as int32",
        )
    data = np.ascontiguousarray(values, dtype=FILE_TYPES[kind])
    properties = _dataset_properties(data.shape, data.dtype.itemsize)
    file_type = h5py.h5t.py_create(data.dtype, logical=True)
    dataset_id = h5py.h5d.create(
        parent.id, name.encode(), file_type, h5py.h5s.create_simple(data.shape), dcpl=properties
    )
    dataset = h5py.Dataset(dataset_id)
    if data.size:
        dataset_id.write(h5py.h5s.ALL, h5py.h5s.ALL, data)
    return dataset


class TraceWriter:
    """Writes one trace. Use as a context manager; on an exception nothing is left behind.

    `config` is the checkpoint's config.json; without `input_ids`, call `write_ids` before the end. `attributes` are the optional root attributes (producer,
    official_revision,
    model_fingerprint, ...) in the order in which they are to stand in the file.
    """

    def __init__(
        self,
        path: os.PathLike[str] | str,
        *,
        rounding: str,
        config: Mapping[str, Any],
        input_ids: Optional[Sequence[int]] = None,
        attributes: Optional[Mapping[str, object]] = None,
    ):
        self.path = Path(path)
        self._temporary = self.path.with_name(self.path.name + f".{os.getpid()}.tmp")
        self._file = _create_file(self._temporary)
        self._file.attrs["dsv4_schema"] = SCHEMA
        self._file.attrs["rounding"] = rounding
        self._file.attrs["config_json"] = json.dumps(config)
        for name, value in (attributes or {}).items():
            self._file.attrs[name] = value
        self._calls = 0
        self._call: Optional[h5py.Group] = None
        if input_ids is not None:
            self.write_ids(input_ids)

    def write_ids(self, input_ids: Sequence[int]) -> None:
        """Write the token ids, for who did not know them at the beginning."""
        ids = np.asarray(list(input_ids), dtype=np.int32)
        _write_array(_require_group(self._file["/"], "inputs"), "input_ids", ids)

    def begin_call(self, start_pos: int, n_tokens: Optional[int] = None) -> None:
        """Start the group of the next forward call; its first row is absolute position `start_pos`.

        `n_tokens`: the length of the call. A reader that is not told infers it from taps with a row per token, or
        else from the ids.
        """
        self._call = _require_group(self._file["/"], f"calls/{self._calls:04d}")
        self._call.attrs["start_pos"] = np.int64(start_pos)
        if n_tokens is not None:
            self._call.attrs["n_tokens"] = np.int64(n_tokens)
        self._calls += 1

    def write(
        self,
        tap: str,
        values: np.ndarray,
        *,
        axes: str = "",
        dtype: str = "",
        site: str = "",
        eq: str = "",
        rows: Optional[Sequence[int]] = None,
    ) -> None:
        """Write one tap of the current call. `axes`, `dtype`, `site`, `eq` become attributes, `axes` also
        labels.

        `rows`: ascending indices into the call's first axis, when `values` holds only those.
        """
        if self._call is None:
            raise Dsv4Error(f"{tap}: no call has begun", hint="call begin_call(start_pos) first")
        group_name, _, leaf = tap.rpartition(".")
        while leaf.partition(".")[0] in BESIDE:  # "kv.code" is one name: kv is a dataset, not a group
            group_name, _, stem = group_name.rpartition(".")
            leaf = f"{stem}.{leaf}"
        group_name = group_name.replace(".", "/")
        parent = _require_group(self._call, group_name) if group_name else self._call
        dataset = _write_array(parent, leaf, values)
        for name, text in (("axes", axes), ("dtype", dtype), ("site", site), ("eq", eq)):
            if text:
                dataset.attrs[name] = text
        if rows is not None:
            dataset.attrs["rows"] = np.asarray(rows, dtype=np.int32)
        for index, label in enumerate(axes.split(",") if axes else []):
            dataset.dims[index].label = label

    def close(self) -> None:
        self._file.close()
        os.replace(self._temporary, self.path)

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if kind is None:
            self.close()
            return
        self._file.close()
        self._temporary.unlink(missing_ok=True)


class TraceReader:
    """Reads one trace; `attributes`, `config` and `input_ids` are read at once, taps on demand."""

    def __init__(self, path: os.PathLike[str] | str):
        self.path = Path(path)
        self._file = h5py.File(self.path, "r")
        self.attributes = {name: self._file.attrs[name] for name in self._file.attrs}
        schema = self.attributes.get("dsv4_schema")
        if schema != SCHEMA:
            raise Dsv4Error("not a trace this reader knows", where=self.path, expected=SCHEMA, found=schema)
        self.config: dict[str, Any] = json.loads(str(self.attributes["config_json"]))
        self.input_ids: np.ndarray = self._file["inputs/input_ids"][:]

    @property
    def calls(self) -> list[str]:
        """Names of the call groups, in order."""
        return sorted(self._file["calls"])

    def start_pos(self, call: str) -> int:
        return int(self._file["calls"][call].attrs["start_pos"])

    def taps(self, call: str) -> list[str]:
        """Tap names in this call, in the order in which they were written."""
        return list(self._walk(self._file["calls"][call], ""))

    def _walk(self, group: h5py.Group, prefix: str) -> Iterator[str]:
        for name, item in group.items():
            if isinstance(item, h5py.Group):
                yield from self._walk(item, f"{prefix}{name}.")
            else:
                yield prefix + name

    def _dataset(self, call: str, tap: str) -> h5py.Dataset:
        return self._file["calls"][call][tap.replace(".", "/")]

    def read(self, call: str, tap: str) -> np.ndarray:
        return self._dataset(call, tap)[()]

    def tap_attributes(self, call: str, tap: str) -> dict[str, object]:
        dataset = self._dataset(call, tap)
        return {name: dataset.attrs[name] for name in dataset.attrs if name != "DIMENSION_LABELS"}

    def labels(self, call: str, tap: str) -> list[str]:
        return [axis.label for axis in self._dataset(call, tap).dims]

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> TraceReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
