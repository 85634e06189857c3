# SPDX-License-Identifier: Apache-2.0
"""verify on thin traces in low precision: a right port passes, a wrong one fails, and no bound is so wide that nothing is decided."""

import json
import shutil

import h5py
import ml_dtypes
import numpy as np
import pytest
from conftest import datasets, ok, replace, verify

STORED = {"fp32": np.float32, "bf16": ml_dtypes.bfloat16}
FORMS = {"whole": [], "blocks": ["*.hc_ffn.out"], "logits": ["logits"], "logprobs": ["logprobs"]}
# Exact numerics with a store in the port's type wherever the official code has one, inside stages too: nothing is quantised.
QUANTISED = ["*.in", "attn.kv", "compressor.entry", "indexer.compressor.entry", "indexer.q"]
PORTS = {"fp32": {"*": "fp32"}, "bf16": {}}
RUN = ("--random", "19", "--seed")


def relabelled(path, dtype):
    """A trace with these stores becomes one in exact numerics whose values are kept in this type."""
    with h5py.File(path, "r+") as file:
        file.attrs["rounding"] = "exact"
        for _, name, data in list(datasets(file)):
            if name.endswith("ffn.routed"):  # not stored here: `ffn.out` adds what it was before
                del file[data.name]
            elif data.dtype.kind == "f":
                replace(data, data[()].astype(STORED[dtype]).astype(np.float32)).attrs["dtype"] = dtype


@pytest.fixture(scope="module")
def port(made, tmp_path_factory):
    """port(form, dtype, bug, seed): a trace of a port that stores its stages in this type."""
    at = tmp_path_factory.mktemp("ports")
    for dtype, sites in PORTS.items():
        kept = {"sites": {**sites, **dict.fromkeys(QUANTISED, "none")}}
        (at / f"{dtype}.json").write_text(json.dumps({"name": dtype, **kept}))
    done = {}

    def make(form, dtype, bug="", seed=3):
        key = form, dtype, bug, seed
        if key not in done:
            path = at / f"{len(done)}.h5"
            taps = [x for glob in FORMS[form] for x in ("--taps", glob)]
            backend = ["--backend", f"bug:{bug}"] if bug else []
            ok("trace", "--model", made / "model", *RUN, seed, "--rounding", "official", "--arith", at / f"{dtype}.json", *taps,
               *backend, "-q", "-o", path)
            relabelled(path, dtype)
            done[key] = path
        return done[key]

    return make


@pytest.fixture
def damaged(port, tmp_path):
    """damaged(change, form, dtype): the trace of a right port with change(values) in every dataset of floats."""
    def make(change, *of):
        path = tmp_path / "damaged.h5"
        shutil.copy(port(*of), path)
        with h5py.File(path, "r+") as file:
            for _, _, data in datasets(file):
                if data.dtype.kind == "f":
                    data[...] = change(data[()])
        return path

    return make


def judged(done):
    return [r for r in done.results if r["verdict"] in ("PASSED", "FAILED")]


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_right_port_does_not_fail(port, model, form, dtype, seed):
    done = verify(port(form, dtype, seed=seed), model)

    assert done.code == 0, done.first
    assert len(judged(done)) > 0


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", [lambda v: v[..., ::-1], lambda v: 2 * v], ids=["reversed", "doubled"])
def test_values_that_are_not_those_of_the_stage_fail(damaged, model, form, dtype, change):
    done = verify(damaged(change, form, dtype), model)

    assert done.code == 1, done.counts


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bug", ["M13", "M48"])
def test_known_bugs_fail(port, model, form, dtype, bug):
    done = verify(port(form, dtype, bug), model)

    assert done.code == 1, done.counts


@pytest.mark.parametrize("form", ["blocks", "logits", "logprobs"])
def test_a_bound_stays_below_the_values(port, model, form):
    """In a block one expert that BF16 chooses otherwise moves a row by a good part of itself, and members do so too."""
    for r in judged(verify(port(form, "bf16"), model)):
        assert 0 < r["bound"] < r["magnitude"], r


def test_in_a_whole_trace_of_bf16_every_pass_was_decided(port, model):
    done = verify(port("whole", "bf16"), model)

    assert len(done.having("PASSED")) > 10 * len(done.having("MISTRUSTED"))
    for r in done.having("MISTRUSTED"):
        assert "nothing was decided" in r["reason"] or "constant or not finite" in r["reason"], r


@pytest.fixture
def nearly_equal(edited):
    """A trace whose router scores, and so its weights, differ by less than BF16 can show."""
    def flatten(file):
        noise = np.random.default_rng(1)
        for _, name, data in list(datasets(file)):
            values = data[()]
            if name.endswith("gate.scores"):
                data[...] = 1 + 1e-4 * noise.standard_normal(values.shape)
            elif name.endswith("gate.weights"):
                mean = values.mean(axis=-1, keepdims=True)
                data[...] = mean * (1 + 1e-3 * noise.standard_normal(values.shape))
            else:
                continue
            data.attrs["dtype"] = "bf16"

    return edited(flatten)


def test_a_bound_as_wide_as_the_differences_between_values_is_no_pass(nearly_equal, model):
    done = verify(nearly_equal, model, "--taps", "*.gate.weights")

    assert done.code == 3
    assert done.counts["MISTRUSTED"] > 0 == done.counts["PASSED"] + done.counts["FAILED"]
    for r in done.having("MISTRUSTED"):
        assert r["error"] < r["bound"] < r["magnitude"] and "nothing was decided" in r["reason"]


def test_beside_others_it_is_counted_and_no_pass(nearly_equal, model):
    done = verify(nearly_equal, model, "--taps", "*.gate.weights", "--taps", "embed")

    assert done.code == 0 and done.counts["MISTRUSTED"] > 0
    assert {r["tap"] for r in done.having("PASSED")} == {"embed"}
