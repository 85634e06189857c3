# SPDX-License-Identifier: Apache-2.0
"""convert: FP4 experts as FP8, the same numbers or a refusal."""

import json
import shutil
import struct

import h5py
import ml_dtypes
import numpy as np
import pytest
from conftest import ROOT, RUN, dsv4, ok, refused, verify

TINY = ROOT / "golden/models/tiny"


def tensors(folder):
    """name -> array of the stored bytes, of every shard."""
    out = {}
    for path in sorted(folder.glob("*.safetensors")):
        raw = path.read_bytes()
        (n,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + n])
        header.pop("__metadata__", None)
        for name, t in header.items():
            begin, end = t["data_offsets"]
            shape = t["shape"] if t["dtype"] in ("I8", "F8_E4M3", "F8_E8M0") else (end - begin,)
            out[name] = np.frombuffer(raw[8 + n + begin : 8 + n + end], np.uint8).reshape(shape)
    return out


def powers(codes):
    return 2.0 ** (codes.astype(int) - 127)


def fp4_values(codes, scales):
    low, high = codes & 15, codes >> 4
    pairs = np.stack([low, high], -1).reshape(codes.shape[0], -1).astype(np.uint8)
    return pairs.view(ml_dtypes.float4_e2m1fn).astype(float) * np.repeat(powers(scales), 32, axis=1)


def fp8_values(codes, scales):
    wide = np.repeat(np.repeat(powers(scales), 128, axis=0), 128, axis=1)[: codes.shape[0], : codes.shape[1]]
    return codes.view(ml_dtypes.float8_e4m3fn).astype(float) * wide


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    path = tmp_path_factory.mktemp("converted") / "tiny-fp8"
    ok("convert", TINY, "--experts", "fp8", "-o", path)
    return path


def test_every_expert_is_the_same_number_and_the_rest_the_same_bytes(converted):
    before, after = tensors(TINY), tensors(converted)
    assert before.keys() == after.keys()
    experts = [name for name in before if ".ffn.experts." in name and name.endswith(".weight")]
    assert len(experts) > 100
    for name in experts:
        scale = name.replace(".weight", ".scale")
        np.testing.assert_array_equal(fp4_values(before[name], before[scale]), fp8_values(after[name], after[scale]))
        largest = powers(before[scale])
        assert powers(after[scale])[0, 0] == largest[:128, :4].max() / 64  # as convert.py has it
    for name in before.keys() - set(experts) - {n.replace(".weight", ".scale") for n in experts}:
        assert before[name].tobytes() == after[name].tobytes(), name


@pytest.mark.parametrize("rounding", ["exact", "official"])
def test_the_model_computes_the_same(converted, tmp_path, rounding):
    """A trace of the FP4 model, judged by the FP8 one; sums of other order differ in the last bits."""
    path = tmp_path / "fp4.h5"
    ok("trace", "--model", TINY, *RUN, "--rounding", rounding, "-o", path)
    refused("verify", path, "--model", converted, says=["other weights", "fingerprint"])
    with h5py.File(path, "r+") as f:
        del f.attrs["model_fingerprint"]
    for mode in ("local", "chained"):
        done = verify(path, converted, "--mode", mode)
        assert done.code == 0 and done.counts["PASSED"] > 500 and done.counts["FAILED"] == 0
        if rounding == "official":
            stored = [r for r in done.results if r["tap"].endswith(("ffn.out", "attn.out", "hc_ffn.out"))]
            assert stored and all(r["equal"] == r["elements"] > 0 for r in stored)


def test_experts_that_are_not_fp4_are_refused(converted, tmp_path):
    refused("convert", converted, "--experts", "fp8", "-o", tmp_path / "again", says=["expected FP4 experts", "hint:"])
    assert not (tmp_path / "again").exists()


def damaged(tmp_path, change):
    """A copy of the model in which `change` edits the bytes of one expert's scales [rows, inputs/32]."""
    path = tmp_path / "model"
    shutil.copytree(TINY, path)
    (shard,) = path.glob("*.safetensors")
    raw = bytearray(shard.read_bytes())
    (n,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + n])
    entry = header["layers.2.ffn.experts.1.w1.scale"]
    begin, end = (8 + n + offset for offset in entry["data_offsets"])
    scales = np.frombuffer(bytes(raw[begin:end]), np.uint8).reshape(entry["shape"]).copy()
    change(scales)
    raw[begin:end] = scales.tobytes()
    shard.write_bytes(bytes(raw))
    return path


def test_a_value_that_fp8_cannot_hold_is_refused_and_nothing_is_left(tmp_path):
    def change(scales):
        scales[5, 1] = scales[:128, :4].max() - 16

    model = damaged(tmp_path, change)
    refused("convert", model, "--experts", "fp8", "-o", tmp_path / "out",
            says=["layers.2.ffn.experts.1.w1", "[5, ", "largest scale", "hint:"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_scales_far_apart_are_converted_while_they_fit(tmp_path):
    def change(scales):
        scales[5, 1] = scales[:128, :4].max() - 14

    model = damaged(tmp_path, change)
    ok("convert", model, "--experts", "fp8", "-o", tmp_path / "out")
    before, after = tensors(model), tensors(tmp_path / "out")
    name = "layers.2.ffn.experts.1.w1"
    np.testing.assert_array_equal(fp4_values(before[f"{name}.weight"], before[f"{name}.scale"]),
                                  fp8_values(after[f"{name}.weight"], after[f"{name}.scale"]))


def test_a_scale_below_e8m0_is_refused(tmp_path):
    model = damaged(tmp_path, lambda scales: scales.fill(3))
    refused("convert", model, "--experts", "fp8", "-o", tmp_path / "out", says=["no E8M0 code"])


def test_help_shows_an_example():
    assert "dsv4 convert golden/models/tiny" in dsv4("convert", "--help").stdout
