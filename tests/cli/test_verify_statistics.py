# SPDX-License-Identifier: Apache-2.0
"""verify: errors that the hard bound allows and that rounding does not make; what a port declares of its products."""

import json

import numpy as np
import pytest
from conftest import dsv4, ok, refused, tap, verify

NAME = "layers.1.attn.wq_a.out"


def bound(made, model):
    """A hard bound of about every element of the stage."""
    return verify(made / "trace.h5", model, "--taps", NAME, "--call", "0").one(NAME)["bound"]


def shifted(edited, change):
    def edit(file):
        data = tap(file, 0, NAME)
        values = data[()]
        data[...] = values + np.where(values < 0, -1, 1) * change(values.shape)

    return edited(edit)


def judged(path, model, *arguments):
    return verify(path, model, "--taps", NAME, "--call", "0", *arguments)


def test_the_verdict_shows_root_mean_square_and_mean_with_their_bounds(made, model):
    r = judged(made / "trace.h5", model).one(NAME)
    assert r["verdict"] == "PASSED"
    assert 0 <= r["rms"] <= 1 < r["rms_bound"] and abs(r["bias"]) <= 1 and 0 < r["bias_bound"] <= 1
    text = ok("verify", made / "trace.h5", "--model", model, "--taps", NAME).stdout
    assert "rms bias" in text and "0.00 +0.00" in text


def test_short_chains_have_no_statistics(made, model):
    assert "rms" not in verify(made / "trace.h5", model, "--taps", "layers.1.attn.q").one("layers.1.attn.q")


def test_errors_within_the_bound_may_still_be_too_large(made, model, edited):
    size = bound(made, model) / 4
    noise = np.random.default_rng(3)
    path = shifted(edited, lambda shape: size * noise.choice([-1, 1], shape))
    done = judged(path, model)
    r = done.one(NAME)
    assert done.code == 1 and r["verdict"] == "FAILED" and r["error"] < r["bound"]
    assert r["rms"] > r["rms_bound"] and "times what rounding makes them" in r["reason"]
    text = dsv4("verify", path, "--model", model, "--taps", NAME, "--call", "0").stdout
    assert f"rms at most {r['rms_bound']:.2f}, bias {r['bias_bound']:.2f}" in text


def test_errors_within_the_bound_may_not_lean(made, model, edited):
    size = bound(made, model) / 15
    spread = np.random.default_rng(3)
    done = judged(shifted(edited, lambda shape: size * spread.uniform(0.8, 1.2, shape)), model)
    r = done.one(NAME)
    assert done.code == 1 and r["error"] < r["bound"] and r["rms"] < r["rms_bound"]
    assert r["bias"] > r["bias_bound"] and "lean" in r["reason"]


@pytest.mark.parametrize("arith, code", [(None, 1), ("tensor-core", 1), ("fp8-promoted", 0)])
def test_declared_products_widen_what_they_must(made, model, edited, arith, code):
    """Errors of 2^-12 of a sum: more than float32 or a tensor core makes of 128 products, less than FP8 tensor cores."""

    def edit(file):
        data = tap(file, 0, NAME)
        data[...] *= 1 + 2.0**-12
        data.attrs["dtype"] = "fp32"

    path = edited(edit)
    done = judged(path, model, *(["--arith", arith] if arith else []))
    assert done.code == code, done.first
    if arith:
        assert f"products: {arith}" in done.report["declared"]


def test_unknown_products_are_refused(made, model, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"sites": {}, "products": "fp7"}))
    refused("verify", made / "trace.h5", "--model", model, "--arith", path, says=["products", "tensor-core", "fp7"])


def renamed(file):
    for name in ("attn.wq_a.out", "attn.qr"):
        for call in file["calls"]:
            group = file[f"calls/{call}/layers/1"]
            group.move(name.replace(".", "/"), "mine/" + name.replace(".", "_"))


TABLE = "layers.L.mine.attn_wq_a_out\tlayers.L.attn.wq_a.out\t-\n-\tlayers.L.attn.qr\t-\n"


def test_a_port_is_judged_under_its_own_names(made, model, edited, tmp_path):
    table = tmp_path / "names.tsv"
    table.write_text(TABLE)
    path = edited(renamed)
    assert verify(path, model).counts["UNKNOWN"] > 0
    done = verify(path, model, "--names", table, "--taps", "layers.1.attn.*")
    assert done.code == 0, done.first
    assert done.one(NAME)["verdict"] == "PASSED" and done.report["trace"] == str(path)
    assert done.one("layers.1.attn.qr")["verdict"] == "NOT_EXPOSED"
    assert done.one("layers.1.attn.qr")["reason"]
    done = verify(path, model, "--names", table, "--require", "layers.1.attn.qr")
    assert done.code == 1 and done.one("layers.1.attn.qr")["verdict"] == "FAILED"


def test_the_command_to_repeat_it_has_the_names(model, edited, tmp_path):
    def damage(file):
        tap(file, 0, NAME)[3, 2] += 1
        renamed(file)

    table = tmp_path / "names.tsv"
    table.write_text(TABLE)
    path = edited(damage)
    text = dsv4("verify", path, "--model", model, "--names", table).stdout
    again = next(line for line in text.splitlines() if "again:" in line)
    assert f"--names {table}" in again and str(path) in again


def test_diff_reads_the_ports_own_names(made, edited, tmp_path):
    table = tmp_path / "names.tsv"
    table.write_text(TABLE)
    path = edited(renamed)
    results = json.loads(ok("diff", made / "trace.h5", path, "--names", table, "--tol", "0", "--json").stdout)["results"]
    same = next(r for r in results if r["tap"] == NAME)
    assert same["rows"] > 0 and same["max_error"] == 0
    results = json.loads(ok("diff", made / "trace.h5", path, "--json").stdout)["results"]
    assert next(r for r in results if r["tap"] == NAME)["rows"] < same["rows"]
