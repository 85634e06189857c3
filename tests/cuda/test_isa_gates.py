# SPDX-License-Identifier: Apache-2.0
"""What nvcc makes of the conformance suite of cuda/isa for sm_90a, without a GPU: the instructions that each operation
must become, in the order that they need, and nothing that ptxas warns of. The suite is the one place where TMA, wgmma
and setmaxnreg are compiled while no kernel uses them."""

import re

import pytest
from test_static_gates import NVCC, PERFORMANCE_LOSS, ROOT, compiled, measured

pytestmark = pytest.mark.skipif(NVCC is None, reason="no nvcc on the PATH: the gates of cuda/isa checked NOTHING")

# Cases by the beginning of their names, and how often their PTX has an instruction. All others have none of these.
EXPECTED = {
    "ldmatrix": {"ldmatrix": 3},
    "memory_prefetched": {"prefetch.global.L2": 1},
    "mma_": {"mma.sync": 3},
    "tma_load": {"cp.async.bulk.tensor": 1},
    "tma_store": {"cp.async.bulk.tensor": 1, "fence.proxy.async.global": 1, "fence.proxy.async.shared::cta": 1},
    "tma_multicast": {"cp.async.bulk.tensor": 1, "multicast::cluster": 1},
    "cluster_memory": {"ld.shared::cluster": 1, "st.shared::cluster": 1},
    "setmaxnreg": {"setmaxnreg.dec": 1, "setmaxnreg.inc": 1},
    "wgmma_": {"wgmma.mma_async": 4, "wgmma.fence": 1, "wgmma.wait_group": 1, "fence.proxy.async.shared::cta": 1},
}
INSTRUCTIONS = sorted({instruction for counts in EXPECTED.values() for instruction in counts})


def cases():
    text = (ROOT / "cuda/isa_check/cases.hpp").read_text(encoding="utf-8")
    return re.findall(r"\w+", re.search(r"AllCases\s*=\s*List<(.*?)>;", text, re.DOTALL).group(1))


def bodies(ptx):
    """The PTX of each case. A name in a symbol stands behind its length."""
    found = {}
    for symbol, body in re.findall(r"\.entry (\w+)\((.*?)^\}", ptx, re.DOTALL | re.MULTILINE):
        [name] = [n for n in cases() if re.search(rf"(?<!\d){len(n)}{n}E", symbol)]
        found[name] = body
    return found


def miscounted(name, body):
    """Instructions that stand there more or less often than expected."""
    counts = next((c for prefix, c in EXPECTED.items() if name.startswith(prefix)), {})
    pairs = [(i, len(re.findall(rf"(?<![\w.]){re.escape(i)}(?!\w)|(?<=\.){re.escape(i)}(?!\w)", body)), counts.get(i, 0))
             for i in INSTRUCTIONS]
    return [f"{name}: {found} x {i}, expected {expected}" for i, found, expected in pairs if found != expected]


def touched_in_flight(body):
    """Lines between wgmma.fence and wgmma.wait_group that use a float register and are no wgmma."""
    span = body[body.index("wgmma.fence"):body.index("wgmma.wait_group")]
    return [line.strip() for line in span.splitlines() if "%f" in line and "wgmma.mma_async" not in line]


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return compiled(ROOT / "cuda/isa_check/on_gpu.cu", "90a", tmp_path_factory.mktemp("isa"))


def test_every_case_has_its_instructions(suite):
    found = bodies(suite[0])
    assert sorted(found) == sorted(cases())
    assert [p for name, body in found.items() for p in miscounted(name, body)] == []


def test_ptxas_loses_nothing(suite):
    assert PERFORMANCE_LOSS.findall(suite[1]) == []
    kernels = measured(*suite)
    assert len(kernels) == len(cases())
    assert {n: k for n, k in kernels.items() if k["spills"] or k["stack"] or k["local"] or k["calls"]} == {}


def test_nothing_touches_accumulators_in_flight(suite):
    wgmma = {name: body for name, body in bodies(suite[0]).items() if name.startswith("wgmma_")}
    assert len(wgmma) >= 8
    assert {name: lines for name, body in wgmma.items() if (lines := touched_in_flight(body))} == {}


def test_the_gates_find_what_they_should(tmp_path):
    """setmaxnreg without launch bounds is ignored, and said so; a register changed in flight; a missing wgmma."""
    source = tmp_path / "bad.cu"
    source.write_text("""
extern "C" __global__ void ignored(float* p) {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
  p[threadIdx.x] = 1.0f;
}
""")
    assert PERFORMANCE_LOSS.search(compiled(source, "90a", tmp_path)[1])
    in_flight = "wgmma.fence.sync.aligned;\n mov.f32 %f1, 0f00000000;\n wgmma.mma_async {%f1};\n wgmma.wait_group 0;"
    assert touched_in_flight(in_flight) == ["mov.f32 %f1, 0f00000000;"]
    assert "wgmma_bf16_n8: 1 x wgmma.mma_async, expected 4" in miscounted("wgmma_bf16_n8", in_flight)
