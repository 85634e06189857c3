// SPDX-License-Identifier: Apache-2.0
#include "conformance/compare.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dsv4::conformance {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

}  // namespace

void Comparison::add_row(std::int64_t row, std::span<const double> ours,
                         std::span<const double> theirs, std::span<const double> bound) {
  ++rows_;
  const std::size_t common = std::min(ours.size(), theirs.size());
  for (std::size_t i = 0; i < common; ++i) {
    add_element(row, static_cast<std::int64_t>(i), ours[i], theirs[i],
                bound.empty() ? 0 : bound[i]);
  }
  for (std::size_t i = common; i < ours.size(); ++i)
    add_element(row, static_cast<std::int64_t>(i), ours[i], -kInf, 0);
  for (std::size_t i = common; i < theirs.size(); ++i) {
    add_element(row, static_cast<std::int64_t>(i), -kInf, theirs[i], 0);
  }
}

void Comparison::add_element(std::int64_t row, std::int64_t column, double ours, double theirs,
                             double bound) {
  ++elements_;
  double error = 0;
  double ratio = 0;
  if (std::isfinite(theirs)) {
    if (finite_++ == 0) first_ = theirs;
    constant_ &= theirs == first_;
  }
  if (std::isfinite(ours) && std::isfinite(theirs)) {
    error = std::abs(ours - theirs);
    max_error_ = std::max(max_error_, error);
    sum_squares_ += error * error;
    const bool bounded = bound > 0 && std::isfinite(bound);  // an infinite bound excuses nothing
    ratio = error == 0 || by_ensemble_ ? 0 : bounded ? error / bound : kInf;
  } else if (!(ours == theirs || (std::isnan(ours) && std::isnan(theirs)))) {
    error = ratio = kInf;  // one is finite and the other is not, or different infinities
  }
  equal_ += error == 0;
  // Without a bound of their own errors are ranked by size.
  note_ours(ours, bound);
  const bool worse =
      by_ensemble_ && ratio == 0 && worst_.ratio <= 0 ? error > worst_.error : ratio > worst_.ratio;
  if (worse || worst_.row < 0) worst_ = {ratio, error, bound, ours, theirs, row, column};
}

void Comparison::note_ours(double value, double bound) {
  if (!std::isfinite(value)) return;
  const double reach = std::isfinite(bound) ? bound : 0;
  Ours& o = ours_;
  o.low = std::max(o.low, value - reach);
  o.high = std::min(o.high, value + reach);
  o.least = std::min(o.least, value);
  o.largest = std::max(o.largest, value);
  const double from_mean = value - o.mean;
  o.mean += from_mean / static_cast<double>(++o.count);
  o.squares += from_mean * (value - o.mean);
}

bool Comparison::constant_within() const {
  if (ours_.count == 1) return ours_.low <= 0 && 0 <= ours_.high;
  return ours_.count > 0 && ours_.low <= ours_.high;
}

bool Comparison::constant_within(double bound, double rms) const {
  if (ours_.count == 1) return std::abs(ours_.mean) <= bound;
  return ours_.count > 0 && ours_.largest - ours_.least <= 2 * bound &&
         std::sqrt(ours_.squares / static_cast<double>(ours_.count)) <= rms;
}

bool Comparison::meaningless(bool bytes) const {
  return finite_ == 0 || (constant_ && (first_ == 0 || (finite_ > 1 && !bytes)));
}

double Comparison::rms_error() const {
  return elements_ == 0 ? 0 : std::sqrt(sum_squares_ / static_cast<double>(elements_));
}

}  // namespace dsv4::conformance
