// SPDX-License-Identifier: Apache-2.0
// The fused kernels of a block: hyper-connections, attention inputs, compressor, indexer queries,
// router.
#include <algorithm>
#include <cmath>
#include <fmt/format.h>

#include "cli/kernel_arrays.hpp"
#include "cli/kernel_stages.hpp"
#include "core/dtype.hpp"
#include "cuda/stages/mhc_blocks.hpp"
#include "reference/error_bound.hpp"
#include "reference/hadamard.hpp"
#include "reference/rms_norm.hpp"
#include "reference/rope.hpp"

namespace dsv4::cli {
namespace {

using reference::Positions;
using reference::Rotation;
namespace error = reference::error;

}  // namespace

void KernelStages::mhc_before_attention(Place& p) {
  // Fused with the end of the layer before, where that ran in this call too.
  Place* before = p.layer > request_.first_layer && p.prefix.starts_with("layers.")
                      ? place_of(p.streams)
                      : nullptr;
  run_mhc(before, "hc_ffn", &p, "hc_attn");
}
void KernelStages::mhc_before_experts(Place& p) { run_mhc(&p, "hc_attn", &p, "hc_ffn"); }

void KernelStages::mhc_at_the_end(Place& p) {
  const bool last = p.prefix.starts_with("mtp.") || &p == &places_.back() ||
                    !(&p + 1)->prefix.starts_with("layers.");
  if (last) run_mhc(&p, "hc_ffn", nullptr, "");
}

// The end of sublayer `sub` of `post` and the start of sublayer `next` of `pre`; either may be
// absent.
void KernelStages::run_mhc(Place* post, const std::string& sub, Place* pre,
                           const std::string& next) {
  const std::string from = post ? post->prefix + "." : "", to_pre = pre ? pre->prefix + "." : "";
  const Index n = config_.hc_mult;
  // X that enters the sublayer, and its output y.
  const std::string streams_tap = !post             ? pre->streams
                                  : sub == "hc_ffn" ? from + "hc_attn.out"
                                                    : post->streams;
  const std::string y_tap = from + (sub == "hc_ffn" ? "ffn.out" : "attn.out");
  if (!known(streams_tap) || (post && !known(y_tap))) return;
  const Mat streams =
      streams_tap == "embed" ? Mat(value("embed").replicate(1, n)) : value(streams_tap);
  stages::MhcInput in;
  in.n = static_cast<int>(n);
  in.d = static_cast<int>(config_.dim);
  in.tokens = static_cast<int>(streams.rows());
  in.iterations = static_cast<int>(config_.hc_sinkhorn_iters);
  in.norm_eps = static_cast<float>(config_.norm_eps);
  in.hc_eps = static_cast<float>(config_.hc_eps);
  in.streams = bf16s(streams);
  if (post) {
    in.y = bf16s(value(y_tap));
    in.post = floats(value(from + sub + ".post"));
    in.comb = floats(value(from + sub + ".comb"));
  }
  const reference::HcWeights* w = nullptr;
  if (pre) {
    w = next == "hc_attn" ? &pre->weights.hc_attn : &pre->weights.hc_ffn;
    in.fn = floats(w->fn);
    in.base = floats(w->base);
    in.scale = floats(w->scale);
  }
  const stages::MhcOutput out = kernels_.mhc(in);

  StageJudge judge(call_, results_);
  const Index s = streams.rows();
  Mat x = streams;
  if (post) {
    judge.kernel(from + sub + ".out", matrix(out.out, s));
    const reference::HcMix mix{{}, matrix(in.post, s), matrix(in.comb, s)};
    Tap bound(judge, from + sub);
    bound.bind("s", s).bind("n", n).bind("d", config_.dim);
    x = reference::hc_post(config_, value(y_tap), streams, mix, bound, round_);
  }
  if (!pre) return;
  const std::string stem = to_pre + next;
  const Mat mixes = matrix(out.mixes, s);
  const auto logits = [&](Index first, Index count, Index part) {
    return Mat((mixes.middleCols(first, count) * w->scale(part)).rowwise() +
               w->base.segment(first, count));
  };
  const Mat comb = matrix(out.comb, s);
  const bool clusters = kernels_.tensor_core() != emulator::TensorCore::ampere;
  const int blocks = clusters ? stages::mhc_blocks(in.d) : 0;
  judge.kernel(stem + ".mixes", mixes,
               spread::mixes(x, w->fn, config_.norm_eps, mixes, config_.hc_mult, blocks));
  judge.kernel(stem + ".pre", matrix(out.pre, s),
               spread::sigmoid(logits(0, n, 0), 1, static_cast<double>(in.hc_eps)));
  judge.kernel(stem + ".post", matrix(out.post, s), spread::sigmoid(logits(n, n, 1), 2, 0));
  judge.kernel(stem + ".comb", comb,
               spread::sinkhorn(comb, logits(2 * n, n * n, 2), n, in.iterations,
                                static_cast<double>(in.hc_eps)));
  judge.kernel(stem + ".x", matrix(out.x, s));
  Tap bound(judge, stem);
  bound.bind("s", s).bind("n", n).bind("d", config_.dim).bind("m", config_.mix_size());
  reference::hc_pre(config_, *w, x, bound, round_);
}

// [docs:judging]
void KernelStages::attention_inputs(Place& p) {
  const std::string at = p.prefix + ".attn.";
  if (!known(at + "wq_b.out") || !known(at + "wkv.out")) return;
  const Mat& q_b = value(at + "wq_b.out");
  const Mat& kv_a = value(at + "wkv.out");
  const Index s = q_b.rows(), heads = config_.n_heads, c = config_.head_dim;
  const stages::AttentionOutput out = kernels_.attention_inputs(
      {static_cast<int>(c), static_cast<int>(config_.rope_head_dim), static_cast<int>(heads),
       static_cast<int>(s), static_cast<int>(start_), static_cast<float>(config_.norm_eps),
       bf16s(q_b), bf16s(kv_a), floats(p.weights.attn.kv_norm), floats(p.frequencies)});
  StageJudge judge(call_, results_);
  judge.kernel(at + "q", matrix(out.q, s));
  judge.kernel(at + "kv_normed", matrix(out.kv_normed, s));
  judge.kernel(at + "kv_roped", matrix(out.kv_roped, s));
  Tap tap(judge, p.prefix + ".attn");
  tap.bind("s", s).bind("h", heads).bind("c", c);
  const Positions positions{start_};

  const Mat q_normed = matrix(out.q_normed, s);
  const bool legal = legal_head_norm(q_b, q_normed, heads, config_.norm_eps);
  results_.push_back({at + "q_normed", call_, legal ? KernelVerdict::passed : KernelVerdict::failed,
                      legal ? "" : "a row that no order of float32 sums gives", q_normed.size()});
  tap("q[s,h,c]",
      round_.bf16("attn.q",
                  rope(q_normed, heads, p.frequencies, positions, Rotation::forward, round_)),
      [&] { return error::rope(q_normed, heads, p.frequencies, positions); });
  const Mat normed = reference::rms_norm(kv_a, p.weights.attn.kv_norm, config_.norm_eps);
  const Mat kv_normed = tap("kv_normed[s,c]", round_.bf16("attn.kv_normed", normed),
                            [&] { return error::rms_norm(normed, c); });
  const Mat kv_roped = tap("kv_roped[s,c]",
                           round_.bf16("attn.kv_roped", rope(kv_normed, 1, p.frequencies, positions,
                                                             Rotation::forward, round_)),
                           [&] { return error::rope(kv_normed, 1, p.frequencies, positions); });
  judge.exactly(at + "kv", matrix(out.kv, s),
                plain(round_.e4m3("attn.kv", kv_roped, 64, c - config_.rope_head_dim)));
}
// [/docs:judging]

void KernelStages::compress(Place& p, bool indexing) {
  const std::string stem = p.prefix + (indexing ? ".attn.indexer.compressor" : ".attn.compressor");
  const auto& w = indexing ? p.weights.attn.indexer->compressor : *p.weights.attn.compressor;
  if (!known(stem + ".kv_proj") || !known(p.prefix + ".attn_norm.out")) return;
  const std::int64_t ratio = config_.ratio(p.layer);
  auto& [kv_state, score_state] = p.states.at(indexing);
  const Mat& kv = value(stem + ".kv_proj");
  const Mat& score = value(stem + ".score");
  stages::CompressorInput in;
  in.c = static_cast<int>(w.norm.size());
  in.rope = static_cast<int>(config_.rope_head_dim);
  in.ratio = static_cast<int>(ratio);
  in.tokens = static_cast<int>(kv.rows());
  in.start = static_cast<int>(start_);
  in.indexing = indexing;
  in.eps = static_cast<float>(config_.norm_eps);
  in.kv = floats(kv);
  in.score = floats(score);
  in.ape = floats(w.ape);
  in.kv_state = kv_state;
  in.score_state = score_state;
  in.norm = floats(w.norm);
  in.frequencies = floats(p.frequencies);
  const stages::CompressorOutput out = kernels_.compress(in);

  StageJudge judge(call_, results_);
  reference::CompressorCache& cache = p.caches.at(indexing);
  const Index rows = (start_ + kv.rows()) / ratio - start_ / ratio;
  judge.given(stem + ".kv_proj", matrix(in.kv, kv.rows()));
  judge.given(stem + ".score", matrix(in.score, kv.rows()));
  judge.kernel(stem + ".kv_state", matrix(out.kv_state, cache.state.kv.rows()));
  judge.kernel(stem + ".score_state", matrix(out.score_state, cache.state.kv.rows()), {1, 1});
  if (rows > 0) {
    judge.kernel(stem + ".pooled", matrix(out.pooled, rows), spread::pooled(in, rows));
    judge.kernel(stem + ".normed", matrix(out.normed, rows));
    judge.kernel(stem + ".roped", matrix(out.roped, rows));
    if (indexing) judge.kernel(stem + ".rotated", matrix(out.rotated, rows));
    judge.kernel(stem + ".entry", matrix(out.entry, rows));
  }
  Tap tap(judge, stem);
  tap.bind("s", kv.rows());
  reference::compress(config_, ratio, w, p.frequencies,
                      indexing ? reference::EntryUse::indexing : reference::EntryUse::attention,
                      value(p.prefix + ".attn_norm.out"), start_, cache, tap, round_);
  kv_state = out.kv_state;
  score_state = out.score_state;
}

void KernelStages::index_queries(Place& p) {
  const std::string at = p.prefix + ".attn.indexer.";
  if (!known(at + "wq_b.out")) return;
  const Mat& q_b = value(at + "wq_b.out");
  const Index s = q_b.rows(), heads = config_.index_n_heads;
  const stages::IndexQueryOutput out = kernels_.index_queries(
      {static_cast<int>(config_.index_head_dim), static_cast<int>(config_.rope_head_dim),
       static_cast<int>(heads), static_cast<int>(s), static_cast<int>(start_), bf16s(q_b),
       floats(p.frequencies)});
  StageJudge judge(call_, results_);
  judge.kernel(at + "q_roped", matrix(out.roped, s));
  judge.kernel(at + "q_rotated", matrix(out.rotated, s));
  Tap tap(judge, p.prefix + ".attn.indexer");
  tap.bind("s", s).bind("i", heads).bind("j", config_.index_head_dim);
  const Positions positions{start_};
  const Mat roped = tap("q_roped[s,i,j]",
                        round_.bf16("indexer.q_roped", rope(q_b, heads, p.frequencies, positions,
                                                            Rotation::forward, round_)),
                        [&] { return error::rope(q_b, heads, p.frequencies, positions); });
  const Mat rotated =
      tap("q_rotated[s,i,j]", round_.bf16("indexer.q_rotated", reference::hadamard(roped, heads)),
          [&] { return error::hadamard(roped, heads); });
  judge.exactly(at + "q", matrix(out.q, s), plain(round_.e2m1("indexer.q", rotated)));
}

void KernelStages::gate(Place& p) {
  const std::string at = p.prefix + ".ffn.gate.";
  if (!known(at + "logits") || !known(p.prefix + ".ffn_norm.out")) return;
  const Mat& logits = value(at + "logits");
  const auto& w = p.weights.ffn.gate;
  stages::GateInput in;
  in.tokens = static_cast<int>(logits.rows());
  in.experts = static_cast<int>(logits.cols());
  in.k = static_cast<int>(config_.n_activated_experts);
  in.route_scale = static_cast<float>(config_.route_scale);
  in.logits = floats(logits);
  in.bias = floats(w.bias);
  in.tid2eid.assign(w.tid2eid.begin(), w.tid2eid.end());
  // An MTP block reads the id after the row's position.
  const std::int64_t first = start_ + (p.prefix.starts_with("mtp.") ? 1 : 0);
  in.ids.assign(request_.ids.begin() + first, request_.ids.begin() + first + logits.rows());
  const stages::GateOutput out = kernels_.gate(in);

  StageJudge judge(call_, results_);
  const Index k = config_.n_activated_experts;
  judge.given(at + "logits", matrix(in.logits, logits.rows()));
  const Mat weights = matrix(out.weights, logits.rows());
  judge.kernel(at + "scores", matrix(out.scores, logits.rows()), spread::scores(logits));
  judge.kernel(at + "weights", weights, spread::weights(weights));
  judge.kernel(at + "indices",
               IntMat(Eigen::Map<const IntMat>(out.indices.data(), logits.rows(), k)));
  Tap tap(judge, p.prefix + ".ffn.gate");
  tap.bind("s", logits.rows());
  reference::route(config_, w, value(p.prefix + ".ffn_norm.out"), in.ids, tap,
                   reference::Ties::lowest);
}

}  // namespace dsv4::cli
