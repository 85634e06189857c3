# SPDX-License-Identifier: Apache-2.0
"""Case files from Python: both containers hold the same, twins pass, wrong numbers do not, and a rewrite changes nothing."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(os.environ.get("DSV4_SOURCE_DIR", Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(ROOT / "python"))
CASES = ROOT / "golden" / "cases"

from dsv4 import cases  # noqa: E402


@pytest.mark.parametrize("entry", cases.index(), ids=lambda e: e["id"])
def test_both_containers_hold_the_same(entry):
    a, b = (cases.load(CASES / f"{entry['id']}.{suffix}") for suffix in ("safetensors", "h5"))

    for part in cases.PARTS:
        assert getattr(a, part).keys() == getattr(b, part).keys()
        for name in getattr(a, part):
            np.testing.assert_array_equal(getattr(a, part)[name], getattr(b, part)[name])
    assert (a.config, a.flags, a.what) == (b.config, b.flags, b.what)


@pytest.mark.parametrize("case", cases.all(), ids=str)
def test_what_is_expected_passes_and_anything_else_does_not(case):
    assert cases.judge(case, case.expected).passed
    for name, array in case.expected.items():
        wrong = array.astype(np.float64).copy()
        wrong.flat[wrong.size // 2] = wrong.flat[wrong.size // 2] + 1 if np.isfinite(wrong.flat[wrong.size // 2]) else 0
        verdict = cases.judge(case, {**case.expected, name: wrong})

        assert [m.name for m in verdict.misses] == [name]
        with pytest.raises(AssertionError, match=name):
            verdict.check()


def rotate(x, frequencies, heads, first, step, inverse):
    """A port of the rope, as a porter would write it."""
    out = x.reshape(len(x), int(heads), -1).copy()
    pairs = len(frequencies)
    angle = (first + step * np.arange(len(x)))[:, None] * frequencies * (-1 if inverse else 1)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    re, im = out[..., -2 * pairs :: 2].copy(), out[..., 1 - 2 * pairs :: 2].copy()
    out[..., -2 * pairs :: 2], out[..., 1 - 2 * pairs :: 2] = re * cos - im * sin, re * sin + im * cos
    return out.reshape(x.shape)


@pytest.mark.parametrize("dtype, kind", [("fp64", np.float64), ("fp32", np.float32)])
@pytest.mark.parametrize("case", cases.all(component="rope"), ids=str)
def test_a_port_is_tested_in_ten_lines(case, dtype, kind):
    y = rotate(case.inputs["x"].astype(kind), case.inputs["frequencies"].astype(kind), **case.config)

    cases.judge(case, {"y": y}, dtype).check()


def test_missing_misshaped_and_nan_outputs_are_no_pass():
    case = cases.load("rope")

    assert cases.judge(case, {}).misses[0].problem == "missing"
    assert "shape" in cases.judge(case, {"y": np.zeros(3)}).misses[0].problem
    assert not cases.judge(case, {"y": np.full_like(case.expected["y"], np.nan)}).passed
    assert not cases.judge(case, {"y": np.zeros_like(case.expected["y"])}).passed


def test_the_order_of_chosen_entries_is_free():
    case = cases.load("gate_scored")
    turned = {**case.expected, "indices": case.expected["indices"][:, ::-1], "weights": case.expected["weights"][:, ::-1]}

    assert cases.judge(case, turned).passed


def test_a_rewrite_changes_nothing(tmp_path):
    for name in ("make_cases.py", "twins.py", "case_file.py"):
        (tmp_path / name).write_bytes((CASES / name).read_bytes())
    subprocess.run([sys.executable, "make_cases.py"], cwd=tmp_path, check=True)

    written = {p.name for p in tmp_path.iterdir() if p.suffix in (".h5", ".safetensors", ".json")}
    assert written == {p.name for p in CASES.iterdir() if p.suffix in (".h5", ".safetensors", ".json")}
    for name in sorted(written):
        assert (tmp_path / name).read_bytes() == (CASES / name).read_bytes(), name
