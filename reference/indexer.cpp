// SPDX-License-Identifier: Apache-2.0
#include "reference/indexer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "reference/error_bound.hpp"
#include "reference/hadamard.hpp"
#include "reference/linear.hpp"
#include "reference/parallel.hpp"
#include "reference/rope.hpp"

namespace dsv4::reference {
namespace {

constexpr Real kMinusInf = -std::numeric_limits<Real>::infinity();
constexpr Index kQueryTile = 32;  // scores of so many queries are held at once

struct Queries {
  const Mat& q;        // [s, i*j]
  const Mat& weights;  // [s, i]
  std::int64_t start;  // position of row 0
};

// I[t, s] = sum_h w[t, h] * relu(q[t, h] . k[s]) for s visible from t, else -inf. Eq. 16. One row
// of queries.
template <bool kMagnitude>
Row score_row(const Queries& in, Index row, Index heads, const ConstMatRef& keys,
              const Round& round) {
  const Index visible = visible_entries(in.start + row, 4);
  const Eigen::Map<const Mat> q(in.q.row(row).data(), heads, keys.cols());
  Row score = Row::Constant(keys.rows(), kMinusInf);
  const auto k = keys.topRows(visible);
  if constexpr (kMagnitude) {
    score.head(visible) =
        in.weights.row(row).cwiseAbs() * (q.cwiseAbs() * k.cwiseAbs().transpose());
  } else {
    const Mat match = round.bf16_inside("index_score.match", q * k.transpose(), [&] {
      return Mat(static_cast<Real>(k.cols()) * (q.cwiseAbs() * k.cwiseAbs().transpose()));
    });
    const Mat weighted = in.weights.row(row).asDiagonal() * match.cwiseMax(Real(0));
    score.head(visible) = round.bf16_inside("index_score.weighted", weighted).colwise().sum();
  }
  return score;
}

template <bool kMagnitude>
Mat score_rows(const Queries& in, Index first, Index count, Index heads, const ConstMatRef& keys,
               const Round& round) {
  Mat scores(count, keys.rows());
  const bool parallel = worth_threads(count * keys.size() * heads);
#pragma omp parallel for schedule(dynamic) if (parallel)
  for (Index i = 0; i < count; ++i)
    scores.row(i) = score_row<kMagnitude>(in, first + i, heads, keys, round);
  return scores;
}

Mat score_error(const Queries& in, Index heads, const ConstMatRef& keys) {
  // Invisible entries are -inf on both sides; their bound is never used.
  const Mat size = score_rows<true>(in, 0, in.q.rows(), heads, keys, {});
  return static_cast<Real>(heads + keys.cols() + 2) *
         (size.array() == kMinusInf).select(Real(0), size.array()).matrix();
}

}  // namespace

IntMat top_k(const ConstMatRef& scores, Index k, Ties ties) {
  struct Candidate {
    Real score;
    std::int32_t index;
  };
  const auto better = [ties](const Candidate& a, const Candidate& b) {
    const bool tied = a.score == b.score && ties == Ties::lowest;
    return tied ? a.index < b.index : a.score > b.score;
  };
  const Index width = std::min(k, scores.cols());
  IntMat chosen = IntMat::Constant(scores.rows(), width, -1);
  if (width == 0) return chosen;
  std::vector<Candidate> row(static_cast<std::size_t>(scores.cols()));
  const auto last = row.begin() + width - 1;
  for (Index i = 0; i < scores.rows(); ++i) {
    for (Index t = 0; t < scores.cols(); ++t) {
      const Real s = scores(i, t);
      row[static_cast<std::size_t>(t)] = {std::isnan(s) ? kMinusInf : s,
                                          static_cast<std::int32_t>(t)};
    }
    // The steps of PyTorch's topk on a CPU: without an order among equal scores the same ones come
    // out.
    if (width * 64 <= scores.cols()) {
      std::partial_sort(row.begin(), last + 1, row.end(), better);
    } else {
      std::nth_element(row.begin(), last, row.end(), better);
      std::sort(row.begin(), last, better);
    }
    Index count = 0;
    for (auto c = row.begin(); c <= last; ++c) {
      if (c->score > kMinusInf) chosen(i, count++) = c->index;
    }
  }
  return chosen;
}

Mat margin_error(const ConstMatRef& score_errors) {
  const auto finite = score_errors.unaryExpr([](Real e) { return std::isfinite(e) ? e : 0; });
  return 2 * finite.rowwise().maxCoeff();
}

Mat top_k_margin(const ConstMatRef& scores, const IntMat& chosen) {
  Mat margin(scores.rows(), 1);
  std::vector<bool> taken;
  for (Index i = 0; i < scores.rows(); ++i) {
    taken.assign(static_cast<std::size_t>(scores.cols()), false);
    Real last = std::numeric_limits<Real>::infinity();
    for (const std::int32_t t : chosen.row(i)) {
      if (t < 0) continue;
      taken[static_cast<std::size_t>(t)] = true;
      last = std::min(last, scores(i, t));
    }
    Real next = kMinusInf;
    for (Index t = 0; t < scores.cols(); ++t) {
      if (!taken[static_cast<std::size_t>(t)]) next = std::max(next, scores(i, t));
    }
    margin(i, 0) = last - next;  // inf - (-inf) = inf: no choice was made
  }
  return margin;
}

// [docs:index]
IntMat index(const ModelConfig& config, const IndexerWeights& w, const Row& frequencies,
             const ConstMatRef& x, const ConstMatRef& qr, std::int64_t start,
             CompressorCache& cache, Tap tap, const Round& round) {
  const Index heads = config.index_n_heads;
  const Index j = config.index_head_dim;
  const Index s = x.rows();
  const Positions at{start};
  tap.bind("i", heads).bind("j", j);

  const Mat qr8 = round.e4m3("indexer.wq_b.in", qr, 128).value;
  const Mat q_b = tap("wq_b.out[s,i,j]", round.bf16("indexer.wq_b.out", linear(qr8, w.wq_b)),
                      [&] { return error::linear(qr8, w.wq_b); });
  const Mat q_roped = tap(
      "q_roped[s,i,j]",
      round.bf16("indexer.q_roped", rope(q_b, heads, frequencies, at, Rotation::forward, round)),
      [&] { return error::rope(q_b, heads, frequencies, at); });
  const Mat q_rotated =
      tap("q_rotated[s,i,j]", round.bf16("indexer.q_rotated", hadamard(q_roped, heads)),
          [&] { return error::hadamard(q_roped, heads); });
  const Mat q = tap("q[s,i,j]", round.e2m1("indexer.q", q_rotated));

  compress(config, 4, w.compressor, frequencies, EntryUse::indexing, x, start, cache,
           tap.in("compressor"), round);
  const auto keys = cache.entries.view();
  tap.bind("t", keys.rows()).bind("k", std::min<Index>(config.index_topk, keys.rows()));

  // The factor j^-1/2 of the scores and i^-1/2 of the sum over heads are folded into the head
  // weights. Eq. 15.
  const Real scale = 1 / std::sqrt(static_cast<Real>(j) * static_cast<Real>(heads));
  const auto projection_error = [&] { return error::linear(x, w.weights_proj); };
  const Mat projected =
      round.bf16_inside("indexer.weights.projection", linear(x, w.weights_proj), projection_error);
  const Mat weights =
      tap("weights[s,i]",
          round.bf16("indexer.weights", projected * round.fp32("indexer.weights.scale", scale),
                     Inside::roundings),
          [&] {
            return Mat(projection_error() * scale *
                       (1 + Real(4) / static_cast<Real>(w.weights_proj.cols)));
          });
  const Queries in{q, weights, start};
  const auto select = [&](const Mat& scores) {
    IntMat chosen = top_k(scores, config.index_topk, round.ties());
    return chosen;
  };
  if (keys.rows() > 0 && (tap.wants("index_score") || tap.wants("topk_idxs"))) {
    // Someone looks: hold the scores of the whole call.
    const Mat scores =
        tap("index_score[s,t]",
            round.bf16("index_score.out", score_rows<false>(in, 0, s, heads, keys, round),
                       Inside::roundings),
            [&] { return score_error(in, heads, keys); });
    IntMat chosen = tap("topk_idxs[s,k]", select(scores), &scores, "index_score");
    if (tap.wants("topk_idxs.margin")) {
      tap("topk_idxs.margin[s]", top_k_margin(scores, chosen),
          [&] { return margin_error(score_error(in, heads, keys)); });
    }
    return chosen;
  }
  IntMat chosen(s, std::min<Index>(config.index_topk, keys.rows()));
  for (Index first = 0; first < s; first += kQueryTile) {
    const Index count = std::min(kQueryTile, s - first);
    chosen.middleRows(first, count) = select(
        round.bf16("index_score.out", score_rows<false>(in, first, count, heads, keys, round))
            .value);
  }
  return tap("topk_idxs[s,k]", std::move(chosen));
}
// [/docs:index]

}  // namespace dsv4::reference
