// SPDX-License-Identifier: Apache-2.0
// Rotary embedding: frequencies with YaRN, rotation, inverse rotation.
#include "reference/rope.hpp"

#include <cmath>
#include <complex>
#include <gtest/gtest.h>
#include <numbers>

#include "core/embedded.hpp"
#include "reference/error_bound.hpp"
#include "reference/float_twins.hpp"
#include "support/matrices.hpp"

namespace dsv4::reference {
namespace {

using testing::kUnit;
using testing::random_matrix;
using testing::within;

ModelConfig official() { return parse_config(official_config("flash"), "flash").config; }

// The last 2 * frequencies.size() dims of each head, as complex numbers times exp(i t f).
Mat twin(const Mat& x, Index heads, const Row& f, Positions at, Real sign) {
  Mat y = x;
  const Index c = x.cols() / heads;
  for (Index s = 0; s < x.rows(); ++s) {
    for (Index h = 0; h < heads; ++h) {
      for (Index i = 0; i < f.size(); ++i) {
        const Index k = h * c + c - 2 * f.size() + 2 * i;
        const std::complex<Real> z(x(s, k), x(s, k + 1));
        const std::complex<Real> turned =
            z * std::polar(Real(1), sign * static_cast<Real>(at[s]) * f(i));
        y(s, k) = turned.real();
        y(s, k + 1) = turned.imag();
      }
    }
  }
  return y;
}

TEST(RopeFrequencies, OfRatioZeroArePlainPowersOfTheta) {
  const ModelConfig config = official();

  const Row f = rope_frequencies(config, 0);

  ASSERT_EQ(f.size(), 32);
  for (Index i = 0; i < 32; ++i) {
    const Real expected = std::exp(-static_cast<Real>(2 * i) / 64 * std::log(Real(10000)));
    EXPECT_NEAR(f(i), expected, 16 * kUnit * expected) << "pair " << i;
  }
}

TEST(RopeFrequencies, OfTheReleasedModelKeepPairsTo15AndDividePairsFrom25) {
  // cd(32) = 64 ln(65536 / 64 pi) / (2 ln 160000) = 15.45 and cd(1) = 24.71: the ramp starts at
  // floor = 15 and ends at ceil = 25.
  const ModelConfig config = official();

  for (const std::int64_t ratio : {4, 128}) {
    const Row f = rope_frequencies(config, ratio);

    ASSERT_EQ(f.size(), 32);
    for (Index i = 0; i < 32; ++i) {
      const Real plain = std::exp(-static_cast<Real>(2 * i) / 64 * std::log(Real(160000)));
      const Real ramp = i <= 15 ? 0 : i >= 25 ? 1 : (static_cast<Real>(i) - 15) / 10;
      const Real expected = plain / 16 * ramp + plain * (1 - ramp);
      EXPECT_NEAR(f(i), expected, 20 * kUnit * plain) << "pair " << i;
    }
    EXPECT_EQ(f(15), 1 / std::pow(Real(160000), Real(30) / 64));
    EXPECT_EQ(f(25), 1 / std::pow(Real(160000), Real(50) / 64) / 16);
  }
}

TEST(RopeFrequencies, WithoutATrainedLengthHaveNoYarn) {
  ModelConfig config = official();
  config.original_seq_len = 0;

  const Row f = rope_frequencies(config, 4);

  EXPECT_NEAR(f(31), std::pow(Real(160000), -Real(62) / 64), 1e-18);
}

TEST(RopeFrequencies, OfRatioZeroIgnoreYarn) {
  ModelConfig with = official();
  ModelConfig without = official();
  without.original_seq_len = 0;

  EXPECT_EQ(rope_frequencies(with, 0), rope_frequencies(without, 0));
}

TEST(RopeFrequencies, SurviveARampOfWidthZero) {
  // With a trained length just below 2 pi, cd(1) = -0.12 and both ends are 0: every pair but the
  // first is slowed in full.
  ModelConfig config = official();
  config.original_seq_len = 6;

  const Row f = rope_frequencies(config, 4);

  EXPECT_EQ(f(0), 1);
  EXPECT_EQ(f(1), 1 / std::pow(Real(160000), Real(2) / 64) / 16);
}

TEST(Rope, RotatesAdjacentPairsOfTheTailOnly) {
  // Frequency pi/2, position 1: (a, b) -> (-b, a). The first two dims are not rotated.
  const Row f{{std::numbers::pi_v<Real> / 2}};
  const Mat x{{10, 20, 3, 4}};

  const Mat y = rope(x, 1, f, Positions{1});

  EXPECT_TRUE(within(y, Mat{{10, 20, -4, 3}}, 8 * kUnit));
}

TEST(Rope, OfRowIStandsAtFirstPlusITimesStep) {
  // Quarter turns: positions 2, 5, 8 are turns of 2, 1, 0 (mod 4) quarters.
  const Row f{{std::numbers::pi_v<Real> / 2}};
  const Mat x{{1, 0}, {1, 0}, {1, 0}};

  const Mat y = rope(x, 1, f, Positions{2, 3});

  EXPECT_TRUE(within(y, Mat{{-1, 0}, {0, 1}, {1, 0}}, 32 * kUnit));
}

TEST(Rope, EqualsComplexMultiplication) {
  const Row f = rope_frequencies(official(), 4).head(5);
  const Mat x = random_matrix(6, 3 * 14, "x");
  const Positions at{1000, 7};

  for (const Rotation r : {Rotation::forward, Rotation::inverse}) {
    const Mat y = rope(x, 3, f, at, r);

    const Mat expected = twin(x, 3, f, at, r == Rotation::forward ? 1 : -1);
    EXPECT_TRUE(within(y, expected, 2 * kUnit * error::rope(x, 3, f, at)));
  }
}

TEST(Rope, OfFloatsStaysWithinTheBoundFarOutForAnyNumberOfRotatedDims) {
  // The bound grows with the angle; an exponent 2i/dims that is no binary fraction rounds too.
  namespace twin = testing::float_twin;
  for (const std::int64_t dims : {6, 14, 64, 96}) {
    for (const std::int64_t ratio : {0, 4}) {
      ModelConfig config = official();
      config.rope_head_dim = dims;
      const Row f = rope_frequencies(config, ratio);
      const Mat x = testing::random_floats(50, dims, "x");
      for (const std::int64_t first : {1000, 60000, 1000000}) {
        const Positions at{first, 7};

        const Mat y = rope(x, 1, f, at);

        const auto single = twin::rope(x.cast<float>(), 1, twin::frequencies(config, ratio), at, 1);
        EXPECT_TRUE(within(single.cast<Real>(), y, 0x1p-24 * error::rope(x, 1, f, at)))
            << dims << " dims, ratio " << ratio << ", position " << first;
      }
    }
  }
}

TEST(Rope, InverseUndoesForward) {
  const Row f = rope_frequencies(official(), 128);
  const Mat x = random_matrix(4, 2 * 80, "x");
  const Positions at{65000};

  const Mat back = rope(rope(x, 2, f, at), 2, f, at, Rotation::inverse);

  // Sine and cosine of one angle serve both ways: only their own rounding and that of the products
  // is left, 4 |x| a rotation.
  EXPECT_TRUE(within(back, x, 16 * kUnit * x.cwiseAbs().maxCoeff()));
}

TEST(Rope, InnerProductsDependOnTheDistanceOnly) {
  const Row f = rope_frequencies(official(), 0).head(4);
  const Mat q = random_matrix(1, 8, "q");
  const Mat k = random_matrix(1, 8, "k");

  const auto score = [&](std::int64_t tq, std::int64_t tk) {
    return rope(q, 1, f, Positions{tq}).row(0).dot(rope(k, 1, f, Positions{tk}).row(0));
  };

  EXPECT_NEAR(score(17, 5), score(112, 100), 1e-13);
  EXPECT_GT(std::abs(score(17, 5) - score(17, 6)), 1e-3);
}

}  // namespace
}  // namespace dsv4::reference
