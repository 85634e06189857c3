# SPDX-License-Identifier: Apache-2.0
"""`cmake --install` gives a package that an outside project finds, builds against and judges traces with."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("DSV4_SOURCE_DIR", Path(__file__).resolve().parents[2]))
BUILD = Path(os.environ.get("DSV4_PROGRAM", ROOT / "build" / "dsv4")).parent
TRACE, MODEL = ROOT / "golden" / "tiny_prefill5.h5", ROOT / "golden" / "models" / "tiny"


def run(*command, code=0):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    if "DSV4_SANITIZE:STRING=address" in (BUILD / "CMakeCache.txt").read_text():
        pytest.skip("sanitized libraries need a sanitized program")
    installed = tmp_path_factory.mktemp("installed")
    run("cmake", "--install", BUILD, "--prefix", installed)
    return installed


@pytest.fixture(scope="module")
def port(prefix, tmp_path_factory):
    build = tmp_path_factory.mktemp("port")
    run("cmake", "-S", ROOT / "tests" / "install" / "port", "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}",
        "-DCMAKE_BUILD_TYPE=Release")
    run("cmake", "--build", build)
    return build / "port"


def test_the_installed_program_runs(prefix):
    assert "PASSED" in run(prefix / "bin" / "dsv4", "verify", TRACE, "--model", MODEL, "--quiet")


def test_an_outside_backend_that_is_right_passes(port):
    assert "none" in run(port, TRACE, MODEL)


def test_an_outside_backend_that_is_wrong_does_not(port):
    assert "layers.0.ffn.gate.indices" in run(port, TRACE, MODEL, 1, code=1)


def test_no_installed_file_names_the_source_folder(prefix):
    found = [p for p in prefix.rglob("*") if p.suffix in (".cmake", ".hpp") and str(ROOT) in p.read_text()]
    assert found == []
