# SPDX-License-Identifier: Apache-2.0
"""BF16 reductions and products that round once.

PyTorch's CPU reductions over BF16 round partial results, and its CPU rsqrt on BF16 rounds twice in the tail
of a vector (so a result could depend on the batch size); CUDA does neither. Under `RoundOnce` those
operations compute in float64 and round at the end.

A float64 result becomes BF16 by way of float32. That is PyTorch's own conversion, and what the official code
has at every store is a float32 value. Next to a BF16 halfway point it is not always the BF16 nearest to the
float64 value. That is rare (one element in the first layer of a small model), but it is enough for two runs
to part, so whoever wants the same bits must go through float32 too.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

WIDENED = frozenset(
    {
        torch.Tensor.mean,
        torch.mean,
        torch.Tensor.sum,
        torch.sum,
        torch.Tensor.rsqrt,
        torch.rsqrt,
        torch.einsum,
        F.linear,
    }
)


def narrow(x: torch.Tensor) -> torch.Tensor:
    """x as BF16: float64 to float32 to BF16, each to nearest even."""
    return x.to(torch.float32).to(torch.bfloat16)


class RoundOnce(TorchFunctionMode):
    """While active, the operations of WIDENED on BF16 tensors compute in float64 and round their result to
    BF16."""

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in WIDENED and _all_bf16(args):
            return narrow(func(*(_widen(arg) for arg in args), **kwargs))
        return func(*args, **kwargs)


def _widen(arg: Any) -> Any:
    return arg.to(torch.float64) if isinstance(arg, torch.Tensor) else arg


def _all_bf16(args: tuple) -> bool:
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    return bool(tensors) and all(tensor.dtype == torch.bfloat16 for tensor in tensors)
