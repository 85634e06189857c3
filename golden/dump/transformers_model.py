# SPDX-License-Identifier: Apache-2.0
"""transformers' DeepseekV4ForCausalLM in float64 throughout, with weights from a checkpoint in the official
layout.

Its source says float32 in several places (norms, rotations, Sinkhorn); it is rewritten in memory to say
float64.
"""

from __future__ import annotations

import ast
import csv
import importlib
import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from checkpoint import Checkpoint
from errors import DumpError
from number_types import WidenTypes

MODELING = "transformers.models.deepseek_v4.modeling_deepseek_v4"
ROPE = "transformers.modeling_rope_utils"
WEIGHT_NAMES = Path(__file__).with_name("aliases") / "transformers_weights.tsv"


def _load_widened(name: str, register: bool) -> types.ModuleType:
    """Module `name` with float32 rewritten to float64; `register` makes later imports of `name` find it."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise DumpError(
            f"{name} is not installed",
            expected="a transformers that knows DeepSeek-V4",
            hint="pip install -r golden/dump/requirements.txt",
        )
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"), filename=spec.origin)
    tree = ast.fix_missing_locations(WidenTypes(("float32", "float")).visit(tree))
    module = importlib.util.module_from_spec(spec)
    if register:
        sys.modules[name] = module
    exec(compile(tree, spec.origin, "exec"), module.__dict__)
    return module


def official_weight_name(name: str) -> str:
    """model.layers.0.self_attn.q_a_proj.weight -> layers.0.attn.wq_a.weight"""
    with WEIGHT_NAMES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            name = re.sub(row["their_pattern"], row["our_name"] or "", name)
    return name


def _tensor(checkpoint: Checkpoint, name: str, like: torch.Tensor) -> torch.Tensor:
    """One of their parameters from the checkpoint; the experts' are stacked: w1 over w3, and w2."""
    ours = official_weight_name(name)
    stacked = {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}.get(name.rpartition(".")[2])
    if stacked is None:
        if not like.is_floating_point():
            return torch.from_numpy(np.asarray(checkpoint.raw(ours)).astype(np.int64))
        return torch.from_numpy(checkpoint.float64(ours))
    folder = ours.rpartition(".")[0]
    experts = [
        np.concatenate([checkpoint.float64(f"{folder}.{expert}.{part}.weight") for part in stacked])
        for expert in range(like.shape[0])
    ]
    return torch.from_numpy(np.stack(experts))


def build(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """(model, fresh cache factory): float64, eager attention and experts."""
    torch.set_default_dtype(torch.float64)
    configuration = importlib.import_module("transformers.models.deepseek_v4.configuration_deepseek_v4")
    modeling = _load_widened(MODELING, register=True)
    rope = _load_widened(ROPE, register=False)
    vars(modeling)["ROPE_INIT_FUNCTIONS"] = rope.ROPE_INIT_FUNCTIONS
    fields = {
        name: value
        for name, value in checkpoint.config.items()
        if name not in ("quantization_config", "torch_dtype", "dtype", "architectures")
    }
    config = configuration.DeepseekV4Config(**fields)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = modeling.DeepseekV4ForCausalLM(config).eval()
    for name, value in model.state_dict().items():
        tensor = _tensor(checkpoint, name, value)
        if tensor.shape != value.shape:
            raise DumpError(
                f"{name}: the shape does not fit",
                where=checkpoint.folder,
                expected=tuple(value.shape),
                found=tuple(tensor.shape),
            )
        value.copy_(tensor)
    return model, lambda: modeling.DynamicCache(config=config)
