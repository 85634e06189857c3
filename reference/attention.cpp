// SPDX-License-Identifier: Apache-2.0
#include "reference/attention.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "reference/error_bound.hpp"
#include "reference/linear.hpp"
#include "reference/parallel.hpp"
#include "reference/rms_norm.hpp"
#include "reference/rope.hpp"

namespace dsv4::reference {
namespace {

// The key/value vectors of one query, gathered: [window rows, then chosen entries; c].
Mat gather(const ConstMatRef& raw, const ConstMatRef& entries, const Sight& sight) {
  const auto none = std::count(sight.entries, sight.entries + sight.entry_count, -1);
  Mat e(sight.window_count + sight.entry_count - none, raw.cols());
  e.topRows(sight.window_count) = raw.middleRows(sight.window_first, sight.window_count);
  Index row = sight.window_count;
  for (Index i = 0; i < sight.entry_count; ++i) {
    if (sight.entries[i] >= 0) e.row(row++) = entries.row(sight.entries[i]);
  }
  return e;
}

struct Softmax {
  Mat e;    // [m, c]  gathered key/values
  Mat p;    // [h, m]  probabilities; a row sums to less than one, the sink has the rest
  Row lse;  // [h]
};

Softmax softmax_with_sink(const ConstMatRef& q, Mat e, const Row& sink) {
  const Index heads = sink.size();
  const Index c = e.cols();
  const Eigen::Map<const Mat> by_head(q.data(), heads, c);
  const Mat z = by_head * e.transpose() / std::sqrt(static_cast<Real>(c));
  const auto m = z.rowwise().maxCoeff().eval();
  Mat p = (z.colwise() - m).array().exp();
  const auto denominator =
      (p.rowwise().sum().array() + (sink.transpose() - m).array().exp()).eval();
  p = (p.array().colwise() / denominator).eval();
  return {std::move(e), std::move(p), (m.array() + denominator.log()).transpose()};
}

// Errors of o[1, h*c] and lse[1, h]: a score errs by E_z, a probability by 2 max E_z + m roundings
// of itself.
HeadOutput core_attention_error(const ConstMatRef& q, const ConstMatRef& raw,
                                const ConstMatRef& entries, const Sight& sight, const Row& sink) {
  const Softmax s = softmax_with_sink(q, gather(raw, entries, sight), sink);
  const Index c = s.e.cols();
  const Eigen::Map<const Mat> by_head(q.data(), sink.size(), c);
  const Mat z = by_head.cwiseAbs() * s.e.cwiseAbs().transpose() / std::sqrt(static_cast<Real>(c));
  const auto worst = (static_cast<Real>(c + 2) * z.rowwise().maxCoeff()).array().eval();
  const Real count = static_cast<Real>(s.e.rows());
  const Mat o = (s.p * s.e.cwiseAbs()).array().colwise() * (2 * worst + 2 * count + 8);
  const Row lse = (worst + count + 4 + s.lse.transpose().array().abs()).transpose();
  return {Eigen::Map<const Row>(o.data(), o.size()), lse};
}

struct Sights {
  std::int64_t start;   // position of query 0
  std::int64_t oldest;  // position of row 0 of `raw`
  Index window;
  std::int64_t ratio;
  const IntMat* chosen;             // CSA; null: every complete entry (HCA) or none (window only)
  std::vector<std::int32_t> every;  // 0, 1, 2, …

  Sight of(Index i) const {
    const std::int64_t p = start + i;
    const std::int64_t first = std::max<std::int64_t>(0, p - window + 1);
    if (chosen) return {first - oldest, p - first + 1, chosen->row(i).data(), chosen->cols()};
    return {first - oldest, p - first + 1, every.data(),
            ratio == 0 ? 0 : visible_entries(p, ratio)};
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

using CoreAttention = HeadOutput (*)(const ConstMatRef&, const ConstMatRef&, const ConstMatRef&,
                                     const Sight&, const Row&);

// All queries; each is independent of the others, so the number of threads changes nothing.
void each_query(CoreAttention core, const Mat& q, const Mat& raw, const ConstMatRef& entries,
                const Sights& sights, const Row& sink, Mat& o, Mat& lse) {
  o.resize(q.rows(), q.cols());
  lse.resize(q.rows(), sink.size());
  const bool parallel = worth_threads(q.size() * sights.window);
#pragma omp parallel for schedule(dynamic) if (parallel)
  for (Index i = 0; i < q.rows(); ++i) {
    const HeadOutput out = core(q.row(i), raw, entries, sights.of(i), sink);
    o.row(i) = out.o;
    lse.row(i) = out.lse;
  }
}

}  // namespace

HeadOutput core_attention(const ConstMatRef& q, const ConstMatRef& raw, const ConstMatRef& entries,
                          const Sight& sight, const Row& sink) {
  const Softmax s = softmax_with_sink(q, gather(raw, entries, sight), sink);
  const Mat o = s.p * s.e;
  return {Eigen::Map<const Row>(o.data(), o.size()), s.lse};
}

// [docs:attention]
Mat attention(const ModelConfig& config, std::int64_t layer, const AttentionWeights& w,
              const Row& frequencies, const ConstMatRef& x, std::int64_t start, BlockCache& cache,
              Tap tap) {
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
  const Mat q_a = tap("wq_a.out[s,q]", linear(x, w.wq_a), [&] { return error::linear(x, w.wq_a); });
  const Mat qr = tap("qr[s,q]", rms_norm(q_a, w.q_norm, eps),
                     [&] { return error::rms_norm(rms_norm(q_a, w.q_norm, eps), q_a.cols()); });
  const Mat q_b =
      tap("wq_b.out[s,h,c]", linear(qr, w.wq_b), [&] { return error::linear(qr, w.wq_b); });
  const Mat q_normed = tap("q_normed[s,h,c]", rms_norm_heads(q_b, heads, eps),
                           [&] { return error::rms_norm(rms_norm_heads(q_b, heads, eps), c); });
  const Mat q = tap("q[s,h,c]", rope(q_normed, heads, frequencies, at),
                    [&] { return error::rope(q_normed, heads, frequencies, at); });

  // The shared key/value: the value is the rotated vector too.
  const Mat kv_a = tap("wkv.out[s,c]", linear(x, w.wkv), [&] { return error::linear(x, w.wkv); });
  const Mat kv_normed = tap("kv_normed[s,c]", rms_norm(kv_a, w.kv_norm, eps),
                            [&] { return error::rms_norm(rms_norm(kv_a, w.kv_norm, eps), c); });
  const Mat kv_roped = tap("kv_roped[s,c]", rope(kv_normed, 1, frequencies, at),
                           [&] { return error::rope(kv_normed, 1, frequencies, at); });
  const Mat kv = tap("kv[s,c]", kv_roped);

  // Raw rows in sight of this call: what the ring still holds, then this call's own.
  const std::int64_t oldest = std::max<std::int64_t>(0, start - window + 1);
  Mat raw(start - oldest + s, c);
  raw << cache.window.read(oldest, start), kv;
  cache.window.write(kv, start);
  tap("window_idxs[s,u]", window_positions(start, s, window));

  IntMat chosen;
  if (w.indexer) {
    chosen = index(config, *w.indexer, frequencies, x, qr, start, cache.indexer.front(),
                   tap.in("indexer"));
  }
  Mat no_entries(0, c);
  if (w.compressor) {
    compress(config, ratio, *w.compressor, frequencies, EntryUse::attention, x, start,
             cache.compressor.front(), tap.in("compressor"));
  }
  const ConstMatRef entries =
      w.compressor ? ConstMatRef(cache.compressor.front().entries.view()) : ConstMatRef(no_entries);

  Sights sights{start,
                oldest,
                window,
                ratio,
                w.indexer ? &chosen : nullptr,
                std::vector<std::int32_t>(static_cast<std::size_t>(entries.rows()))};
  std::iota(sights.every.begin(), sights.every.end(), 0);
  Mat o, lse;
  each_query(core_attention, q, raw, entries, sights, w.attn_sink, o, lse);
  Mat o_error, lse_error;
  const auto errors = [&] {
    if (o_error.size() == 0)
      each_query(core_attention_error, q, raw, entries, sights, w.attn_sink, o_error, lse_error);
  };
  if (tap.wants("lse")) tap("lse[s,h]", lse, [&] { return errors(), lse_error; });
  o = tap("o[s,h,c]", std::move(o), [&] { return errors(), o_error; });

  // The value was rotated by its own position; turning the output back by the query's leaves
  // relative positions.
  const Mat o_derotated =
      tap("o_derotated[s,h,c]", rope(o, heads, frequencies, at, Rotation::inverse),
          [&] { return error::rope(o, heads, frequencies, at); });
  const Mat o_lora = tap("o_lora[s,g,r]", grouped(config, o_derotated, w.wo_a, linear),
                         [&] { return grouped(config, o_derotated, w.wo_a, error::linear); });
  return tap("out[s,d]", linear(o_lora, w.wo_b), [&] { return error::linear(o_lora, w.wo_b); });
}
// [/docs:attention]

}  // namespace dsv4::reference
