# SPDX-License-Identifier: Apache-2.0
"""The dump tools as a whole. Needs torch, transformers, DeepSeek's own code and a small checkpoint:

DSV4_INFERENCE_DIR  folder of the official model.py
DSV4_MODEL_DIR      checkpoint in the official layout, small
"""

import os

import pytest

import compare

INFERENCE, MODEL = os.environ.get("DSV4_INFERENCE_DIR"), os.environ.get("DSV4_MODEL_DIR")
pytestmark = pytest.mark.skipif(
    not (INFERENCE and MODEL), reason="DSV4_INFERENCE_DIR and DSV4_MODEL_DIR are not set"
)


def official(path, *options):
    dump_official = pytest.importorskip("dump_official")
    arguments = ["--inference-dir", INFERENCE, "--model", MODEL, "--random", "21", *options, "-o", str(path)]
    assert dump_official.main(arguments) == 0
    return str(path)


def transformers(path, *options):
    dump_transformers = pytest.importorskip("dump_transformers")
    assert dump_transformers.main(["--model", MODEL, "--random", "21", *options, "-o", str(path)]) == 0
    return str(path)


def test_decoding_agrees_with_prefill(tmp_path):
    whole = official(tmp_path / "whole.h5", "--mtp")
    steps = official(tmp_path / "steps.h5", "--mtp", "--decode", "9")

    assert compare.main([whole, steps, "--tol", "1e-12", "--quiet"]) == 0


def test_transformers_in_chunks_agrees_with_the_official_code(tmp_path):
    ours = official(tmp_path / "official.h5")
    theirs = transformers(tmp_path / "transformers.h5", "--chunks", "3,10,1,5", "--decode", "2")

    assert compare.main([theirs, ours, "--tol", "1e-12", "--quiet"]) == 0


@pytest.mark.parametrize("rounding", ["exact", "official", "official_float32"])
def test_two_runs_give_the_same_bytes(tmp_path, rounding):
    first = official(tmp_path / "a.h5", "--mtp", "--decode", "2", "--rounding", rounding)
    second = official(tmp_path / "b.h5", "--mtp", "--decode", "2", "--rounding", rounding)

    with open(first, "rb") as a, open(second, "rb") as b:
        assert a.read() == b.read()


def test_thinned_traces_hold_the_same_rows(tmp_path):
    whole = official(tmp_path / "whole.h5")
    some = official(tmp_path / "some.h5", "--rows", "0-2,7", "--layers", "1-2")

    assert compare.main([some, whole, "--quiet"]) == 0


def test_an_unknown_model_py_is_refused(tmp_path):
    dump_official = pytest.importorskip("dump_official")
    (tmp_path / "model.py").write_text("")

    with pytest.raises(Exception, match="no revision of the official code"):
        arguments = [
            "--inference-dir",
            str(tmp_path),
            "--model",
            MODEL,
            "--random",
            "9",
            "-o",
            str(tmp_path / "x"),
        ]
        dump_official.main(arguments)
