# SPDX-License-Identifier: Apache-2.0
"""verify on traces in official numerics: codes and scales beside quantised taps, states in the ensemble, and the
noise of repeats."""

import shutil

import h5py
import numpy as np
import pytest
from conftest import ROOT, RUN, dsv4, ok, refused, verify

CODES = ("--taps", "*.attn.kv*", "--taps", "*.entry", "--taps", "*.code", "--taps", "*.scale", "--taps", "*.margin")


@pytest.fixture(scope="module")
def coded(made, tmp_path_factory):
    """Quantised taps with their codes, scales and margins, and what they are quantised from."""
    path = tmp_path_factory.mktemp("coded") / "t.h5"
    ok("trace", "--model", made / "model", *RUN, "--rounding", "official", *CODES, "--taps", "*.roped", "--taps", "*rotated",
       "-o", path)
    return path


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "t.h5"
    ok("trace", "--model", made / "model", *RUN, "--rounding", "official", "-o", path)
    return path


def edited(source, tmp_path, change, name="changed.h5"):
    path = tmp_path / name
    shutil.copy(source, path)
    with h5py.File(path, "r+") as f:
        change(f)
    return path


@pytest.mark.parametrize("mode", ["local", "chained"])
def test_codes_scales_and_margins_of_an_own_trace_pass(model, coded, mode):
    done = verify(coded, model, "--mode", mode)
    leaves = {r["tap"].rpartition(".")[2] for r in done.results if r["verdict"] == "PASSED"}
    assert done.code == 0 and {"code", "scale", "margin"} <= leaves
    assert done.counts["FAILED"] == done.counts["UNKNOWN"] == 0


def test_the_bundle_has_codes_that_the_official_code_stored():
    done = verify(ROOT / "golden/official_tiny_prefill4_optional.h5", ROOT / "golden/models/tiny")
    for tap in ("layers.0.attn.kv", "layers.2.attn.compressor.entry", "layers.2.attn.indexer.compressor.entry",
                "layers.2.attn.indexer.q"):
        for leaf in ("code", "scale"):
            assert done.one(f"{tap}.{leaf}")["verdict"] == "PASSED"


@pytest.mark.parametrize("leaf, at", [("code", (5, 3)), ("scale", (5, 0))])
@pytest.mark.parametrize("tap", ["layers.1.attn.kv", "layers.2.attn.compressor.entry", "layers.2.attn.indexer.compressor.entry"])
def test_a_wrong_code_or_scale_is_found_where_it_is(model, coded, tmp_path, tap, leaf, at):
    *groups, last = tap.split(".")
    at = (2, *at[1:]) if "entry" in tap else at

    def change(f):
        data = f["calls/0000/" + "/".join(groups)][f"{last}.{leaf}"]
        assert data.dtype == np.uint8
        data[at] = data[at] ^ 1

    done = verify(edited(coded, tmp_path, change), model)
    assert done.code == 1 and done.counts["FAILED"] == 1
    assert done.first["tap"] == f"{tap}.{leaf}" and tuple(done.first["index"]) == at


def test_codes_stand_for_the_values(coded):
    """code x 2^(scale - 127) is the tap, in the columns that are quantised."""
    e2m1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    with h5py.File(coded) as f:
        g = f["calls/0000/layers/2/attn/indexer/compressor"]
        code, scale, value = g["entry.code"][:], g["entry.scale"][:], g["entry"][:]
        decoded = np.where(code & 8, -1, 1) * e2m1[code & 7]
        np.testing.assert_array_equal(decoded * np.repeat(2.0 ** (scale.astype(int) - 127), 32, axis=1), value)


def test_exact_traces_have_no_codes(model, tmp_path, coded):
    refused("trace", "--model", model, *RUN, "--rounding", "exact", "--taps", "*.code", "-o", tmp_path / "x.h5", code=3)
    path = edited(coded, tmp_path, lambda f: f.attrs.modify("rounding", "exact"))
    done = verify(path, model, "--taps", "*.code")
    assert done.code == 3 and done.counts["SKIPPED"] > 0


# ---- states ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise, code", [(1e-7, 0), (3, 1)])
def test_states_behind_several_stages_are_judged_by_the_ensemble(model, tmp_path, noise, code):
    path = tmp_path / "states.h5"
    ok("trace", "--model", model, *RUN, "--rounding", "official", "--taps", "embed", "--taps", "*_state",
       "-o", path)

    def change(f):
        def visit(_, data):
            if isinstance(data, h5py.Dataset) and data.name.endswith("_state"):
                data.attrs.modify("dtype", "fp32")
                values = data[:]
                finite = np.isfinite(values)
                values[finite] *= 1 + noise * np.random.default_rng(1).standard_normal(int(finite.sum()))
                data[:] = values
        f["calls"].visititems(visit)

    done = verify(edited(path, tmp_path, change), model, "--mode", "chained")
    assert done.code == code and done.counts["PASSED"] + done.counts["FAILED"] > 0


# ---- repeats ---------------------------------------------------------------------------------------


def nudged(tap, relative, call="0000"):
    def change(f):
        data = f[f"calls/{call}/" + tap.replace(".", "/")]
        values = data[:]
        values.flat[7] *= 1 + relative
        data[:] = values
    return change


def test_equal_repeats_have_no_noise(model, whole, tmp_path):
    again = edited(whole, tmp_path, lambda f: None)
    done = verify(whole, model, again, again)
    assert done.code == 0 and len(done.report["repeats"]) == 2 and done.report["first_unstable"] is None
    assert not any("spread" in r for r in done.results)


def test_a_repeat_that_differs_by_more_than_the_bound_is_the_finding(model, whole, tmp_path):
    loud = edited(whole, tmp_path, nudged("layers.2.attn.qr", 2.0**-6), "loud.h5")
    done = verify(whole, model, loud)
    assert done.code == 0  # the trace that is judged is right
    assert done.report["first_unstable"]["tap"] == "layers.2.attn.qr" and done.report["first_unstable"]["call"] == 0
    assert float(done.one("layers.2.attn.qr")["spread_ratio"]) > 1
    assert sum("spread" in r for r in done.results) == 1
    text = dsv4("verify", whole, loud, "--model", model).stdout
    assert "the port's own nondeterminism: layers.2.attn.qr" in text and "noise floor of 2 traces" in text


def test_noise_within_the_bound_is_shown_and_no_finding(model, whole, tmp_path):
    quiet = edited(whole, tmp_path, nudged("layers.1.hc_attn.mixes", 2.0**-52), "quiet.h5")
    done = verify(whole, model, quiet)
    result = done.one("layers.1.hc_attn.mixes")
    assert done.report["first_unstable"] is None and 0 < result["spread_ratio"] <= 1 and result["spread"] > 0


def test_other_choices_of_a_repeat_are_counted(model, whole, tmp_path):
    def change(f):
        data = f["calls/0000/layers/2/ffn/gate/indices"]
        rows = data[:]
        rows[3, 0] = next(e for e in range(6) if e not in rows[3])
        data[:] = rows

    done = verify(whole, model, edited(whole, tmp_path, change))
    assert done.one("layers.2.ffn.gate.indices")["noisy_rows"] == 1


def test_a_repeat_of_another_run_is_refused(model, whole, tmp_path):
    def change(f):
        ids = f["inputs/input_ids"]
        values = ids[:]
        values[2] = (values[2] + 1) % 50
        ids[...] = values

    other = edited(whole, tmp_path, change)
    refused("verify", whole, other, "--model", model, says=["other token ids than", "the same run"])
    exact = edited(whole, tmp_path, lambda f: f.attrs.modify("rounding", "exact"), "exact.h5")
    refused("verify", whole, exact, "--model", model, says=['rounding "exact", expected "official"'])
