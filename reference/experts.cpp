// SPDX-License-Identifier: Apache-2.0
#include "reference/experts.hpp"

#include <limits>

#include "reference/error_bound.hpp"
#include "reference/linear.hpp"

namespace dsv4::reference {
namespace {

// The tokens that visit each expert, in order, and which of their choices it was.
struct Visits {
  std::vector<std::vector<Index>> rows;
  std::vector<std::vector<Index>> choices;
};

Visits visits(const IntMat& indices, Index experts) {
  Visits v{std::vector<std::vector<Index>>(static_cast<std::size_t>(experts)),
           std::vector<std::vector<Index>>(static_cast<std::size_t>(experts))};
  for (Index i = 0; i < indices.rows(); ++i) {
    for (Index k = 0; k < indices.cols(); ++k) {
      if (indices(i, k) < 0) continue;  // scores of NaN choose nobody
      v.rows[static_cast<std::size_t>(indices(i, k))].push_back(i);
      v.choices[static_cast<std::size_t>(indices(i, k))].push_back(k);
    }
  }
  return v;
}

// A value of an expert: a stage where somebody watches, else a rounding inside the expert.
Mat kept(std::string_view site, std::string_view spec, Mat x, const ErrorScale& error, Real low,
         Real high, const Tap& tap, const Round& round) {
  const auto clamp = [&](const Mat& m) { return Mat(m.cwiseMin(high).cwiseMax(low)); };
  if (!tap) return clamp(round.bf16_inside(site, std::move(x), error));
  Stored stored = round.bf16(site, std::move(x));
  stored.value = clamp(stored.value);
  stored.before = clamp(stored.before);
  return tap(spec, std::move(stored), error);
}

// The rounding sites of an expert: routed and shared ones may be computed differently by design.
struct Sites {
  std::string_view in, gate, up, hidden, w2_in, out;
};
constexpr Sites kRouted{"experts.in",     "experts.gate",  "experts.up",
                        "experts.hidden", "experts.w2.in", "experts.out"};
constexpr Sites kShared{"shared_experts.in",     "shared_experts.gate",  "shared_experts.up",
                        "shared_experts.hidden", "shared_experts.w2.in", "shared_experts.out"};

Stored expert(const ExpertWeights& w, const ConstMatRef& x, const Mat& weight, Real limit,
              const Sites& site, const Tap& tap, const Round& round) {
  constexpr Real kNone = std::numeric_limits<Real>::infinity();
  const Real high = limit > 0 ? limit : kNone;
  const Mat x8 = round.e4m3(site.in, x, 128).value;
  const auto gate_error = [&] { return error::linear(x8, w.w1); };
  const auto up_error = [&] { return error::linear(x8, w.w3); };
  const Mat gate =
      kept(site.gate, "gate[y,f]", linear(x8, w.w1), gate_error, -kNone, high, tap, round);
  const Mat up = kept(site.up, "up[y,f]", linear(x8, w.w3), up_error, -high, high, tap, round);
  const Mat product = swiglu(gate, up, weight, limit).hidden;
  const auto product_error = [&] { return Mat(12 * product.cwiseAbs()); };
  const Mat hidden =
      kept(site.hidden, "hidden[y,f]", product, product_error, -kNone, kNone, tap, round);
  const Mat hidden8 = round.e4m3(site.w2_in, hidden, 128).value;
  Stored out =
      round.bf16(site.out, linear(hidden8, w.w2), tap ? Inside::nothing : Inside::roundings);
  if (tap) out.value = tap("out[y,d]", Stored(out), [&] { return error::linear(hidden8, w.w2); });
  return out;
}

}  // namespace

// [docs:swiglu]
SwiGlu swiglu(Mat gate, Mat up, const Mat& weight, Real limit) {
  if (limit > 0) {
    gate = gate.cwiseMin(limit).eval();
    up = up.cwiseMin(limit).cwiseMax(-limit).eval();
  }
  Mat hidden = gate.array() / (1 + (-gate.array()).exp()) * up.array();
  if (weight.size() > 0) hidden = (weight.col(0).asDiagonal() * hidden).eval();
  return {std::move(gate), std::move(up), std::move(hidden)};
}
// [/docs:swiglu]

// [docs:moe]
Mat moe(const ModelConfig& config, const MoeWeights& w, const ConstMatRef& x,
        std::span<const std::int32_t> ids, const Tap& tap, const Round& round) {
  const Real limit = config.swiglu_limit;
  const Routing r = route(config, w.gate, x, ids, tap.in("gate"), round.ties());
  const Visits v = visits(r.indices, config.n_routed_experts);

  Mat routed = Mat::Zero(x.rows(), x.cols());
  Mat size = tap ? Mat(routed)
                 : Mat();  // sum of |expert output|: what the error of the sum is measured in
  for (std::size_t e = 0; e < w.experts.size(); ++e) {
    if (v.rows[e].empty()) continue;
    const Index visitors = std::ssize(v.rows[e]);
    Mat x_e(visitors, x.cols()), weight(visitors, 1);
    IntMat rows(visitors, 1);
    for (Index i = 0; i < visitors; ++i) {
      const Index token = v.rows[e][static_cast<std::size_t>(i)];
      x_e.row(i) = x.row(token);
      weight(i, 0) = r.weights(token, v.choices[e][static_cast<std::size_t>(i)]);
      rows(i, 0) = static_cast<std::int32_t>(token);
    }
    Tap tap_e = tap.in("experts", static_cast<std::int64_t>(e));
    if (!tap_e.wants("out")) tap_e = {};
    tap_e.bind("y", visitors).bind("f", config.moe_inter_dim);
    tap_e("rows[y]", std::move(rows));
    const Mat out = expert(w.experts[e], x_e, weight, limit, kRouted, tap_e, round).value;
    for (Index i = 0; i < visitors; ++i) {
      routed.row(v.rows[e][static_cast<std::size_t>(i)]) += out.row(i);
      if (tap) size.row(v.rows[e][static_cast<std::size_t>(i)]) += out.row(i).cwiseAbs();
    }
  }
  routed = tap("routed[s,d]", std::move(routed),
               [&] { return Mat(static_cast<Real>(config.n_activated_experts) * size); });
  const Mat shared =
      tap("shared[s,d]", expert(w.shared_experts, x, {}, limit, kShared, {}, round), [&] {
        return error::expert(round.e4m3(kShared.in, x, 128).value, w.shared_experts.w1,
                             w.shared_experts.w2, w.shared_experts.w3, {}, limit);
      });
  return tap("out[s,d]", round.bf16("ffn.out", routed + shared),
             [&] { return Mat((routed + shared).cwiseAbs()); });
}
// [/docs:moe]

}  // namespace dsv4::reference
