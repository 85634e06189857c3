# SPDX-License-Identifier: Apache-2.0
"""dsv4.trace: traces from arrays and from forward hooks; with torch and transformers, where they are installed, as the port."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(os.environ.get("DSV4_SOURCE_DIR", Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(ROOT / "python"))

from dsv4 import trace  # noqa: E402
from dsv4.names import Alias, aliases_of, tap_of  # noqa: E402
from dsv4.transforms import Call, Place, as_array, steps_of, transform  # noqa: E402

MODEL = ROOT / "golden" / "models" / "tiny"
CONFIG = {"compress_ratios": [0, 4, 128], "index_head_dim": 4, "index_n_heads": 9, "heads": 2}


class Hooked:
    """As much of torch.nn.Module as a recorder uses."""

    def __init__(self, forward, **children):
        self.forward, self.children, self.pre, self.post = forward, children, [], []

    def named_modules(self, prefix=""):
        yield prefix, self
        for name, child in self.children.items():
            yield from child.named_modules(f"{prefix}.{name}".lstrip("."))

    def register_forward_pre_hook(self, hook, with_kwargs):
        assert with_kwargs
        return self._register(self.pre, hook)

    def register_forward_hook(self, hook):
        return self._register(self.post, hook)

    def _register(self, hooks, hook):
        hooks.append(hook)
        return type("Handle", (), {"remove": lambda _: hooks.remove(hook)})()

    def __call__(self, *args, **kwargs):
        for hook in self.pre:
            hook(self, args, kwargs)
        out = self.forward(*args)
        for hook in self.post:
            hook(self, args, out)
        return out


def port():
    embed = Hooked(lambda ids: np.repeat(ids[..., None], 3, axis=-1).astype(np.float32))
    block = Hooked(lambda x: (x * 2, x * 3))
    model = Hooked(lambda ids: block(embed(ids))[0], embed=embed, layers=Hooked(None, **{"0": block}))
    return model, block


def test_arrays_become_a_trace(tmp_path):
    trace.write(tmp_path / "a.h5", {3: {"logits": np.ones(4)}, 0: {"layers.0.attn.q": np.ones((3, 2), np.float16)}},
                input_ids=[1, 2, 3, 4], config=CONFIG, rounding="exact", producer="a port")

    with trace.read(tmp_path / "a.h5") as found:
        assert [found.start_pos(c) for c in found.calls] == [0, 3]
        assert found.tap_attributes("0000", "layers.0.attn.q") == {"dtype": "fp16"}
        assert found.read("0000", "layers.0.attn.q").dtype == np.float32
        assert (found.attributes["producer"], found.attributes["rounding"]) == ("a port", "exact")
        assert found.input_ids.tolist() == [1, 2, 3, 4]


def test_hooks_become_a_trace(tmp_path):
    model, block = port()
    names = {"embed": ("embed", "drop_batch"), "layers.L": ("layers.L.hc_ffn.out", "item(1) drop_batch scale(0.5)"),
             "layers.L.attn": "layers.L.attn.out"}

    with trace.record(model, tmp_path / "a.h5", names=names, config=CONFIG) as recorder:
        model(np.array([[5, 6]]))
        model(np.array([[7]]))
    model(np.array([[8]]))  # no longer recorded

    assert recorder.missing == ["layers.L.attn"]
    assert block.post == [] and model.pre == []
    with trace.read(tmp_path / "a.h5") as found:
        assert [found.start_pos(c) for c in found.calls] == [0, 2]
        assert found.input_ids.tolist() == [5, 6, 7]
        assert found.read("0000", "embed").tolist() == [[5] * 3, [6] * 3]
        assert found.read("0001", "layers.0.hc_ffn.out").tolist() == [[10.5] * 3]


def test_a_transform_may_be_a_function(tmp_path):
    model, _ = port()
    names = {"layers.L": ("layers.L.hc_ffn.out", lambda output, place: output[0][0] + place.call.start)}

    with trace.record(model, tmp_path / "a.h5", names=names, config=CONFIG):
        model(np.array([[1]]))
        model(np.array([[1]]))

    with trace.read(tmp_path / "a.h5") as found:
        assert found.read("0001", "layers.0.hc_ffn.out").tolist() == [[3.0] * 3]


@pytest.mark.parametrize("names, says", [
    ({"nothing": "embed"}, "no module"),
    ({"embed": ("embed", "twist")}, "no such transform"),
    ("no_such_table", "no such table"),
])
def test_names_that_cannot_be_are_refused(tmp_path, names, says):
    with pytest.raises(trace.Dsv4Error, match=says):
        trace.record(port()[0], tmp_path / "a.h5", names=names, config=CONFIG)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ids, says", [(np.zeros((2, 3), int), "one sequence"), (np.zeros((1, 3)), "token ids"), (None, "never called")])
def test_a_failed_recording_leaves_no_file(tmp_path, ids, says):
    model, block = port()

    with pytest.raises(trace.Dsv4Error, match=says):
        with trace.record(model, tmp_path / "a.h5", names={"embed": "embed"}, config=CONFIG):
            if ids is not None:
                model(ids)

    assert list(tmp_path.iterdir()) == []
    assert model.pre == [] and model.post == []


def test_a_transform_that_does_not_fit_names_the_tap(tmp_path):
    model, _ = port()

    with pytest.raises(trace.Dsv4Error, match="embed: heads_second"):
        with trace.record(model, tmp_path / "a.h5", names={"embed": ("embed", "drop_batch heads_second")}, config=CONFIG):
            model(np.array([[1]]))


X = np.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize("chain, tap, value, expected", [
    ("-", "embed", X, X),
    ("item(1)", "embed", (0, X), X),
    ("input(0) drop_batch", "embed", None, X),
    ("heads_second", "embed", X, X.transpose(1, 0, 2)),
    ("split(2)", "embed", X, X.reshape(2, 3, 2, 2)),
    ("split(heads)", "embed", X, X.reshape(2, 3, 2, 2)),
    ("flatten", "embed", X, X.reshape(2, 12)),
    ("last_row", "logits", X, X[1]),
    ("rows(1-1)", "embed", X, X[1:]),
    ("columns(1-2)", "embed", X, X[..., 1:3]),
    ("scale(0.25)", "embed", X, X / 4),
    ("new_entries", "layers.1.attn.compressor.entry", X[0], X[0][1:]),
    ("scale_index_weights", "layers.1.attn.indexer.weights", X[0], X[0] / 6),
    ("mask_future", "layers.1.attn.indexer.index_score", X[0], np.where([[0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]], -np.inf, X[0])),
])
def test_transforms(chain, tap, value, expected):
    found, dtype = transform(chain, value, (X[None],), Place(CONFIG, Call(5, 3), tap))

    np.testing.assert_array_equal(found, expected)
    assert dtype == "fp64"


def test_rows_outside_are_refused():
    with pytest.raises(trace.Dsv4Error, match="lies outside"):
        transform("rows(1-2)", X, (), Place(CONFIG, Call(0, 2), "embed"))


def test_what_a_hook_saw_is_a_copy():
    x = np.ones(3)
    found, _ = transform("-", x, (), Place(CONFIG, Call(0, 1), "embed"))
    x[0] = 2

    assert found.tolist() == [1, 1, 1]


@pytest.mark.parametrize("value, dtype, stored", [
    (np.ones(2, np.float32), "fp32", "float32"), (np.ones(2, np.int64), "int", "int32"), (np.ones(2, bool), "uint8", "uint8"),
])
def test_types(value, dtype, stored):
    array, name = as_array(value)

    assert (name, array.dtype.name) == (dtype, stored)


@pytest.mark.parametrize("value", [np.array([2**31]), np.array([1 + 1j]), np.array(["a"])])
def test_types_that_no_trace_holds(value):
    with pytest.raises(trace.Dsv4Error):
        as_array(value)


def test_layer_numbers_are_carried_over():
    alias = Alias("model.layers.L.mlp", "layers.L.ffn.out", "-")

    assert tap_of(alias, "model.layers.12.mlp") == "layers.12.ffn.out"
    assert tap_of(alias, "model.layers.12.mlp.gate") is None
    assert tap_of(Alias("layers.L", "layers.L.hc_ffn.out", "-"), "layers.3") == "layers.3.hc_ffn.out"


def test_the_bundled_table_names_taps():
    taps = {line.split("\t")[0] for line in (ROOT / "core" / "taps.tsv").read_text().splitlines()}
    for alias in aliases_of("transformers"):
        assert alias.ours in taps
        steps_of(alias.transform)


def test_a_line_of_two_columns_is_refused(tmp_path):
    (tmp_path / "names.tsv").write_text("# comment\nembed\tembed\n")

    with pytest.raises(trace.Dsv4Error, match=r"names.tsv:2"):
        aliases_of(tmp_path / "names.tsv")


def test_transformers_as_the_port_agrees(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    sys.path.insert(0, str(ROOT / "golden" / "dump"))
    from checkpoint import Checkpoint  # noqa: PLC0415
    from transformers_model import build  # noqa: PLC0415

    model, new_cache = build(Checkpoint(MODEL))
    cache = new_cache()
    ids = torch.randint(0, model.config.vocab_size, (1, 140), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), trace.record(model, tmp_path / "port.h5", names="transformers", config=MODEL, rounding="exact"):
        for a, b in ((0, 37), (37, 50), (50, 137), (137, 138), (138, 140)):
            model(ids[:, a:b], past_key_values=cache, use_cache=True)

    done = subprocess.run([os.environ["DSV4_PROGRAM"], "verify", tmp_path / "port.h5", "--model", MODEL, "--quiet"],
                          capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout


def test_the_package_installs(tmp_path):
    pytest.importorskip("wheel")
    source = tmp_path / "python"
    shutil.copytree(ROOT / "python", source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", tmp_path / "site", source]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    code = "from dsv4 import cases, names, trace; print(len(names.aliases_of('transformers')), trace.__file__)"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(tmp_path / "site")}, cwd=tmp_path,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout
