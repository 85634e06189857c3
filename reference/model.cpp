// SPDX-License-Identifier: Apache-2.0
#include "reference/model.hpp"

#include <cmath>
#include <fmt/format.h>

#include "core/error.hpp"
#include "reference/error_bound.hpp"
#include "reference/indexer.hpp"
#include "reference/linear.hpp"
#include "reference/rms_norm.hpp"

namespace dsv4::reference {
namespace {

void check_ids(std::span<const std::int32_t> ids, std::int64_t vocab) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab) continue;
    throw UsageError(
        fmt::format("token id {} at position {}: expected 0 … {}", ids[i], i, vocab - 1),
        "are these ids of another tokenizer?");
  }
}

Real log_sum_exp(const Row& x) {
  const Real m = x.maxCoeff();
  return m + std::log((x.array() - m).exp().sum());
}

}  // namespace

Model::Model(const Checkpoint& c, std::int64_t last_layer, Numerics numerics)
    : checkpoint_(c),
      round_(std::move(numerics)),
      plain_(rope_frequencies(c.config(), 0, round_)),
      compressed_(rope_frequencies(c.config(), 128, round_)),
      embed_(c.matrix("embed")),
      head_(c.matrix("head")),
      norm_(c.vector("norm.weight")),
      hc_head_{c.matrix("hc_head_fn"), c.vector("hc_head_base"), c.vector("hc_head_scale")} {
  const std::int64_t layers = last_layer < 0 ? config().n_layers : last_layer + 1;
  for (std::int64_t l = 0; l < layers; ++l)
    layers_.push_back(load_block(c, fmt::format("layers.{}", l), l));
  if (last_layer >= 0) return;
  for (std::int64_t j = 0; j < config().n_mtp_layers; ++j) mtp_.push_back(load_mtp(c, j));
}

Mat Model::embed(std::span<const std::int32_t> ids) const {
  Mat x(std::ssize(ids), config().dim);
  for (Index i = 0; i < x.rows(); ++i) {
    dequantize(embed_, ids[static_cast<std::size_t>(i)], 1, 0, x.cols(), x.row(i).data(), x.cols());
  }
  return x;
}

// [docs:forward]
Output Model::forward(std::span<const std::int32_t> ids, std::int64_t end, KvCache& cache, Tap tap,
                      const ForwardOptions& options) const {
  const std::int64_t start = cache.length;
  if (end <= start || end > std::ssize(ids)) {
    throw UsageError(fmt::format("asked for tokens {} … {} of {} ids", start, end - 1, ids.size()),
                     "give at least as many ids as tokens to process");
  }
  check_ids(ids, config().vocab_size);
  const auto own =
      ids.subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(end - start));
  const std::int64_t stop = options.last_layer < 0 ? config().n_layers : options.last_layer + 1;
  tap.bind("s", end - start).bind("d", config().dim).bind("n", config().hc_mult);
  tap.bind("m", config().mix_size()).bind("v", config().vocab_size);
  tap.begin_call(start, end);
  const Round round = round_.perturbed(options.perturbation);

  Output out;
  if (options.streams) {
    out.streams = *options.streams;
  } else {
    out.streams = tap("embed[s,d]", embed(own)).replicate(1, config().hc_mult);
  }
  for (std::int64_t l = options.first_layer; l < stop; ++l) {
    const auto i = static_cast<std::size_t>(l);
    const Block block{config(), l, layers_[i], config().ratio(l) == 0 ? plain_ : compressed_,
                      round};
    out.streams = block.forward(out.streams, start, own, cache.blocks[i], tap.in("layers", l));
  }
  cache.length = end;
  if (options.last_layer >= 0) return out;
  const auto next_ids = ids.subspan(static_cast<std::size_t>(start) + 1);
  const auto logits_at = options.logits_at.empty() ? std::vector{end - 1} : options.logits_at;
  out.logits = head(out.streams, hc_head_, norm_, start, next_ids, logits_at, tap, round);
  if (options.mtp) mtp(out.streams, next_ids, start, logits_at, cache, tap, round);
  return out;
}
// [/docs:forward]

Row Model::head(const ConstMatRef& streams, const HcHeadWeights& hc, const Row& norm,
                std::int64_t start, std::span<const std::int32_t> next_ids,
                const std::vector<std::int64_t>& logits_at, const Tap& tap,
                const Round& round) const {
  const Mat x = hc_head(config(), hc, streams, tap.in("hc_head"), round);
  const Mat y = tap.in("norm")(
      "out[s,d]", round.bf16("norm.out", rms_norm(x, norm, config().norm_eps)),
      [&] { return error::rms_norm(rms_norm(x, norm, config().norm_eps), x.cols()); });
  if (tap.wants("logits_all") || tap.wants("logits_all.margin")) all_logits(y, tap);
  if (tap.wants("logprobs")) log_probabilities(y, next_ids, tap);
  Row logits;
  for (const std::int64_t p : logits_at) {
    if (p - start >= y.rows()) continue;  // MTP lacks the row whose next id is not known
    const Mat row = y.row(p - start);
    logits = tap.at(p)("logits[v]", linear(row, head_), [&] { return error::linear(row, head_); });
  }
  return logits;
}

void Model::all_logits(const Mat& y, const Tap& tap) const {
  const auto error = [&] { return error::linear(y, head_); };
  const Mat z = tap("logits_all[s,v]", linear(y, head_), error);
  if (!tap.wants("logits_all.margin")) return;
  // What greedy decoding decides by.
  tap("logits_all.margin[s]", top_k_margin(z, top_k(z, 1)), [&] { return margin_error(error()); });
}

void Model::log_probabilities(const Mat& y, std::span<const std::int32_t> next_ids,
                              const Tap& tap) const {
  const Mat z = linear(y, head_);
  // No next id known: no log-probability.
  Mat p = Mat::Constant(y.rows(), 1, std::numeric_limits<Real>::quiet_NaN());
  for (Index i = 0; i < std::min<Index>(y.rows(), std::ssize(next_ids)); ++i) {
    p(i, 0) = z(i, next_ids[static_cast<std::size_t>(i)]) - log_sum_exp(z.row(i));
  }
  tap("logprobs[s]", std::move(p), [&] {
    const Mat worst = error::linear(y, head_).rowwise().maxCoeff();
    return Mat((2 * worst.array() + static_cast<Real>(z.cols()) + 4).matrix());
  });
}

void Model::mtp(const ConstMatRef& streams, std::span<const std::int32_t> next_ids,
                std::int64_t start, const std::vector<std::int64_t>& logits_at, KvCache& cache,
                const Tap& tap, const Round& round) const {
  const Index rows = std::min<Index>(streams.rows(), std::ssize(next_ids));
  if (rows == 0) return;
  const auto ids = next_ids.first(static_cast<std::size_t>(rows));
  for (std::size_t j = 0; j < mtp_.size(); ++j) {
    const std::int64_t layer = config().n_layers + static_cast<std::int64_t>(j);
    Tap tap_j = tap.in("mtp", static_cast<std::int64_t>(j));
    tap_j.bind("s", rows);
    const Mat x = mtp_input(config(), mtp_[j], streams.topRows(rows), embed(ids), tap_j, round);
    const Block block{config(), layer, mtp_[j].block,
                      config().ratio(layer) == 0 ? plain_ : compressed_, round};
    const Mat y =
        block.forward(x, start, ids, cache.blocks[static_cast<std::size_t>(layer)], tap_j);
    head(y, mtp_[j].hc_head, mtp_[j].norm, start, ids, logits_at, tap_j, round);
  }
}

}  // namespace dsv4::reference
