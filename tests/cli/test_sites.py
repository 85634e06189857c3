# SPDX-License-Identifier: Apache-2.0
"""core/sites.tsv: the table is what the code does, and no site can be left out unnoticed."""

import json
import re
import shutil
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest

from conftest import RUN, SMALL, dsv4, ok, refused

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


# These turn a value only under conditions that the small model lacks; below, or in a unit test, they do.
RARE = {"q_normed.mean", "q_normed.eps", "q_normed.sum", "rope.frequencies", "rope.angle", "indexer.weights.scale"}


@pytest.mark.parametrize("site", [name for name, _, _ in TABLE if name not in RARE])
def test_a_site_that_is_left_out_changes_values(values, official, site):
    """The goldens are equal to the official code's bit for bit, so they would not be without it."""
    assert differs(official, values({site: "none"}))


def test_the_rare_sites_are_tested_too():
    assert RARE == {"q_normed.eps", "q_normed.mean", "q_normed.sum", *FAR, "indexer.weights.scale"}
    assert "AddsEpsilonInFloat32" in (ROOT / "tests/reference/rms_norm_test.cpp").read_text()


def traced(model, home, sites, *taps, ids):
    arithmetic, trace = home / "arithmetic.json", home / "trace.h5"
    arithmetic.write_text(json.dumps({"name": "test", "sites": sites}))
    chosen = [word for tap in taps for word in ("--taps", tap)]
    ok("trace", "--model", model, "--random", ids, "--seed", "10", "--prefill", ids, "--rounding", "official",
       "--arith", arithmetic, *chosen, "-o", trace, "-q")
    found = {}
    with h5py.File(trace) as file:
        file["calls"].visititems(
            lambda name, node: found.__setitem__(name, node[...]) if isinstance(node, h5py.Dataset) else None)
    return found


# An angle of a thousand radians in float32 is off by 3e-5.
FAR = ("rope.frequencies", "rope.angle")


@pytest.mark.parametrize("site", FAR)
def test_float32_angles_show_at_far_positions(model, tmp_path, site):
    taps = ("layers.0.attn.q", "layers.0.attn.kv_roped")
    assert differs(traced(model, tmp_path, {}, *taps, ids=1000), traced(model, tmp_path, {site: "none"}, *taps, ids=1000))


@pytest.fixture(scope="module")
def many_heads(made, tmp_path_factory):
    """The factor (405 x 32)^-1/2 is the first whose float32 rounding turns a product with a BF16 number: 197/128."""
    home = tmp_path_factory.mktemp("heads")
    (home / "config.json").write_text(json.dumps({**SMALL, "index_n_heads": 405}))
    ok("make-model", "--preset", "tiny", "--config", home / "config.json", "--seed", 7, "-o", home / "model")
    return home / "model"


def test_the_factor_of_the_head_weights_is_a_float32(many_heads, tmp_path):
    tap = "*.indexer.weights"
    assert differs(traced(many_heads, tmp_path, {}, tap, ids=26),
                   traced(many_heads, tmp_path, {"indexer.weights.scale": "none"}, tap, ids=26))


@pytest.fixture(scope="module")
def faint(made, tmp_path_factory):
    """The small model with wq_b 2^9 times smaller: epsilon is no longer small beside the mean square of q."""
    path = tmp_path_factory.mktemp("faint") / "model"
    shutil.copytree(made / "model", path)
    for shard in path.glob("*.safetensors"):
        raw = bytearray(shard.read_bytes())
        (n,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + n])
        for name, entry in header.items():
            if name.endswith(".attn.wq_b.scale"):
                begin, end = (8 + n + offset for offset in entry["data_offsets"])
                raw[begin:end] = bytes(code - 9 for code in raw[begin:end])
        shard.write_bytes(bytes(raw))
    return path


@pytest.mark.parametrize("site", ["q_normed.mean", "q_normed.sum"])
def test_the_mean_and_its_sum_with_epsilon_are_stored(faint, tmp_path, site):
    tap = "layers.0.attn.q_normed"
    assert differs(traced(faint, tmp_path, {}, tap, ids=26), traced(faint, tmp_path, {site: "none"}, tap, ids=26))


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
