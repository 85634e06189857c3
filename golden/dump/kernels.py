# SPDX-License-Identifier: Apache-2.0
"""Stand-ins, in plain torch, for the GPU kernels that the official `model.py` imports from `kernel`.

They let the official code run where its own kernels cannot (a CPU), in one of three roundings:

  exact             nothing is rounded: activations are not quantised, weights are dequantised exactly
  official          rounds where the kernels store BF16, FP8 or FP4; float64 between those places
  official_float32  the same; here the float32 sections of model.py itself stay float32

`install(rounding)` registers them as the modules `kernel` and `fast_hadamard_transform`, so that a plain
`import model` finds them. Signatures are those that `model.py` calls. Sections (§) are those of the model's
specification.
"""

from __future__ import annotations

import sys
import types
from collections import OrderedDict
from typing import Callable, Optional

import torch

from round_once import narrow

ROUNDINGS = ("exact", "official", "official_float32")
SOFTMAX_BLOCK = 64  # indices per step of the online softmax
GATHER_BYTES = 256 << 20  # keys gathered at a time by sparse_attn
CACHE_BYTES = 2 << 30  # dequantised weights kept for the next call
WIDE = torch.float64  # arithmetic between two roundings

E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1_TIES_DOWN = (0.25, 1.25, 2.5, 5.0)  # halfway points whose even neighbour is the lower one
E2M1_TIES_UP = (0.75, 1.75, 3.5)  # ... the upper one

_rounding = "exact"

# What the last quantisation in place stored: codes [..., N] and E8M0 scale bytes [..., N/block], uint8.
latest_codes: Optional[tuple[torch.Tensor, torch.Tensor]] = None


def _remember(codes: torch.Tensor, scale: torch.Tensor) -> None:
    global latest_codes
    exponent = torch.frexp(scale.squeeze(-1))[1] - 1
    latest_codes = (codes.flatten(-2), (exponent + 127).to(torch.uint8))


def install(rounding: str) -> None:
    """Choose the rounding and make `import kernel` and `import fast_hadamard_transform` find these
    functions."""
    global _rounding, _weights
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {ROUNDINGS}, not {rounding!r}")
    _rounding = rounding
    _weights = WeightCache()
    kernel = types.ModuleType("kernel")
    for function in (act_quant, fp4_act_quant, fp8_gemm, fp4_gemm, sparse_attn, hc_split_sinkhorn):
        setattr(kernel, function.__name__, function)
    hadamard = types.ModuleType("fast_hadamard_transform")
    hadamard.hadamard_transform = hadamard_transform  # type: ignore[attr-defined]
    sys.modules["kernel"] = kernel
    sys.modules["fast_hadamard_transform"] = hadamard


def _exact() -> bool:
    return _rounding == "exact"


def _store(x: torch.Tensor) -> torch.Tensor:
    """A result as the kernels store it: BF16, or untouched in exact mode."""
    return x if _exact() else narrow(x)


# ---- activation quantisation (§9.2, §9.3) --------------------------------------------------------


def power_of_two_scale(largest: torch.Tensor, inverse_maximum: float) -> torch.Tensor:
    """2^ceil(log2(largest/maximum)), float32. The product is rounded to float32 first, as the kernels do."""
    ratio = largest.float() * torch.tensor(inverse_maximum, dtype=torch.float32, device=largest.device)
    mantissa, exponent = torch.frexp(ratio)  # ratio = mantissa * 2^exponent, mantissa in [0.5, 1)
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
    return torch.ldexp(torch.ones_like(ratio), exponent)


def encode_e2m1(x: torch.Tensor) -> torch.Tensor:
    """Code of the nearest E2M1 value without its sign, ties to even, of values in [-6, 6]; same shape."""
    magnitude = x.abs()
    code = torch.zeros_like(x, dtype=torch.int64)
    for tie in E2M1_TIES_DOWN:
        code += magnitude > tie
    for tie in E2M1_TIES_UP:
        code += magnitude >= tie
    return code


def round_e2m1(x: torch.Tensor) -> torch.Tensor:
    """Nearest E2M1 value, ties to even, of values in [-6, 6]; same shape and type."""
    return torch.tensor(E2M1_VALUES, dtype=x.dtype, device=x.device)[encode_e2m1(x)].copysign(x)


def act_quant(
    x: torch.Tensor,
    block_size: int = 128,
    scale_fmt: Optional[str] = None,
    scale_dtype: torch.dtype = torch.float32,
    inplace: bool = False,
):
    """FP8 quantisation of BF16 x [..., N] in blocks along N (§9.2): (E4M3 [..., N], scales [..., N/block]).

    `inplace`: x becomes its quantised and dequantised value, in BF16. Exact mode leaves x alone, with scales
    of one.
    """
    blocks = x.unflatten(-1, (-1, block_size))
    if _exact():
        return x if inplace else (x, torch.ones_like(blocks[..., 0]))
    values = blocks.float()
    largest = values.abs().amax(-1, keepdim=True).clamp(min=1e-4)
    scale = power_of_two_scale(largest, 1 / 448) if scale_fmt is not None else largest * (1 / 448)
    codes = (values / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn)
    if inplace:
        _remember(codes.view(torch.uint8), scale)
        return x.copy_((codes.float() * scale).flatten(-2))
    return codes.flatten(-2), scale.squeeze(-1).to(scale_dtype)


def fp4_act_quant(x: torch.Tensor, block_size: int = 32, inplace: bool = False) -> torch.Tensor:
    """FP4 quantisation and dequantisation, in place, of BF16 x [..., N] in blocks along N (§9.3)."""
    if not inplace:
        raise NotImplementedError("fp4_act_quant: the official model calls only the in-place form")
    if _exact():
        return x
    values = x.unflatten(-1, (-1, block_size)).float()
    scale = power_of_two_scale(values.abs().amax(-1, keepdim=True).clamp(min=6 * 2.0**-126), 1 / 6)
    held = (values / scale).clamp(-6.0, 6.0)
    _remember((encode_e2m1(held) + 8 * held.signbit()).to(torch.uint8), scale)
    return x.copy_((round_e2m1(held) * scale).flatten(-2))


# ---- products with quantised weights (§9.1, §9.4) ------------------------------------------------


class WeightCache:
    """Dequantised weights, the most recently used of them up to CACHE_BYTES: never a whole large model."""

    def __init__(self) -> None:
        self.kept: OrderedDict[int, torch.Tensor] = OrderedDict()
        self.bytes = 0

    def get(
        self, dequantise: Callable[..., torch.Tensor], codes: torch.Tensor, scales: torch.Tensor
    ) -> torch.Tensor:
        """dequantise(codes, scales) [out,in], computed or kept; codes are known by their address."""
        key = codes.data_ptr()
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        weight = self.kept[key] = dequantise(codes, scales)
        self.bytes += weight.nbytes
        while self.bytes > CACHE_BYTES and len(self.kept) > 1:
            self.bytes -= self.kept.popitem(last=False)[1].nbytes
        return weight


_weights = WeightCache()


def dequantise_fp8(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """E4M3 [out,in] times its E8M0 scale per 128x128 block -> float64 [out,in], exact."""
    blocks = scales.to(WIDE).repeat_interleave(128, 0).repeat_interleave(128, 1)
    return codes.to(WIDE) * blocks[: codes.size(0), : codes.size(1)]


def dequantise_fp4(packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Two E2M1 codes a byte [out,in/2], low nibble first, times an E8M0 scale per 32 inputs -> float64
    [out,in], exact."""
    codes = packed.view(torch.uint8)
    table = torch.tensor(
        E2M1_VALUES + tuple(-value for value in E2M1_VALUES), dtype=WIDE, device=packed.device
    )
    values = table[torch.stack([codes & 15, codes >> 4], -1).flatten(-2).long()]
    return values * scales.to(WIDE).repeat_interleave(32, 1)


def _activation(a: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Dequantised FP8 activations [..., K] with one scale per 128 along K."""
    if _exact():
        return a
    return a.to(WIDE) * scales.to(WIDE).repeat_interleave(128, -1)


def fp8_gemm(
    a: torch.Tensor,
    a_s: torch.Tensor,
    b: torch.Tensor,
    b_s: torch.Tensor,
    scale_dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """a [..., K] (FP8, scales a_s) times the transposed FP8 weight b [N, K] (scales b_s) -> BF16 [..., N]
    (§9.4)."""
    return _store(_activation(a, a_s) @ _weights.get(dequantise_fp8, b, b_s).T)


def fp4_gemm(
    a: torch.Tensor,
    a_s: torch.Tensor,
    b: torch.Tensor,
    b_s: torch.Tensor,
    scale_dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """a [..., K] (FP8, scales a_s) times the transposed FP4 weight b [N, K/2] (scales b_s) -> BF16 [..., N]
    (§9.4)."""
    return _store(_activation(a, a_s) @ _weights.get(dequantise_fp4, b, b_s).T)


# ---- attention (§3.4, eq. 27) --------------------------------------------------------------------


def sparse_attn(
    q: torch.Tensor, kv: torch.Tensor, attn_sink: torch.Tensor, topk_idxs: torch.Tensor, softmax_scale: float
) -> torch.Tensor:
    """Attention of q [b,s,h,c] over the rows of kv [b,n,c] named by topk_idxs [b,s,k] (-1: none) ->
    [b,s,h,c].

    The sink [h] adds to the denominator only. Keys are values. Queries are taken in pieces that bound the
    memory.
    """
    step = max(1, GATHER_BYTES // (topk_idxs.size(-1) * kv.size(-1) * 8))
    attend = _attend_exact if _exact() else _attend_in_blocks
    pieces = [
        attend(q[b, i : i + step], kv[b], attn_sink, topk_idxs[b, i : i + step].long(), softmax_scale)
        for b in range(q.size(0))
        for i in range(0, q.size(1), step)
    ]
    return torch.cat(pieces).view_as(q)


def _scores(
    q: torch.Tensor, kv: torch.Tensor, index: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gathered keys [s,k,c] (zero where the index is -1) and scaled scores [s,h,k] (-inf there)."""
    present = index >= 0
    keys = torch.where(present.unsqueeze(-1), kv[index.clamp(min=0)], 0).to(WIDE)
    scores = q.to(WIDE) @ keys.transpose(1, 2) * scale
    return keys, scores.masked_fill(~present.unsqueeze(1), float("-inf"))


def _attend_exact(
    q: torch.Tensor, kv: torch.Tensor, sink: torch.Tensor, index: torch.Tensor, scale: float
) -> torch.Tensor:
    keys, scores = _scores(q, kv, index, scale)
    largest = scores.amax(-1, keepdim=True)
    weights = (scores - largest).exp()
    denominator = weights.sum(-1, keepdim=True) + (sink.unsqueeze(-1) - largest).exp()
    return weights @ keys / denominator


def _attend_in_blocks(
    q: torch.Tensor, kv: torch.Tensor, sink: torch.Tensor, index: torch.Tensor, scale: float
) -> torch.Tensor:
    """Online softmax in blocks of 64 indices: probabilities, relative to the running maximum, are rounded to
    BF16
    before they meet the values, but enter the denominator unrounded."""
    shape = (*q.shape[:-1], 1)
    largest = q.new_full(shape, float("-inf"), dtype=WIDE)
    denominator, total = q.new_zeros(shape, dtype=WIDE), torch.zeros_like(q, dtype=WIDE)
    for begin in range(0, index.size(-1), SOFTMAX_BLOCK):
        keys, scores = _scores(q, kv, index[:, begin : begin + SOFTMAX_BLOCK], scale)
        previous, largest = largest, torch.maximum(largest, scores.amax(-1, keepdim=True))
        shrink = (previous - largest).exp()
        weights = (scores - largest).exp()
        denominator = denominator * shrink + weights.sum(-1, keepdim=True)
        total = total * shrink + narrow(weights).to(WIDE) @ keys
    denominator = denominator + (sink.to(WIDE).unsqueeze(-1) - largest).exp()
    return narrow(total / denominator)


# ---- hyper-connections (§2.2, eq. 3-8) -----------------------------------------------------------


def hc_split_sinkhorn(
    mixes: torch.Tensor,
    hc_scale: torch.Tensor,
    hc_base: torch.Tensor,
    hc_mult: int = 4,
    sinkhorn_iters: int = 20,
    eps: float = 1e-6,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """mixes [b,s,(2+n)n] -> pre [b,s,n], post [b,s,n], comb [b,s,n,n] by Sinkhorn, row softmax first, columns
    last."""
    n = hc_mult
    pre = torch.sigmoid(mixes[..., :n] * hc_scale[0] + hc_base[:n]) + eps
    post = 2 * torch.sigmoid(mixes[..., n : 2 * n] * hc_scale[1] + hc_base[n : 2 * n])
    comb = (mixes[..., 2 * n :] * hc_scale[2] + hc_base[2 * n :]).unflatten(-1, (n, n))
    comb = (comb - comb.amax(-1, keepdim=True)).exp()
    comb = comb / comb.sum(-1, keepdim=True) + eps
    comb = comb / (comb.sum(-2, keepdim=True) + eps)
    for _ in range(sinkhorn_iters - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + eps)
        comb = comb / (comb.sum(-2, keepdim=True) + eps)
    return pre, post, comb


# ---- Hadamard (§4) -------------------------------------------------------------------------------


def hadamard_transform(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Natural-order (Sylvester) Walsh-Hadamard transform of the last axis, a power of two, times `scale`."""
    size = x.size(-1)
    matrix = torch.ones(1, 1, dtype=WIDE, device=x.device)
    while matrix.size(0) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return _store(x.to(WIDE) @ matrix * scale)
