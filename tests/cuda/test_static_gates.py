# SPDX-License-Identifier: Apache-2.0
"""What nvcc says of the kernels, without a GPU: registers, spills, shared memory, tensor-core instructions, no local
memory, no calls. Limits: cuda/kernels/limits.tsv. Without nvcc every test is skipped, and .ci/run says so; with nvcc
.ci/run fails unless the file static_gates.json was written by this run."""

import csv
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(os.environ.get("DSV4_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
BUILD = pathlib.Path(os.environ.get("DSV4_PROGRAM", ROOT / "build/dsv4")).parent
NVCC = shutil.which("nvcc")
MOST_SHARED = 227 * 1024
FLAGS = ["-std=c++20", "-O3", "-fmad=false", "-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra", f"-I{ROOT}"]

pytestmark = pytest.mark.skipif(NVCC is None, reason="no nvcc on the PATH: the static gates checked NOTHING")


def architectures():
    """sm_80 and sm_90a always; sm_100a where the toolkit knows it."""
    known = subprocess.run([NVCC, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    return ["80", "90a"] + (["100a"] if "compute_100" in known else [])


def compiled(source, arch, work):
    """The PTX of a source file and what ptxas reports on it."""
    ptx, cubin = work / f"k{arch}.ptx", work / f"k{arch}.cubin"
    target = f"arch=compute_{arch},code=compute_{arch}"
    done = subprocess.run([NVCC, *FLAGS, "--generate-code", target, "-ptx", source, "-o", ptx],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([shutil.which("ptxas") or pathlib.Path(NVCC).with_name("ptxas"), "-v", "-warn-spills",
                           f"-arch=sm_{arch}", ptx, "-o", cubin], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ptx.read_text(encoding="utf-8"), done.stderr + done.stdout


def measured(ptx, report):
    """Per kernel what the compiler made of it."""
    kernels = {}
    for name, body in re.findall(r"\.entry (\w+)\((.*?)^\}", ptx, re.DOTALL | re.MULTILINE):
        kernels[name] = {"mma": len(re.findall(r"\bmma\.sync", body)),
                         "wgmma": len(re.findall(r"\bwgmma\.mma_async", body)),
                         "local": len(re.findall(r"\.local\b", body)),
                         "calls": len(re.findall(r"^\s*call\b", body, re.MULTILINE))}
    for name, text in re.findall(r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry function|\Z)", report,
                                 re.DOTALL):
        spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text)
        shared = re.search(r"(\d+) bytes smem", text)
        kernels[name].update(registers=int(re.search(r"Used (\d+) registers", text).group(1)),
                             stack=int(spills.group(1)), spills=int(spills.group(2)) + int(spills.group(3)),
                             static_shared=int(shared.group(1)) if shared else 0)
    return kernels


def faults(name, found, limit):
    """What breaks a limit, in words."""
    out = [f"{name}: {key} {found[key]}" for key in ("spills", "stack", "local", "calls") if found[key] != 0]
    out += [f"{name}: {key} {found[key]}, expected {limit[key]}" for key in ("mma", "wgmma") if found[key] != limit[key]]
    out += [f"{name}: {key} {found[key]}, limit {limit[key]}" for key in ("registers", "static_shared")
            if found[key] > limit[key]]
    if found["static_shared"] + limit["dynamic_shared"] > MOST_SHARED:
        out.append(f"{name}: shared memory {found['static_shared'] + limit['dynamic_shared']}, limit {MOST_SHARED}")
    return out


# ptxas says so where it ignores setmaxnreg, or waits after each wgmma because registers are touched in between.
PERFORMANCE_LOSS = re.compile(r"C75\d\d.*")


def limits():
    with open(ROOT / "cuda/kernels/limits.tsv", encoding="utf-8") as file:
        return {row["kernel"]: {k: int(v) for k, v in row.items() if k not in ("kernel", "why")}
                for row in csv.DictReader(file, delimiter="\t")}


@pytest.fixture(scope="module")
def all_compiled(tmp_path_factory):
    work = tmp_path_factory.mktemp("ptx")
    return {arch: compiled(ROOT / "cuda/kernels/kernels.cu", arch, work) for arch in architectures()}


@pytest.fixture(scope="module")
def all_measured(all_compiled):
    return {arch: measured(*made) for arch, made in all_compiled.items()}


def test_every_kernel_has_limits_and_keeps_them(all_measured):
    table = limits()
    problems = []
    for arch, kernels in all_measured.items():
        known = {name for name, limit in table.items() if limit["from"] <= int(arch.rstrip("a"))}
        assert {name.removeprefix("dsv4_") for name in kernels} == known, f"sm_{arch}: kernels and limits.tsv differ"
        for name, found in kernels.items():
            problems += [f"sm_{arch} {p}" for p in faults(name, found, table[name.removeprefix("dsv4_")])]
    (BUILD / "static_gates.json").write_text(json.dumps(
        {"passed": not problems, "architectures": {f"sm_{a}": k for a, k in all_measured.items()}}, indent=1) + "\n")
    assert not problems, "\n".join(problems)


def test_ptxas_loses_nothing(all_compiled):
    assert {arch: lost for arch, (_, report) in all_compiled.items() if (lost := PERFORMANCE_LOSS.findall(report))} == {}


def test_the_gates_find_what_they_should(tmp_path):
    """Local memory, a call, a spill, and a missing and a superfluous mma."""
    source = tmp_path / "bad.cu"
    source.write_text("""
__noinline__ __device__ float f(float x) { return x * x + 1; }
extern "C" __global__ void calls(float* p) { p[0] = f(p[1]); }
extern "C" __global__ void local(float* p, int n) {
  float v[16];
  for (int i = 0; i < 16; ++i) v[i] = p[i] + 1;
  p[0] = v[n & 15];
}
extern "C" __global__ void __launch_bounds__(1024, 2) spills(float* p) {
  float v[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) v[i] = p[i * 7];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; ++i) p[i * 5] = v[i] * v[63 - i];
}
""")
    found = measured(*compiled(source, "80", tmp_path))
    limit = {"registers": 255, "static_shared": 0, "dynamic_shared": 0, "mma": 0, "wgmma": 0}
    assert any("calls" in f for f in faults("k", found["calls"], limit))
    assert any("local" in f for f in faults("k", found["local"], limit))
    assert any("spills" in f for f in faults("k", found["spills"], limit))
    assert faults("k", {**found["calls"], "calls": 0}, {**limit, "mma": 4}) == ["k: mma 0, expected 4"]
    assert faults("k", {**found["calls"], "calls": 0}, {**limit, "registers": 1})
    assert faults("k", {**found["calls"], "calls": 0}, {**limit, "dynamic_shared": MOST_SHARED + 1})
    assert not faults("k", {**found["calls"], "calls": 0}, limit)
