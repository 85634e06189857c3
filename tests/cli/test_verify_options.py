# SPDX-License-Identifier: Apache-2.0
"""The options of verify: another split, a part of the calls, rows, taps or layers, and what must be there."""

import pytest
from conftest import keep, tap, verify


@pytest.mark.parametrize("chunks", ["25", "21,4", "1,20,4", "10,11,2,2", "7,7,7,2,1,1", ",".join("1" * 25),
                                    "4 4 4 4 5 2 1 1"])
@pytest.mark.parametrize("mode", ["local", "chained"])
def test_another_split_gives_the_same_values(made, model, chunks, mode):
    done = verify(made / "trace.h5", model, "--chunks", chunks, "--mode", mode)
    assert done.code == 0, done.first
    assert done.counts["FAILED"] == 0
    assert done.counts["PASSED"] >= 800


def test_a_damaged_trace_fails_under_every_split(edited, model):
    def damage(file):
        tap(file, 1, "layers.3.attn.o")[1, 2, 3] += 1e-8

    path = edited(damage)
    for chunks in ("25", "5,5,5,5,5", ",".join("1" * 25)):
        done = verify(path, model, "--chunks", chunks)
        assert done.code == 1
        assert (done.first["tap"], done.first["call"], done.first["index"]) == ("layers.3.attn.o", 1, [1, 2, 3])


def test_one_call_is_judged(made, model):
    done = verify(made / "trace.h5", model, "--call", "2")
    assert done.code == 0 and {r["call"] for r in done.results} == {2}


def test_one_range_of_rows_is_judged(made, edited, model):
    done = verify(made / "trace.h5", model, "--rows", "19-21")
    assert done.code == 0
    assert done.one("layers.1.attn.q", 0)["rows"] == 2 and done.one("layers.1.attn.q", 1)["rows"] == 1
    assert {r["position"] for r in done.results if r["rows"]} <= {19, 20, 21}
    # An entry stands at the first token of its group, which may end in a later call.
    assert {r["call"] for r in done.of("layers.1.attn.q")} == {0, 1}

    def damage(file):
        tap(file, 0, "layers.1.attn.q")[3, 0, 0] += 1

    path = edited(damage)
    assert verify(path, model, "--rows", "4-20", "--taps", "layers.1.attn.q").code == 0
    assert verify(path, model, "--rows", "3", "--taps", "layers.1.attn.q").code == 1


def test_taps_choose_what_is_judged_and_not_what_flows(edited, model):
    def damage(file):
        tap(file, 0, "layers.1.attn.q")[3, 0, 0] += 1

    path = edited(damage)
    assert verify(path, model, "--taps", "layers.1.attn.q").code == 1
    # The damaged query is fed back, so the trace's own output no longer follows from it.
    assert verify(path, model, "--taps", "layers.1.attn.o").code == 1
    done = verify(path, model, "--taps", "layers.2.*", "--taps", "embed")
    assert done.code == 0 and done.of("embed") and done.of("layers.2.attn.q")
    assert all(r["tap"] == "embed" or r["tap"].startswith("layers.2.") for r in done.results)


@pytest.mark.parametrize("layers, mtp", [("0", False), ("1-2", False), ("2", False), ("3", True), ("1-3", True),
                                         ("0-3", True)])
def test_a_range_of_layers_is_judged_from_the_streams_before_it(made, model, layers, mtp):
    done = verify(made / "trace.h5", model, "--layers", layers)
    assert done.code == 0 and done.counts["ABSENT"] == 0
    first, last = int(layers[0]), int(layers[-1])
    seen = {int(r["tap"].split(".")[1]) for r in done.results if r["tap"].startswith("layers.")}
    assert seen == set(range(first, last + 1))
    assert bool(done.of("logits")) == mtp and bool(done.of("mtp.0.x")) == mtp


def test_a_layer_needs_nothing_but_its_input(edited, model):
    def drop(file):
        keep(file, lambda call, name: name in ("layers.1.hc_ffn.out", "layers.2.hc_ffn.out"))

    done = verify(edited(drop), model, "--layers", "2")
    assert done.code == 0
    assert done.one("layers.2.hc_ffn.out")["span"] == ["layers.1.hc_ffn.out"]


def test_what_is_required_must_be_in_the_trace(edited, model):
    def drop(file):
        keep(file, lambda call, name: name != "layers.2.hc_ffn.out" or call == "0000")

    path = edited(drop)
    assert verify(path, model).code == 0
    assert verify(path, model, "--require", "layers.1.hc_ffn.out").code == 0
    done = verify(path, model, "--require", "*.hc_ffn.out")
    assert done.code == 1
    assert [(r["tap"], r["call"]) for r in done.having("FAILED")] == [
        ("layers.2.hc_ffn.out", call) for call in (1, 2, 3)]
    assert "required" in done.first["reason"] and done.first["call"] == 1


def test_a_rounding_that_agrees_is_accepted(made, model):
    assert verify(made / "trace.h5", model, "--rounding", "exact", "--taps", "embed").code == 0


def test_a_chained_run_covers_mtp_and_every_call(made, model):
    done = verify(made / "trace.h5", model, "--mode", "chained")
    assert done.code == 0
    for call in range(4):
        assert done.one("mtp.0.logits", call)["verdict"] == "PASSED"
        assert done.one("mtp.0.logits", call)["span"] == ["input_ids"]
