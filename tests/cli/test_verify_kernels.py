# SPDX-License-Identifier: Apache-2.0
"""verify --backend emulated: the CUDA kernels on the emulated GPU, judged on a bundled golden's own inputs. Every output
of every kernel must be PASSED; what no kernel computes is counted as NOT_EXPOSED, never as a pass."""

import json
import re
from collections import Counter

import h5py
import pytest
from conftest import ROOT, dsv4, refused

MODELS = ROOT / "golden/models"
# Outputs of the kernels, by block. Inputs of products (…in) are quantised by a kernel of their own.
BLOCK = """hc_attn.mixes hc_attn.pre hc_attn.post hc_attn.comb hc_attn.x hc_attn.out hc_ffn.mixes hc_ffn.pre hc_ffn.post
    hc_ffn.comb hc_ffn.x hc_ffn.out attn_norm.out ffn_norm.out attn.wq_a.in attn.wq_a.out attn.qr attn.wq_b.in
    attn.wq_b.out attn.wkv.in attn.wkv.out attn.q_normed attn.q attn.kv_normed attn.kv_roped attn.kv attn.wo_b.in
    attn.o_lora attn.out ffn.gate.scores ffn.gate.indices ffn.gate.weights ffn.shared""".split()
# Of each expert on the tokens that chose it (FP4), and of the shared one (FP8), whose output is ffn.shared.
EXPERT = ["in", "gate", "up", "w2.in"]
MTP = ["enorm.out", "hnorm.out", "e_proj.in", "e_proj.out", "h_proj.in", "h_proj.out", "norm.out"]
STATE = ["kv_state", "score_state"]
ENTRY = ["pooled", "normed", "roped", "entry"]
INDEXER = ["wq_b.in", "wq_b.out", "q_roped", "q_rotated", "q"]
# What no kernel computes yet.
NOT_EXPOSED = {
    "embed", "hc_head.mixes", "hc_head.pre", "hc_head.x", "logits", "attn.compressor.kv_proj", "attn.compressor.score",
    "attn.indexer.compressor.kv_proj", "attn.indexer.compressor.score", "attn.indexer.weights",
    "attn.indexer.index_score", "attn.indexer.topk_idxs", "attn.window_idxs", "attn.topk_idxs", "attn.o",
    "attn.o_derotated", "ffn.gate.logits", "ffn.experts.E.rows", "ffn.experts.E.hidden", "ffn.routed", "ffn.out", "x"}
# Rows of the caches are compared by the values that they stand for.
NOT_EXPOSED |= {f"attn.{tap}.{what}" for what in ("code", "scale")
                for tap in ("kv", "compressor.entry", "indexer.q", "indexer.compressor.entry")}


def chosen(file, call, block):
    """The experts that the tokens of a call chose, as the trace has it: every row of every block is there."""
    indices = file[f"calls/{call:04}/{block.replace('.', '/')}ffn/gate/indices"]
    assert "rows" not in indices.attrs
    return sorted(set(indices[:].flat) - {-1})


def must_pass(config, file, call, range_, blocks):
    """The taps of one call (start, end) and these blocks that a kernel computes."""
    start, end = range_
    for block in blocks:
        backbone = block < config["num_hidden_layers"]
        at = f"layers.{block}." if backbone else f"mtp.{block - config['num_hidden_layers']}."
        ratio = config["compress_ratios"][block]
        yield from (at + leaf for leaf in BLOCK)
        experts = [f"experts.{e}" for e in chosen(file, call, at)]
        yield from (f"{at}ffn.{e}.{leaf}" for e in [*experts, "shared_experts"] for leaf in EXPERT)
        yield from (f"{at}ffn.{e}.out" for e in experts)
        if not backbone:
            yield from (at + leaf for leaf in MTP)
        compressors = ["attn.compressor."] if ratio else []
        if ratio == 4:
            yield from (f"{at}attn.indexer.{leaf}" for leaf in INDEXER)
            compressors.append("attn.indexer.compressor.")
        for compressor in compressors:
            leaves = list(STATE)
            if end // ratio > start // ratio:
                leaves += ENTRY + (["rotated"] if "indexer" in compressor else [])
            yield from (at + compressor + leaf for leaf in leaves)
    if config["num_hidden_layers"] - 1 in blocks:
        yield "norm.out"


def all_must_pass(config, trace, calls, layers=None):
    blocks = layers or range(config["num_hidden_layers"] + config["num_nextn_predict_layers"])
    with h5py.File(trace) as file:
        return Counter((tap, call) for call, range_ in enumerate(calls) for tap in must_pass(config, file, call, range_, blocks))


def kind(tap):
    return re.sub(r"experts\.\d+\.", "experts.E.", re.sub(r"^(layers|mtp)\.\d+\.", "", tap))


@pytest.fixture(scope="module")
def judged():
    runs = {}

    def run(trace, model):
        if trace not in runs:
            done = dsv4("verify", ROOT / f"golden/{trace}.h5", "--model", MODELS / model, "--backend", "emulated",
                        "--mode", "local", "--json", *(["--layers", "0-2"] if trace in LONG else []))
            assert done.returncode == 0, done.stderr + done.stdout[-3000:]
            runs[trace] = json.loads(done.stdout)
        return runs[trace]

    return run


def calls(prefill, decode):
    return [(0, prefill), *((prefill + i, prefill + i + 1) for i in range(decode))]


GOLDENS = [("official_tiny_prefill4_optional", "tiny", calls(4, 1)),
           ("official_tiny_prefill33_decode4", "tiny", calls(33, 4)),
           ("official_tiny_prefill125_decode6", "tiny", calls(125, 6)),
           ("official_tiny_prefill390_decode3", "tiny", calls(390, 3)),
           ("official_wide_prefill150_decode3", "wide", calls(150, 3))]
# Of these the first layers only, window, HCA and CSA, to save a minute: what follows is of the same kinds.
LONG = {"official_tiny_prefill125_decode6", "official_tiny_prefill390_decode3"}


@pytest.mark.parametrize("trace, model, calls", GOLDENS)
def test_every_output_of_every_kernel_passes(judged, trace, model, calls):
    config = json.loads((MODELS / model / "config.json").read_text())
    with_mtp = any(r["tap"].startswith("mtp.") for r in judged(trace, model)["kernels"]["results"])
    if not with_mtp:
        config["num_nextn_predict_layers"] = 0
    expected = all_must_pass(config, ROOT / f"golden/{trace}.h5", calls, [0, 1, 2] if trace in LONG else None)
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
    expected = all_must_pass(config, trace, calls)
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


STORED = {"attn.wq_a.out", "attn.wq_b.out", "attn_norm.out", "attn.o_lora", "hc_attn.out", "hc_ffn.x", "attn.qr",
          "ffn.experts.E.gate", "ffn.experts.E.out", "ffn.shared"}
FLOAT32 = {"hc_attn.mixes", "hc_attn.pre", "hc_attn.post", "hc_attn.comb", "hc_ffn.mixes", "hc_ffn.pre", "hc_ffn.post",
           "hc_ffn.comb", "attn.compressor.pooled", "attn.indexer.compressor.pooled", "ffn.gate.scores",
           "ffn.gate.weights"}


@pytest.mark.parametrize("trace, model, calls", GOLDENS)
def test_stored_values_err_as_rounding_does(judged, trace, model, calls):
    """Values stored in BF16: the error is uniform over the spacing, so its root mean square is the predicted one. (RoPE
    leaves most of a row as it is.)"""
    results = [r for r in judged(trace, model)["kernels"]["results"] if kind(r["tap"]) in STORED and r["elements"] > 1000]
    assert {kind(r["tap"]) for r in results} >= STORED - {"attn.wq_a.out", "attn.qr", "ffn.experts.E.gate", "ffn.experts.E.out"}
    assert all(0.5 < r["rms"] < 1.5 for r in results), [(r["tap"], r["rms"]) for r in results]


@pytest.mark.parametrize("trace, model, calls", GOLDENS)
def test_what_no_store_hides_errs_as_the_chain_of_its_kernel_predicts(judged, trace, model, calls):
    """From both sides: a prediction that is much too large would let a kernel err that much more (docs/tolerance.md)."""
    squares, counts = Counter(), Counter()
    for r in judged(trace, model)["kernels"]["results"]:
        squares[kind(r["tap"])] += r["rms"] ** 2 * r["elements"]
        counts[kind(r["tap"])] += r["elements"]
    rms = {tap: (squares[tap] / counts[tap]) ** 0.5 for tap in FLOAT32 if counts[tap]}
    assert {"hc_attn.mixes", "hc_ffn.comb", "ffn.gate.scores", "attn.indexer.compressor.pooled"} <= set(rms)
    assert all(0.5 < v < 1.5 for v in rms.values()), rms


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
