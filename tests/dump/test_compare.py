# SPDX-License-Identifier: Apache-2.0
"""Comparing traces: rows are joined by position, sets are sets, weights follow their indices."""

import numpy as np

import compare
from package import TraceWriter

CONFIG = {"num_hidden_layers": 1}
VALUES = np.arange(12.0).reshape(4, 3)


def write(path, calls):
    """calls: list of (start_pos, {tap: array})"""
    with TraceWriter(path, rounding="exact", config=CONFIG, input_ids=range(8)) as writer:
        for start, taps in calls:
            writer.begin_call(start)
            for name, array in taps.items():
                writer.write(name, np.asarray(array), axes="v" if name == "logits" else "s,x")
    return str(path)


def run(capsys, a, b, *options):
    code = compare.main([a, b, *options])
    return code, capsys.readouterr().out


def test_rows_are_joined_by_absolute_position(tmp_path, capsys):
    a = write(tmp_path / "a.h5", [(0, {"embed": VALUES, "logits": VALUES[3]})])
    b = write(
        tmp_path / "b.h5", [(0, {"embed": VALUES[:3]}), (3, {"embed": VALUES[3:], "logits": VALUES[3]})]
    )

    code, text = run(capsys, a, b)

    assert code == 0 and "2 taps, 15 elements, 0 unequal" in text and "rows in one only 0" in text


def test_index_taps_are_sets_and_weights_follow_their_indices(tmp_path, capsys):
    gate = "layers.0.ffn.gate."
    one = {gate + "indices": np.array([[4, 2]], np.int32), gate + "weights": np.array([[0.7, 0.3]])}
    two = {gate + "indices": np.array([[2, 4]], np.int32), gate + "weights": np.array([[0.3, 0.7]])}

    code, _ = run(capsys, write(tmp_path / "a.h5", [(0, one)]), write(tmp_path / "b.h5", [(0, two)]))

    assert code == 0


def test_a_difference_is_measured_and_fails(tmp_path, capsys):
    a = write(tmp_path / "a.h5", [(0, {"embed": VALUES})])
    b = write(tmp_path / "b.h5", [(0, {"embed": VALUES + np.eye(4, 3) * 1.1e-3})])

    code, text = run(capsys, a, b, "--tol", "1e-6")

    assert code == 1 and "1.00e-04" in text
    assert compare.main([a, b, "--tol", "1e-3"]) == 0


def test_missing_columns_of_index_scores_are_minus_infinity(tmp_path, capsys):
    name = "layers.0.attn.indexer.index_score"
    a = write(tmp_path / "a.h5", [(0, {name: np.array([[1.0, -np.inf]])})])
    b = write(tmp_path / "b.h5", [(0, {name: np.array([[1.0]])})])

    assert compare.main([a, b]) == 0


def test_a_nan_in_one_trace_is_a_difference(tmp_path):
    a = write(tmp_path / "a.h5", [(0, {"embed": VALUES})])
    b = write(tmp_path / "b.h5", [(0, {"embed": np.where(VALUES == 5, np.nan, VALUES)})])

    assert compare.main([a, b, "--tol", "1"]) == 1


def test_nothing_in_common_is_exit_code_3(tmp_path):
    a = write(tmp_path / "a.h5", [(0, {"embed": VALUES})])
    b = write(tmp_path / "b.h5", [(0, {"norm.out": VALUES})])

    assert compare.main([a, b]) == 3
