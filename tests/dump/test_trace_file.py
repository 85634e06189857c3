# SPDX-License-Identifier: Apache-2.0
"""trace/1 files: what is written is read back, and the same inputs give the same bytes."""

import time

import h5py
import numpy as np
import pytest

from errors import DumpError
from package import TraceReader, TraceWriter

QR = np.random.default_rng(7).normal(size=(300, 5))


def write_example(path):
    attributes = {"producer": "test", "official_revision": "60d8d707"}
    with TraceWriter(
        path, rounding="exact", config={"dim": 5}, input_ids=[3, 1, 4], attributes=attributes
    ) as writer:
        writer.begin_call(0)
        writer.write("layers.2.attn.qr", QR, axes="s,q", dtype="fp64", site="Attention.forward qr", eq="13")
        writer.write("layers.2.attn.q", QR[[0, 9]], axes="s,q", rows=[0, 9])
        writer.write("layers.2.attn.indexer.topk_idxs", np.zeros((3, 0), np.int32), axes="s,k", dtype="int")
        writer.begin_call(300)
        writer.write("logits", np.array([1.5, -2.0], np.float32), axes="v", dtype="fp32")


def test_reading_gives_what_was_written(tmp_path):
    write_example(tmp_path / "a.h5")

    with TraceReader(tmp_path / "a.h5") as trace:
        assert trace.attributes["dsv4_schema"] == "trace/1"
        assert trace.attributes["rounding"] == "exact"
        assert trace.config == {"dim": 5}
        assert trace.input_ids.tolist() == [3, 1, 4]
        assert [(call, trace.start_pos(call)) for call in trace.calls] == [("0000", 0), ("0001", 300)]
        assert trace.taps("0000") == [
            "layers.2.attn.qr",
            "layers.2.attn.q",
            "layers.2.attn.indexer.topk_idxs",
        ]
        np.testing.assert_array_equal(trace.read("0000", "layers.2.attn.qr"), QR)
        assert trace.tap_attributes("0000", "layers.2.attn.qr") == {
            "axes": "s,q",
            "dtype": "fp64",
            "site": "Attention.forward qr",
            "eq": "13",
        }
        assert trace.labels("0000", "layers.2.attn.qr") == ["s", "q"]
        assert trace.tap_attributes("0000", "layers.2.attn.q")["rows"].tolist() == [0, 9]
        assert trace.read("0000", "layers.2.attn.indexer.topk_idxs").shape == (3, 0)
        assert trace.read("0001", "logits").dtype == np.float32


def test_same_inputs_give_the_same_bytes_at_another_time(tmp_path):
    write_example(tmp_path / "a.h5")
    time.sleep(1.1)  # HDF5 times have a resolution of a second
    write_example(tmp_path / "b.h5")

    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_datasets_are_filtered_little_endian_and_without_times(tmp_path):
    write_example(tmp_path / "a.h5")

    with h5py.File(tmp_path / "a.h5") as file:
        dataset = file["calls/0000/layers/2/attn/qr"]
        assert dataset.shuffle and dataset.fletcher32 and dataset.compression == "gzip"
        assert dataset.dtype.str == "<f8"
        assert not dataset.id.get_create_plist().get_obj_track_times()
        assert file["calls/0000"].attrs["start_pos"].dtype == np.int64


def test_small_arrays_lie_in_their_object_header(tmp_path):
    write_example(tmp_path / "a.h5")

    with h5py.File(tmp_path / "a.h5") as file:
        plist = file["calls/0000/layers/2/attn/q"].id.get_create_plist()
        assert plist.get_layout() == h5py.h5d.COMPACT and plist.get_nfilters() == 0
        assert file["calls/0000/layers/2/attn/qr"].id.get_create_plist().get_layout() == h5py.h5d.CHUNKED


def test_a_failed_writer_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with TraceWriter(tmp_path / "a.h5", rounding="exact", config={}, input_ids=[1]) as writer:
            writer.begin_call(0)
            raise ZeroDivisionError

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.bool_])
def test_types_outside_the_schema_are_refused(tmp_path, dtype):
    with pytest.raises(DumpError, match="cannot hold this type"):
        with TraceWriter(tmp_path / "a.h5", rounding="exact", config={}, input_ids=[1]) as writer:
            writer.begin_call(0)
            writer.write("embed", np.zeros((1, 2), dtype))


def test_a_file_of_another_schema_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["dsv4_schema"] = "trace/9"

    with pytest.raises(DumpError, match="trace/9"):
        TraceReader(tmp_path / "a.h5")
