// SPDX-License-Identifier: Apache-2.0
// The case files: the reference gives what witnesses expect, every case kills some planted bug, and
// the bugs that the catalogue sends to a case die there, at the value that it names.
#include <algorithm>
#include <gtest/gtest.h>

#include "mutants/kill.hpp"

namespace {

using dsv4::bugs::catalogue;
using dsv4::bugs::ComponentCase;
using dsv4::bugs::Miss;

std::vector<Miss> misses_with(const ComponentCase& c, std::vector<std::size_t> thrown) {
  return dsv4::bugs::misses(c, dsv4::bugs::run_component(c, thrown));
}

TEST(ComponentCases, TheReferenceGivesWhatIsExpected) {
  const auto cases = dsv4::testing::component_cases();

  ASSERT_GE(cases.size(), 50U);
  for (const ComponentCase& c : cases) {
    for (const Miss& m : misses_with(c, {}))
      ADD_FAILURE() << c.id << ": " << m.name << " is off by " << m.error << ", allowed "
                    << m.bound;
  }
}

TEST(ComponentCases, EveryCaseKillsSomeBug) {
  for (const ComponentCase& c : dsv4::testing::component_cases()) {
    bool kills = false;
    for (std::size_t i = 0; i < catalogue().size() && !kills; ++i)
      kills = catalogue()[i].planted() && dsv4::testing::kills(c, i);

    EXPECT_TRUE(kills) << c.id << " has no power: no planted bug changes what it expects";
  }
}

TEST(ComponentCases, KillTheBugsThatAreSentToThem) {
  for (std::size_t i = 0; i < catalogue().size(); ++i) {
    const auto& bug = catalogue()[i];
    if (!bug.golden.starts_with("cases/")) continue;
    const auto cases = dsv4::testing::component_cases();
    const auto c = std::find_if(cases.begin(), cases.end(), [&](const auto& candidate) {
      return "cases/" + candidate.id == bug.golden;
    });
    ASSERT_NE(c, cases.end()) << bug.id << " is sent to " << bug.golden << ", which does not exist";

    const auto missed = misses_with(*c, {i});

    ASSERT_FALSE(missed.empty()) << bug.id << " survives " << bug.golden;
    const std::string leaf = bug.tap.substr(bug.tap.rfind('.') + 1);
    EXPECT_TRUE(
        std::any_of(missed.begin(), missed.end(), [&](const Miss& m) { return m.name == leaf; }))
        << bug.id << " is seen at " << missed.front().name << ", expected " << leaf;
  }
}

}  // namespace
