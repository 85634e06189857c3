// SPDX-License-Identifier: Apache-2.0
// Element-wise comparison of rows, accumulated per dataset: masks of NaN and infinity first, then
// error against bound, the worst element by their ratio, and what is needed to know whether
// anything was compared at all.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

namespace dsv4::conformance {

struct Worst {
  double ratio = -1;  // error / bound; infinity where the bound is 0 or a mask differs
  double error = 0;
  double bound = 0;
  double ours = 0;
  double theirs = 0;
  std::int64_t row = -1;  // of the dataset
  std::int64_t column = 0;
};

class Comparison {
 public:
  // bound.size() == ours.size() or 0 (bit-exact). `theirs` may be shorter or longer than `ours` for
  // axes that grow (compressed entries): what one side lacks counts as -inf.
  void add_row(std::int64_t row, std::span<const double> ours, std::span<const double> theirs,
               std::span<const double> bound);

  const Worst& worst() const { return worst_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t elements() const { return elements_; }
  std::int64_t equal() const { return equal_; }  // elements without any difference
  bool within() const { return worst_.ratio <= 1; }
  // All compared values of the other side are zero, or not finite, or (several of them, and not
  // bytes, which agree in every bit) one constant.
  bool meaningless(bool bytes = false) const;
  // Do these bounds tell the values from nothing? Not if one constant (zero, for a single value) in
  // the place of all of them lies within every bound.
  bool constant_within() const;
  // The same where the ensemble judges: a constant within `bound` of every value, and within `rms`
  // in the root mean square.
  bool constant_within(double bound, double rms) const;
  double rms_error() const;
  double max_error() const { return max_error_; }
  // Errors without a bound of their own (spans of several stages): only masks are judged by the
  // ratio.
  void set_judge_by_ensemble() { by_ensemble_ = true; }
  bool judge_by_ensemble() const { return by_ensemble_; }

 private:
  void note_ours(double value, double bound);
  void add_element(std::int64_t row, std::int64_t column, double ours, double theirs, double bound);

  Worst worst_;
  std::int64_t rows_ = 0, elements_ = 0, finite_ = 0, equal_ = 0;
  double max_error_ = 0, sum_squares_ = 0;
  // Of ours, finite ones: the constants within all bounds are those between low and high.
  struct Ours {
    std::int64_t count = 0;
    double low = -std::numeric_limits<double>::infinity();
    double high = std::numeric_limits<double>::infinity();
    double least = std::numeric_limits<double>::infinity();
    double largest = -std::numeric_limits<double>::infinity();
    double mean = 0, squares = 0;  // of distances from the mean, Welford
  } ours_;
  double first_ = 0;
  bool constant_ = true, by_ensemble_ = false;
};

}  // namespace dsv4::conformance
