// SPDX-License-Identifier: Apache-2.0
#include "conformance/decisions.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <iterator>
#include <vector>

namespace dsv4::conformance {
namespace {

template <class T>
std::vector<std::int64_t> sorted_set(std::span<const T> chosen) {
  std::vector<std::int64_t> out;
  for (const auto i : chosen) {
    if (i != -1) out.push_back(i);
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::string what_is_wrong(const std::vector<std::int64_t>& set, std::size_t count,
                          std::span<const double> scores) {
  if (std::adjacent_find(set.begin(), set.end()) != set.end())
    return "the same entry is chosen twice";
  if (set.size() != count)
    return fmt::format("{} entries are chosen, expected {}", set.size(), count);
  for (const std::int64_t i : set) {
    if (i < 0 || (!scores.empty() && i >= std::ssize(scores)))
      return fmt::format("entry {} does not exist", i);
    if (!scores.empty() && !(scores[static_cast<std::size_t>(i)] > -INFINITY)) {
      return fmt::format("entry {} is not visible to this query", i);
    }
  }
  return {};
}

}  // namespace

Choice compare_choice(std::span<const std::int32_t> ours, std::span<const std::int64_t> theirs,
                      std::span<const double> scores, std::span<const double> band) {
  const auto a = sorted_set(ours);
  const auto b = sorted_set(theirs);
  Choice c;
  c.same = a == b;
  c.problem = c.same ? std::string{} : what_is_wrong(b, a.size(), scores);
  c.valid = c.problem.empty();
  if (c.same) return c;
  std::vector<std::int64_t> missing, extra;
  std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(missing));
  std::set_difference(b.begin(), b.end(), a.begin(), a.end(), std::back_inserter(extra));
  if (!extra.empty())
    c.column = std::find(theirs.begin(), theirs.end(), extra.front()) - theirs.begin();
  if (!c.valid) return c;
  if (scores.empty()) {
    c.gap = INFINITY;  // nothing was ranked: no other set is right
    return c;
  }
  const auto error = [&](std::int64_t i) {
    return band.empty() ? 0 : band[static_cast<std::size_t>(i)];
  };
  double least = INFINITY, largest = -INFINITY, worst = -INFINITY;
  for (const double s : scores) {
    if (!std::isfinite(s)) continue;
    least = std::min(least, s);
    largest = std::max(largest, s);
  }
  c.range = std::max(0.0, largest - least);
  for (const auto m : missing) {
    for (const auto e : extra) {
      // Either way round: a backend under test may be the one that chose worse.
      const double gap =
          std::abs(scores[static_cast<std::size_t>(m)] - scores[static_cast<std::size_t>(e)]);
      const double allowed = error(m) + error(e);
      if (gap - allowed > worst) {
        worst = gap - allowed;
        c.gap = std::max(0.0, gap);
        c.band = allowed;
      }
    }
  }
  return c;
}

}  // namespace dsv4::conformance
