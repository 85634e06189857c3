// SPDX-License-Identifier: Apache-2.0
// RMSNorm with and without weight.
#include "reference/rms_norm.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <memory>

#include "core/arithmetic.hpp"
#include "reference/error_bound.hpp"
#include "support/matrices.hpp"

namespace dsv4::reference {
namespace {

using testing::kUnit;
using testing::random_matrix;
using testing::within;

// Row by row with plain loops: y = w (x (mean(x^2) + eps)^-1/2).
Mat twin(const Mat& x, const Row& w, Real eps) {
  Mat y(x.rows(), x.cols());
  for (Index s = 0; s < x.rows(); ++s) {
    Real sum = 0;
    for (Index i = 0; i < x.cols(); ++i) sum += x(s, i) * x(s, i);
    const Real factor = 1 / std::sqrt(sum / static_cast<Real>(x.cols()) + eps);
    for (Index i = 0; i < x.cols(); ++i) y(s, i) = w(i) * (x(s, i) * factor);
  }
  return y;
}

TEST(RmsNorm, DividesByTheRootMeanSquareAndMultipliesByTheWeight) {
  // mean(x^2) = (9 + 16) / 2 = 12.5; with eps 3.5 the root is 4: x / 4 = [0.75, 1], times [2, -1].
  const Mat x{{3, 4}};
  const Row weight{{2, -1}};

  const Mat y = rms_norm(x, weight, 3.5);

  EXPECT_EQ(y, (Mat{{1.5, -1}}));
}

TEST(RmsNorm, EpsilonKeepsAZeroRowAtZero) {
  const Mat x = Mat::Zero(1, 4);

  const Mat y = rms_norm(x, Row::Ones(4), 1e-6);

  EXPECT_EQ(y, Mat::Zero(1, 4));
}

TEST(RmsNorm, InverseRmsIsOnePerRow) {
  // Row 0: mean 1, eps 3 -> 1/2. Row 1: mean (0+0+0+52)/4 = 13, eps 3 -> 1/4.
  const Mat x{{1, -1, 1, -1}, {0, 0, 0, std::sqrt(Real(52))}};

  const auto r = inverse_rms(x, 3);

  EXPECT_DOUBLE_EQ(r(0), 0.5);
  EXPECT_DOUBLE_EQ(r(1), 0.25);
}

TEST(RmsNorm, EqualsTheScalarTwinWithinTheDerivedBound) {
  const Mat x = random_matrix(5, 37, "x", 3);
  const Row w = random_matrix(1, 37, "w");

  const Mat y = rms_norm(x, w, 1e-6);

  // Both sides err by at most u E.
  EXPECT_TRUE(within(y, twin(x, w, 1e-6), 2 * kUnit * error::rms_norm(y, 37)));
}

TEST(RmsNormHeads, NormalisesEachHeadByItself) {
  // Head 0 = [3, 4] with root mean square 4 (eps 3.5), head 1 = [0.5, 0.5]: mean 0.25 + 3.5, root
  // sqrt(3.75).
  const Mat x{{3, 4, 0.5, 0.5}};

  const Mat y = rms_norm_heads(x, 2, 3.5).value;

  const Real other = 0.5 / std::sqrt(Real(3.75));
  EXPECT_TRUE(within(y, Mat{{0.75, 1, other, other}}, 4 * kUnit));
}

TEST(RmsNormHeads, EqualsTheWeightlessNormOfEachHead) {
  const Index heads = 3;
  const Index c = 10;
  const Mat x = random_matrix(4, heads * c, "x");

  const Mat y = rms_norm_heads(x, heads, 1e-6).value;

  for (Index h = 0; h < heads; ++h) {
    const Mat expected = twin(x.middleCols(h * c, c), Row::Ones(c), 1e-6);
    EXPECT_TRUE(within(y.middleCols(h * c, c), expected, 2 * kUnit * error::rms_norm(expected, c)));
  }
}

// Epsilon is a Python number that meets a BF16 tensor: float32. With mean 3*2^-25 and epsilon
// 1 + 2^-8 - 2^-24 + 2^-40, which float32 rounds to 1 + 2^-8, the float32 sum lies above BF16's
// half-way point 1 + 2^-8 and not on it.
TEST(RmsNormHeads, AddsEpsilonInFloat32) {
  const Real eps = 1 + Real(0x1p-8) - Real(0x1p-24) + Real(0x1p-40);
  const Mat x = Mat::Constant(1, 4, std::sqrt(Real(3) * Real(0x1p-25)));
  const auto factor = [&](const Round& round) {
    return rms_norm_heads(x, 1, eps, round).before(0, 0) / x(0, 0);
  };
  const auto without = std::make_shared<Arithmetic>();
  without->sites = {{"q_normed.eps", Format::none}};

  // bf16((1 + 2^-7)^-1/2) and 1
  EXPECT_EQ(factor(Round(Rounding::official)), 1 - Real(0x1p-8));
  EXPECT_EQ(factor(Round(Numerics{Rounding::official, without, {}})), 1);
}

}  // namespace
}  // namespace dsv4::reference
