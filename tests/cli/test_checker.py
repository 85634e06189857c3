# SPDX-License-Identifier: Apache-2.0
"""The checker is checked: numbers that are not those of the stage never pass, however they came about."""

import h5py
import numpy as np
import pytest

from conftest import datasets, keep, replace, tap, verify

NONE = np.array(["none"])


def of_layer(file, call, layer):
    """{tap: dataset} of the floats that layer `layer` gives in a call."""
    return {name: data for _, name, data in datasets(file, f"{call:04d}")
            if name.startswith(f"layers.{layer}.") and data.dtype.kind == "f" and data.size > 1}


def verdicts(path, model, names):
    done = verify(path, model, "--call", "0", "--quiet")
    return {r["tap"]: r["verdict"] for r in done.results if r["tap"] in names}


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan, np.inf])
def test_a_trace_of_one_value_never_passes(edited, model, value):
    def fill(file):
        for _, _, data in datasets(file):
            if data.dtype.kind == "f":
                data[...] = np.full(data.shape, value)

    done = verify(edited(fill), model)

    assert done.code == 1
    assert done.counts["FAILED"] > 0
    assert [r["tap"] for r in done.having("PASSED") if not r["tap"].endswith(("topk_idxs", "indices", "window_idxs"))] == []


@pytest.fixture
def one_by_one(made, edited, model):
    """one_by_one(change): each tap of a CSA layer is changed alone; which ones passed all the same."""
    def passed(change):
        with h5py.File(made / "trace.h5") as file:
            values = {name: data[()] for name, data in of_layer(file, 0, 2).items()}
        judged, survivors = 0, []  # every change is run by itself: one wrong tap must not hide another
        for name, before in values.items():
            after = change(name, before, values)
            if after is None or np.array_equal(after, before):
                continue
            judged += 1

            def edit(file, name=name, after=after):
                tap(file, 0, name)[...] = after

            if verdicts(edited(edit), model, [name])[name] == "PASSED":
                survivors.append(name)
        assert judged > 20
        return survivors

    return passed


def test_reversed_columns_never_pass(one_by_one):
    assert one_by_one(lambda name, v, _: v[..., ::-1]) == []


def test_rows_one_too_late_never_pass(one_by_one):
    assert one_by_one(lambda name, v, _: np.roll(v, 1, axis=0)) == []


def test_swapped_axes_never_pass(one_by_one):
    def swapped(_, v, __):
        return np.ascontiguousarray(np.swapaxes(v, -1, -2)).reshape(v.shape) if v.ndim > 1 else None

    assert one_by_one(swapped) == []


def test_an_aliased_buffer_never_passes(one_by_one):
    """A hook kept a buffer that a later stage has overwritten: two taps hold the same bytes."""
    def other(name, v, values):
        names = list(values)
        later = [n for n in names[names.index(name) + 1:] if values[n].shape == v.shape and not np.array_equal(values[n], v)]
        return values[later[0]] if later else None

    assert one_by_one(other) == []


def test_a_trace_without_values_compares_nothing(edited, model):
    done = verify(edited(lambda file: keep(file, lambda call, name: False)), model)

    assert done.code == 3
    assert done.counts["PASSED"] == 0


def test_a_trace_without_calls_is_no_pass(edited, model):
    def drop(file):
        for call in list(file["calls"]):
            del file["calls"][call]

    assert verify(edited(drop), model).code == 3


def test_floats_of_another_kind_never_pass(edited, model):
    def as_text(file):
        replace(tap(file, 0, "layers.2.attn.qr"), NONE.astype("S4"))

    def as_codes(file):
        data = tap(file, 0, "layers.2.attn.qr")
        replace(data, np.zeros(data.shape, np.uint8))

    def as_integers(file):
        data = tap(file, 0, "layers.2.attn.qr")
        replace(data, np.zeros(data.shape, np.int32))

    for change in (as_text, as_codes, as_integers):
        assert [r["verdict"] for r in verify(edited(change), model).of("layers.2.attn.qr", 0)] in (["FAILED"], ["ABSENT"])
