# SPDX-License-Identifier: Apache-2.0
"""dsv4 diagnose: planted bugs are named from whole traces, under the port's own names too, with what to do about them."""

import shutil
import time

import h5py
import numpy as np
import pytest

from conftest import datasets, diagnose, dsv4, keep, refused, tap

WHOLE = ("M01 M02 M04 M05 M07 M09 M11 M13 M14 M14c M17 M18 M19 M20 M21 M25 M26 M27 M29 M30 M31 M33 M35 M37 M39 M40 M42 M45 M47 "
         "M47b M47c M48 M49 M51 M52 M54 M56b M58 M60 M62 M62b M63 M64 M65 M66 M66d M67 M68 M70 M71 M73 M74 M75 M80 M83 M85 "
         "M11c M18c M20c M26b M27b M29c M30b M54b M75b M80c "
         "M04c M18h M27d M45c M48d M53g M58e M65b M66h M67b")


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
    assert found.candidates[0]["explained_at_first"] > 0.999
    assert "of the first difference" in dsv4("diagnose", path, "--model", model, "--quiet").stdout


@pytest.mark.parametrize("bug, stage", [("M12b", "attn.compressor.roped"), ("M48", "attn.q_normed")])
def test_a_stage_whose_readers_were_not_told_is_explained_where_it_differs(planted, made, model, tmp_path, bug, stage):
    path = shutil.copy(made / "trace.h5", tmp_path / "passive.h5")
    with h5py.File(planted(bug)) as wrong, h5py.File(path, "r+") as file:
        for call, name, data in datasets(file):
            if name.startswith("layers.") and name.endswith(stage):
                data[...] = tap(wrong, int(call), name)[()]

    found = diagnose(path, model)

    assert bug in found.ids
    assert found.candidates[0]["explained_at_first"] > 0.999
    assert found.candidates[0]["remaining_difference"] is not None
    assert found.candidates[0]["explained"] < found.candidates[0]["explained_at_first"]


def test_a_search_that_is_cut_says_so(planted, model):
    path = planted("M13", "--taps", "logits")

    cut = diagnose(path, model, "--seconds", "0.001")
    text = dsv4("diagnose", path, "--model", model, "--quiet", "--seconds", "0.001").stdout

    assert (cut.candidates, cut.json["complete"], cut.code) == ([], False, 1)
    assert cut.json["untried"] > 200
    assert "not all known mistakes were tried" in text and "--seconds N" in text
    assert "none of the known mistakes that were tried" in text


@pytest.mark.parametrize("bugs", ["M13", "M02,M60"])
def test_the_time_is_kept(planted, model, bugs):
    path = planted(bugs, "--taps", "*.hc_ffn.out", "--taps", "logits")
    begin = time.monotonic()
    diagnose(path, model, "--seconds", "0.001")
    unsearched = time.monotonic() - begin

    begin = time.monotonic()
    found = diagnose(path, model, "--seconds", "1")

    assert time.monotonic() - begin < 1 + 3 * unsearched + 2  # each second difference costs one more run
    assert found.json["complete"] == (found.json["untried"] == 0)


def test_a_search_that_is_not_cut_says_so(planted, model):
    found = diagnose(planted("M13"), model)

    assert (found.json["complete"], found.json["untried"]) == (True, 0)


def test_a_missing_draft_block_is_noted_where_everything_else_is_there(planted, made, model):
    path = planted("M84")
    found = diagnose(path, model)

    assert (found.code, found.first, found.candidates) == (0, None, [])
    assert len(found.json["notes"]) == 1 and "M84" in found.json["notes"][0]
    assert "M84" in dsv4("diagnose", path, "--model", model).stdout
    assert diagnose(made / "trace.h5", model).json["notes"] == []
    with h5py.File(path, "r+") as file:
        keep(file, lambda call, name: name.endswith("hc_ffn.out") or name == "logits")
    assert diagnose(path, model).json["notes"] == []


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


def test_a_file_that_is_not_there_is_refused_with_a_hint(made, model, tmp_path):
    refused("diagnose", tmp_path / "none.h5", "--model", model, says=["none.h5: No such file", "hint: expected a trace file"])
    refused("diagnose", tmp_path, "--model", model, says=["directory", "hint: expected a trace file"])
    refused("diagnose", made / "trace.h5", "--model", model, "--names", tmp_path / "none.tsv",
            says=["--names", "none.tsv: No such file", "hint: expected a table of three columns"])


def test_a_trace_full_of_nan_is_judged_and_not_fatal(planted, model):
    done = dsv4("verify", planted("M42"), "--model", model, "--quiet")

    assert done.returncode == 1


def test_an_unknown_bug_is_refused(model, tmp_path):
    refused("trace", "--model", model, "--random", 4, "--backend", "bug:M999", "-o", tmp_path / "x.h5", says=["M999"])


def test_the_text_names_cause_fix_and_links(planted, model):
    text = dsv4("diagnose", planted("M13"), "--model", model, "--quiet").stdout

    for words in ("M13", "cause", "fix", "https://github.com/AMD-AGI/Primus/pull/928", "layers.0.attn.o_derotated"):
        assert words in text
