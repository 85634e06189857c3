# SPDX-License-Identifier: Apache-2.0
"""scripts/gpu_check, and what it builds, without a GPU: clear words, an exit code that is no pass, and code that nvcc
compiles."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(os.environ.get("DSV4_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
PROGRAM = pathlib.Path(os.environ.get("DSV4_PROGRAM", ROOT / "build/dsv4"))
CHECK = ROOT / "scripts/gpu_check"
NVCC = shutil.which("nvcc")
FLAGS = ["-std=c++20", "-O1", "-fmad=false", "--extended-lambda", "--expt-relaxed-constexpr", "-DEIGEN_NO_CUDA",
         "-gencode", "arch=compute_90a,code=sm_90a", f"-I{ROOT}", "-isystem", "/usr/include/eigen3"]
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc on the PATH: whether the GPU programs compile is NOT checked")


def gpu_check(*arguments, **environment):
    return subprocess.run([sys.executable, CHECK, *map(str, arguments)], capture_output=True, text=True, check=False,
                          env={**os.environ, **environment})


def test_without_nvcc_nothing_is_built(tmp_path):
    done = gpu_check("build", "--dir", tmp_path, PATH="/nowhere")
    assert done.returncode == 3 and "no nvcc" in done.stderr


def test_what_was_not_built_is_not_run(tmp_path):
    done = gpu_check("run", "--dir", tmp_path)
    assert done.returncode == 2 and "scripts/gpu_check build" in done.stderr


def test_without_a_gpu_nothing_is_confirmed(tmp_path):
    """The programs of this build, which have no code for a GPU, say so; no report is written."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for name in ("dsv4", "dsv4-isa-check", "dsv4-kernel-check"):
        (bundle / name).symlink_to(PROGRAM.parent / name)
    (bundle / "dsv4-kernel-bench").touch()
    done = gpu_check("run", "--dir", tmp_path)
    assert done.returncode == 3, done.stderr
    assert "there is no GPU: nothing is confirmed" in done.stderr and "without nvcc" in done.stderr
    assert not (tmp_path / "gpu_check.json").exists()


def isa_check(*arguments):
    return subprocess.run([PROGRAM.parent / "dsv4-isa-check", *map(str, arguments)], capture_output=True, text=True,
                          check=False)


def test_the_isa_check_locates_a_difference(tmp_path):
    recorded = (ROOT / "cuda/isa_check/recorded.tsv").read_text(encoding="utf-8").splitlines()
    row = next(i for i, line in enumerate(recorded) if line.startswith("hopper/mma_bf16\t64\t"))
    name, first, words = recorded[row].split("\t")
    recorded[row] = "\t".join([name, first, words[:24] + "0badf00d" + words[32:]])
    file = tmp_path / "changed.tsv"
    file.write_text("\n".join(recorded) + "\n", encoding="utf-8")

    done = isa_check("--recorded", file)

    assert done.returncode == 1 and " 1 differ" in done.stdout
    assert (f"hopper/mma_bf16: 1 of 1536 words differ, the first at 67: expected 0badf00d (recorded), "
            f"found {words[24:32]} (emulated)") in done.stdout


def test_the_isa_check_refuses_what_it_cannot_compare(tmp_path):
    recorded = (ROOT / "cuda/isa_check/recorded.tsv").read_text(encoding="utf-8").splitlines()
    file = tmp_path / "short.tsv"
    file.write_text("\n".join(recorded[:1] + recorded[2:]) + "\n", encoding="utf-8")  # the first row of a case is gone
    assert isa_check("--recorded", file).returncode in (1, 2)
    assert "a row is missing" in isa_check("--recorded", file).stderr
    assert isa_check("--recorded", tmp_path / "absent.tsv").returncode == 2
    assert isa_check().returncode == 2  # nothing was asked for


def test_the_kernel_check_without_a_gpu_is_no_pass():
    done = subprocess.run([PROGRAM.parent / "dsv4-kernel-check", "--gpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "without nvcc" in done.stderr
    done = subprocess.run([PROGRAM.parent / "dsv4-kernel-check", "--only", "no such kernel"], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1


def test_the_kernel_check_refuses_what_it_does_not_know():
    done = subprocess.run([PROGRAM.parent / "dsv4-kernel-check", "--gpus"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage" in done.stderr


@needs_nvcc
@pytest.mark.parametrize("source", ["isa_check/on_gpu.cu", "stages/on_gpu.cu"])
def test_nvcc_compiles_the_gpu_side(source, tmp_path):
    done = subprocess.run([NVCC, *FLAGS, "-c", ROOT / "cuda" / source, "-o", tmp_path / "x.o"], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_nvcc
def test_the_benchmark_knows_its_bytes_and_wants_a_gpu(tmp_path):
    program = tmp_path / "bench"
    sources = [ROOT / "cuda/kernel_bench" / name for name in ("main.cu", "work.cu")]
    done = subprocess.run([NVCC, *FLAGS, *sources, "-o", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plan = json.loads(subprocess.run([program, "--plan"], capture_output=True, text=True, check=True).stdout)
    mhc = next(k for k in plan["kernels"] if k["kernel"] == "mhc")
    assert mhc["bytes"] == 20 * 8192 * 4096 + 4 * 24 * 4 * 4096
    page = (ROOT / "docs/cuda.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|") for line in page if line.startswith("| `")]
    table = [[cell.strip(" `") for cell in row[1:6]] for row in rows if len(row) == 9]
    assert table == [[k["kernel"], k["size"].replace(" x ", " × "), f"{k['bytes'] / 1e6:.3f}", f"{k['bytes'] / 3.35e6:.2f}",
                      f"{k['bytes'] / 4.8e6:.2f}"] for k in plan["kernels"]], "the floors in docs/cuda.md"
    without = subprocess.run([program], capture_output=True, text=True, check=False, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert without.returncode == 3 and "no GPU" in without.stderr
