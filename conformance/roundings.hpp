// SPDX-License-Identifier: Apache-2.0
// What the hard bound of a stage cannot say. A bound E made of n roundings is reached only if all
// of them conspire; independent ones give E / sqrt(3 n) (Higham and Mary, SIAM J. Sci. Comput. 41,
// 2019). So a long sum whose errors are a tenth of its bound can still be a hundred times worse
// than rounding makes it: its root mean square, and its mean, are held as well.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numbers>
#include <set>
#include <span>

#include "core/arithmetic.hpp"
#include "core/config.hpp"
#include "core/rounding.hpp"
#include "core/taps.hpp"

namespace dsv4::conformance {

// The sum behind a value.
struct Sum {
  std::int64_t terms = 0;  // 0: a short chain of operations, for which the hard bound is sharp
  bool product = false;    // x W^T: E = terms * sum |x||W|
  bool quantised = false;  // of codes: W in FP8 or FP4
  double single = 1;       // the share of E that is no sum: operations that round one by one
  int inside = 0;  // sums in a row: so many values are stored between them, and nobody sees them
};
Sum sum_behind(const TapMatch& tap, const ModelConfig& config);

// How the errors of one dataset are made, in units of u * E.
struct RoundingModel {
  double unit = 0;     // u
  double typical = 1;  // root mean square
  double lean = 1;     // mean, at most: truncated sums err towards zero
  // Half the width of a uniform error of that root mean square, within the bound.
  double reach() const { return std::min(1.0, std::numbers::sqrt3 * typical); }
};
// unit: of the dataset's arithmetic. Products as the port declares them:
//  * tensor cores align 16 products and cut them at 25 fractional bits, then cut the sum at 24;
//  * FP8 tensor cores of Hopper keep 13 fractional bits over 32 products, four times before the sum
//    is promoted to float32: 34 units of 2^-13 each (shared by all terms, so per unit of sum
//    |x||W|).
RoundingModel rounding_model(const Sum& sum, Products products, double unit);

// Errors of one dataset, each beside the standard deviation it should have.
class ErrorStatistics {
 public:
  struct Element {
    double error = 0;    // theirs - ours, towards larger magnitudes
    double typical = 0;  // 0: must be exact, and says nothing here
    double lean = 0;     // share of the error that may have a sign
    double value = 0;    // ours
  };
  void add_row(std::span<const Element> row);

  // Few elements say nothing.
  bool judged() const { return count_ >= kFewest; }
  double rms() const;   // of error / typical; 1 or less
  double bias() const;  // mean of it; about 0
  // Twice the prediction, and four standard deviations of what so many rows can show. Errors of one
  // row may have a factor in common, and equal rows are one.
  double rms_bound() const;
  double bias_bound() const;
  bool within() const;
  // Would one constant in the place of all values keep the root mean square?
  bool constant_within() const;

 private:
  static constexpr std::int64_t kFewest = 64;
  double squares_ = 0, sum_ = 0, lean_ = 0;
  double weights_ = 0, weighted_ = 0, weighted_squares_ = 0;  // of the values, by 1 / typical^2
  std::int64_t count_ = 0;
  std::set<std::uint64_t> rows_;  // hashes
};

}  // namespace dsv4::conformance
