# SPDX-License-Identifier: Apache-2.0
"""Writes one case as HDF5 and as safetensors. The same values give the same bytes."""

import json
import os

import h5py
import numpy as np


def _file(path):
    order = h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    properties = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    properties.set_link_creation_order(order)
    properties.set_obj_track_times(False)
    return h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_TRUNC, fcpl=properties, fapl=access))


def _attributes(case):
    texts = {k: case[k] for k in ("id", "component", "what", "equation", "producer")}
    lists = {k: ",".join(case[k]) for k in ("flags", "port_only")}
    return {"dsv4_schema": "case/1", **texts, **lists, "config_json": json.dumps(case["config"])}


def _arrays(case):
    for part in ("inputs", "expected", "bound"):
        for name, array in case[part].items():
            yield f"{part}/{name}", np.ascontiguousarray(array)


def write_hdf5(path, case):
    with _file(path) as file:
        for name, text in _attributes(case).items():
            file.attrs[name] = text
        for name, array in _arrays(case):
            group = file
            for part in name.split("/")[:-1]:
                if part not in group:
                    properties = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
                    properties.set_obj_track_times(False)
                    h5py.h5g.create(group.id, part.encode(), gcpl=properties)
                group = group[part]
            group.create_dataset(name.split("/")[-1], data=array, track_times=False)


def write_safetensors(path, case):
    """Eight bytes of header length, the header as JSON, the values; names are inputs.x, expected.y, bound.fp32.y."""
    kinds = {"f8": "F64", "i4": "I32", "u1": "U8"}
    header, data = {"__metadata__": _attributes(case)}, b""
    for name, array in _arrays(case):
        raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
        header[name.replace("/", ".")] = {"dtype": kinds[array.dtype.str[1:]], "shape": list(array.shape),
                                          "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
