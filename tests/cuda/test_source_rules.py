# SPDX-License-Identifier: Apache-2.0
"""Kernel bodies use cuda/isa and nothing of CUDA's own; only then does the emulator see all they do."""

import os
import pathlib
import re

ROOT = pathlib.Path(os.environ.get("DSV4_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
FORBIDDEN = re.compile(
    r"\basm\b|threadIdx|blockIdx|(?<!\.)blockDim|(?<!\.)gridDim|__shfl|__ballot|__syncthreads|__syncwarp|__shared__"
    r"|__ldg|\batomic(Add|Max|CAS)\b|\b(exp2f|expf|__expf|logf|log2f|rsqrtf|sinf|cosf|fmaf)\b|std::(exp|log|sin|cos|sqrt|fma)\b")
# Bodies must not touch memory by plain pointers either: what the emulator checks is ld_* and st_*.
PLAIN_ACCESS = re.compile(r"^\s*\*\s*\w+\s*=[^=]|\b(in|out)\[[^\]]+\]\s*[-+*]?=[^=]", re.MULTILINE)


def code_of(path):
    text = path.read_text(encoding="utf-8")
    return re.sub(r"//[^\n]*|\"(\\.|[^\"\\])*\"", "", text)


def bodies():
    return [p for room in ("kernels", "isa_check") for p in sorted((ROOT / "cuda" / room).rglob("*.hpp"))]


def test_there_are_bodies_to_check():
    assert len(bodies()) >= 4


def test_no_cuda_of_its_own_outside_isa():
    found = [f"{p.name}: {m.group(0)}" for p in (ROOT / "cuda").rglob("*")
             if p.suffix in {".hpp", ".cpp", ".cu", ".cuh"} and p.parent.name not in {"isa", "emulator"}
             for m in [FORBIDDEN.search(code_of(p))] if m and not allowed(p, m.group(0))]
    assert not found


def allowed(path, word):
    """Host code around the kernels may use libm."""
    host = path.suffix in {".cpp", ".cu"} or path.parent.name == "stages"
    return host and word.startswith("std::")


def test_bodies_touch_memory_through_isa_alone():
    found = [f"{p.name}: {m.group(0)}" for p in bodies() for m in [PLAIN_ACCESS.search(code_of(p))] if m]
    assert not found


def test_the_rule_finds_what_it_should():
    for text in ("asm volatile(x)", "int t = threadIdx.x;", "__shfl_xor_sync(m, v, 1)", "__shared__ float s;",
                 "float y = expf(x);", "atomicAdd(p, 1)"):
        assert FORBIDDEN.search(text), text
    for text in ("out[i] = 3;", "*out = v;"):
        assert PLAIN_ACCESS.search(text), text


# ---- the conformance suite uses every operation that a body may use --------------------------------------------------

OPERATION = re.compile(r"^DSV4_DEVICE\s+(?:constexpr\s+)?[\w:]+(?:<[^>]*>)?[\s*&]+(\w+)\(", re.MULTILINE)
# Parts of operations, which bodies do not call.
PARTS = {"shared_address", "cluster_address", "recast", "pin_registers", "small_code"}
HEADERS = ["scalar.hpp", "math.hpp", "convert.hpp", "device_core.hpp", "device_mma.hpp", "device_wgmma.hpp",
           "device_hopper.hpp"]


def operations():
    return sorted({name for header in HEADERS for name in OPERATION.findall(code_of(ROOT / "cuda/isa" / header))} - PARTS)


def not_in(text, names):
    """Names that are neither called nor the last argument of a macro."""
    return [name for name in names if not re.search(rf"\bisa::{name}\b|, {name}\)", text)]


def test_every_operation_is_in_the_conformance_suite():
    suite = "".join(code_of(p) for p in sorted((ROOT / "cuda/isa_check").glob("case*.hpp")))
    assert {"fma", "sin_cos", "to_e8m0", "ld_shared", "shuffle_xor", "copy_wait", "mma_tf32", "wgmma_e4m3", "tma_store",
            "fence_async_proxy_global", "cluster_rank", "set_max_registers_inc"} <= set(operations())
    assert not not_in(suite, operations())


def test_a_missing_operation_is_found():
    assert not_in("isa::sync(); isa::sync_warp_();", ["sync", "sync_warp"]) == ["sync_warp"]


def test_both_compilers_have_the_same_operations():
    emulated = "".join(code_of(p) for p in (ROOT / "cuda/isa").glob("emulated_*.hpp"))
    device = {name for header in HEADERS if header.startswith("device_")
              for name in OPERATION.findall(code_of(ROOT / "cuda/isa" / header))} - PARTS
    assert [name for name in sorted(device) if not re.search(rf"\b{name}\(", emulated)] == []
