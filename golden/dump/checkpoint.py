# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in the official layout: reading safetensors, exact dequantisation, fingerprint, config names.
numpy only.

The formats are those of spec §9.1:
  F8_E4M3 weight [out,in] with an F8_E8M0 scale [ceil(out/128), ceil(in/128)], one per 128x128 block
  I8 weight [out,in/2]: two E2M1 codes a byte, low nibble = even input, with an F8_E8M0 scale [out, in/32]
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from errors import DumpError

ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "BF16": 2,
    "F16": 2,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "I32": 4,
    "I8": 1,
    "U8": 1,
}
NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "|i1", "U8": "|u1"}
FP8_BLOCK = 128
FP4_BLOCK = 32

# Hugging Face config.json -> official ModelArgs (spec §1.1); rope_scaling is handled apart.
MODEL_ARGS_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_hash_layers": "n_hash_layers",
    "num_nextn_predict_layers": "n_mtp_layers",
    "num_attention_heads": "n_heads",
    "head_dim": "head_dim",
    "qk_rope_head_dim": "rope_head_dim",
    "q_lora_rank": "q_lora_rank",
    "o_groups": "o_groups",
    "o_lora_rank": "o_lora_rank",
    "sliding_window": "window_size",
    "compress_ratios": "compress_ratios",
    "rope_theta": "rope_theta",
    "compress_rope_theta": "compress_rope_theta",
    "index_n_heads": "index_n_heads",
    "index_head_dim": "index_head_dim",
    "index_topk": "index_topk",
    "moe_intermediate_size": "moe_inter_dim",
    "n_routed_experts": "n_routed_experts",
    "n_shared_experts": "n_shared_experts",
    "num_experts_per_tok": "n_activated_experts",
    "scoring_func": "score_func",
    "routed_scaling_factor": "route_scale",
    "swiglu_limit": "swiglu_limit",
    "hc_mult": "hc_mult",
    "hc_sinkhorn_iters": "hc_sinkhorn_iters",
    "hc_eps": "hc_eps",
    "rms_norm_eps": "norm_eps",
}


# ---- number formats ------------------------------------------------------------------------------


def e4m3_table() -> np.ndarray:
    """Value of each of the 256 E4M3 codes (sign, 4 exponent bits with bias 7, 3 mantissa bits; no infinity),
    float64 [256]."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, (code & 7) / 8.0
    magnitude = np.where(exponent == 0, np.ldexp(mantissa, -6), np.ldexp(1.0 + mantissa, exponent - 7))
    magnitude[(code & 0x7F) == 0x7F] = np.nan
    return np.where(code & 0x80, -magnitude, magnitude)


def e8m0_table() -> np.ndarray:
    """Value of each of the 256 E8M0 codes: 2^(code-127), 255 is NaN; float64 [256]."""
    values = np.ldexp(1.0, np.arange(256) - 127)
    values[255] = np.nan
    return values


def e2m1_table() -> np.ndarray:
    """Value of each of the 16 E2M1 codes (bit 3 is the sign); float64 [16]."""
    magnitudes = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    return np.concatenate([magnitudes, -magnitudes])


def bf16_to_float64(raw: np.ndarray) -> np.ndarray:
    """BF16 bit patterns (uint16) to float64: the upper half of a float32."""
    return (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def dequantise_fp8(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """E4M3 codes uint8 [out,in], E8M0 scales uint8 [ceil(out/128),ceil(in/128)] -> float64 [out,in],
    exact."""
    blocks = e8m0_table()[scales].repeat(FP8_BLOCK, axis=0).repeat(FP8_BLOCK, axis=1)
    return e4m3_table()[codes] * blocks[: codes.shape[0], : codes.shape[1]]


def dequantise_fp4(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Packed E2M1 uint8 [out,in/2], E8M0 scales uint8 [out,in/32] -> float64 [out,in], exact."""
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(packed.shape[0], -1)
    return e2m1_table()[codes] * e8m0_table()[scales].repeat(FP4_BLOCK, axis=1)


# ---- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor's bytes are: `dtype` is the safetensors name, `begin`/`end` are file offsets."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, with bounds checked against the file's size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            raise DumpError("not a safetensors file, or a truncated one", where=path, found=f"{size} bytes")
        header = json.loads(file.read(length))
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + int(offset) for offset in entry["data_offsets"])
        info = TensorInfo(path, entry["dtype"], tuple(entry["shape"]), begin, end)
        _check_extent(name, info, size)
        tensors[name] = info
    return tensors


def _check_extent(name: str, info: TensorInfo, file_size: int) -> None:
    if info.dtype not in ITEM_BYTES:
        raise DumpError(
            f"{name}: unknown dtype", where=info.path, expected=", ".join(ITEM_BYTES), found=info.dtype
        )
    expected = int(np.prod(info.shape, dtype=np.int64)) * ITEM_BYTES[info.dtype]
    if info.end - info.begin != expected or info.end > file_size:
        raise DumpError(
            f"{name}: its bytes do not fit its shape or the file",
            where=info.path,
            expected=f"{expected} bytes inside {file_size}",
            found=f"bytes {info.begin} to {info.end}",
        )


class Checkpoint:
    """A model folder: config.json and safetensors (one file, several, or with an index). Bytes are mapped,
    not loaded."""

    def __init__(self, folder: os.PathLike[str] | str):
        self.folder = Path(folder)
        config = self.folder / "config.json"
        if not config.is_file():
            raise DumpError(
                "no config.json",
                where=self.folder,
                hint="give the folder that holds config.json and *.safetensors",
            )
        self.config: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
        self.tensors: dict[str, TensorInfo] = {}
        for path in self._shards():
            self.tensors.update(read_header(path))

    def _shards(self) -> list[Path]:
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            paths = [self.folder / name for name in names]
        else:
            paths = sorted(self.folder.glob("*.safetensors"))
        missing = [path.name for path in paths if not path.is_file()]
        if missing or not paths:
            raise DumpError(
                "weight files are missing", where=self.folder, found=", ".join(missing) or "no *.safetensors"
            )
        return paths

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise DumpError(
                f"{name}: no such tensor",
                where=self.folder,
                hint="the checkpoint must have the official names (layers.0.attn.wq_a.weight, ...)",
            )
        return self.tensors[name]

    def raw(self, name: str) -> np.ndarray:
        """The tensor's bytes, mapped: integers and floats in their numpy type, BF16 as uint16, 8-bit floats
        as uint8."""
        info = self.info(name)
        kind = NUMPY_TYPES.get(info.dtype, "<u2" if info.dtype == "BF16" else "|u1")
        if 0 in info.shape:
            return np.zeros(info.shape, kind)
        return np.memmap(
            info.path, dtype=kind, mode="c", offset=info.begin, shape=info.shape or (1,)
        ).reshape(info.shape)

    def float64(self, name: str) -> np.ndarray:
        """The tensor's exact value as float64; FP8 and FP4 weights are dequantised with their `.scale`."""
        info, raw = self.info(name), self.raw(name)
        if info.dtype == "BF16":
            return bf16_to_float64(raw)
        if info.dtype == "F8_E8M0":
            return e8m0_table()[raw]
        if info.dtype in ("F8_E4M3", "I8"):
            scale = self.raw(name.removesuffix("weight") + "scale")
            return (
                dequantise_fp8(raw, scale)
                if info.dtype == "F8_E4M3"
                else dequantise_fp4(raw.view(np.uint8), scale)
            )
        return raw.astype(np.float64)

    def fingerprint(self) -> str:
        """SHA-256, hex, over one line a tensor, sorted by name: name, dtype, shape, first and last 64 bytes
        in hex."""
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            info = self.tensors[name]
            with info.path.open("rb") as file:
                count = min(64, info.end - info.begin)
                file.seek(info.begin)
                first = file.read(count).hex()
                file.seek(info.end - count)
                last = file.read(count).hex()
            shape = ",".join(str(extent) for extent in info.shape)
            digest.update(f"{name}\t{info.dtype}\t[{shape}]\t{first}\t{last}\n".encode())
        return digest.hexdigest()


def model_args(config: Mapping[str, Any]) -> dict[str, Any]:
    """The official ModelArgs fields from a Hugging Face config.json (or from one that already has the
    official names)."""
    if "dim" in config:
        return dict(config)
    missing = sorted(
        name for name in MODEL_ARGS_NAMES if name not in config and name not in ("hc_eps", "rms_norm_eps")
    )
    if missing:
        raise DumpError(
            "config.json lacks fields of DeepSeek-V4",
            found="no " + ", ".join(missing),
            hint="expected a config.json of model_type deepseek_v4",
        )
    args = {ours: config[theirs] for theirs, ours in MODEL_ARGS_NAMES.items() if theirs in config}
    args["compress_ratios"] = tuple(args["compress_ratios"])
    scaling = config.get("rope_scaling") or {}
    args["original_seq_len"] = scaling.get("original_max_position_embeddings", 0)
    for ours, theirs in (("rope_factor", "factor"), ("beta_fast", "beta_fast"), ("beta_slow", "beta_slow")):
        if theirs in scaling:
            args[ours] = scaling[theirs]
    args["dtype"] = "fp8" if config.get("quantization_config") else "bf16"
    args["scale_fmt"] = "ue8m0"
    args["scale_dtype"] = "fp8"
    args["expert_dtype"] = "fp4" if config.get("expert_dtype") == "fp4" else None
    return args


def compress_ratio(config: Mapping[str, Any], layer: int) -> int:
    """0, 4 or 128: the compression ratio of layer `layer` (MTP blocks follow the last layer)."""
    return int(model_args(config)["compress_ratios"][layer])
