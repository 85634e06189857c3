// SPDX-License-Identifier: Apache-2.0
#include "reference/attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "reference/error_bound.hpp"
#include "reference/linear.hpp"
#include "reference/parallel.hpp"
#include "reference/rms_norm.hpp"
#include "reference/rope.hpp"

namespace dsv4::reference {
namespace {

// Official numerics add the values up in blocks of so many places (kernel.py, sparse_attn).
constexpr Index kSoftmaxBlock = 64;

// The key/value vectors of one query and the places they take: the window first, then entries.
struct Gathered {
  Mat e;                     // [m, c]
  std::vector<Index> place;  // [m], ascending
};

Gathered gather(const ConstMatRef& raw, const ConstMatRef& entries, const Sight& sight) {
  const auto none = std::count(sight.entries, sight.entries + sight.entry_count, -1);
  Gathered g{Mat(sight.window_count + sight.entry_count - none, raw.cols()), {}};
  g.e.topRows(sight.window_count) = raw.middleRows(sight.window_first, sight.window_count);
  for (Index i = 0; i < sight.window_count; ++i) g.place.push_back(i);
  const Index first = std::max(sight.window_count, sight.window_places);
  for (Index i = 0; i < sight.entry_count; ++i) {
    if (sight.entries[i] < 0) continue;
    g.e.row(std::ssize(g.place)) = entries.row(sight.entries[i]);
    g.place.push_back(first + i);
  }
  return g;
}

Mat scores(const ConstMatRef& q, const Mat& e, Index heads) {
  const Eigen::Map<const Mat> by_head(q.data(), heads, e.cols());
  return by_head * e.transpose() / std::sqrt(static_cast<Real>(e.cols()));
}

// What the running error of a score is measured in, [h, m].
Mat score_error(const ConstMatRef& q, const Mat& e, Index heads) {
  return static_cast<Real>(e.cols() + 2) * scores(Row(q.cwiseAbs()), e.cwiseAbs(), heads);
}

// Errors of o[1, h*c] and lse[1, h]: a score errs by E_z, a probability by 2 max E_z + m roundings
// of itself.
HeadOutput core_attention_error(const ConstMatRef& q, const ConstMatRef& raw,
                                const ConstMatRef& entries, const Sight& sight, const Row& sink) {
  const Row lse = core_attention(q, raw, entries, sight, sink).lse;
  const Mat e = gather(raw, entries, sight).e;
  const Mat p = (scores(q, e, sink.size()).colwise() - lse.transpose()).array().exp();
  const auto worst = score_error(q, e, sink.size()).rowwise().maxCoeff().array().eval();
  const Real count = static_cast<Real>(e.rows());
  const Mat o = (p * e.cwiseAbs()).array().colwise() * (2 * worst + 2 * count + 8);
  const Row lse_error = (worst + count + 4 + lse.transpose().array().abs()).transpose();
  return {Eigen::Map<const Row>(o.data(), o.size()), lse_error};
}

struct Sights {
  std::int64_t start;   // position of query 0
  std::int64_t oldest;  // position of row 0 of `raw`
  Index window;
  std::int64_t ratio;
  Index window_places;   // of the window in the official order of indices, empty ones included
  const IntMat* chosen;  // CSA; null: every complete entry (HCA) or none (window only)
  std::vector<std::int32_t> every;  // 0, 1, 2, …

  Sight of(Index i) const {
    const std::int64_t p = start + i;
    const std::int64_t first = std::max<std::int64_t>(0, p - window + 1);
    Sight sight{first - oldest, p - first + 1, every.data(),
                ratio == 0 ? 0 : visible_entries(p, ratio), window_places};
    if (chosen) {
      sight.entries = chosen->row(i).data();
      sight.entry_count = chosen->cols();
    }
    return sight;
  }
};

// Absolute positions of the raw key/values that each query sees: [s, u], -1 = none.
IntMat window_positions(std::int64_t start, Index s, Index window) {
  IntMat idx = IntMat::Constant(s, std::min<Index>(window, start + s), -1);
  for (Index i = 0; i < s; ++i) {
    const std::int64_t first = std::max<std::int64_t>(0, start + i - window + 1);
    for (std::int64_t p = first; p <= start + i; ++p)
      idx(i, p - first) = static_cast<std::int32_t>(p);
  }
  return idx;
}

// u_g = wo_a[g] . (heads of group g, concatenated): [s, h*c] -> [s, g*r]. `product` is linear or
// its error.
template <class Product>
Mat grouped(const ModelConfig& config, const ConstMatRef& o, const Weight& wo_a,
            Product&& product) {
  const Index width = o.cols() / config.o_groups;
  const Index rank = config.o_lora_rank;
  Mat u(o.rows(), config.o_groups * rank);
  for (Index g = 0; g < config.o_groups; ++g) {
    u.middleCols(g * rank, rank) =
        product(Mat(o.middleCols(g * width, width)), wo_a, OutRows{g * rank, rank});
  }
  return u;
}

// All queries; each is independent of the others, so the number of threads changes nothing.
template <class Core>
void each_query(const Core& core, const Mat& q, const Sights& sights, Index heads, Mat& o,
                Mat& lse) {
  o.resize(q.rows(), q.cols());
  lse.resize(q.rows(), heads);
  const bool parallel = worth_threads(q.size() * sights.window);
#pragma omp parallel for schedule(dynamic) if (parallel)
  for (Index i = 0; i < q.rows(); ++i) {
    const HeadOutput out = core(q.row(i), sights.of(i));
    o.row(i) = out.o;
    lse.row(i) = out.lse;
  }
}

}  // namespace

// [docs:core_attention]
HeadOutput core_attention(const ConstMatRef& q, const ConstMatRef& raw, const ConstMatRef& entries,
                          const Sight& sight, const Row& sink, const Round& round) {
  using Column = Eigen::Matrix<Real, Eigen::Dynamic, 1>;
  const Index heads = sink.size();
  const Gathered g = gather(raw, entries, sight);
  const Mat z = scores(q, g.e, heads);
  Column m = Column::Constant(heads, -std::numeric_limits<Real>::infinity());
  Column denominator = Column::Zero(heads);
  Mat o = Mat::Zero(heads, g.e.cols());
  // Exact numerics: one block holds everything, and this is a plain softmax.
  for (Index first = 0, next = 0; first < z.cols(); first = next) {
    const auto block = [&](Index i) { return round.official() ? g.place[i] / kSoftmaxBlock : 0; };
    while (next < z.cols() && block(next) == block(first)) ++next;
    const auto z_block = z.middleCols(first, next - first);
    const auto e_block = g.e.middleRows(first, next - first);
    const Column before = m;
    m = m.cwiseMax(z_block.rowwise().maxCoeff());
    const auto shrink = (before - m).array().exp().eval();
    const Mat p = (z_block.colwise() - m).array().exp();
    denominator = denominator.array() * shrink + p.rowwise().sum().array();
    // Values meet probabilities in BF16; the denominator adds them up unrounded.
    const Mat stored = round.bf16_inside("attn.o.p", p, [&] {
      return Mat(p.array() * (2 * score_error(q, e_block, heads).array() + 4));
    });
    o = ((o.array().colwise() * shrink).matrix() + stored * e_block).eval();
  }
  denominator.array() += (sink.transpose() - m).array().exp();
  o = (o.array().colwise() / denominator.array()).eval();
  return {Eigen::Map<const Row>(o.data(), o.size()),
          (m.array() + denominator.array().log()).transpose()};
}
// [/docs:core_attention]

// [docs:attention]
Mat attention(const ModelConfig& config, std::int64_t layer, const AttentionWeights& w,
              const Row& frequencies, const ConstMatRef& x, std::int64_t start, BlockCache& cache,
              Tap tap, const Round& round) {
  const Index heads = config.n_heads;
  const Index c = config.head_dim;
  const Index s = x.rows();
  const Index window = config.window_size;
  const std::int64_t ratio = config.ratio(layer);
  const Real eps = config.norm_eps;
  const Positions at{start};
  tap.bind("q", config.q_lora_rank)
      .bind("h", heads)
      .bind("c", c)
      .bind("g", config.o_groups)
      .bind("r", config.o_lora_rank);
  tap.bind("u", std::min<Index>(window, start + s));

  // Queries: low-rank, normalised as a vector, then each head by itself, then rotated.
  const Mat x8 = round.e4m3("attn.wq_a.in", x, 128).value;
  const Mat q_a = tap("wq_a.out[s,q]", round.bf16("attn.wq_a.out", linear(x8, w.wq_a)),
                      [&] { return error::linear(x8, w.wq_a); });
  const Mat qr = tap("qr[s,q]", round.bf16("attn.qr", rms_norm(q_a, w.q_norm, eps)),
                     [&] { return error::rms_norm(rms_norm(q_a, w.q_norm, eps), q_a.cols()); });
  const Mat qr8 = round.e4m3("attn.wq_b.in", qr, 128).value;
  const Mat q_b = tap("wq_b.out[s,h,c]", round.bf16("attn.wq_b.out", linear(qr8, w.wq_b)),
                      [&] { return error::linear(qr8, w.wq_b); });
  const Mat q_normed = tap("q_normed[s,h,c]", rms_norm_heads(q_b, heads, eps, round), [&] {
    return error::rms_norm(rms_norm_heads(q_b, heads, eps).value, c);
  });
  const Mat q =
      tap("q[s,h,c]",
          round.bf16("attn.q", rope(q_normed, heads, frequencies, at, Rotation::forward, round)),
          [&] { return error::rope(q_normed, heads, frequencies, at); });

  // The shared key/value: the value is the rotated vector too.
  const Mat kv_a = tap("wkv.out[s,c]", round.bf16("attn.wkv.out", linear(x8, w.wkv)),
                       [&] { return error::linear(x8, w.wkv); });
  const Mat kv_normed =
      tap("kv_normed[s,c]", round.bf16("attn.kv_normed", rms_norm(kv_a, w.kv_norm, eps)),
          [&] { return error::rms_norm(rms_norm(kv_a, w.kv_norm, eps), c); });
  const Mat kv_roped = tap(
      "kv_roped[s,c]",
      round.bf16("attn.kv_roped", rope(kv_normed, 1, frequencies, at, Rotation::forward, round)),
      [&] { return error::rope(kv_normed, 1, frequencies, at); });
  const Mat kv = tap("kv[s,c]", round.e4m3("attn.kv", kv_roped, 64, c - 2 * frequencies.size()));

  // Raw rows in sight of this call: what the ring still holds, then this call's own.
  const std::int64_t oldest = std::max<std::int64_t>(0, start - window + 1);
  Mat raw(start - oldest + s, c);
  raw << cache.window.read(oldest, start), kv;
  cache.window.write(kv, start);
  tap("window_idxs[s,u]", window_positions(start, s, window));

  IntMat chosen;
  if (w.indexer) {
    chosen = index(config, *w.indexer, frequencies, x, qr, start, cache.indexer.front(),
                   tap.in("indexer"), round);
  }
  Mat no_entries(0, c);
  if (w.compressor) {
    compress(config, ratio, *w.compressor, frequencies, EntryUse::attention, x, start,
             cache.compressor.front(), tap.in("compressor"), round);
  }
  const ConstMatRef entries =
      w.compressor ? ConstMatRef(cache.compressor.front().entries.view()) : ConstMatRef(no_entries);

  Sights sights{start,
                oldest,
                window,
                ratio,
                start == 0 ? std::min(window, s) : window,
                w.indexer ? &chosen : nullptr,
                std::vector<std::int32_t>(static_cast<std::size_t>(entries.rows()))};
  std::iota(sights.every.begin(), sights.every.end(), 0);
  Mat o, lse;
  each_query(
      [&](const ConstMatRef& query, const Sight& sight) {
        return core_attention(query, raw, entries, sight, w.attn_sink, round);
      },
      q, sights, heads, o, lse);
  Mat o_error, lse_error;
  const auto errors = [&] {
    if (o_error.size() != 0) return;
    each_query(
        [&](const ConstMatRef& query, const Sight& sight) {
          return core_attention_error(query, raw, entries, sight, w.attn_sink);
        },
        q, sights, heads, o_error, lse_error);
  };
  if (tap.wants("lse")) tap("lse[s,h]", lse, [&] { return errors(), lse_error; });
  o = tap("o[s,h,c]", round.bf16("attn.o", std::move(o), Inside::roundings),
          [&] { return errors(), o_error; });

  // The value was rotated by its own position; turning the output back by the query's leaves
  // relative positions.
  const Mat o_derotated =
      tap("o_derotated[s,h,c]",
          round.bf16("attn.o_derotated", rope(o, heads, frequencies, at, Rotation::inverse, round)),
          [&] { return error::rope(o, heads, frequencies, at); });
  const Mat o_lora =
      tap("o_lora[s,g,r]", round.bf16("attn.o_lora", grouped(config, o_derotated, w.wo_a, linear)),
          [&] { return grouped(config, o_derotated, w.wo_a, error::linear); });
  const Mat o_lora8 = round.e4m3("attn.wo_b.in", o_lora, 128).value;
  return tap("out[s,d]", round.bf16("attn.out", linear(o_lora8, w.wo_b)),
             [&] { return error::linear(o_lora8, w.wo_b); });
}
// [/docs:attention]

}  // namespace dsv4::reference
