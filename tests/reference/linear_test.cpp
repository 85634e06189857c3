// SPDX-License-Identifier: Apache-2.0
// y = x W^T from every storage format, at every tile edge, at any number of threads.
#include "reference/linear.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <omp.h>
#include <stdexcept>

#include "core/dtype.hpp"
#include "core/rng.hpp"
#include "reference/error_bound.hpp"
#include "support/matrices.hpp"

namespace dsv4::reference {
namespace {

using testing::identical;
using testing::kUnit;
using testing::random_matrix;
using testing::within;

// A random weight in one of the storage formats and the bytes behind it.
struct Stored {
  Stored(DType dtype, Index rows, Index cols) {
    const Rng rng(3, name(dtype));
    const bool fp4 = dtype == DType::I8;
    const auto elements = static_cast<std::size_t>(rows * cols);
    bytes.resize(fp4 ? elements / 2 : elements * size_of(dtype));
    for (std::size_t i = 0; i < elements; ++i) {
      const auto value = static_cast<float>(rng.normal(i));
      if (dtype == DType::F32) {
        std::memcpy(bytes.data() + 4 * i, &value, 4);
      } else if (dtype == DType::BF16) {
        const auto code = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
        std::memcpy(bytes.data() + 2 * i, &code, 2);
      } else if (dtype == DType::F8_E4M3) {
        const std::uint64_t code = rng.bits(i);  // anything but the two NaN codes
        bytes[i] = static_cast<std::byte>((code & 0x7F) == 0x7F ? code & 0xFE : code & 0xFF);
      } else if (i % 2 == 0) {
        bytes[i / 2] = static_cast<std::byte>(rng.bits(i));
      }
    }
    const Index blocks = fp4 ? rows * (cols / 32) : ((rows + 127) / 128) * ((cols + 127) / 128);
    for (Index i = 0; i < blocks; ++i) {
      const auto at = (std::uint64_t{1} << 40) + static_cast<std::uint64_t>(i);
      scale.push_back(static_cast<std::uint8_t>(118 + rng.bits(at) % 9));
    }
    const bool scaled = fp4 || dtype == DType::F8_E4M3;
    weight = {dtype, rows, cols, bytes.data(), scaled ? scale.data() : nullptr, "w", 0};
  }

  Mat dense() const {
    Mat w(weight.rows, weight.cols);
    dequantize(weight, 0, weight.rows, 0, weight.cols, w.data(), weight.cols);
    return w;
  }

  std::vector<std::byte> bytes;
  std::vector<std::uint8_t> scale;
  Weight weight;
};

Mat twin(const Mat& x, const Mat& w) {
  Mat y(x.rows(), w.rows());
  for (Index m = 0; m < x.rows(); ++m) {
    for (Index n = 0; n < w.rows(); ++n) {
      Real sum = 0;
      for (Index k = 0; k < x.cols(); ++k) sum += x(m, k) * w(n, k);
      y(m, n) = sum;
    }
  }
  return y;
}

TEST(Linear, MultipliesByTheTransposedWeight) {
  // W = [out, in] = [[1, 2], [3, 4], [5, 6]]; x = [10, 1]: 10+2, 30+4, 50+6.
  const Mat w{{1, 2}, {3, 4}, {5, 6}};
  const Mat x{{10, 1}};

  const Mat y = linear(x, as_weight(w));

  EXPECT_EQ(y, (Mat{{12, 34, 56}}));
}

TEST(Linear, OfFp4ReadsTheLowNibbleFirstAndScalesEach32Inputs) {
  // Codes 2 = 1.0 (low) and 12 = -2.0 (high) in every byte; scales 2^1 and 2^-1. With ones as
  // input: 16 pairs of -1 a block: -16 * 2 - 16 / 2 = -40. With the odd inputs zero: 16 * 2 + 16 /
  // 2 = 40.
  const std::vector<std::byte> bytes(32, std::byte{0xC2});
  const std::vector<std::uint8_t> scale = {128, 126};
  const Weight w{DType::I8, 1, 64, bytes.data(), scale.data(), "w", 0};
  Mat x = Mat::Ones(2, 64);
  for (Index k = 1; k < 64; k += 2) x(1, k) = 0;

  const Mat y = linear(x, w);

  EXPECT_EQ(y, (Mat{{-40}, {40}}));
}

TEST(Linear, OfFp8ScalesEach128By128Block) {
  // Every code is 0x38 = 1.0; the four blocks of a 130 x 129 matrix are scaled by 1, 2, 4, 8.
  const std::vector<std::byte> bytes(std::size_t{130} * 129, std::byte{0x38});
  const std::vector<std::uint8_t> scale = {127, 128, 129, 130};
  const Weight w{DType::F8_E4M3, 130, 129, bytes.data(), scale.data(), "w", 0};

  const Mat y = linear(Mat::Ones(1, 129), w);

  EXPECT_EQ(y(0, 0), 128 + 2);
  EXPECT_EQ(y(0, 127), 128 + 2);
  EXPECT_EQ(y(0, 128), 128 * 4 + 8);
  EXPECT_EQ(y(0, 129), 128 * 4 + 8);
}

struct Shape {
  DType dtype;
  Index rows, cols, tokens;
};

class LinearFormats : public ::testing::TestWithParam<Shape> {};

TEST_P(LinearFormats, EqualTheDenseProductOfTheDequantisedWeight) {
  const Shape p = GetParam();
  const Stored w(p.dtype, p.rows, p.cols);
  const Mat x = random_matrix(p.tokens, p.cols, "x");

  const Mat y = linear(x, w.weight);

  EXPECT_TRUE(within(y, twin(x, w.dense()), 2 * kUnit * error::linear(x, w.weight)));
}

TEST_P(LinearFormats, MagnitudeIsTheProductOfAbsoluteValues) {
  const Shape p = GetParam();
  const Stored w(p.dtype, p.rows, p.cols);
  const Mat x = random_matrix(p.tokens, p.cols, "x");

  const Mat size = linear_magnitude(x, w.weight);

  const Mat expected = twin(x.cwiseAbs(), w.dense().cwiseAbs());
  EXPECT_TRUE(within(size, expected, 2 * kUnit * static_cast<Real>(p.cols) * expected));
}

TEST_P(LinearFormats, FewTokensAndManyTokensAgree) {
  const Shape p = GetParam();
  const Stored w(p.dtype, p.rows, p.cols);
  const Mat x = random_matrix(24, p.cols, "x");

  const Mat together = linear(x, w.weight);

  const Mat bound = 2 * kUnit * error::linear(x, w.weight);
  for (Index i = 0; i < 24; ++i)
    EXPECT_TRUE(within(linear(x.row(i), w.weight), together.row(i), bound.row(i))) << "row " << i;
}

TEST_P(LinearFormats, SlicesOfOutputRowsEqualTheColumnsOfTheWhole) {
  const Shape p = GetParam();
  const Stored w(p.dtype, p.rows, p.cols);
  const Mat x = random_matrix(p.tokens, p.cols, "x");
  const Mat whole = linear(x, w.weight);
  const Mat bound = 2 * kUnit * error::linear(x, w.weight);

  for (const Index first : {Index{0}, Index{1}, p.rows / 3, p.rows - 1}) {
    for (const Index count : {Index{1}, (p.rows - first + 1) / 2, p.rows - first}) {
      const Mat slice = linear(x, w.weight, OutRows{first, count});
      const Mat view = linear(x, w.weight.row_slice(first, count));

      EXPECT_TRUE(within(slice, whole.middleCols(first, count), bound.middleCols(first, count)));
      EXPECT_TRUE(identical(view, slice)) << "first " << first << " count " << count;
    }
    EXPECT_EQ(linear(x, w.weight, OutRows{first}).cols(), p.rows - first);
  }
}

TEST_P(LinearFormats, ThreadCountChangesNoBit) {
  const Shape p = GetParam();
  const Stored w(p.dtype, p.rows, p.cols);
  const Mat x = random_matrix(std::max<Index>(p.tokens, 40), p.cols, "x");
  const int threads = omp_get_max_threads();

  omp_set_num_threads(1);
  const Mat one = linear(x, w.weight);
  const Mat size = linear_magnitude(x, w.weight);
  for (const int n : {2, 3}) {
    omp_set_num_threads(n);
    EXPECT_TRUE(identical(linear(x, w.weight), one)) << n << " threads";
    EXPECT_TRUE(identical(linear_magnitude(x, w.weight), size)) << n << " threads";
  }
  omp_set_num_threads(threads);
}

// Ragged edges everywhere: 300 rows are two scale blocks and 44, 1100 columns more than one slice
// of the few-token path; 8 tokens are the last of it, 9 the first of the other.
INSTANTIATE_TEST_SUITE_P(
    Shapes, LinearFormats,
    ::testing::Values(Shape{DType::F8_E4M3, 300, 1100, 8}, Shape{DType::F8_E4M3, 300, 1100, 9},
                      Shape{DType::F8_E4M3, 129, 257, 1}, Shape{DType::F8_E4M3, 7, 5, 3},
                      Shape{DType::I8, 260, 1056, 8}, Shape{DType::I8, 260, 1056, 17},
                      Shape{DType::I8, 3, 32, 1}, Shape{DType::BF16, 131, 1031, 8},
                      Shape{DType::BF16, 131, 1031, 33}, Shape{DType::F32, 257, 100, 2},
                      Shape{DType::F32, 257, 100, 515}),
    [](const auto& shape) {
      const Shape& p = shape.param;
      return std::string(name(p.dtype)) + "_" + std::to_string(p.rows) + "x" +
             std::to_string(p.cols) + "_" + std::to_string(p.tokens);
    });

// 1100 x 1120 products are enough to wake a second thread for a single token.
TEST(Linear, OfFewTokensDoesNotDependOnTheThreads) {
  const int threads = omp_get_max_threads();
  for (const DType dtype : {DType::F8_E4M3, DType::I8}) {
    const Stored w(dtype, 1100, 1120);
    const Mat x = random_matrix(4, 1120, "x");
    omp_set_num_threads(1);
    const Mat one = linear(x, w.weight);
    for (const int n : {2, 3}) {
      omp_set_num_threads(n);
      EXPECT_TRUE(identical(linear(x, w.weight), one)) << n << " threads";
    }
  }
  omp_set_num_threads(threads);
}

TEST(Linear, OfANanCodeIsNanInItsRowAlone) {
  Stored w(DType::F8_E4M3, 70, 200);
  for (const Index at : {0, 31}) w.bytes[static_cast<std::size_t>(at * 201)] = std::byte{0xFF};
  const Mat y = linear(random_matrix(2, 200, "x"), w.weight);

  for (Index n = 0; n < 70; ++n) EXPECT_EQ(std::isnan(y(1, n)), n == 0 || n == 31) << n;
}

TEST(Linear, RefusesAnInputOfAnotherWidth) {
  const Mat w = Mat::Ones(2, 3);

  EXPECT_THROW(linear(Mat::Ones(1, 4), as_weight(w)), std::logic_error);
}

TEST(Linear, OfNoTokensHasNoRows) {
  const Mat w = Mat::Ones(2, 3);

  const Mat y = linear(Mat(0, 3), as_weight(w));

  EXPECT_EQ(y.rows(), 0);
  EXPECT_EQ(y.cols(), 2);
}

}  // namespace
}  // namespace dsv4::reference
