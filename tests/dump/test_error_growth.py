# SPDX-License-Identifier: Apache-2.0
"""error_growth.py on traces whose distance is known by hand."""

import numpy as np
import pytest

import error_growth
from errors import DumpError
from package import TraceWriter


def write(path, block, logits=(3.0, 4.0), experts=((0, 1), (2, 1)), rows=None, ids=(1, 2)):
    config = {"num_hidden_layers": 1, "compress_ratios": [0]}
    with TraceWriter(path, rounding="official", config=config, input_ids=ids) as writer:
        writer.begin_call(0)
        writer.write("layers.0.ffn.gate.indices", np.array(experts, np.int32), axes="s,a", dtype="int")
        writer.write("layers.0.hc_ffn.out", np.array(block, np.float32), axes="s,n,d", dtype="bf16", rows=rows)
        writer.write("logits", np.array(logits, np.float32), axes="v", dtype="fp32")
    return str(path)


def test_the_distance_is_relative_to_the_first_trace(tmp_path, capsys):
    a = write(tmp_path / "a.h5", [[[3.0, 0.0]], [[4.0, 0.0]]])
    b = write(tmp_path / "b.h5", [[[3.0, 0.0]], [[4.0, 0.5]]], logits=(3.0, 4.5))

    assert error_growth.main([a, b]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| `layers.0.hc_ffn.out` | 1.0e-01 | 75.00 % | experts 0 of 2 |",
        "| `logits` | 1.0e-01 | 50.00 % | – |",
    ]


def test_choices_are_sets(tmp_path, capsys):
    a = write(tmp_path / "a.h5", np.ones((2, 1, 2)), experts=((0, 1), (2, 1)))
    b = write(tmp_path / "b.h5", np.ones((2, 1, 2)), experts=((1, 0), (2, 3)))

    assert error_growth.main([a, b]) == 0
    assert "| 0.0e+00 | 100.00 % | experts 1 of 2 |" in capsys.readouterr().out


def test_rows_are_joined_by_position(tmp_path, capsys):
    a = write(tmp_path / "a.h5", [[[9.0, 9.0]], [[3.0, 4.0]]])
    b = write(tmp_path / "b.h5", [[[3.0, 4.5]]], rows=[1])

    assert error_growth.main([a, b]) == 0
    assert "| `layers.0.hc_ffn.out` | 1.0e-01 | 50.00 % |" in capsys.readouterr().out


def test_other_token_ids_are_refused(tmp_path):
    a = write(tmp_path / "a.h5", np.ones((2, 1, 2)))
    b = write(tmp_path / "b.h5", np.ones((2, 1, 2)), ids=(1, 3))

    with pytest.raises(DumpError, match="token ids"):
        error_growth.main([a, b])


def test_nothing_in_common_is_exit_code_3(tmp_path):
    for name in ("a.h5", "b.h5"):
        with TraceWriter(tmp_path / name, rounding="official", config={}, input_ids=[1]) as writer:
            writer.begin_call(0)
            writer.write("embed", np.ones((1, 2), np.float32), axes="s,d", dtype="bf16")

    assert error_growth.main([str(tmp_path / "a.h5"), str(tmp_path / "b.h5")]) == 3
