# SPDX-License-Identifier: Apache-2.0
"""dsv4 diagnose: planted bugs are named from whole traces, under the port's own names too, with what to do about them."""

import h5py
import numpy as np
import pytest

from conftest import diagnose, dsv4, refused, tap

WHOLE = ("M01 M02 M04 M05 M07 M09 M11 M13 M14 M14c M17 M18 M19 M20 M21 M25 M26 M27 M29 M30 M31 M33 M35 M37 M39 M40 M42 M45 M47 "
         "M47b M47c M48 M49 M51 M52 M54 M56b M58 M60 M62 M62b M63 M64 M65 M66 M66d M67 M68 M70 M71 M73 M74 M75 M80 M83 M85")


@pytest.mark.parametrize("bug", WHOLE.split())
def test_a_planted_bug_is_named_from_its_trace(planted, model, bug):
    found = diagnose(planted(bug), model)

    assert bug in found.ids, found.json
    assert found.candidates[0]["explained"] > 0.999
    assert found.candidates[0]["remaining_difference"] is None
    assert found.code == 1


def test_bugs_with_equal_numbers_are_a_set(planted, model):
    found = diagnose(planted("M66"), model)

    assert found.ids[0] == "M66"  # reported ones first
    assert "S-sinkhorn-last-1" in found.ids


def test_a_correct_trace_needs_no_diagnosis(made, model):
    found = diagnose(made / "trace.h5", model)

    assert (found.code, found.first, found.candidates) == (0, None, [])


def test_a_later_drift_does_not_hide_the_stage(planted, model):
    path = planted("M65")
    with h5py.File(path, "r+") as file:
        noise_in = np.random.default_rng(2)
        for name in ("layers.3.attn.out", "layers.3.ffn.out", "layers.3.hc_ffn.out"):
            data = tap(file, 0, name)
            data[...] = data[()] * (1 + 1e-6 * noise_in.standard_normal(data.shape))

    found = diagnose(path, model)

    assert "M65" in found.ids
    assert found.first["tap"] == "layers.0.hc_attn.out"
    assert found.candidates[0]["remaining_difference"] == "layers.3.attn.out"


def test_it_reads_the_ports_own_names(planted, model, tmp_path):
    path = planted("M48")
    with h5py.File(path, "r+") as file:
        for call in file["calls"].values():
            for layer in call["layers"]:
                attn = call[f"layers/{layer}/attn"]
                values = attn["q_normed"][()]
                del attn["q_normed"]
                call[f"model/layers/{layer}/self_attn/q_head_norm"] = np.moveaxis(values, 1, 0)[None]
    table = tmp_path / "names.tsv"
    table.write_text("model.layers.L.self_attn.q_head_norm\tlayers.L.attn.q_normed\tdrop_batch heads_second\n")

    found = diagnose(path, model, "--names", table)

    assert "M48" in found.ids
    assert found.first["tap"] == "layers.0.attn.q_normed"


def test_a_table_that_is_none_is_refused(made, model, tmp_path):
    table = tmp_path / "names.tsv"
    table.write_text("a\tb\n")
    refused("diagnose", made / "trace.h5", "--model", model, "--names", table, says=["three columns", "names.tsv:1"])
    table.write_text("a\tb\ttwist\n")
    refused("diagnose", made / "trace.h5", "--model", model, "--names", table, says=["twist", "drop_batch"])


def test_a_trace_full_of_nan_is_judged_and_not_fatal(planted, model):
    done = dsv4("verify", planted("M42"), "--model", model, "--quiet")

    assert done.returncode == 1


def test_an_unknown_bug_is_refused(model, tmp_path):
    refused("trace", "--model", model, "--random", 4, "--backend", "bug:M999", "-o", tmp_path / "x.h5", says=["M999"])


def test_the_text_names_cause_fix_and_links(planted, model):
    text = dsv4("diagnose", planted("M13"), "--model", model, "--quiet").stdout

    for words in ("M13", "cause", "fix", "https://github.com/AMD-AGI/Primus/pull/928", "layers.0.attn.o_derotated"):
        assert words in text
