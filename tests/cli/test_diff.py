# SPDX-License-Identifier: Apache-2.0
"""diff: two traces side by side, without a reference."""

import json

import pytest
from conftest import datasets, dsv4, ok, refused, tap


def diff(a, b, *arguments, code=0):
    done = dsv4("diff", a, b, "--json", *arguments)
    assert done.returncode == code, (done.returncode, done.stderr)
    return json.loads(done.stdout)["results"]


@pytest.fixture
def damaged(edited):
    def damage(file):
        dataset = tap(file, 0, "layers.2.attn.qr")
        dataset[3, 5] += 0.25

    return edited(damage)


def test_a_trace_equals_itself(made):
    results = diff(made / "trace.h5", made / "trace.h5", "--tol", "0")
    assert {r["verdict"] for r in results} == {"PASSED"}
    assert all(r["max_error"] == r["relative"] == r["rms"] == r["ulps"] == 0 for r in results)
    assert all(abs(r["cosine_distance"]) < 1e-15 for r in results)


def test_a_difference_is_measured_and_placed(made, damaged):
    changed = [r for r in diff(made / "trace.h5", damaged) if r["max_error"] > 0]
    (r,) = changed
    assert (r["tap"], r["position"], r["column"]) == ("layers.2.attn.qr", 3, 5)
    assert r["max_error"] == pytest.approx(0.25) and 0 < r["rms"] < r["max_error"]
    assert 0 < r["cosine_distance"] < 1 and r["ulps"] > 1
    assert "verdict" not in r


def test_a_tolerance_judges(made, damaged):
    results = diff(made / "trace.h5", damaged, "--tol", "1e-6", code=1)
    assert [r["tap"] for r in results if r["verdict"] == "FAILED"] == ["layers.2.attn.qr"]
    diff(made / "trace.h5", damaged, "--tol", "1")


def test_first_stops_at_the_first_difference(made, damaged):
    (r,) = diff(made / "trace.h5", damaged, "--first")
    assert r["tap"] == "layers.2.attn.qr"
    assert diff(made / "trace.h5", made / "trace.h5", "--first") == []


def test_another_split_is_joined_by_position(made, tmp_path):
    ok("trace", "--model", made / "model", "--random", 26, "--seed", 10, "--prefill", 25, "--mtp",
       "-o", tmp_path / "whole.h5")
    results = diff(made / "trace.h5", tmp_path / "whole.h5", "--tol", "1e-12")
    assert {r["verdict"] for r in results} <= {"PASSED", "SKIPPED"}
    assert next(r for r in results if r["tap"] == "layers.3.attn.o")["rows"] == 25


def test_a_model_judges_both(made, damaged):
    done = dsv4("diff", made / "trace.h5", damaged, "--model", made / "model", "--json")
    assert done.returncode == 1
    verdicts = json.loads(done.stdout)["verify"]
    assert [v["exit_code"] for v in verdicts] == [0, 1]


def test_nothing_in_common_is_exit_code_3(edited, made):
    def rename(file):
        for _, _, dataset in list(datasets(file)):
            del file[dataset.name]
        file["calls/0000/elsewhere"] = [1.0, 2.0]

    refused("diff", made / "trace.h5", edited(rename), code=3, says=["nothing was compared"])


def test_bad_input_is_refused(made, tmp_path):
    trace = made / "trace.h5"
    refused("diff", trace, tmp_path / "none.h5", says=["none.h5"])
    refused("diff", trace, trace, "--tol", "-1", says=["--tol"])
    refused("diff", trace, trace, "--tol", "1", "--model", made / "model", says=["--tol", "--model"])
    refused("diff", trace, trace, "--model", made / "other", says=["other weights"])
