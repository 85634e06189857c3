# SPDX-License-Identifier: Apache-2.0
"""dsv4 diagnose: bugs are named from thin and coarse traces, and nothing is named that was not planted."""

import h5py
import ml_dtypes
import numpy as np
import pytest

from conftest import datasets, diagnose, replace, tap

@pytest.mark.parametrize("bug", ["M07", "M13", "M30", "M48", "M52", "M63", "M65"])
@pytest.mark.parametrize("taps", ["*.hc_ffn.out", "logprobs", "logits_all"])
def test_it_is_named_from_a_thin_trace(planted, model, bug, taps):
    found = diagnose(planted(bug, "--taps", taps), model)

    assert bug in found.ids, found.json
    assert found.candidates[0]["explained"] > 0.999


@pytest.mark.parametrize("dtype, stored", [("fp32", np.float32), ("bf16", ml_dtypes.bfloat16)])
@pytest.mark.parametrize("bug", ["M13", "M48", "M68", pytest.param("M63", marks=pytest.mark.xfail(
    strict=True, reason="a gate score near zero, computed from rounded logits, lies outside its bound"))])
def test_a_bug_is_named_in_coarser_arithmetic(planted, model, dtype, stored, bug):
    path = planted(bug)
    with h5py.File(path, "r+") as file:
        for _, _, data in list(datasets(file)):
            if data.dtype.kind == "f":
                replace(data, data[()].astype(stored).astype(np.float32)).attrs["dtype"] = dtype

    found = diagnose(path, model)

    assert bug in found.ids, found.json


def noise(level):
    def change(file):
        rng = np.random.default_rng(1)
        for _, _, data in list(datasets(file)):
            if data.dtype.kind == "f":
                data[...] = data[()] * (1 + level * rng.standard_normal(data.shape))
    return change


def changed(call, name, change):
    def edit(file):
        data = tap(file, call, name)
        data[...] = change(data[()])
    return edit


UNKNOWN = {
    "noise 1e-9": noise(1e-9), "noise 1e-4": noise(1e-4), "noise 0.1": noise(0.1),
    "scaled queries": changed(0, "layers.1.attn.q", lambda v: v * 1.01),
    "scaled output": changed(0, "layers.0.attn.out", lambda v: v * 0.5),
    "reversed dims": changed(0, "layers.2.attn.o_lora", lambda v: v[..., ::-1]),
    "shifted rows": changed(0, "layers.1.attn.kv", lambda v: np.roll(v, 1, axis=0)),
    "permuted heads": changed(0, "layers.0.attn.q_normed", lambda v: np.roll(v, 1, axis=1)),
    "zeroed tail": changed(0, "layers.2.hc_ffn.out", lambda v: np.where(np.arange(v.shape[-1]) < 100, v, 0)),
    "another activation": changed(0, "layers.0.ffn.routed", np.tanh),
    "an offset": changed(0, "layers.3.attn.compressor.pooled", lambda v: v + 1e-3),
    "other logits": changed(3, "logits", lambda v: v[::-1]),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_nothing_is_named_that_was_not_planted(edited, model, what):
    found = diagnose(edited(UNKNOWN[what]), model)

    assert found.first is not None
    assert found.candidates == [], found.candidates
    assert found.json["nearest"] is not None
    assert found.code == 1
