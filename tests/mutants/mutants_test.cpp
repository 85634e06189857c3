// SPDX-License-Identifier: Apache-2.0
// Every planted bug is killed by the case that the catalogue names, and seen first at the first tap
// downstream of where it lives. One process: goldens are opened once.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "mutants/kill.hpp"

namespace {

using dsv4::bugs::Bug;
using dsv4::bugs::catalogue;
using dsv4::testing::Cases;
using dsv4::testing::Kill;

Cases& cases() {
  static Cases all;
  return all;
}

class Planted : public ::testing::TestWithParam<std::size_t> {};

TEST_P(Planted, IsKilledWhereItLives) {
  const std::size_t number = GetParam();
  const Bug& bug = catalogue()[number];
  const std::size_t thrown[] = {number};

  const Kill kill = cases().run(thrown, bug.golden);

  if (bug.kind == "equivalent") {
    EXPECT_FALSE(kill.killed) << bug.id << " is not equivalent: " << kill.detail;
    return;
  }
  EXPECT_TRUE(kill.killed) << bug.id << " (" << bug.title << ") survives " << bug.golden;
  EXPECT_EQ(kill.tap, bug.tap) << bug.id << " (" << bug.title << "): " << kill.detail;
}

std::vector<std::size_t> planted() {
  std::vector<std::size_t> numbers;
  for (std::size_t i = 0; i < catalogue().size(); ++i) {
    if (catalogue()[i].planted() && !catalogue()[i].golden.starts_with("cases/"))
      numbers.push_back(i);
  }
  return numbers;
}

std::string name_of(const ::testing::TestParamInfo<std::size_t>& info) {
  std::string name = catalogue()[info.param].id;
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  return name;
}

INSTANTIATE_TEST_SUITE_P(Bug, Planted, ::testing::ValuesIn(planted()), name_of);

}  // namespace
