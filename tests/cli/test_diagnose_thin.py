# SPDX-License-Identifier: Apache-2.0
"""dsv4 diagnose: bugs are named from thin traces and from coarse ones."""

import h5py
import ml_dtypes
import numpy as np
import pytest

from conftest import ROOT, datasets, diagnose, replace


@pytest.mark.parametrize("bug", ["M07", "M13", "M30", "M48", "M52", "M63", "M65"])
@pytest.mark.parametrize("taps", ["*.hc_ffn.out", "logprobs", "logits_all"])
def test_it_is_named_from_a_thin_trace(planted, model, bug, taps):
    found = diagnose(planted(bug, "--taps", taps), model)

    assert bug in found.ids, found.json
    assert found.candidates[0]["explained"] > 0.999


@pytest.mark.parametrize("dtype, stored", [("fp32", np.float32), ("bf16", ml_dtypes.bfloat16)])
@pytest.mark.parametrize("bug", ["M13", "M48", "M63", "M68"])
def test_a_bug_is_named_in_coarser_arithmetic(planted, model, dtype, stored, bug):
    path = planted(bug)
    with h5py.File(path, "r+") as file:
        for _, _, data in list(datasets(file)):
            if data.dtype.kind == "f":
                replace(data, data[()].astype(stored).astype(np.float32)).attrs["dtype"] = dtype

    found = diagnose(path, model)

    assert bug in found.ids, found.json


def test_ties_that_a_torch_port_broke_otherwise_do_not_hide_a_bug():
    """Logits of transformers in float64, its inverse rope taken out: behind ties it chose other entries than the lowest."""
    trace = ROOT / "tests" / "cli" / "fixtures" / "transformers_m13_logits.h5"

    found = diagnose(trace, ROOT / "golden" / "models" / "tiny", "--seconds", "300")

    assert found.ids == ["M13"]
    assert found.candidates[0]["explained"] > 0.999
    assert found.json["notes"] == ["equal scores were chosen from as PyTorch does"]
