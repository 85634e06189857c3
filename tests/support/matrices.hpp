// SPDX-License-Identifier: Apache-2.0
// Random matrices and comparisons that say where the worst element stands.
#pragma once

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <string_view>

#include "core/rng.hpp"
#include "core/tensor.hpp"

namespace dsv4::testing {

inline constexpr Real kUnit = std::numeric_limits<Real>::epsilon() / 2;  // 2^-53

inline Mat random_matrix(Index rows, Index cols, std::string_view stream, Real scale = 1,
                         std::uint64_t seed = 1) {
  const Rng rng(seed, stream);
  Mat m(rows, cols);
  for (Index i = 0; i < m.size(); ++i)
    m.data()[i] = scale * static_cast<Real>(rng.normal(static_cast<std::uint64_t>(i)));
  return m;
}

// Random values that are floats, so that a float32 twin reads exactly the same inputs.
inline Mat random_floats(Index rows, Index cols, std::string_view stream, Real scale = 1,
                         std::uint64_t seed = 1) {
  return random_matrix(rows, cols, stream, scale, seed).cast<float>().cast<Real>();
}

// |a - b| <= bound, element by element. Equal infinities are equal.
inline ::testing::AssertionResult within(const Mat& a, const Mat& b, const Mat& bound) {
  if (a.rows() != b.rows() || a.cols() != b.cols() || a.rows() != bound.rows() ||
      a.cols() != bound.cols()) {
    return ::testing::AssertionFailure()
           << "shapes [" << a.rows() << ", " << a.cols() << "], [" << b.rows() << ", " << b.cols()
           << "], bound [" << bound.rows() << ", " << bound.cols() << "]";
  }
  Real worst = 0;
  Index at = -1;
  for (Index i = 0; i < a.size(); ++i) {
    const Real x = a.data()[i];
    const Real y = b.data()[i];
    if (x == y) continue;
    const Real error = std::abs(x - y);
    const Real allowed = bound.data()[i];
    if (error <= allowed) continue;  // false for NaN
    const Real excess =
        std::isfinite(error) && allowed > 0 ? error / allowed : std::numeric_limits<Real>::max();
    if (at < 0 || excess > worst) {
      worst = excess;
      at = i;
    }
  }
  if (at < 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << "at [" << at / a.cols() << ", " << at % a.cols() << "]: " << a.data()[at] << " against "
         << b.data()[at] << ", " << worst << " times the bound " << bound.data()[at];
}

inline ::testing::AssertionResult within(const Mat& a, const Mat& b, Real bound) {
  return within(a, b, Mat::Constant(a.rows(), a.cols(), bound));
}

// Within `relative` of the largest finite magnitude of b.
inline ::testing::AssertionResult close(const Mat& a, const Mat& b, Real relative) {
  Real largest = 0;
  for (Index i = 0; i < b.size(); ++i) {
    if (std::isfinite(b.data()[i])) largest = std::max(largest, std::abs(b.data()[i]));
  }
  return within(a, b, relative * largest);
}

// Bit for bit, up to the sign of zero.
inline ::testing::AssertionResult identical(const Mat& a, const Mat& b) { return within(a, b, 0); }

}  // namespace dsv4::testing
