#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the case files: one small case per component and edge, with inputs, expected values and bounds.

    python golden/cases/make_cases.py           (numpy, h5py, ml_dtypes; the same bytes every time)

Expected values come from twins.py (scalar code) and from ml_dtypes (number formats), bounds from roundings.py, flags from the
kills that conformance/bugs/kills.tsv records; nothing from the code under test.
"""

import hashlib
import json

import attention
import feed_forward
import formats
import stages
from book import HERE, Book
from case_file import write_hdf5, write_safetensors

PARTS = (stages.norms, stages.rotations, stages.hyper_connections, attention.compressors, attention.selection, attention.indexer,
         attention.core, attention.blocks, feed_forward.routing, feed_forward.experts, stages.prediction, formats.weights, formats.encoders)


def main():
    book = Book()
    for part in PARTS:
        part(book)
    index = {"schema": "case/1", "cases": []}
    for case in book.cases:
        write_hdf5(HERE / f"{case['id']}.h5", case)
        write_safetensors(HERE / f"{case['id']}.safetensors", case)
        entry = {k: case[k] for k in ("id", "component", "what", "flags", "port_only", "equation", "producer", "config")}
        for part in ("inputs", "expected"):
            entry[part] = {name: list(array.shape) for name, array in case[part].items()}
        entry["sha256"] = {suffix: hashlib.sha256((HERE / f"{case['id']}.{suffix}").read_bytes()).hexdigest()
                           for suffix in ("h5", "safetensors")}
        index["cases"].append(entry)
    (HERE / "index.json").write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
