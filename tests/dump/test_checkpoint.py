# SPDX-License-Identifier: Apache-2.0
"""Number formats and safetensors reading, on bytes written by hand."""

import hashlib
import json
import struct

import numpy as np
import pytest

import checkpoint
from checkpoint import Checkpoint, dequantise_fp4, dequantise_fp8, model_args
from errors import DumpError


def write_safetensors(path, tensors):
    """tensors: {name: (dtype, shape, bytes)}"""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def make_checkpoint(folder, tensors):
    (folder / "config.json").write_text("{}")
    write_safetensors(folder / "model.safetensors", tensors)
    return Checkpoint(folder)


def test_e4m3_values_at_the_corners():
    table = checkpoint.e4m3_table()

    assert table[0x00] == 0 and table[0x01] == 2.0**-9 and table[0x07] == 7 * 2.0**-9
    assert table[0x08] == 2.0**-6 and table[0x38] == 1 and table[0x7E] == 448 and table[0xB8] == -1
    assert np.isnan(table[[0x7F, 0xFF]]).all() and np.isfinite(table).sum() == 254


def test_8_bit_tables_agree_with_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    codes = np.arange(256, dtype=np.uint8)

    e4m3 = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    e8m0 = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)

    np.testing.assert_array_equal(checkpoint.e4m3_table(), e4m3)
    np.testing.assert_array_equal(checkpoint.e8m0_table(), e8m0)


def test_fp8_scale_belongs_to_its_128_by_128_block():
    codes = np.full((130, 129), 0x38, np.uint8)  # 1.0 everywhere
    scales = np.array([[127, 128], [126, 130]], np.uint8)  # 1, 2 / 0.5, 8

    weight = dequantise_fp8(codes, scales)

    assert weight.shape == (130, 129)
    assert (weight[127, 127], weight[127, 128], weight[128, 127], weight[128, 128]) == (1, 2, 0.5, 8)


def test_fp4_low_nibble_is_the_even_input():
    packed = np.zeros((1, 32), np.uint8)
    packed[0, 0], packed[0, 16] = 0xF2, 0x71  # codes 2, 15 and, in the second scale block, 1, 7
    scales = np.array([[127, 129]], np.uint8)  # 1, 4

    weight = dequantise_fp4(packed, scales)

    assert weight[0, :2].tolist() == [1.0, -6.0] and weight[0, 32:34].tolist() == [2.0, 24.0]


def test_tensors_are_read_by_their_dtype(tmp_path):
    ckpt = make_checkpoint(
        tmp_path,
        {
            "norm.weight": ("BF16", [2], bytes([0x80, 0x3F, 0x20, 0xC0])),
            "w.weight": ("I8", [1, 16], bytes([0x42]) + bytes(15)),
            "w.scale": ("F8_E8M0", [1, 1], bytes([128])),
            "tid2eid": ("I64", [1, 2], struct.pack("<qq", 5, 7)),
            "scalar": ("F32", [], struct.pack("<f", 0.25)),
        },
    )

    assert ckpt.float64("norm.weight").tolist() == [1.0, -2.5]
    assert ckpt.float64("w.weight")[0, :2].tolist() == [2.0, 4.0]
    assert ckpt.raw("tid2eid").tolist() == [[5, 7]]
    assert ckpt.float64("scalar") == 0.25 and ckpt.float64("scalar").shape == ()


def test_fingerprint_is_over_name_dtype_shape_and_both_ends(tmp_path):
    long = bytes(range(100))
    ckpt = make_checkpoint(tmp_path, {"b": ("I8", [2], b"\x01\x02"), "a": ("U8", [10, 10], long)})

    text = f"a\tU8\t[10,10]\t{long[:64].hex()}\t{long[-64:].hex()}\nb\tI8\t[2]\t0102\t0102\n"

    assert ckpt.fingerprint() == hashlib.sha256(text.encode()).hexdigest()


def test_a_truncated_file_is_refused(tmp_path):
    make_checkpoint(tmp_path, {"a": ("F32", [4], bytes(16))})
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(DumpError, match="do not fit"):
        Checkpoint(tmp_path)


def test_a_missing_tensor_is_named(tmp_path):
    ckpt = make_checkpoint(tmp_path, {"a": ("F32", [1], bytes(4))})

    with pytest.raises(DumpError, match="layers.0.attn.wq_a.weight"):
        ckpt.raw("layers.0.attn.wq_a.weight")


def test_model_args_come_from_the_hugging_face_names():
    config = {name: 1 for name in checkpoint.MODEL_ARGS_NAMES}
    config |= {"hidden_size": 256, "compress_ratios": [0, 4], "quantization_config": {"fmt": "e4m3"}}
    config |= {"expert_dtype": "fp4", "rope_scaling": {"factor": 16, "original_max_position_embeddings": 64}}

    args = model_args(config)

    assert (args["dim"], args["compress_ratios"], args["rope_factor"]) == (256, (0, 4), 16)
    assert (args["original_seq_len"], args["dtype"], args["expert_dtype"]) == (64, "fp8", "fp4")


def test_model_args_name_what_is_missing():
    with pytest.raises(DumpError, match="index_topk"):
        model_args({"hidden_size": 256})
