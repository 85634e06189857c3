// SPDX-License-Identifier: Apache-2.0
#include "conformance/bugs/judge.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace dsv4::bugs {
namespace {

using conformance::Result;
using conformance::Verdict;

constexpr double kEqualNumbers = 1e-3;  // squares that differ by less, relative: the same numbers
// A mistake that computes something else has roundings of its own, which no bound of the right
// stage counts: so much of what it changes may remain, from 2^-53 times some thousand of them.
constexpr double kOwnRoundings = 0x1p-40;

}  // namespace

Judge::Judge(const conformance::Report& report, const Reading& right) : right_(right) {
  for (const Result& r : report.results) allowed_[{r.tap, r.call}] = &r;
  for (const Result& r : right.results)
    if (fails(r, right)) right_fails_.insert({r.tap, r.call});
}

// Failed, and not only for want of the ensemble that the report's own bound comes from.
bool Judge::fails(const Result& r, const Reading& in) const {
  if (r.verdict != Verdict::failed) return false;
  const Place place{r.tap, r.call};
  const auto before = right_.residuals.find(place), after = in.residuals.find(place);
  if (before != right_.residuals.end() && after != in.residuals.end() && before->second.worst > 0 &&
      after->second.worst <= kOwnRoundings * before->second.worst) {
    return false;
  }
  const auto it = allowed_.find(place);
  return it == allowed_.end() || !r.reason.empty() || !(r.error <= it->second->bound);
}

std::optional<Result> Judge::first_left(const Reading& reading) const {
  std::vector<Result> left;
  for (const Result& r : reading.results)
    if (fails(r, reading)) left.push_back(r);
  const Result* first = first_failed(left);
  return first == nullptr ? std::nullopt : std::optional(*first);
}

bool Judge::spoils(const Reading& reading) const {
  return std::any_of(reading.results.begin(), reading.results.end(), [&](const Result& r) {
    return !right_fails_.contains({r.tap, r.call}) && fails(r, reading);
  });
}

bool Judge::before(const Result& a, const Result& b) {
  const auto stage = [](const Result& r) {
    const bool tail = r.block < 0 && r.tap != "embed";
    return std::tuple(r.tap.starts_with("mtp."), tail ? 1 << 20 : r.block, r.order);
  };
  return stage(a) < stage(b);
}

bool Judge::same(const Reading& a, const Reading& b) {
  return std::all_of(a.residuals.begin(), a.residuals.end(), [&](const auto& item) {
    const auto it = b.residuals.find(item.first);
    if (it == b.residuals.end()) return false;
    const double one = item.second.squares, other = it->second.squares;
    return std::abs(one - other) <= kEqualNumbers * std::max(one, other);
  });
}

double Judge::squares_at(const std::string& tap, const Reading& reading) {
  double sum = 0;
  for (const auto& [place, r] : reading.residuals)
    if (place.first == tap) sum += r.squares;
  return sum;
}

double Judge::squares_left(const std::string& tap, const Reading& before, const Reading& after) {
  double sum = 0;
  for (const auto& [place, r] : before.residuals) {
    if (place.first != tap) continue;
    const auto it = after.residuals.find(place);
    sum += it == after.residuals.end() ? r.squares : it->second.squares;
  }
  return sum;
}

double Judge::scale_of(const Place& place) const {
  const auto it = allowed_.find(place);
  if (it == allowed_.end()) return 1;
  const Result& r = *it->second;
  const double bound = std::isfinite(r.bound) ? r.bound : 0;
  const double floor = 0x1p-53 * r.magnitude;
  return std::max(bound, floor) > 0 ? std::max(bound, floor) : 1;
}

double Judge::explained(const Reading& reading) const {
  double before = 0, after = 0;
  for (const auto& [place, r] : right_.residuals) {
    const double scale = scale_of(place);
    before += r.squares / (scale * scale);
    const auto it = reading.residuals.find(place);
    after += (it == reading.residuals.end() ? r.squares : it->second.squares) / (scale * scale);
  }
  return before > 0 ? std::max(0.0, 1 - after / before) : 0;
}

double Judge::explained_at(const std::string& tap, const Reading& reading) const {
  const double before = squares_at(tap, right_);
  if (reading.crashed || before <= 0) return 0;
  return std::max(0.0, 1 - squares_left(tap, right_, reading) / before);
}

bool Judge::equal(const Reading& a, const Reading& b) const {
  return std::all_of(a.residuals.begin(), a.residuals.end(), [&](const auto& item) {
    const auto& [place, r] = item;
    const auto it = b.residuals.find(place);
    if (it == b.residuals.end()) return false;
    const double scale = scale_of(place);
    const double noise = static_cast<double>(r.count) * scale * scale;
    const double apart = std::abs(r.squares - it->second.squares);
    return apart <= noise || apart <= kEqualNumbers * std::max(r.squares, it->second.squares);
  });
}

}  // namespace dsv4::bugs
