// SPDX-License-Identifier: Apache-2.0
// SwiGLU with clamps, and the mixture of routed and shared experts.
#include "reference/experts.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <vector>

#include "reference/error_bound.hpp"
#include "support/matrices.hpp"

namespace dsv4::reference {
namespace {

using testing::identical;
using testing::kUnit;
using testing::random_matrix;
using testing::within;

Real silu(Real a) { return a / (1 + std::exp(-a)); }

TEST(SwiGlu, ClampsTheGateAboveOnlyAndTheOtherPartOnBothSides) {
  // Limit 10: gate 12 -> 10, -12 stays; up 12 -> 10, -12 -> -10.
  const Mat gate{{12, -12, 1, 1}};
  const Mat up{{1, 1, 12, -12}};

  const SwiGlu h = swiglu(gate, up, {}, 10);

  EXPECT_EQ(h.gate, (Mat{{10, -12, 1, 1}}));
  EXPECT_EQ(h.up, (Mat{{1, 1, 10, -10}}));
  const Mat expected{{silu(10), silu(-12), 10 * silu(1), -10 * silu(1)}};
  EXPECT_TRUE(within(h.hidden, expected, 8 * kUnit * expected.cwiseAbs()));
}

TEST(SwiGlu, WithLimitZeroDoesNotClamp) {
  const Mat gate{{50, -50}};
  const Mat up{{-40, 40}};

  const SwiGlu h = swiglu(gate, up, {}, 0);

  EXPECT_EQ(h.gate, gate);
  EXPECT_EQ(h.up, up);
  EXPECT_NEAR(h.hidden(0, 0), -2000, 1e-10);
}

TEST(SwiGlu, MultipliesByTheRoutingWeightOfEachRow) {
  const Mat gate{{0, 2}, {1, 3}};
  const Mat up{{5, 7}, {-1, 2}};

  const Mat plain = swiglu(gate, up, {}, 10).hidden;
  const Mat weighted = swiglu(gate, up, Mat{{2}, {-0.5}}, 10).hidden;

  EXPECT_TRUE(identical(weighted.row(0), 2 * plain.row(0)));
  EXPECT_TRUE(identical(weighted.row(1), -0.5 * plain.row(1)));
}

// Everything a small mixture needs; the matrices live here.
struct SmallMoe {
  static constexpr Index d = 6, f = 5, experts = 5, active = 2, tokens = 11;
  SmallMoe() {
    config.n_routed_experts = experts;
    config.n_activated_experts = active;
    config.moe_inter_dim = f;
    config.route_scale = 1.5;
    config.swiglu_limit = 1.2;
    for (Index e = 0; e <= experts; ++e) {  // the last one is the shared expert
      const auto seed = static_cast<std::uint64_t>(e);
      w1.push_back(random_matrix(f, d, "w1", 1, seed));
      w2.push_back(random_matrix(d, f, "w2", 1, seed));
      w3.push_back(random_matrix(f, d, "w3", 1, seed));
    }
    for (std::size_t e = 0; e < static_cast<std::size_t>(experts); ++e)
      w.experts.push_back({as_weight(w1[e]), as_weight(w2[e]), as_weight(w3[e])});
    w.shared_experts = {as_weight(w1.back()), as_weight(w2.back()), as_weight(w3.back())};
    w.gate = {as_weight(gate), random_matrix(1, experts, "bias"), {}};
  }

  // One expert on one token, with plain loops.
  std::vector<Real> twin(std::size_t e, const Mat& x, Index s, Real weight) const {
    std::vector<Real> y(static_cast<std::size_t>(d), 0);
    for (Index k = 0; k < f; ++k) {
      Real a = 0;
      Real b = 0;
      for (Index i = 0; i < d; ++i) {
        a += w1[e](k, i) * x(s, i);
        b += w3[e](k, i) * x(s, i);
      }
      if (config.swiglu_limit > 0) {
        const Real limit = config.swiglu_limit;
        if (a > limit) a = limit;
        if (b > limit) b = limit;
        if (b < -limit) b = -limit;
      }
      const Real hidden = weight * silu(a) * b;
      for (Index i = 0; i < d; ++i) y[static_cast<std::size_t>(i)] += w2[e](i, k) * hidden;
    }
    return y;
  }

  std::vector<Mat> w1, w2, w3;
  Mat gate = random_matrix(experts, d, "gate");
  MoeWeights w;
  ModelConfig config;
  std::vector<std::int32_t> ids = std::vector<std::int32_t>(tokens, 0);
};

TEST(Moe, EqualsTheScalarTwin) {
  for (const double limit : {0.0, 1.2}) {
    SmallMoe in;
    in.config.swiglu_limit = limit;
    const Mat x = random_matrix(SmallMoe::tokens, SmallMoe::d, "x");

    const Mat y = moe(in.config, in.w, x, in.ids, {});

    const Routing r = route(in.config, in.w.gate, x, in.ids, {});
    Mat expected = Mat::Zero(SmallMoe::tokens, SmallMoe::d);
    Mat bound = Mat::Zero(SmallMoe::tokens, SmallMoe::d);
    const auto add = [&](std::size_t e, Index s, Real weight, const ExpertWeights& w) {
      const auto out = in.twin(e, x, s, weight);
      for (Index i = 0; i < SmallMoe::d; ++i) {
        expected(s, i) += out[static_cast<std::size_t>(i)];
        // At most active + 1 additions of outputs of this size.
        bound(s, i) += 4 * std::abs(out[static_cast<std::size_t>(i)]);
      }
      bound.row(s) += error::expert(x.row(s), w.w1, w.w2, w.w3, Mat::Constant(1, 1, weight), limit);
    };
    for (Index s = 0; s < SmallMoe::tokens; ++s) {
      for (Index k = 0; k < SmallMoe::active; ++k) {
        const auto e = static_cast<std::size_t>(r.indices(s, k));
        add(e, s, r.weights(s, k), in.w.experts[e]);
      }
      add(static_cast<std::size_t>(SmallMoe::experts), s, 1, in.w.shared_experts);
    }
    EXPECT_TRUE(within(y, expected, 2 * kUnit * bound)) << "limit " << limit;
  }
}

TEST(Moe, ClampsTheSharedExpertToo) {
  SmallMoe clamped, free;
  clamped.config.swiglu_limit = 0.1;
  free.config.swiglu_limit = 0;
  for (std::size_t e = 0; e < static_cast<std::size_t>(SmallMoe::experts); ++e) {
    clamped.w2[e].setZero();  // routed experts say nothing
    free.w2[e].setZero();
  }
  const Mat x = random_matrix(3, SmallMoe::d, "x");
  const std::vector<std::int32_t> ids(3, 0);

  const Mat a = moe(clamped.config, clamped.w, x, ids, {});
  const Mat b = moe(free.config, free.w, x, ids, {});

  for (Index s = 0; s < 3; ++s) {
    const auto expected = clamped.twin(SmallMoe::experts, x, s, 1);
    for (Index i = 0; i < SmallMoe::d; ++i)
      EXPECT_NEAR(a(s, i), expected[static_cast<std::size_t>(i)], 1e-14);
  }
  EXPECT_GT((a - b).cwiseAbs().maxCoeff(), 0.1);
}

TEST(Moe, OfOneExpertAndOneDimOnPaper) {
  // w1 = 2, w3 = 3, w2 = 10, one expert of weight route_scale = 1.5 whatever its score; x = 1.
  // a = 2, b = 3: routed 10 * 1.5 * silu(2) * 3; shared (w1 = w3 = w2 = 1): silu(1).
  const Mat two{{2}}, three{{3}}, ten{{10}}, one{{1}};
  MoeWeights w;
  w.gate = {as_weight(one), Row::Zero(1), {}};
  w.experts.push_back({as_weight(two), as_weight(ten), as_weight(three)});
  w.shared_experts = {as_weight(one), as_weight(one), as_weight(one)};
  ModelConfig config;
  config.n_routed_experts = config.n_activated_experts = config.moe_inter_dim = 1;
  config.route_scale = 1.5;
  const std::vector<std::int32_t> ids = {0};

  const Mat y = moe(config, w, Mat{{1}}, ids, {});

  EXPECT_NEAR(y(0, 0), 45 * silu(2) + silu(1), 1e-13);
}

}  // namespace
}  // namespace dsv4::reference
