// SPDX-License-Identifier: Apache-2.0
// Which experts a token visits and with what weights.
#include "reference/gate.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <vector>

#include "support/matrices.hpp"
#include "support/recorder.hpp"

namespace dsv4::reference {
namespace {

using testing::kUnit;
using testing::random_matrix;
using testing::Recorder;
using testing::within;

ModelConfig config_of(Index experts, Index active) {
  ModelConfig c;
  c.n_routed_experts = experts;
  c.n_activated_experts = active;
  c.route_scale = 2.5;
  return c;
}

// The logit whose score is `score`: softplus(x) = score^2.
Real logit_of(Real score) { return std::log(std::expm1(score * score)); }

TEST(SqrtSoftplus, OfZeroIsTheRootOfLogTwo) {
  EXPECT_DOUBLE_EQ(sqrt_softplus(0), std::sqrt(std::log(Real(2))));
}

TEST(SqrtSoftplus, IsLinearAbove20AsInPyTorch) {
  EXPECT_EQ(sqrt_softplus(25), 5);
  EXPECT_EQ(sqrt_softplus(1e6), 1000);
  // At 20 itself the logarithm is used: 20 + 2e-9.
  EXPECT_GT(sqrt_softplus(20) * sqrt_softplus(20), 20 + 2e-9);
}

TEST(SqrtSoftplus, OfVeryNegativeLogitsKeepsItsDigits) {
  // log1p(e^-40) = e^-40 to 2^-57: the root is e^-20.
  EXPECT_NEAR(sqrt_softplus(-40), std::exp(Real(-20)), 4 * kUnit * std::exp(Real(-20)));
}

TEST(Gate, NormalisesTheChosenScoresTimesTheRouteScaleOnPaper) {
  // One input feature 1; scores 1, 2, 3, 4 by construction; top 2 are experts 3 and 2 with weights
  // 4/7 * 2.5 and 3/7 * 2.5.
  const Mat weight{{logit_of(1)}, {logit_of(2)}, {logit_of(3)}, {logit_of(4)}};
  const GateWeights w{as_weight(weight), Row::Zero(4), {}};
  const std::vector<std::int32_t> ids = {0};

  const Routing r = route(config_of(4, 2), w, Mat{{1}}, ids, {});

  EXPECT_EQ(r.indices, (IntMat{{3, 2}}));
  EXPECT_TRUE(within(r.weights, Mat{{Real(10) / 7, Real(7.5) / 7}}, 64 * kUnit));
}

TEST(Gate, BiasMovesTheChoiceButNotTheWeights) {
  // The same scores; bias +3.5 lifts expert 0 to 4.5, above expert 3. Weights: 1/5 and 4/5 of 2.5.
  const Mat weight{{logit_of(1)}, {logit_of(2)}, {logit_of(3)}, {logit_of(4)}};
  const GateWeights w{as_weight(weight), Row{{3.5, 0, 0, 0}}, {}};
  const std::vector<std::int32_t> ids = {0};

  const Routing r = route(config_of(4, 2), w, Mat{{1}}, ids, {});

  EXPECT_EQ(r.indices, (IntMat{{0, 3}}));
  EXPECT_TRUE(within(r.weights, Mat{{0.5, 2}}, 64 * kUnit));
}

TEST(Gate, OfAHashLayerReadsTheTableInItsOrder) {
  // Token 2 visits experts 1 and 3, in that order, whatever the scores say: weights 2/6, 4/6
  // of 2.5.
  const Mat weight{{logit_of(1)}, {logit_of(2)}, {logit_of(3)}, {logit_of(4)}};
  const std::vector<std::int64_t> table = {0, 1, 2, 3, 1, 3};
  const GateWeights w{as_weight(weight), {}, table};
  const std::vector<std::int32_t> ids = {2};

  const Routing r = route(config_of(4, 2), w, Mat{{1}}, ids, {});

  EXPECT_EQ(r.indices, (IntMat{{1, 3}}));
  EXPECT_TRUE(within(r.weights, Mat{{Real(5) / 6, Real(5) / 3}}, 64 * kUnit));
}

TEST(Gate, TiesGoToTheLowerExpert) {
  const Mat weight = Mat::Ones(5, 1);
  const GateWeights w{as_weight(weight), Row{{0, 0, 1, 0, 0}}, {}};
  const std::vector<std::int32_t> ids = {0};

  const Routing r = route(config_of(5, 3), w, Mat{{1}}, ids, {});

  EXPECT_EQ(r.indices, (IntMat{{2, 0, 1}}));
}

TEST(Gate, EqualsTheScalarTwin) {
  const Index experts = 17;
  const Index active = 4;
  const Index d = 9;
  const Mat weight = random_matrix(experts, d, "w");
  const GateWeights w{as_weight(weight), random_matrix(1, experts, "bias", 0.3), {}};
  const Mat x = random_matrix(12, d, "x");
  const std::vector<std::int32_t> ids(12, 0);
  const ModelConfig config = config_of(experts, active);
  Recorder recorder;
  recorder.keep_errors = true;
  Tap tap(recorder);
  tap.bind("s", 12);

  const Routing r = route(config, w, x, ids, tap);

  const Mat logits = recorder.matrix("logits");
  for (Index s = 0; s < 12; ++s) {
    std::vector<Real> score;
    for (Index e = 0; e < experts; ++e) {
      Real z = 0;
      for (Index i = 0; i < d; ++i) z += weight(e, i) * x(s, i);
      EXPECT_NEAR(logits(s, e), z, 2 * kUnit * recorder.error("logits")(s, e));
      score.push_back(std::sqrt(std::log(1 + std::exp(logits(s, e)))));
      // The twin's log(1 + y) loses what is below 2^-53 of 1 + y: 2^-53 / (2 score) of the score.
      EXPECT_NEAR(recorder.matrix("scores")(s, e), score.back(),
                  kUnit * (16 * score.back() + 2 / score.back()));
    }
    // Selection by repeated search for the largest biased score.
    std::vector<bool> taken(static_cast<std::size_t>(experts), false);
    Real sum = 0;
    for (Index k = 0; k < active; ++k) {
      std::size_t best = 0;
      Real most = -1e300;
      for (std::size_t e = 0; e < score.size(); ++e) {
        const Real biased =
            recorder.matrix("scores")(s, static_cast<Index>(e)) + w.bias(static_cast<Index>(e));
        if (!taken[e] && biased > most) {
          most = biased;
          best = e;
        }
      }
      taken[best] = true;
      EXPECT_EQ(r.indices(s, k), static_cast<int>(best));
      sum += recorder.matrix("scores")(s, static_cast<Index>(best));
    }
    for (Index k = 0; k < active; ++k) {
      const Real expected =
          recorder.matrix("scores")(s, r.indices(s, k)) / sum * config.route_scale;
      EXPECT_NEAR(r.weights(s, k), expected, 2 * kUnit * recorder.error("weights")(s, k));
    }
  }
}

}  // namespace
}  // namespace dsv4::reference
