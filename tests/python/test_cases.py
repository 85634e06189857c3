# SPDX-License-Identifier: Apache-2.0
"""Case files from Python: both containers hold the same, what is right passes in every type, what is wrong in none, and a rewrite
changes nothing."""

import os
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

ROOT = Path(os.environ.get("DSV4_SOURCE_DIR", Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(ROOT / "python"))
CASES = ROOT / "golden" / "cases"

from dsv4 import cases  # noqa: E402
from dsv4.errors import Dsv4Error  # noqa: E402

EVERY = cases.all()
IN_TYPES = [pytest.param(case, dtype, id=f"{case}-{dtype}") for case in EVERY for dtype in cases.DTYPES]
# Where rounding alone may move all there is.
SILENT = {("gate_extreme", "fp16"), ("index", "bf16")}


@pytest.mark.parametrize("entry", cases.index(), ids=lambda e: e["id"])
def test_both_containers_hold_the_same(entry):
    a, b = (cases.load(CASES / f"{entry['id']}.{suffix}") for suffix in ("safetensors", "h5"))

    for part in cases.PARTS:
        assert getattr(a, part).keys() == getattr(b, part).keys()
        for name in getattr(a, part):
            np.testing.assert_array_equal(getattr(a, part)[name], getattr(b, part)[name])
    assert (a.config, a.flags, a.port_only, a.what) == (b.config, b.flags, b.port_only, b.what)


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_inputs_are_numbers_that_every_type_holds(case):
    for name, array in case.inputs.items():
        if array.dtype == np.float64 and not case.component.startswith("encode"):  # the edges of float32 are what these are about
            for kind in (np.float32, np.float16, ml_dtypes.bfloat16):
                np.testing.assert_array_equal(array.astype(kind).astype(np.float64), array, err_msg=f"{name} in {kind}")


# ---- what is right, and what is wrong -----------------------------------------------------------

@pytest.mark.parametrize("case, dtype", IN_TYPES)
def test_what_is_expected_passes_unless_nothing_can_be_said(case, dtype):
    verdict = cases.judge(case, case.expected, dtype)

    assert verdict.outcome == ("MISTRUSTED" if (case.id, dtype) in SILENT else "PASSED")


@pytest.mark.parametrize("case, dtype", IN_TYPES)
def test_what_rounding_may_do_passes(case, dtype):
    """Inside the bound of every element; and one that is outside does not. Bounds of float64 are a few of its own steps wide."""
    if (case.id, dtype) in SILENT:
        pytest.skip("says nothing")
    for sign in (-1, 1):
        moved = {name: array + sign * 0.5 * case.bound[f"{dtype}.{name}"] if f"{dtype}.{name}" in case.bound else array
                 for name, array in case.expected.items()}
        assert cases.judge(case, moved, dtype).passed
        for name in moved:
            if f"{dtype}.{name}" in case.bound and moved[name].size:
                at = np.unravel_index(np.argmax(case.bound[f"{dtype}.{name}"]), moved[name].shape)
                over = moved[name].copy()
                over[at] += sign * case.bound[f"{dtype}.{name}"][at]
                assert [m.name for m in cases.judge(case, {**moved, name: over}, dtype).misses] == [name]


WRONG = {
    "zeros": np.zeros_like,
    "ones": np.ones_like,
    "NaN": lambda a: np.full(a.shape, np.nan),
    "infinity": lambda a: np.full(a.shape, np.inf),
    "negated": lambda a: -a.astype(np.float64),
    "reversed": lambda a: np.flip(a),
    "transposed": lambda a: a.T if a.ndim == 2 and a.shape[0] == a.shape[1] else np.flip(a),
    "a tenth more": lambda a: 1.1 * a.astype(np.float64),
    "one element": lambda a: _one_more(a),
}


def _one_more(array):
    out = array.astype(np.float64).copy()
    finite = np.flatnonzero(np.isfinite(out))
    out.flat[finite[len(finite) // 2]] += max(1.0, np.abs(out.flat[finite]).max())
    return out


def changes(wrong, array, name, bound):
    """Whether this is another answer: sets have no order, palindromes no direction, and where rounding alone may move 5 % of the
    numbers, 10 % more on each may be within its worst case."""
    if array.size == 0:
        return False
    if wrong == "a tenth more" and bound is not None:
        finite = np.isfinite(array)
        return np.square(bound[finite]).sum() < 0.05**2 * np.square(array[finite]).sum()
    made = WRONG[wrong](array)
    if name in cases.SETS:
        return not np.array_equal(np.sort(made, -1), np.sort(array, -1), equal_nan=False)
    return not np.array_equal(made, array, equal_nan=True)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("case, dtype", IN_TYPES)
def test_what_is_wrong_never_passes(case, dtype, wrong):
    made = {name: WRONG[wrong](array) if array.size else array for name, array in case.expected.items()}
    changed = [name for name, array in case.expected.items() if changes(wrong, array, name, case.bound.get(f"{dtype}.{name}"))]

    assert changed or wrong == "a tenth more"
    assert not (changed and cases.judge(case, made, dtype).passed)
    for name in changed:
        if not cases.says_nothing(case, name, dtype):
            assert name in [m.name for m in cases.judge(case, {**case.expected, name: made[name]}, dtype).misses]


@pytest.mark.parametrize("case, dtype", sorted(SILENT))
def test_a_case_that_says_nothing_is_skipped_and_no_pass(case, dtype):
    verdict = cases.judge(cases.load(case), cases.load(case).expected, dtype)

    assert not verdict.passed and verdict.silent
    with pytest.raises(unittest.SkipTest, match=f"says nothing in {dtype}"):
        verdict.check()


def test_a_miss_is_named_with_its_place_and_bound():
    case = cases.load("rope")
    wrong = case.expected["y"].copy()
    wrong[2, 5] += 1

    with pytest.raises(AssertionError, match=r"rope .* differs; it can show .*M01.*\n  y\[2, 5\]: expected .*, got .*, allowed"):
        cases.judge(case, {"y": wrong}).check()


# ---- arguments --------------------------------------------------------------------------------

def test_missing_and_misshaped_outputs_are_no_pass():
    case = cases.load("rope")

    assert cases.judge(case, {}).misses[0].problem == "missing"
    for shape in (3, (96,), (4, 2, 12)):
        got = np.zeros(3) if shape == 3 else case.expected["y"].reshape(shape)
        assert "expected shape [4, 24]" in cases.judge(case, {"y": got}).misses[0].problem


@pytest.mark.parametrize("kind", [np.complex128, np.dtype("U8"), object, bool])
def test_what_is_no_real_number_is_no_pass(kind):
    case = cases.load("rope")

    assert "expected real numbers" in cases.judge(case, {"y": case.expected["y"].astype(kind)}).misses[0].problem


def test_bf16_arrays_and_torch_tensors_are_numbers():
    case = cases.load("hadamard")

    class Tensor:  # as much of torch's as is used
        dtype = "torch.bfloat16"
        detach = cpu = lambda self: self
        float = lambda self: case.expected["y"].astype(ml_dtypes.bfloat16).astype(np.float32)

    assert cases.judge(case, {"y": case.expected["y"].astype(ml_dtypes.bfloat16)}, "bf16").passed
    assert cases.judge(case, {"y": Tensor()}, "bf16").passed


@pytest.mark.parametrize("call, near", [
    (lambda: cases.all(component="ropee"), "rope"), (lambda: cases.all(flag="M13c"), "M1"), (lambda: cases.load("sinkhorm"), "sinkhorn"),
    (lambda: cases.judge(EVERY[0], {}, "float32"), "fp32")])
def test_an_unknown_name_is_an_error_with_the_nearest_one(call, near):
    with pytest.raises(Dsv4Error, match=f"nearest is '{near}"):
        call()


def test_the_order_of_chosen_entries_is_free():
    case = cases.load("gate_scored")
    turned = {**case.expected, "indices": case.expected["indices"][:, ::-1], "weights": case.expected["weights"][:, ::-1]}

    assert cases.judge(case, turned).passed


def test_an_entry_chosen_twice_is_no_set():
    case = cases.load("top_k")
    twice = case.expected["chosen"].copy()
    row = int(np.flatnonzero((twice >= 0).sum(-1) == 2)[0])
    twice[row] = [*twice[row][twice[row] >= 0], *twice[row][twice[row] >= 0][::-1]]

    assert [m.name for m in cases.judge(case, {"chosen": twice}).misses] == ["chosen"]


# ---- ports --------------------------------------------------------------------------------------

def rotate(x, frequencies, heads, first, step, inverse):
    """A port of the rope, as a porter would write it: angles in float32."""
    out = x.reshape(len(x), int(heads), -1).copy()
    pairs = len(frequencies)
    wide = np.float64 if x.dtype == np.float64 else np.float32
    angle = (first + step * np.arange(len(x), dtype=wide))[:, None] * frequencies.astype(wide) * (-1 if inverse else 1)
    cos, sin = np.cos(angle)[:, None].astype(x.dtype), np.sin(angle)[:, None].astype(x.dtype)
    re, im = out[..., -2 * pairs :: 2].copy(), out[..., 1 - 2 * pairs :: 2].copy()
    out[..., -2 * pairs :: 2], out[..., 1 - 2 * pairs :: 2] = re * cos - im * sin, re * sin + im * cos
    return out.reshape(x.shape)


def normalise(x, weight, eps):
    wide = x.astype(np.float64 if x.dtype == np.float64 else np.float32)
    return (wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + wide.dtype.type(eps))).astype(x.dtype) * weight


def balance(logits, rounds, eps):
    """Stores every step in the type of its argument."""
    c = np.exp(logits - logits.max(-1, keepdims=True))
    c = c / c.sum(-1, keepdims=True) + logits.dtype.type(eps)
    c = c / (c.sum(0, keepdims=True) + logits.dtype.type(eps))
    for _ in range(int(rounds) - 1):
        c = c / (c.sum(-1, keepdims=True) + logits.dtype.type(eps))
        c = c / (c.sum(0, keepdims=True) + logits.dtype.type(eps))
    return c


KINDS = {"fp64": np.float64, "fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
PORTS = {"rope": (rotate, "y"), "rms_norm": (normalise, "y"), "sinkhorn": (balance, "comb")}


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("case", [c for name in PORTS for c in cases.all(component=name)], ids=str)
def test_a_port_is_tested_in_ten_lines(case, dtype):
    port, output = PORTS[case.component]
    y = port(**{name: array.astype(KINDS[dtype]) for name, array in case.inputs.items()}, **case.config)

    cases.judge(case, {output: y}, dtype).check()


# ---- the bounds ---------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def maker():
    """The modules that make the cases."""
    sys.path.insert(0, str(CASES))
    import book
    import make_cases
    import roundings

    def made():
        every = book.Book()
        for part in make_cases.PARTS:
            part(every)
        return every.cases

    yield made, roundings
    sys.path.remove(str(CASES))


@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16"])
def test_equations_that_round_at_every_step_stay_within_their_bounds(maker, monkeypatch, kind):
    """Every step of every equation is moved by all that rounding may do, up or down, and the equations go on from there: what the
    bound does not hold is second order, and small."""
    made, roundings = maker
    plain, random = roundings.Number.__init__, np.random.default_rng(7)

    def moved(self, value, made_from=(), stores=1, sums=0.0, bend=0.0):
        plain(self, value, made_from, stores, sums, 0.0)  # an angle that is moved bends by itself
        step = self.rounding(roundings.TYPES[kind])
        if np.isfinite(step) and step < abs(self.value):
            self.value += step * float(random.choice((-1, 1)))

    expected = {case.id: case for case in EVERY}
    monkeypatch.setattr(roundings.Number, "__init__", moved)
    monkeypatch.setattr(roundings, "bounds", lambda r: dict.fromkeys(cases.DTYPES, 0.0) if isinstance(r, roundings.Number) else {})
    judged = 0
    for case in made():
        of = expected[case["id"]]
        if any(not np.array_equal(case["inputs"][name], array) for name, array in of.inputs.items()):
            continue  # inputs that are made of another case's results
        for name, array in case["expected"].items():
            bound = of.bound.get(f"{kind}.{name}")
            if bound is not None and name not in cases.SETS:
                visible = np.isfinite(of.expected[name])
                assert (np.abs(array[visible] - of.expected[name][visible]) <= 1.05 * bound[visible]).all(), (of.id, name)
                judged += 1
    assert judged > 50


def test_a_sum_of_three_by_hand(maker):
    """(a + b) * c with a = 3, b = 0.5, c = 2 in BF16: a sum of two in float32 rounds 3.5 once there and once to BF16, the product 7 once."""
    _, r = maker
    a, b, c = (r.Number(v, stores=0) for v in (3, 0.5, 2))

    bound = r.bounds(r.total([a, b]) * c)

    assert bound["bf16"] == pytest.approx(2 * 3.5 * (2**-8 + 2**-24) + 7 * 2**-8, rel=1e-9)
    assert r.bounds(r.exp(a) / r.exp(a))["fp32"] < 6 * 2**-24  # two exps and a quotient: 1 of each side
    same = r.exp(a)
    assert r.bounds(same / same)["fp32"] == pytest.approx(2**-24, rel=1e-6)  # what cancels cancels


# ---- the files ----------------------------------------------------------------------------------

def test_flags_are_the_kills_that_were_measured():
    lines = (line.split("\t") for line in (ROOT / "conformance" / "bugs" / "kills.tsv").read_text().splitlines())
    kills = {case: {i for i in ids.split(",") if not i.startswith("S-")} for case, ids in lines}
    catalogue = "".join(p.read_text() for p in (ROOT / "conformance" / "bugs").glob("*.toml"))

    for case in EVERY:
        assert set(case.flags) == kills[f"cases/{case.id}"], case.id
        assert not set(case.flags) & set(case.port_only), case.id
        assert all(f'id = "{flag}"' in catalogue for flag in case.port_only), case.id


def test_a_rewrite_changes_nothing(tmp_path):
    made = tmp_path / "golden" / "cases"
    made.mkdir(parents=True)
    for path in CASES.glob("*.py"):
        shutil.copy(path, made)
    (tmp_path / "conformance" / "bugs").mkdir(parents=True)
    shutil.copy(ROOT / "conformance" / "bugs" / "kills.tsv", tmp_path / "conformance" / "bugs")
    subprocess.run([sys.executable, "make_cases.py"], cwd=made, check=True)

    written = {p.name for p in made.iterdir() if p.suffix in (".h5", ".safetensors", ".json")}
    assert written == {p.name for p in CASES.iterdir() if p.suffix in (".h5", ".safetensors", ".json")}
    for name in sorted(written):
        assert (made / name).read_bytes() == (CASES / name).read_bytes(), name
