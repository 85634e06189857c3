// SPDX-License-Identifier: Apache-2.0
// Two choices from the same scores, worked by hand.
#include "conformance/decisions.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <initializer_list>
#include <vector>

namespace dsv4::conformance {
namespace {

Choice choice(const std::vector<std::int32_t>& ours, const std::vector<std::int64_t>& theirs,
              const std::vector<double>& scores, const std::vector<double>& band = {}) {
  return compare_choice(ours, theirs, scores, band);
}

TEST(Choice, TheOrderAndEmptyPlacesMeanNothing) {
  const Choice c = choice({0, 2, -1}, {-1, -1, 2, 0}, {5, 1, 4});
  EXPECT_TRUE(c.same);
  EXPECT_TRUE(c.legal());
  EXPECT_EQ(c.gap, 0);
}

TEST(Choice, AnExactTieIsFree) {
  const Choice c = choice({0, 1}, {0, 2}, {5, 1, 1});
  EXPECT_FALSE(c.same);
  EXPECT_TRUE(c.legal());
  EXPECT_EQ(c.gap, 0);
  EXPECT_EQ(c.column, 1);
}

TEST(Choice, AGapIsLegalOnlyInsideTheBandsOfBothScores) {
  const std::vector<double> scores{5, 1.25, 1};
  EXPECT_FALSE(choice({0, 1}, {0, 2}, scores).legal());
  EXPECT_TRUE(choice({0, 1}, {0, 2}, scores, {0, 0.125, 0.125}).legal());
  const Choice c = choice({0, 1}, {0, 2}, scores, {0, 0.125, 0.0625});
  EXPECT_FALSE(c.legal());
  EXPECT_TRUE(c.valid);
  EXPECT_EQ(c.gap, 0.25);
  EXPECT_EQ(c.band, 0.1875);
}

TEST(Choice, EveryExchangedPairMustBeLegal) {
  // 0 and 1 against 2 and 3: 0 for 3 is the widest.
  const std::vector<double> scores{4, 3, 2.875, 2.75};
  const std::vector<double> band{0.25, 0.25, 0.25, 0.25};
  const Choice c = choice({0, 1}, {2, 3}, scores, band);
  EXPECT_FALSE(c.legal());
  EXPECT_EQ(c.gap, 1.25);
  EXPECT_TRUE(choice({1, 2}, {2, 3}, scores, band).legal());
}

TEST(Choice, AnExchangeIsJudgedEitherWayRound) {
  // Ours holds the lower score: it is as wrong as theirs would be, until the bands cover the gap.
  const Choice c = choice({1}, {0}, {1, 0.5});
  EXPECT_TRUE(c.valid);
  EXPECT_FALSE(c.legal());
  EXPECT_EQ(c.gap, 0.5);
  EXPECT_TRUE(choice({1}, {0}, {1, 0.5}, {0.25, 0.25}).legal());
}

TEST(Choice, WhatIsNoChoiceIsNeverLegal) {
  const std::vector<double> scores{3, 3, 3, -INFINITY};
  const auto problem = [&](std::initializer_list<std::int64_t> theirs) {
    const Choice c = choice({0, 1}, theirs, scores, {9, 9, 9, 9});
    EXPECT_FALSE(c.valid);
    EXPECT_FALSE(c.legal());
    return c.problem;
  };
  EXPECT_EQ(problem({2, 2}), "the same entry is chosen twice");
  EXPECT_EQ(problem({2}), "1 entries are chosen, expected 2");
  EXPECT_EQ(problem({0, 1, 2}), "3 entries are chosen, expected 2");
  EXPECT_EQ(problem({-1, -1}), "0 entries are chosen, expected 2");
  EXPECT_EQ(problem({0, 4}), "entry 4 does not exist");
  EXPECT_EQ(problem({0, -2}), "entry -2 does not exist");
  EXPECT_EQ(problem({0, 3}), "entry 3 is not visible to this query");
}

TEST(Choice, AScoreThatIsNoNumberIsNoCandidate) {
  const Choice c = choice({0}, {1}, {1, NAN});
  EXPECT_FALSE(c.legal());
}

TEST(Choice, WhereNothingWasRankedSetsMustBeEqual) {
  EXPECT_TRUE(choice({4, 5, -1}, {5, 4}, {}).legal());
  const Choice c = choice({4, 5}, {4, 6}, {});
  EXPECT_FALSE(c.legal());
  EXPECT_TRUE(c.valid);
  EXPECT_TRUE(std::isinf(c.gap));
  EXPECT_EQ(c.column, 1);
}

TEST(Choice, NoEntriesAtAllAreTheSame) {
  EXPECT_TRUE(choice({}, {}, {}).same);
  EXPECT_TRUE(choice({-1, -1}, {}, {}).same);
}

TEST(Choice, ABandAsWideAsTheScoresIsOpen) {
  const std::vector<double> scores{3, 2, 1, -INFINITY};
  const auto open = [&](double band) {
    return choice({0, 1}, {0, 2}, scores, std::vector<double>(4, band)).open();
  };
  EXPECT_TRUE(open(1));      // two scores of it: 2, from 1 to 3
  EXPECT_FALSE(open(0.75));  // legal, but the lowest in place of the highest would not be
  EXPECT_FALSE(choice({0, 1}, {1, 0}, scores, std::vector<double>(4, 1)).open());
}

}  // namespace
}  // namespace dsv4::conformance
