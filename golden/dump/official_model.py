# SPDX-License-Identifier: Apache-2.0
"""Loads the user's own copy of the official `model.py`, instrumented, with a checkpoint.

No line of the official code is in this repository: it is read, checked by its SHA-256 and rewritten in memory
at run time.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch

from checkpoint import Checkpoint, model_args
from errors import DumpError
from number_types import WidenTypes
from record import RECORDER, Instrument, Recorder, Site

POSITION_STEP = 128  # lengths are rounded up to whole blocks of every compression ratio


@dataclass(frozen=True)
class Revision:
    """A known revision of the official code."""

    name: str
    warning: str = ""


KNOWN_REVISIONS = {
    "ce962f1face79d4f633d36436576214057a7e11443c9789935e1deb5c6cd1d71": Revision(
        "60d8d707"
    ),  # DeepSeek-V4-Flash; the same bytes in DeepSeek-V4-Pro b5968e91
    "95cdabebdb93d388debc1e82f243ddbc639cdc161734bb19c4ac6a6180b4562c": Revision(
        "efc85512", "this is the initial revision: its shared expert has no clamp (swiglu_limit)"
    ),
}


def identify(source: bytes, allow_unknown: bool) -> tuple[str, Revision]:
    """(sha256, revision) of a model.py."""
    digest = hashlib.sha256(source).hexdigest()
    if digest in KNOWN_REVISIONS:
        return digest, KNOWN_REVISIONS[digest]
    if not allow_unknown:
        known = "; ".join(f"{sha[:8]}… ({revision.name})" for sha, revision in KNOWN_REVISIONS.items())
        raise DumpError(
            "model.py is no revision of the official code that this tool knows",
            expected=known,
            found=f"sha256 {digest}",
            hint="--allow-unknown-revision runs it; the taps may then be misnamed",
        )
    return digest, Revision("unknown", "unknown revision of model.py: the taps may be misnamed")


# ---- number types --------------------------------------------------------------------------------

# exact: everything float64, angles too. official: the float32 sections become float64, but RoPE's angles stay
# float32.
TYPE_REWRITES = {
    "exact": WidenTypes(("float32", "bfloat16")),
    "official": WidenTypes(("float32",), ("precompute_freqs_cis",)),
    "official_float32": None,
}
DEFAULT_TYPES = {"exact": torch.float64, "official": torch.bfloat16, "official_float32": torch.bfloat16}


def load_module(
    path: Path, source: bytes, rounding: str, sites: list[Site], recorder: Recorder
) -> types.ModuleType:
    """The official module, rewritten. Its `import kernel` finds whatever is registered under that name."""
    tree = ast.parse(source, filename=str(path))
    tree = Instrument(sites).visit(tree)
    rewrite = TYPE_REWRITES[rounding]
    if rewrite is not None:
        tree = rewrite.visit(tree)
    module = types.ModuleType("official_model_instrumented")
    module.__file__ = str(path)
    setattr(module, RECORDER, recorder)
    sys.modules[module.__name__] = module
    exec(compile(ast.fix_missing_locations(tree), str(path), "exec"), module.__dict__)
    return module


# ---- model ---------------------------------------------------------------------------------------


def build(
    module: types.ModuleType,
    checkpoint: Checkpoint,
    *,
    rounding: str,
    length: int,
    layers: Optional[int],
    mtp: bool,
    device: str,
) -> Any:
    """A fresh Transformer (the official code never clears its compressor states) for `length` positions,
    weights loaded.

    `layers`: build only that many.
    """
    fields = {
        name: value
        for name, value in model_args(checkpoint.config).items()
        if name in module.ModelArgs.__dataclass_fields__
    }
    fields["max_batch_size"] = 1
    fields["max_seq_len"] = -(-length // POSITION_STEP) * POSITION_STEP
    if layers is not None:
        fields["n_layers"] = layers
    if not mtp:
        fields["n_mtp_layers"] = 0
    torch.set_default_dtype(DEFAULT_TYPES[rounding])
    with torch.device(device):
        model = module.Transformer(module.ModelArgs(**fields))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        parameter.data = _tensor(checkpoint, name, parameter).to(device)
    return model


def _tensor(checkpoint: Checkpoint, name: str, parameter: torch.Tensor) -> torch.Tensor:
    """The checkpoint's tensor in the parameter's type: 8-bit types by their bytes, the others by their exact
    value."""
    info = checkpoint.info(name)
    quantised = info.dtype in ("F8_E4M3", "I8")
    if parameter.element_size() == 1:
        raw = torch.from_numpy(np.asarray(checkpoint.raw(name)))
        value = raw.view(parameter.dtype)
    elif quantised:  # wo_a: FP8 on disk, BF16 in the model
        value = torch.from_numpy(checkpoint.float64(name)).to(parameter.dtype)
    elif info.dtype == "BF16":
        value = torch.from_numpy(np.asarray(checkpoint.raw(name))).view(torch.bfloat16).to(parameter.dtype)
    else:
        value = torch.from_numpy(np.asarray(checkpoint.raw(name))).to(parameter.dtype)
    if value.shape != parameter.shape:
        raise DumpError(
            f"{name}: the shape does not follow from config.json",
            where=checkpoint.folder,
            expected=tuple(parameter.shape),
            found=info.shape,
        )
    return value
