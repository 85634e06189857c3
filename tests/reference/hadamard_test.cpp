// SPDX-License-Identifier: Apache-2.0
// The Walsh-Hadamard transform in natural order.
#include "reference/hadamard.hpp"

#include <bit>
#include <cmath>
#include <gtest/gtest.h>

#include "reference/error_bound.hpp"
#include "support/matrices.hpp"

namespace dsv4::reference {
namespace {

using testing::kUnit;
using testing::random_matrix;
using testing::within;

// y[a] = sum_b (-1)^popcount(a & b) x[b] / sqrt(n)
Row twin(const Row& x) {
  const Index n = x.size();
  Row y(n);
  for (Index a = 0; a < n; ++a) {
    Real sum = 0;
    for (Index b = 0; b < n; ++b) {
      const bool odd = std::popcount(static_cast<std::uint64_t>(a & b)) % 2 == 1;
      sum += odd ? -x(b) : x(b);
    }
    y(a) = sum / std::sqrt(static_cast<Real>(n));
  }
  return y;
}

TEST(Hadamard, OfFourNumbersIsTheSylvesterMatrixHalved) {
  // H4 = [+ + + +; + - + -; + + - -; + - - +] / 2, applied to [1, 2, 3, 5]:
  // (11, 1-2+3-5 = -3, 1+2-3-5 = -5, 1-2-3+5 = 1) / 2.
  const Mat x{{1, 2, 3, 5}};

  const Mat y = hadamard(x, 1);

  EXPECT_EQ(y, (Mat{{5.5, -1.5, -2.5, 0.5}}));
}

TEST(Hadamard, OfOneNumberIsTheNumber) {
  const Mat x{{7}, {-2}};

  const Mat y = hadamard(x, 1);

  EXPECT_EQ(y, x);
}

TEST(Hadamard, TransformsEachHeadByItself) {
  // Two heads of two: (1+2, 1-2, 3+5, 3-5) / sqrt 2.
  const Mat x{{1, 2, 3, 5}};

  const Mat y = hadamard(x, 2);

  const Real r = std::sqrt(Real(2));
  EXPECT_TRUE(within(y, Mat{{3 / r, -1 / r, 8 / r, -2 / r}}, 16 * kUnit));
}

TEST(Hadamard, EqualsTheDefinitionByParityOfCommonBits) {
  for (const Index n : {2, 8, 32, 128}) {
    const Mat x = random_matrix(2, 3 * n, "x");

    const Mat y = hadamard(x, 3);

    const Mat bound = 2 * kUnit * error::hadamard(x, 3);
    for (Index s = 0; s < 2; ++s) {
      for (Index h = 0; h < 3; ++h) {
        EXPECT_TRUE(within(y.block(s, h * n, 1, n), twin(x.block(s, h * n, 1, n)),
                           bound.block(s, h * n, 1, n)))
            << "n " << n;
      }
    }
  }
}

TEST(Hadamard, TwiceIsTheIdentity) {
  const Mat x = random_matrix(3, 4 * 64, "x");

  const Mat back = hadamard(hadamard(x, 4), 4);

  // A transform errs by u E and the second one carries the first one's error with norm one:
  // |e| <= u (E(Hx) + sqrt(n) max E(x)).
  const Mat once = error::hadamard(x, 4);
  const Mat bound = error::hadamard(hadamard(x, 4), 4).array() + 8 * once.maxCoeff();
  EXPECT_TRUE(within(back, x, kUnit * bound));
}

TEST(Hadamard, KeepsInnerProducts) {
  const Mat q = random_matrix(1, 128, "q");
  const Mat k = random_matrix(1, 128, "k");

  const Real rotated = hadamard(q, 1).row(0).dot(hadamard(k, 1).row(0));

  EXPECT_NEAR(rotated, q.row(0).dot(k.row(0)), 1e-12);
}

}  // namespace
}  // namespace dsv4::reference
