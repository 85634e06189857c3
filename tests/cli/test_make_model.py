# SPDX-License-Identifier: Apache-2.0
"""make-model: the same bytes for the same seed, and nothing is ever overwritten."""

import json

import pytest
from conftest import SMALL, dsv4, ok, refused, verify


def files(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir()}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL))
    return path


def make(at, *arguments):
    return ok("make-model", "--preset", "tiny", *arguments, "-o", at)


def test_the_same_seed_gives_the_same_bytes(tmp_path, config):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make(tmp_path / name, "--config", config, "--seed", seed)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a") != files(tmp_path / "c")
    assert files(tmp_path / "a")["config.json"] == files(tmp_path / "c")["config.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c", "small.json"]


def test_options_say_what_is_made(tmp_path, config):
    done = make(tmp_path / "m", "--config", config, "--layer-types", "csa,window,16", "--experts", 5, "--mtp", 0,
                "--hash-layers", 2, "--vocab", 33, "--seed", 1, "--json")
    report = json.loads(done.stdout)
    assert report["schema_version"] == 1 and report["seed"] == 1 and report["shards"] == 1
    made = json.loads((tmp_path / "m" / "config.json").read_text())
    assert made["compress_ratios"] == [4, 0, 16] and made["num_hidden_layers"] == 3
    assert (made["n_routed_experts"], made["num_hash_layers"], made["vocab_size"]) == (5, 2, 33)
    model = json.loads(ok("inspect", tmp_path / "m", "--json").stdout)["inputs"][0]
    assert model["tensors"] == report["tensors"] and model["bytes"] == report["bytes"]


def test_an_existing_directory_is_refused_unless_empty(tmp_path, config):
    target = tmp_path / "m"
    target.mkdir()
    (target / "mine.txt").write_text("precious")
    arguments = ("make-model", "--preset", "tiny", "--config", config, "--seed", 1, "-o", target)
    refused(*arguments, says=["exists and is not empty", "hint:"])
    assert files(target) == {"mine.txt": b"precious"}
    (target / "mine.txt").unlink()
    ok(*arguments)
    refused(*arguments, says=["exists and is not empty"])


def test_an_existing_file_is_refused_and_kept(tmp_path, config):
    (tmp_path / "m").write_text("precious")
    refused("make-model", "--preset", "tiny", "--config", config, "--seed", 1, "-o", tmp_path / "m", says=["m"])
    assert (tmp_path / "m").read_text() == "precious"


@pytest.mark.parametrize("arguments, says", [
    (["--preset", "huge"], ["huge", "tiny"]),
    (["--preset", "tiny", "--layer-types", "window,round"], ["--layer-types", "\"round\"", "hint:"]),
    (["--preset", "tiny", "--layer-types", "window,,csa"], ["--layer-types", "\"\""]),
    (["--preset", "tiny", "--experts", "0"], ["--experts"]),
    (["--preset", "tiny", "--experts", "1"], ["expert"]),
    (["--preset", "tiny", "--hash-layers", "-1"], ["--hash-layers"]),
    (["--preset", "tiny", "--layers", "0"], ["--layers"]),
    (["--config", "none.json"], ["none.json"]),
    (["--config", "broken.json"], ["broken.json", "not valid JSON"]),
    (["--config", "odd.json", "--preset", "tiny"], ["head_dim"]),
    ([], ["--preset", "hint:"]),
])
def test_what_cannot_be_made_is_refused(tmp_path, arguments, says):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "odd.json").write_text('{"head_dim": 0}')
    before = files(tmp_path)
    refused("make-model", *arguments, "--seed", 1, "-o", tmp_path / "m", says=says, cwd=tmp_path)
    assert files(tmp_path) == before


def test_every_preset_is_listed_and_the_wrong_ones_refused(tmp_path):
    text = dsv4("make-model", "--help").stdout
    for preset in ("tiny", "engine", "flash-layer", "pro-layer"):
        assert preset in text


def test_a_model_with_tied_experts_runs(tmp_path, config):
    make(tmp_path / "m", "--config", config, "--experts", 16, "--ties", "--seed", 1)
    ok("trace", "--model", tmp_path / "m", "--random", 12, "-o", tmp_path / "t.h5")
    assert verify(tmp_path / "t.h5", tmp_path / "m").code == 0
