# SPDX-License-Identifier: Apache-2.0
"""Runs the program dsv4 on a small model and on damaged copies of that model's trace."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.dont_write_bytecode = True

ROOT = Path(os.environ.get("DSV4_SOURCE_DIR", Path(__file__).resolve().parents[2]))
PROGRAM = os.environ.get("DSV4_PROGRAM", str(ROOT / "build" / "dsv4"))

# Every layer type, hash and scored routing, an MTP block, and top-k that truncates; all sizes differ.
SMALL = {
    "hidden_size": 128, "moe_intermediate_size": 128, "head_dim": 64, "qk_rope_head_dim": 32,
    "num_attention_heads": 4, "o_groups": 2, "o_lora_rank": 32, "q_lora_rank": 128, "index_n_heads": 3,
    "index_head_dim": 32, "index_topk": 3, "vocab_size": 50, "n_routed_experts": 6,
    "num_experts_per_tok": 2, "sliding_window": 8, "hc_mult": 3, "hc_sinkhorn_iters": 4,
    "num_hidden_layers": 4, "num_hash_layers": 1, "compress_ratios": [0, 8, 4, 4, 0],
    "num_nextn_predict_layers": 1,
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 8,
                     "original_max_position_embeddings": 16, "type": "yarn"},
}
CALLS = ("--chunks", "21,2", "--decode", "2")
RUN = ("--random", "26", "--seed", "10", *CALLS, "--mtp")  # no two index scores at a cut are equal
TIED = ("--random", "26", "--seed", "1", *CALLS, "--mtp")  # two index scores at a cut are equal


def dsv4(*arguments, env=None, **options):
    """Runs the program; stdout and stderr as text."""
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, **(env or {})}, **options)


def ok(*arguments, **options):
    done = dsv4(*arguments, **options)
    assert done.returncode == 0, done.stderr + done.stdout
    return done


def refused(*arguments, says=(), code=2, **options):
    """Runs the program and demands an exit code, a message with every word of `says`, and no data."""
    done = dsv4(*arguments, **options)
    assert done.returncode == code, (done.returncode, done.stderr, done.stdout[-2000:])
    for words in says:
        assert words in done.stderr, f"{words!r} is not in {done.stderr!r}"
    if code == 2:
        assert done.stdout == ""
    return done.stderr


class Verified:
    """The exit code and the JSON report of one run of verify."""

    def __init__(self, done):
        self.code = done.returncode
        self.talk = done.stderr
        assert self.code in (0, 1, 3), (self.code, done.stderr)
        self.report = json.loads(done.stdout)
        self.results = self.report["results"]
        self.counts = self.report["counts"]
        self.first = self.report["first_difference"]

    def of(self, tap, call=None):
        return [r for r in self.results if r["tap"] == tap and call in (None, r["call"])]

    def one(self, tap, call=0):
        found = self.of(tap, call)
        assert len(found) == 1, (tap, call, found)
        return found[0]

    def having(self, verdict):
        return [r for r in self.results if r["verdict"] == verdict]


def verify(trace, model, *arguments, **options):
    return Verified(dsv4("verify", trace, "--model", model, "--json", *arguments, **options))


def datasets(file, call=None):
    """(call, tap, dataset) of an open HDF5 file, in the order of the calls."""
    for name in sorted(file["calls"]) if call is None else [call]:
        found = []
        file["calls"][name].visititems(
            lambda path, item: found.append((path, item)) if isinstance(item, h5py.Dataset) else None)
        for path, item in found:
            if path != "positions":
                yield name, path.replace("/", "."), item


def tap(file, call, name):
    return file[f"calls/{call:04d}/{name.replace('.', '/')}"]


def replace(dataset, values, rows=None):
    """Writes other values, of any shape and type, in the place of a dataset; attributes are kept."""
    attributes = {k: v for k, v in dataset.attrs.items() if k not in ("DIMENSION_LABELS", "rows")}
    parent, name = dataset.parent, dataset.name.rsplit("/", 1)[1]
    if rows is None and "rows" in dataset.attrs:
        rows = dataset.attrs["rows"]
    del parent[name]
    fresh = parent.create_dataset(name, data=values)
    for key, value in attributes.items():
        fresh.attrs[key] = value
    if rows is not None:
        fresh.attrs["rows"] = np.asarray(rows, np.int32)
    return fresh


def keep(file, wanted):
    """Deletes every dataset for which wanted(call, tap) is false."""
    for call, name, dataset in list(datasets(file)):
        if not wanted(call, name):
            del file[dataset.name]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A directory with the small model `model`, its traces `trace.h5` and `tied.h5`, and `other`, other weights."""
    at = tmp_path_factory.mktemp("small")
    (at / "small.json").write_text(json.dumps(SMALL))
    for name, seed in (("model", 7), ("other", 8)):
        ok("make-model", "--preset", "tiny", "--config", at / "small.json", "--seed", seed, "-o", at / name)
    ok("trace", "--model", at / "model", *RUN, "-o", at / "trace.h5")
    ok("trace", "--model", at / "model", *TIED, "-o", at / "tied.h5")
    return at


@pytest.fixture
def model(made):
    return made / "model"


@pytest.fixture
def model_copy(made, tmp_path):
    """A checkpoint of its own, to damage."""
    shutil.copytree(made / "model", tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def trace(made, tmp_path):
    """A trace of its own, to damage."""
    shutil.copy(made / "trace.h5", tmp_path / "trace.h5")
    return tmp_path / "trace.h5"


@pytest.fixture
def edited(made, tmp_path):
    """edited(change) is a copy of the trace to which change(file) was applied."""
    counter = iter(range(10**6))

    def edit(change, source=None):
        path = tmp_path / f"edited{next(counter)}.h5"
        shutil.copy(source or made / "trace.h5", path)
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return edit


class Diagnosis:
    def __init__(self, done):
        self.code = done.returncode
        assert self.code in (0, 1, 3), (self.code, done.stderr)
        self.json = json.loads(done.stdout)
        self.first = self.json["first_difference"]
        self.candidates = self.json["candidates"]
        self.ids = [i for c in self.candidates[:1] for i in c["ids"]]


def diagnose(trace, model, *arguments):
    return Diagnosis(dsv4("diagnose", trace, "--model", model, "--json", "--quiet", *arguments))


@pytest.fixture
def planted(model, tmp_path):
    """planted("M13,M62", "--taps", …): a trace of the reference with these bugs thrown."""
    counter = iter(range(10**6))

    def make(bugs, *arguments):
        path = tmp_path / f"planted{next(counter)}.h5"
        ok("trace", "--model", model, *RUN, "--backend", f"bug:{bugs}", *arguments, "-o", path)
        return path

    return make
