# SPDX-License-Identifier: Apache-2.0
"""verify --backend emulated: the CUDA kernels on the emulated GPU, judged on a bundled golden's own inputs. Every output
of every kernel must be PASSED; what no kernel computes is counted as NOT_EXPOSED, never as a pass."""

import json
import re
from collections import Counter

import pytest
from conftest import ROOT, dsv4, refused

MODELS = ROOT / "golden/models"
# Outputs of the kernels, by block. Inputs of products (…in) are quantised by a kernel of their own.
BLOCK = """hc_attn.mixes hc_attn.pre hc_attn.post hc_attn.comb hc_attn.x hc_attn.out hc_ffn.mixes hc_ffn.pre hc_ffn.post
    hc_ffn.comb hc_ffn.x hc_ffn.out attn_norm.out ffn_norm.out attn.wq_a.in attn.wq_a.out attn.qr attn.wq_b.in
    attn.wq_b.out attn.wkv.in attn.wkv.out attn.q_normed attn.q attn.kv_normed attn.kv_roped attn.kv attn.wo_b.in
    attn.out ffn.gate.scores ffn.gate.indices ffn.gate.weights""".split()
STATE = ["kv_state", "score_state"]
ENTRY = ["pooled", "normed", "roped", "entry"]
INDEXER = ["wq_b.in", "wq_b.out", "q_roped", "q_rotated", "q"]
# What no kernel computes yet.
NOT_EXPOSED = {
    "embed", "hc_head.mixes", "hc_head.pre", "hc_head.x", "logits", "attn.compressor.kv_proj", "attn.compressor.score",
    "attn.indexer.compressor.kv_proj", "attn.indexer.compressor.score", "attn.indexer.weights",
    "attn.indexer.index_score", "attn.indexer.topk_idxs", "attn.window_idxs", "attn.topk_idxs", "attn.o",
    "attn.o_derotated", "attn.o_lora", "ffn.gate.logits", "ffn.routed", "ffn.shared", "ffn.out", "enorm.out", "hnorm.out", "e_proj.out",
    "h_proj.out", "x"}


def must_pass(config, call):
    """The taps of one call (start, end) that a kernel computes."""
    start, end = call
    for block in range(config["num_hidden_layers"] + config["num_nextn_predict_layers"]):
        backbone = block < config["num_hidden_layers"]
        at = f"layers.{block}." if backbone else f"mtp.{block - config['num_hidden_layers']}."
        ratio = config["compress_ratios"][block]
        yield from (at + leaf for leaf in BLOCK)
        if not backbone:
            yield at + "norm.out"
        compressors = ["attn.compressor."] if ratio else []
        if ratio == 4:
            yield from (f"{at}attn.indexer.{leaf}" for leaf in INDEXER)
            compressors.append("attn.indexer.compressor.")
        for compressor in compressors:
            leaves = list(STATE)
            if end // ratio > start // ratio:
                leaves += ENTRY + (["rotated"] if "indexer" in compressor else [])
            yield from (at + compressor + leaf for leaf in leaves)
    yield "norm.out"


def kind(tap):
    return re.sub(r"^(layers|mtp)\.\d+\.", "", tap)


@pytest.fixture(scope="module")
def judged():
    runs = {}

    def run(trace, model):
        if trace not in runs:
            done = dsv4("verify", ROOT / f"golden/{trace}.h5", "--model", MODELS / model, "--backend", "emulated",
                        "--mode", "local", "--json")
            assert done.returncode == 0, done.stderr + done.stdout[-3000:]
            runs[trace] = json.loads(done.stdout)
        return runs[trace]

    return run


GOLDENS = [("official_tiny_prefill33_decode4", "tiny", [(0, 33), (33, 34), (34, 35), (35, 36), (36, 37)]),
           ("official_wide_prefill150_decode3", "wide", [(0, 150), (150, 151), (151, 152), (152, 153)])]


@pytest.mark.parametrize("trace, model, calls", GOLDENS)
def test_every_output_of_every_kernel_passes(judged, trace, model, calls):
    config = json.loads((MODELS / model / "config.json").read_text())
    with_mtp = any(r["tap"].startswith("mtp.") for r in judged(trace, model)["kernels"]["results"])
    if not with_mtp:
        config["num_nextn_predict_layers"] = 0
    expected = Counter((tap, call) for call, range_ in enumerate(calls) for tap in must_pass(config, range_))
    passed = Counter((r["tap"], r["call"]) for r in judged(trace, model)["kernels"]["results"] if r["verdict"] == "PASSED")
    assert passed == expected


def test_every_output_of_every_kernel_passes_at_true_sizes(tmp_path):
    """Heads, RoPE, index and streams of the real models; a group of 128 completed by prefill, one of 4 by decode."""
    model, trace = tmp_path / "model", tmp_path / "trace.h5"
    assert dsv4("make-model", "--preset", "engine", "--layers", 3, "--seed", 3, "-o", model).returncode == 0
    made = dsv4("trace", "--model", model, "--random", 136, "--chunks", "129,5", "--decode", 2, "--rounding", "official", "-o", trace)
    assert made.returncode == 0, made.stderr
    done = dsv4("verify", trace, "--model", model, "--backend", "emulated", "--json")
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]

    config = json.loads((model / "config.json").read_text())
    assert (config["head_dim"], config["qk_rope_head_dim"], config["index_head_dim"], config["hc_mult"]) == (512, 64, 128, 4)
    config["num_nextn_predict_layers"] = 0
    calls = [(0, 129), (129, 134), (134, 135), (135, 136)]
    expected = Counter((tap, call) for call, range_ in enumerate(calls) for tap in must_pass(config, range_))
    results = json.loads(done.stdout)["kernels"]["results"]
    assert Counter((r["tap"], r["call"]) for r in results if r["verdict"] == "PASSED") == expected


@pytest.mark.parametrize("trace, model, calls", GOLDENS)
def test_the_rest_is_counted_and_named(judged, trace, model, calls):
    kernels = judged(trace, model)["kernels"]
    assert kernels["device"] == "emulated"
    assert sum(kernels["counts"].values()) == len(kernels["results"])
    rest = {kind(r["tap"]) for r in kernels["results"] if r["verdict"] != "PASSED"}
    assert set(kernels["counts"]) == {"PASSED", "NOT_EXPOSED"} and rest <= NOT_EXPOSED, rest - NOT_EXPOSED
    assert all(r["reason"] for r in kernels["results"] if r["verdict"] != "PASSED")


@pytest.mark.parametrize("trace, model, calls", GOLDENS)
def test_stored_values_err_as_rounding_does(judged, trace, model, calls):
    """Values stored in BF16: the error is uniform over the spacing, so its root mean square is the predicted one. (RoPE
    leaves most of a row as it is.)"""
    results = [r for r in judged(trace, model)["kernels"]["results"]
               if kind(r["tap"]) in ("attn.wq_a.out", "attn.wq_b.out", "attn_norm.out", "hc_attn.out", "hc_ffn.x", "attn.qr")
               and r["elements"] > 1000]
    assert len(results) >= 10
    assert all(0.5 < r["rms"] < 1.5 for r in results), [(r["tap"], r["rms"]) for r in results]


def test_the_text_says_that_no_gpu_ran():
    done = dsv4("verify", ROOT / "golden/official_tiny_prefill4_optional.h5", "--model", MODELS / "tiny", "--backend",
                "emulated", "--mode", "local")
    assert done.returncode == 0
    assert "emulated (no GPU)" in done.stdout and re.search(r"PASSED \d+ +NOT_EXPOSED \d+", done.stdout)


def test_an_exact_trace_is_refused_with_a_reason():
    refused("verify", ROOT / "golden/tiny_prefill5.h5", "--model", MODELS / "tiny", "--backend", "emulated",
            says=("SKIPPED(rounding)",))


def test_cuda_without_nvcc_or_gpu_is_refused():
    refused("verify", ROOT / "golden/official_tiny_prefill4_optional.h5", "--model", MODELS / "tiny", "--backend", "cuda",
            says=("cuda", "emulated"))
