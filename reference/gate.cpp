// SPDX-License-Identifier: Apache-2.0
#include "reference/gate.hpp"

#include <cmath>
#include <limits>

#include "reference/error_bound.hpp"
#include "reference/indexer.hpp"
#include "reference/linear.hpp"

namespace dsv4::reference {
namespace {

IntMat hashed(const GateWeights& w, std::span<const std::int32_t> ids, Index active) {
  IntMat indices(std::ssize(ids), active);
  for (Index i = 0; i < indices.rows(); ++i) {
    for (Index k = 0; k < active; ++k) {
      const auto at = static_cast<std::size_t>(ids[static_cast<std::size_t>(i)] * active + k);
      indices(i, k) = static_cast<std::int32_t>(w.tid2eid[at]);
    }
  }
  return indices;
}

}  // namespace

Real sqrt_softplus(Real x) { return std::sqrt(x > 20 ? x : std::log1p(std::exp(x))); }

// [docs:route]
Routing route(const ModelConfig& config, const GateWeights& w, const ConstMatRef& x,
              std::span<const std::int32_t> ids, Tap tap, Ties ties) {
  const Index active = config.n_activated_experts;
  tap.bind("x", config.n_routed_experts).bind("a", active);

  const Mat logits =
      tap("logits[s,x]", linear(x, w.weight), [&] { return error::linear(x, w.weight); });
  const Mat scores = tap("scores[s,x]", logits.unaryExpr(&sqrt_softplus),
                         [&] { return error::sqrt_softplus(logits); });
  Routing r;
  if (w.tid2eid.empty()) {
    const Mat biased = scores.rowwise() + w.bias;
    r.indices = tap("indices[s,a]", top_k(biased, active, ties), &biased, "scores");
    if (tap.wants("indices.margin")) {
      tap("indices.margin[s]", top_k_margin(biased, r.indices),
          [&] { return margin_error(error::sqrt_softplus(logits) + biased.cwiseAbs()); });
    }
  } else {
    r.indices = tap("indices[s,a]", hashed(w, ids, active));
  }
  Mat weights(x.rows(), active);
  for (Index i = 0; i < x.rows(); ++i) {
    // Scores of NaN choose nobody.
    for (Index k = 0; k < active; ++k)
      weights(i, k) =
          r.indices(i, k) < 0 ? std::numeric_limits<Real>::quiet_NaN() : scores(i, r.indices(i, k));
    weights.row(i) *= static_cast<Real>(config.route_scale) / weights.row(i).sum();
  }
  r.weights = tap("weights[s,a]", weights,
                  [&] { return Mat(static_cast<Real>(active + 4) * weights.cwiseAbs()); });
  return r;
}
// [/docs:route]

}  // namespace dsv4::reference
