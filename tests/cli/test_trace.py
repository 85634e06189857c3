# SPDX-License-Identifier: Apache-2.0
"""trace: what is recorded, and that the same command gives the same bytes on any number of threads."""

import csv
import json

import h5py
import numpy as np
import pytest
from conftest import CALLS, ROOT, RUN, SMALL, datasets, ok, refused, verify

RATIOS = SMALL["compress_ratios"]
LAYERS = SMALL["num_hidden_layers"]


def stages():
    """(name, axes) of core/taps.tsv that a trace holds without being asked."""
    with open(ROOT / "core" / "taps.tsv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            optional = "(optional" in row["note"] or "when asked" in row["note"]
            if not (optional or ".experts." in row["name"] or row["name"].startswith("<tap>")):
                yield row["name"], row["axes"]


def expected(start, end, mtp=True):
    """The datasets of one call."""
    names = set()
    for name, axes in stages():
        if name.startswith("mtp."):
            blocks = [("mtp.0", 0)] if mtp else []
        elif name.startswith("layers."):
            blocks = [(f"layers.{layer}", RATIOS[layer]) for layer in range(LAYERS)]
        else:
            names.add(name)
            continue
        for block, ratio in blocks:
            full = block + "." + name.split(".", 2)[2]
            if (".compressor." in name and ratio == 0) or (".indexer." in name and ratio != 4):
                continue
            if axes.startswith("e,") and end // ratio == start // ratio:
                continue
            if name.endswith("index_score") and end < ratio:
                continue
            names.add(full)
    return names


def test_a_trace_holds_every_stage_that_is_not_optional(made):
    calls = [(0, 21), (21, 23), (23, 24), (24, 25)]
    with h5py.File(made / "trace.h5") as file:
        for number, (start, end) in enumerate(calls):
            call = f"{number:04d}"
            assert file["calls"][call].attrs["start_pos"] == start
            found = {name: dataset for _, name, dataset in datasets(file, call)}
            assert set(found) == expected(start, end)
            for name, dataset in found.items():
                assert dataset.attrs["dtype"] == ("int" if dataset.dtype.kind == "i" else "fp64")
                assert len(dataset.attrs["axes"].split(",")) == dataset.ndim
                assert 0 not in dataset.shape


def test_without_entries_the_choice_has_no_columns_and_entries_are_left_out(model, tmp_path):
    ok("trace", "--model", model, "--ids", "1,2,3", "-o", tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        found = {name: dataset for _, name, dataset in datasets(file)}
    assert set(found) == expected(0, 3, mtp=False)
    assert "layers.2.attn.indexer.index_score" not in found
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["calls/0000/layers/2/attn/indexer/topk_idxs"].shape == (3, 0)
    done = verify(tmp_path / "out.h5", model)
    assert done.code == 0 and done.counts["FAILED"] == done.counts["ABSENT"] == 0


def test_the_same_command_gives_the_same_bytes_on_any_number_of_threads(made, model, tmp_path):
    whole = (made / "trace.h5").read_bytes()
    for threads in ("1", "2", "5"):
        output = tmp_path / f"{threads}.h5"
        ok("trace", "--model", model, *RUN, "-o", output, env={"OMP_NUM_THREADS": threads})
        assert output.read_bytes() == whole


def test_ids_on_the_command_line_and_in_a_file_are_the_same(model, tmp_path):
    (tmp_path / "ids.txt").write_text("5 17\n42,1")
    ok("trace", "--model", model, "--ids-file", tmp_path / "ids.txt", "-o", tmp_path / "a.h5")
    ok("trace", "--model", model, "--ids", "5,17,42,1", "-o", tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize("split", [
    ["--prefill", "17"], ["--prefill", "1", "--decode", "16"], ["--chunks", "8,1,8", "--decode", "3"],
    ["--chunks", "3,3,3", "--mtp"], ["--decode", "2", "--mtp"], ["--prefill", "16", "--decode", "4", "--mtp"],
])
def test_a_trace_verifies_against_itself(model, tmp_path, split):
    ok("trace", "--model", model, "--random", 21, "--seed", 3, *split, "-o", tmp_path / "out.h5")
    for mode in ("local", "chained"):
        done = verify(tmp_path / "out.h5", model, "--mode", mode)
        assert done.code == 0, done.first
        assert done.counts["PASSED"] > 150 and done.counts["ABSENT"] == 0


def test_a_split_changes_no_value(made, model, tmp_path):
    """Rows are those of one prefill, joined by position."""
    ok("trace", "--model", model, "--random", 26, "--seed", 10, "--prefill", 25, "--mtp",
       "-o", tmp_path / "whole.h5")
    with h5py.File(made / "trace.h5") as split, h5py.File(tmp_path / "whole.h5") as whole:
        for name in ("layers/3/hc_ffn/out", "layers/2/attn/o", "mtp/0/norm/out"):
            parts = np.concatenate([split[f"calls/{call:04d}/{name}"] for call in range(4)])
            ours = whole[f"calls/0000/{name}"][()]
            assert np.abs(parts - ours).max() <= 1e-12 * np.abs(ours).max()


def test_optional_stages_are_recorded_when_asked_for(model, tmp_path):
    globs = ("*.experts.*", "*_state", "*.lse", "logits_all")
    ok("trace", "--model", model, "--random", 25, "--seed", 10, *CALLS, *(x for g in globs for x in ("--taps", g)),
       "-o", tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        names = {name for _, name, _ in datasets(file, "0000")}
    assert {"layers.2.attn.compressor.kv_state", "layers.2.attn.lse", "logits_all"} <= names
    assert any(name.endswith("experts.3.hidden") for name in names)
    assert not any(name.endswith("hc_ffn.out") for name in names)
    done = verify(tmp_path / "out.h5", model)
    assert done.code == 0 and done.counts["FAILED"] == 0


def test_a_range_of_layers_is_run_from_the_first_and_recorded_from_a(model, tmp_path):
    ok("trace", "--model", model, "--random", 12, "--layers", "1-2", "-o", tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        names = {name for _, name, _ in datasets(file)}
    assert {name.split(".")[1] for name in names} == {"1", "2"}
    assert all(name.startswith("layers.") for name in names)


def test_the_summary_counts_what_was_written(model, tmp_path):
    done = ok("trace", "--model", model, "--random", 26, "--seed", 10, *CALLS, "--mtp", "--json", "--quiet",
              "-o", tmp_path / "out.h5")
    report = json.loads(done.stdout)
    with h5py.File(tmp_path / "out.h5") as file:
        assert report["datasets"] == sum(1 for _ in datasets(file))
    assert (report["schema_version"], report["tokens"], report["calls"]) == (1, 25, 4)
    assert done.stderr == ""


def test_a_call_says_how_long_it_is(made, model, tmp_path):
    """Nothing else tells that the last id is the draft block's where the trace has logits alone."""
    path = tmp_path / "logits.h5"
    ok("trace", "--model", model, *RUN, "--taps", "logits", "-o", path)

    with h5py.File(path) as file:
        assert [call.attrs["n_tokens"] for call in file["calls"].values()] == [21, 2, 1, 1]
    found = verify(path, model)
    assert (found.code, found.counts["PASSED"]) == (0, 4)


@pytest.mark.parametrize("n_tokens", [0, -1])
def test_a_senseless_length_of_a_call_is_refused(edited, model, n_tokens):
    def edit(file):
        file["calls/0001"].attrs["n_tokens"] = np.int64(n_tokens)

    refused("verify", edited(edit), "--model", model, says=("calls/0001", "n_tokens", str(n_tokens)))


def test_calls_that_complete_no_entry_may_hold_empty_ones(model, tmp_path):
    """As hooks of torch modules leave them: they must not hide the entries of other calls."""
    path = tmp_path / "empty.h5"
    ok("trace", "--model", model, "--random", "26", "--seed", "10", "--chunks", "20,4,1,1", "-o", path)
    with h5py.File(path, "r+") as file:
        for call in ("0002", "0003"):
            file[f"calls/{call}"].create_dataset("layers/2/attn/compressor/roped", data=np.zeros((0, 64)))

    found = verify(path, model)

    assert found.code == 0
    assert [r["verdict"] for r in found.of("layers.2.attn.compressor.roped")] == ["PASSED", "PASSED", "SKIPPED", "SKIPPED"]
