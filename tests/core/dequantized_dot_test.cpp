// SPDX-License-Identifier: Apache-2.0
// The product that widens codes in registers, against `dequantize` and a plain sum.
#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <vector>

#include "core/dot.hpp"
#include "core/rng.hpp"
#include "support/matrices.hpp"

namespace dsv4 {
namespace {

using testing::identical;
using testing::kUnit;
using testing::random_matrix;
using testing::within;

// Random codes, none of them NaN, at an odd address.
struct Stored {
  Stored(DType dtype, Index rows, Index cols) {
    const Rng rng(7, name(dtype));
    bytes.resize(static_cast<std::size_t>(dtype == DType::I8 ? rows * cols / 2 : rows * cols) + 1);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      const std::uint64_t code = rng.bits(i) & 0xFF;
      const bool nan = dtype == DType::F8_E4M3 && (code & 0x7F) == 0x7F;
      bytes[i] = static_cast<std::byte>(nan ? code - 1 : code);
    }
    const bool fp4 = dtype == DType::I8;
    const Index blocks = fp4 ? rows * (cols / 32) : (rows + 127) / 128 * ((cols + 127) / 128);
    for (Index i = 0; i < blocks; ++i) scale.push_back(static_cast<std::uint8_t>(i * 85 % 255));
    weight = {dtype, rows, cols, bytes.data() + 1, scale.data(), "w", 0};
  }

  std::vector<std::byte> bytes;
  std::vector<std::uint8_t> scale;
  Weight weight;
};

Mat dense(const Weight& w) {
  Mat m(w.rows, w.cols);
  dequantize(w, 0, w.rows, 0, w.cols, m.data(), w.cols);
  return m;
}

Mat product(const Mat& x, const Weight& w) {
  Mat y(x.rows(), w.rows);
  dot(dot_order(x, w), w, 0, y);
  return y;
}

// Each of the two sums of K products is off by at most K u times the sum of their sizes.
Mat bound(const Mat& x, const Mat& w) {
  return 2 * kUnit * static_cast<Real>(x.cols()) * (x.cwiseAbs() * w.cwiseAbs().transpose());
}

class DequantizedDot : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (!has_dot(Stored(GetParam(), 1, 32).weight)) GTEST_SKIP() << "this build widens in memory";
  }
  bool fp4() const { return GetParam() == DType::I8; }
};

TEST_P(DequantizedDot, EqualsTheProductOfTheDequantisedWeight) {
  const std::vector<Index> widths =
      fp4() ? std::vector<Index>{32, 64, 96, 352, 1056}
            : std::vector<Index>{1, 5, 31, 32, 33, 127, 128, 129, 180, 257, 1100};
  for (const Index cols : widths) {
    const Stored s(GetParam(), 131, cols);
    const Mat w = dense(s.weight);
    for (Index tokens = 1; tokens <= kDotTokens; ++tokens) {
      const Mat x = random_matrix(tokens, cols, "x");
      const Mat expected = x * w.transpose();
      EXPECT_TRUE(within(product(x, s.weight), expected, bound(x, w)))
          << cols << " columns, " << tokens << " tokens";
    }
  }
}

// One code alone in a row of zeros: x times its number, exactly, wherever it stands.
TEST_P(DequantizedDot, EveryCodeIsExactInEveryColumn) {
  const Index cols = fp4() ? 96 : 161;
  const Index codes = fp4() ? 16 : 256;
  const Mat x = random_matrix(1, cols, "x");
  Stored s(GetParam(), codes, cols);
  for (auto& code : s.scale) code = 120;
  for (Index k = 0; k < cols; ++k) {
    std::fill(s.bytes.begin(), s.bytes.end(), std::byte{0});
    for (Index i = 0; i < codes; ++i) {
      const Index at = 1 + i * s.weight.row_bytes() + (fp4() ? k / 2 : k);
      s.bytes[static_cast<std::size_t>(at)] =
          static_cast<std::byte>(fp4() && k % 2 == 1 ? i << 4 : i);
    }
    const Mat y = product(x, s.weight);
    for (Index i = 0; i < codes; ++i) {
      Real number = 0;
      dequantize(s.weight, i, 1, k, 1, &number, 1);
      if (std::isnan(number)) {
        EXPECT_TRUE(std::isnan(y(0, i))) << "code " << i << " in column " << k;
      } else {
        EXPECT_EQ(y(0, i), x(0, k) * number) << "code " << i << " in column " << k;
      }
    }
  }
}

TEST_P(DequantizedDot, ANanScaleMakesOnlyItsRowsNan) {
  Stored s(GetParam(), 130, 288);
  s.scale[1] = 255;  // row 0, or rows 0 … 127
  const Mat y = product(random_matrix(4, 288, "x"), s.weight);

  const Index rows = fp4() ? 1 : 128;
  EXPECT_TRUE(y.leftCols(rows).array().isNaN().all());
  EXPECT_FALSE(y.rightCols(130 - rows).hasNaN());
}

TEST_P(DequantizedDot, BitsDependOnTheTokenAndTheRowAlone) {
  const Stored s(GetParam(), 300, 352);
  const Mat x = random_matrix(4, 352, "x");
  const Mat whole = product(x, s.weight);

  for (Index tokens = 1; tokens < 4; ++tokens) {
    EXPECT_TRUE(identical(product(x.topRows(tokens), s.weight), whole.topRows(tokens)));
  }
  for (const Index first : {1, 127, 128, 129, 299}) {
    const Mat part = product(x, s.weight.row_slice(first, 300 - first));
    EXPECT_TRUE(identical(part, Mat(whole.rightCols(300 - first)))) << "from row " << first;
  }
}

TEST_P(DequantizedDot, InfiniteInputsAreInfinite) {
  Stored s(GetParam(), 2, 32);
  std::fill(s.bytes.begin(), s.bytes.end(), fp4() ? std::byte{0x22} : std::byte{0x38});
  for (auto& code : s.scale) code = 127;
  Mat x = Mat::Ones(1, 32);
  x(0, 3) = std::numeric_limits<Real>::infinity();

  EXPECT_EQ(product(x, s.weight), Mat::Constant(1, 2, x(0, 3)));
}

INSTANTIATE_TEST_SUITE_P(Formats, DequantizedDot, ::testing::Values(DType::F8_E4M3, DType::I8),
                         [](const auto& param) { return std::string(name(param.param)); });

TEST(DequantizedDotErrors, OtherWeightsHaveNone) {
  Stored plain(DType::F8_E4M3, 4, 32);
  plain.weight.scale = nullptr;
  EXPECT_FALSE(has_dot(plain.weight));
  EXPECT_FALSE(has_dot(as_weight(Eigen::Matrix<double, -1, -1, Eigen::RowMajor>::Ones(2, 2))));
}

}  // namespace
}  // namespace dsv4
