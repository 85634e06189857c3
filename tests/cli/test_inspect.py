# SPDX-License-Identifier: Apache-2.0
"""inspect: what is in a model or a trace, and which conditions the bundled files reach."""

import json

import h5py
import pytest
from conftest import PROGRAM, ROOT, SMALL, datasets, ok, refused

MANIFEST = json.loads((ROOT / "golden" / "manifest.json").read_text())

# Without these some known mistake of a port would stay invisible in the bundled files.
DEMANDED = """
    fp8-blocks fp8-partial-block fp8-inputs fp8-codes fp4-codes layer-types routing experts-300 hash-ids-256
    hash-tokens-256 distinct-sizes o-groups route-scale norm-weights sinks softmax-64 softmax-128 hca-3
    topk-truncation topk-short topk-tie open-group window-wrap window-layer-far yarn prompt-lengths decode-4
    decode-128 chunks mtp index-weights bias-flips router-extremes clamps gate-below comb-asymmetric
    comb-unconverged roundings
""".split()
# What no bundled file can show.
OUT_OF_REACH = {
    "scale-codes": "a scale of 2^-127 or 2^127 makes its block vanish or overflow: a matter of unit tests",
}


def inspect(*arguments):
    return json.loads(ok("inspect", *arguments, "--json").stdout)


def bundled_coverage():
    files = []
    for model in MANIFEST["models"]:
        files += [ROOT / model, *(ROOT / g["trace"] for g in MANIFEST["goldens"] if g["model"] == model)]
    return {row["id"]: row for row in inspect("--coverage", *files)["coverage"]}


@pytest.fixture(scope="module")
def coverage():
    return bundled_coverage()


@pytest.mark.parametrize("condition", DEMANDED)
def test_the_bundled_files_reach_what_reveals_known_mistakes(coverage, condition):
    assert coverage[condition]["reached"] == "yes", coverage[condition]


def test_every_condition_is_demanded_or_out_of_reach_for_a_reason(coverage):
    assert set(coverage) == set(DEMANDED) | set(OUT_OF_REACH)
    for row in coverage.values():
        assert row["condition"] and row["evidence"] and row["reached"] in ("yes", "no", "unknown")


def test_what_is_not_there_is_not_reached_and_what_is_not_shown_is_unknown(made):
    alone = {row["id"]: row["reached"] for row in inspect("--coverage", made / "model")["coverage"]}
    assert alone["layer-types"] == "yes"
    assert alone["experts-300"] == alone["window-wrap"] == alone["mtp"] == "no"
    assert alone["topk-tie"] == "unknown"
    both = {row["id"]: row["reached"]
            for row in inspect("--coverage", made / "model", made / "trace.h5")["coverage"]}
    assert both["window-wrap"] == both["mtp"] == both["topk-truncation"] == "yes"
    assert both["topk-tie"] == "no" and both["experts-300"] == "no"
    tied = {row["id"]: row["reached"]
            for row in inspect("--coverage", made / "model", made / "tied.h5")["coverage"]}
    assert tied["topk-tie"] == "yes"
    unseen = {row["id"]: row["reached"] for row in inspect("--coverage", made / "trace.h5")["coverage"]}
    assert unseen["fp8-blocks"] == "unknown" and unseen["window-wrap"] == "yes"


def test_coverage_refuses_a_trace_of_another_model(made):
    refused("inspect", "--coverage", made / "other", made / "trace.h5", says=["other weights", "hint:"])


def test_a_model_is_described(made):
    (model,) = inspect(made / "model", "--plan", "--context", "1000", "--fingerprint")["inputs"]
    assert model["kind"] == "model"
    assert model["config"]["dim"] == SMALL["hidden_size"]
    assert [layer["type"] for layer in model["layers"]] == ["window", "HCA", "CSA", "CSA", "window"]
    assert [layer["routing"] for layer in model["layers"]] == ["hash"] + ["scored"] * 4
    assert model["tensors"] == sum(row["tensors"] for row in model["storage"])
    assert model["bytes"] == sum(row["bytes"] for row in model["storage"])
    assert model["plan"]["context"] == 1000
    assert sum(block["weight_bytes"] for block in model["plan"]["blocks"]) == model["bytes"]
    with h5py.File(made / "trace.h5") as file:
        assert file.attrs["model_fingerprint"] == model["fingerprint"]


def test_a_trace_is_described(made):
    (trace,) = inspect(made / "trace.h5", "--all")["inputs"]
    assert trace["kind"] == "trace" and trace["attributes"]["rounding"] == "exact"
    assert len(trace["input_ids"]) == 26
    assert [(c["name"], c["start"], c["tokens"]) for c in trace["calls"]] == [
        ("0000", 0, 21), ("0001", 21, 2), ("0002", 23, 1), ("0003", 24, 1)]
    with h5py.File(made / "trace.h5") as file:
        for call in trace["calls"]:
            stored = {name: dataset for _, name, dataset in datasets(file, call["name"])}
            assert {d["name"] for d in call["datasets"]} == set(stored)
            assert all(tuple(d["shape"]) == stored[d["name"]].shape for d in call["datasets"])
            assert call["values"] == sum(dataset.size for dataset in stored.values())


def test_the_text_says_the_same(made):
    text = ok("inspect", made / "model", made / "trace.h5", "--plan").stdout
    assert "367 tensors" in text and "layers.1" in text and "26 ids" in text and "FLOP" in text
    assert "\x1b" not in text
    text = ok("inspect", "--coverage", made / "model").stdout
    assert "conditions reached" in text and "experts-300" in text


def test_what_is_no_model_and_no_trace_is_refused(tmp_path):
    refused("inspect", tmp_path / "none", says=["none"])
    refused("inspect", tmp_path, says=["no config.json"])
    refused("inspect", PROGRAM, says=["dsv4"])
    refused("inspect", tmp_path, "--context", "5", says=["--context"])
