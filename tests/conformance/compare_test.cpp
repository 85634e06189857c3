// SPDX-License-Identifier: Apache-2.0
// Element-wise comparison: masks of what is not finite, the worst element, and values that say
// nothing.
#include "conformance/compare.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <vector>

namespace dsv4::conformance {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
using Values = std::vector<double>;

Comparison compared(const Values& ours, const Values& theirs, const Values& bound) {
  Comparison c;
  c.add_row(0, ours, theirs, bound);
  return c;
}

TEST(Comparison, TheWorstElementHasTheLargestErrorInUnitsOfItsBound) {
  Comparison c;
  c.add_row(3, Values{1, 2, 3}, Values{1.5, 2, 3}, Values{1, 1, 1});
  c.add_row(7, Values{1, 2, 3}, Values{1, 2.25, 3.3}, Values{1, 0.125, 1});
  EXPECT_EQ(c.worst().row, 7);
  EXPECT_EQ(c.worst().column, 1);
  EXPECT_EQ(c.worst().error, 0.25);
  EXPECT_EQ(c.worst().bound, 0.125);
  EXPECT_EQ(c.worst().ours, 2);
  EXPECT_EQ(c.worst().theirs, 2.25);
  EXPECT_EQ(c.worst().ratio, 2);
  EXPECT_FALSE(c.within());
  EXPECT_EQ(c.max_error(), 0.5);
  EXPECT_EQ(c.rows(), 2);
  EXPECT_EQ(c.elements(), 6);
  EXPECT_NEAR(c.rms_error(), std::sqrt((0.25 + 0.0625 + 0.09) / 6), 1e-12);
}

TEST(Comparison, AnErrorOfExactlyTheBoundIsWithin) {
  EXPECT_TRUE(compared({1}, {1.5}, {0.5}).within());
  EXPECT_FALSE(compared({1}, {std::nextafter(1.5, 2)}, {0.5}).within());
}

TEST(Comparison, ABoundThatIsNotFiniteExcusesNothing) {
  EXPECT_TRUE(compared({1}, {1}, {kInf}).within());
  EXPECT_FALSE(compared({1}, {1.5}, {kInf}).within());
  EXPECT_FALSE(compared({1}, {1.5}, {kNan}).within());
}

TEST(Comparison, BoundsUnderWhichOneConstantPassesDecideNothing) {
  const Values values = {-1, 0.5, 1};
  EXPECT_TRUE(compared(values, values, {1, 1, 1}).constant_within());            // zero
  EXPECT_TRUE(compared({6, 7.5, 8}, {6, 7.5, 8}, {1, 1, 1}).constant_within());  // seven
  EXPECT_FALSE(compared({6, 7.5, 8.1}, {6, 7.5, 8}, {1, 1, 1}).constant_within());
  EXPECT_FALSE(compared(values, values, {1, 1, 0}).constant_within());
  EXPECT_FALSE(compared(values, values, {1, 1, kInf}).constant_within());
  EXPECT_FALSE(compared(values, values, {}).constant_within());
  EXPECT_TRUE(compared({-kInf, 0.5, 1}, {-kInf, 0.5, 1}, {0, 1, 1}).constant_within());
}

TEST(Comparison, OneValueIsHeldAgainstZero) {
  EXPECT_TRUE(compared({3}, {3}, {3}).constant_within());
  EXPECT_FALSE(compared({3}, {3}, {2.9}).constant_within());
  EXPECT_TRUE(compared({3}, {3}, {}).constant_within(3, 1));
  EXPECT_FALSE(compared({3}, {3}, {}).constant_within(2.9, 1));
}

TEST(Comparison, AnEnsembleDecidesByTheLargestErrorOrByAllOfThem) {
  const Comparison c = compared({6, 7, 8}, {6, 7, 8}, {});  // spread sqrt(2/3)
  EXPECT_TRUE(c.constant_within(1, 0.82));
  EXPECT_FALSE(c.constant_within(0.99, 0.82));
  EXPECT_FALSE(c.constant_within(1, 0.81));
}

TEST(Comparison, WithoutABoundOnlyEqualBitsPass) {
  EXPECT_TRUE(compared({1, 2}, {1, 2}, {}).within());
  EXPECT_FALSE(compared({1, 2}, {1, std::nextafter(2, 3)}, {}).within());
  EXPECT_TRUE(compared({0.0}, {-0.0}, {}).within());
}

TEST(Comparison, WhatIsNotFiniteMustStandOnBothSides) {
  EXPECT_TRUE(compared({kInf, -kInf, kNan, 1}, {kInf, -kInf, kNan, 1}, {0, 0, 0, 0}).within());
  for (const double theirs : {kInf, -kInf, kNan}) {
    const auto c = compared({1, 2}, {1, theirs}, {10, 10});
    EXPECT_FALSE(c.within());
    EXPECT_EQ(c.worst().error, kInf);
    EXPECT_EQ(c.worst().column, 1);
  }
  EXPECT_FALSE(compared({kInf}, {-kInf}, {10}).within());
  EXPECT_FALSE(compared({kNan}, {kInf}, {10}).within());
  EXPECT_FALSE(compared({kNan}, {0}, {10}).within());
}

TEST(Comparison, MissingColumnsCountAsMinusInfinity) {
  EXPECT_TRUE(compared({1, -kInf}, {1}, {0, 0}).within());
  EXPECT_TRUE(compared({1}, {1, -kInf, -kInf}, {0}).within());
  EXPECT_FALSE(compared({1, 2}, {1}, {9, 9}).within());
  EXPECT_FALSE(compared({1}, {1, 2}, {9}).within());
}

TEST(Comparison, ZerosConstantsAndNothingFiniteSayNothing) {
  EXPECT_TRUE(Comparison{}.meaningless());
  EXPECT_TRUE(compared({0, 0}, {0, 0}, {1, 1}).meaningless());
  EXPECT_TRUE(compared({0}, {0}, {1}).meaningless());
  EXPECT_TRUE(compared({3, 3}, {3, 3}, {1, 1}).meaningless());
  EXPECT_TRUE(compared({kNan, kInf}, {kNan, kInf}, {1, 1}).meaningless());
  EXPECT_FALSE(compared({3, 3}, {3, 3}, {1, 1}).meaningless(true));
  EXPECT_TRUE(compared({0, 0}, {0, 0}, {1, 1}).meaningless(true));
  EXPECT_FALSE(compared({3}, {3}, {1}).meaningless());
  EXPECT_FALSE(compared({3, 4}, {3, 4}, {1, 1}).meaningless());
  EXPECT_FALSE(compared({kNan, 3, 4}, {kNan, 3, 4}, {1, 1, 1}).meaningless());
}

TEST(Comparison, AnEnsembleRanksErrorsBySizeAndStillJudgesMasks) {
  Comparison c;
  c.set_judge_by_ensemble();
  c.add_row(0, Values{1, 2}, Values{1.5, 2.25}, Values{0, 0});
  EXPECT_TRUE(c.within());
  EXPECT_EQ(c.worst().error, 0.5);
  c.add_row(1, Values{1}, Values{kNan}, Values{0});
  EXPECT_FALSE(c.within());
  EXPECT_EQ(c.worst().row, 1);
}

}  // namespace
}  // namespace dsv4::conformance
