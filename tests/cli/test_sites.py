# SPDX-License-Identifier: Apache-2.0
"""core/sites.tsv: the table is what the code does, and no site can be left out unnoticed."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from conftest import RUN, dsv4, ok, refused

ROOT = Path(__file__).resolve().parents[2]
WORDS = {"bf16": "bf16", "bf16_inside": "bf16", "fp32": "fp32", "e2m1": "fp4_1x32"}
TABLE = [line.split("\t") for line in (ROOT / "core/sites.tsv").read_text().splitlines()[1:]]


def sites_in_code():
    """site -> format, read from the calls in reference/."""
    found = {}
    for file in sorted((ROOT / "reference").glob("*.cpp")):
        text = re.sub(r"\s+", " ", file.read_text())
        for word, name, rest in re.findall(r'round\.(\w+)\( ?"([\w.]+)",(?=([^;]*))', text):
            if word == "e4m3":
                found[name] = "fp8_1x64" if re.search(r"[\w)], 64, ", rest) else "fp8_1x128"
            else:
                found[name] = WORDS[word]
    # Experts pass their names through a struct.
    experts = (ROOT / "reference/experts.cpp").read_text()
    for names in re.findall(r"constexpr Sites k\w+\{([^}]*)\}", experts):
        for name in re.findall(r'"([\w.]+)"', names):
            found[name] = "fp8_1x128" if name.endswith(".in") else "bf16"
    return found


def test_the_table_lists_every_site_of_the_code_and_its_format():
    assert {name: form for name, form, _ in TABLE} == sites_in_code()


def test_every_site_names_its_place_in_the_official_code():
    assert all(official for _, _, official in TABLE)
    assert len({name for name, _, _ in TABLE}) == len(TABLE)


@pytest.fixture(scope="module")
def values(made, tmp_path_factory):
    """Runs the model in official numerics; all values by name, under a declared arithmetic."""
    home = tmp_path_factory.mktemp("sites")

    def run(sites):
        arithmetic, trace = home / "arithmetic.json", home / "trace.h5"
        arithmetic.write_text(json.dumps({"name": "test", "sites": sites}))
        ok("trace", "--model", made / "model", *RUN, "--rounding", "official", "--arith", arithmetic, "-o", trace, "-q")
        found = {}
        with h5py.File(trace) as file:
            file["calls"].visititems(
                lambda name, node: found.__setitem__(name, node[...]) if isinstance(node, h5py.Dataset) else None)
        return found

    return run


@pytest.fixture(scope="module")
def official(values):
    return values({})


def differs(a, b):
    return any(a[name].shape != b[name].shape or not np.array_equal(a[name], b[name]) for name in a)


def test_without_deviations_nothing_changes(values, official):
    assert not differs(official, values({site: form for site, form, _ in TABLE}))


# Rounding once more or once less here moves no BF16 value of the small model: no test kills these yet.
SURVIVORS = {"q_normed.mean", "q_normed.eps", "q_normed.sum", "rope.frequencies", "rope.angle", "indexer.weights.scale"}


@pytest.mark.parametrize("site", [
    pytest.param(name, marks=[pytest.mark.xfail(reason="no value of the small model turns")] if name in SURVIVORS else [])
    for name, _, _ in TABLE])
def test_a_site_that_is_left_out_changes_values(values, official, site):
    """The goldens are equal to the official code's bit for bit, so they would not be without it."""
    assert differs(official, values({site: "none"}))


@pytest.mark.parametrize("name", ["fp8-indexer", "w4a16-experts", "bf16-kv", "fp32"])
def test_a_declared_arithmetic_is_followed_and_listed(model, tmp_path, name):
    trace = tmp_path / "port.h5"
    ok("trace", "--model", model, *RUN, "--rounding", "official", "--arith", name, "-o", trace, "-q")
    report = json.loads(ok("verify", trace, "--model", model, "--json", "-q").stdout)
    assert report["declared"] and report["counts"]["FAILED"] == 0
    done = dsv4("verify", trace, "--model", model, "--arith", "official", "--json", "-q")
    assert done.returncode == 1 and json.loads(done.stdout)["declared"] == []


@pytest.mark.parametrize("text, says", [
    ("{", ["not JSON"]),
    ("{}", ["sites", "hint:"]),
    ('{"sites": {"attn.kw": "none"}}', ["attn.kw", "no rounding site", "hint:"]),
    ('{"sites": {"attn.kv": "fp7"}}', ["fp7", "fp8_1x64"]),
    ('{"sites": {"attn.kv": 3}}', ["attn.kv", "name of a format"]),
])
def test_a_bad_arithmetic_is_refused(model, tmp_path, text, says):
    file = tmp_path / "bad.json"
    file.write_text(text)
    refused("trace", "--model", model, *RUN, "--rounding", "official", "--arith", file,
            "-o", tmp_path / "t.h5", says=says)
    assert not (tmp_path / "t.h5").exists()


def test_an_unknown_arithmetic_names_the_bundled_ones(model, tmp_path):
    refused("trace", "--model", model, *RUN, "--rounding", "official", "--arith", "mine",
            "-o", tmp_path / "t.h5", says=["mine", "w4a16-experts"])


def test_exact_numerics_have_no_sites(model, tmp_path):
    refused("trace", "--model", model, *RUN, "--arith", "bf16-kv", "-o", tmp_path / "t.h5",
            says=["--rounding official"])
