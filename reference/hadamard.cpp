// SPDX-License-Identifier: Apache-2.0
#include "reference/hadamard.hpp"

#include <cmath>

#include "reference/parallel.hpp"

namespace dsv4::reference {

Mat hadamard(const ConstMatRef& x, Index heads) {
  const Index n = x.cols() / heads;
  Mat y = x;
  const bool parallel = worth_threads(x.size());
#pragma omp parallel for if (parallel)
  for (Index s = 0; s < y.rows(); ++s) {
    // Butterflies of growing width; blocks of different heads never meet because n is a power of
    // two.
    for (Index half = 1; half < n; half *= 2) {
      for (Index block = 0; block < y.cols(); block += 2 * half) {
        for (Index i = block; i < block + half; ++i) {
          const Real a = y(s, i);
          const Real b = y(s, i + half);
          y(s, i) = a + b;
          y(s, i + half) = a - b;
        }
      }
    }
  }
  return y / std::sqrt(static_cast<Real>(n));
}

}  // namespace dsv4::reference
