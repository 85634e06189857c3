// SPDX-License-Identifier: Apache-2.0
// Every code of every format against its definition, and the bulk path against the scalar one.
#include "core/dtype.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <vector>

#include "core/error.hpp"
#include "core/rng.hpp"
#include "core/weights.hpp"

namespace dsv4 {
namespace {

// sign · 2^(max(e, 1) - bias) · (m / 2^M + [e > 0]), written from the fields of the code.
double from_fields(unsigned code, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int m = static_cast<int>(code) & ((1 << mantissa_bits) - 1);
  const int e = static_cast<int>(code >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int sign = static_cast<int>(code >> (mantissa_bits + exponent_bits)) & 1;
  const double magnitude =
      std::pow(2.0, std::max(e, 1) - bias) * (m / std::pow(2.0, mantissa_bits) + (e > 0 ? 1 : 0));
  return sign != 0 ? -magnitude : magnitude;
}

bool same(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return a == b && std::signbit(a) == std::signbit(b);
}

TEST(DType, NamesRoundTrip) {
  for (int i = 0; i <= static_cast<int>(DType::BOOL); ++i) {
    DType back = DType::F64;
    EXPECT_TRUE(parse_dtype(name(static_cast<DType>(i)), back));
    EXPECT_EQ(back, static_cast<DType>(i));
  }
  DType ignored = DType::F64;
  EXPECT_FALSE(parse_dtype("F8_E5M2", ignored));
}

TEST(DType, E4M3EqualsItsFields) {
  for (unsigned code = 0; code < 256; ++code) {
    const float value = decode_e4m3(static_cast<std::uint8_t>(code));
    if ((code & 0x7F) == 0x7F) {
      EXPECT_TRUE(std::isnan(value)) << code;
    } else {
      EXPECT_TRUE(same(value, from_fields(code, 4, 3))) << code;
    }
  }
  EXPECT_EQ(decode_e4m3(0x7E), 448.0F);
  EXPECT_EQ(decode_e4m3(0x01), 0x1p-9F);
}

TEST(DType, E2M1EqualsItsFields) {
  for (unsigned code = 0; code < 16; ++code) {
    EXPECT_TRUE(same(decode_e2m1(static_cast<std::uint8_t>(code)), from_fields(code, 2, 1)))
        << code;
  }
}

TEST(DType, E8M0IsAPowerOfTwo) {
  for (int code = 0; code < 255; ++code) {
    EXPECT_EQ(static_cast<double>(decode_e8m0(static_cast<std::uint8_t>(code))),
              std::ldexp(1.0, code - 127));
  }
  EXPECT_TRUE(std::isnan(decode_e8m0(255)));
}

TEST(DType, Bf16EqualsItsFields) {
  for (unsigned code = 0; code < 65536; ++code) {
    const float value = decode_bf16(static_cast<std::uint16_t>(code));
    const unsigned exponent = (code >> 7) & 255;
    if (exponent < 255) {
      EXPECT_TRUE(same(value, from_fields(code, 8, 7))) << code;
    } else {
      EXPECT_EQ(std::isnan(value), (code & 127) != 0) << code;
    }
  }
}

// A weight matrix over owned bytes.
struct Owned {
  std::vector<std::byte> bytes;
  std::vector<std::uint8_t> scales;
  Weight w;
};

Owned random_weight(DType dtype, std::int64_t rows, std::int64_t cols) {
  Owned out;
  out.w.dtype = dtype;
  out.w.rows = rows;
  out.w.cols = cols;
  out.w.name = "test";
  const Rng rng(3, name(dtype));
  out.bytes.resize(static_cast<std::size_t>(rows * out.w.row_bytes()) + 1);
  for (std::size_t i = 0; i < out.bytes.size(); ++i)
    out.bytes[i] = static_cast<std::byte>(rng.bits(i) & 255);
  std::size_t scales = 0;
  if (dtype == DType::F8_E4M3)
    scales = static_cast<std::size_t>((rows + 127) / 128 * ((cols + 127) / 128));
  if (dtype == DType::I8) scales = static_cast<std::size_t>(rows * (cols / 32));
  // All exponents, 0 (a float32 subnormal) and 255 (NaN) among them.
  for (std::size_t i = 0; i < scales; ++i)
    out.scales.push_back(static_cast<std::uint8_t>(i * 85 % 256));
  out.w.data = out.bytes.data();
  if (scales > 0) out.w.scale = out.scales.data();
  return out;
}

// The definition, one element at a time.
Real element(const Weight& w, std::int64_t i, std::int64_t j) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(w.data);
  Real scale = 1;
  if (w.dtype == DType::F8_E4M3) {
    if (w.scale != nullptr)
      scale = decode_e8m0(w.scale[(w.scale_row + i) / 128 * ((w.cols + 127) / 128) + j / 128]);
    return static_cast<Real>(decode_e4m3(bytes[i * w.cols + j])) * scale;
  }
  if (w.dtype == DType::I8) {
    if (w.scale != nullptr) scale = decode_e8m0(w.scale[i * (w.cols / 32) + j / 32]);
    const std::uint8_t byte = bytes[(i * w.cols + j) / 2];
    const auto code = static_cast<std::uint8_t>(j % 2 == 0 ? byte & 15 : byte >> 4);
    return static_cast<Real>(decode_e2m1(code)) * scale;
  }
  if (w.dtype == DType::BF16) {
    std::uint16_t code = 0;
    std::memcpy(&code, bytes + 2 * (i * w.cols + j), 2);
    return static_cast<Real>(decode_bf16(code));
  }
  if (w.dtype == DType::F32) {
    float value = 0;
    std::memcpy(&value, bytes + 4 * (i * w.cols + j), 4);
    return static_cast<Real>(value);
  }
  double value = 0;
  std::memcpy(&value, bytes + 8 * (i * w.cols + j), 8);
  return static_cast<Real>(value);
}

void expect_bulk_equals_scalar(const Weight& w) {
  for (const std::int64_t col : {0, 1, 31, 32, 33, 127, 129, 200}) {
    for (const std::int64_t n : {0, 1, 2, 31, 33, 64, 128, 131}) {
      if (col + n > w.cols) continue;
      std::vector<Real> out(static_cast<std::size_t>(w.rows * (n + 3)), Real{-77});
      dequantize(w, 0, w.rows, col, n, out.data(), n + 3);
      for (std::int64_t i = 0; i < w.rows; ++i) {
        for (std::int64_t j = 0; j < n + 3; ++j) {
          const Real expected = j < n ? element(w, i, col + j) : Real{-77};
          const Real found = out[static_cast<std::size_t>(i * (n + 3) + j)];
          ASSERT_TRUE(same(static_cast<double>(found), static_cast<double>(expected)))
              << name(w.dtype) << " [" << i << ", " << col + j << "]: " << found << " is not "
              << expected;
        }
      }
    }
  }
}

class Dequantize : public ::testing::TestWithParam<DType> {};

TEST_P(Dequantize, BulkEqualsScalarBitForBit) {
  expect_bulk_equals_scalar(random_weight(GetParam(), 150, 352).w);
}

TEST_P(Dequantize, UnalignedDataReadTheSame) {
  Owned odd = random_weight(GetParam(), 8, 352);
  ++odd.w.data;  // BF16, F32, F64 at an odd address

  expect_bulk_equals_scalar(odd.w);
}

TEST_P(Dequantize, WithoutScaleTheCodesAreTheValues) {
  Owned plain = random_weight(GetParam(), 8, 352);
  plain.w.scale = nullptr;

  expect_bulk_equals_scalar(plain.w);
}

TEST_P(Dequantize, RowSlicesKeepTheirScales) {
  const Owned whole = random_weight(GetParam(), 300, 352);
  for (const std::int64_t first : {0, 1, 100, 127, 128, 129, 256, 299}) {
    const Weight slice = whole.w.row_slice(first, 300 - first);
    for (std::int64_t i = 0; i < slice.rows; i += 7) {
      std::vector<Real> row(352);
      dequantize(slice, i, 1, 0, 352, row.data(), 352);
      for (std::int64_t j = 0; j < 352; ++j) {
        ASSERT_TRUE(same(static_cast<double>(row[static_cast<std::size_t>(j)]),
                         static_cast<double>(element(whole.w, first + i, j))));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllFormats, Dequantize,
                         ::testing::Values(DType::F8_E4M3, DType::I8, DType::BF16, DType::F32,
                                           DType::F64),
                         [](const auto& param) { return std::string(name(param.param)); });

TEST(DequantizeErrors, RangesAreChecked) {
  const Owned m = random_weight(DType::BF16, 4, 8);
  std::vector<Real> out(64);

  EXPECT_THROW(dequantize(m.w, 3, 2, 0, 8, out.data(), 8), WeightError);
  EXPECT_THROW(dequantize(m.w, 0, 1, 1, 8, out.data(), 8), WeightError);
  EXPECT_THROW(dequantize(m.w, -1, 1, 0, 8, out.data(), 8), WeightError);
  EXPECT_THROW((void)m.w.row_slice(2, 3), WeightError);
}

TEST(DequantizeErrors, IntegersAreNotWeights) {
  Owned m = random_weight(DType::BF16, 1, 8);
  m.w.dtype = DType::I64;
  std::vector<Real> out(8);

  EXPECT_THROW(dequantize(m.w, 0, 1, 0, 8, out.data(), 8), WeightError);
}

TEST(Rng, ValuesDependOnSeedStreamAndCounterOnly) {
  const Rng a(1, "x");
  const Rng b(1, "x");
  const double later = a.normal(1000);

  EXPECT_EQ(a.bits(0), b.bits(0));
  EXPECT_EQ(b.normal(1000), later);
  EXPECT_NE(a.bits(0), Rng(2, "x").bits(0));
  EXPECT_NE(a.bits(0), Rng(1, "y").bits(0));
  EXPECT_NE(a.bits(0), a.bits(1));
}

// The generator is part of what a seed means: these numbers must not change between versions.
TEST(Rng, FirstValuesArePinned) {
  const Rng rng(42, "embed.weight");

  EXPECT_EQ(rng.bits(0), 0x1096eb091f439cbfULL);
  EXPECT_EQ(rng.bits(1), 0x3066aef06f36d33fULL);
}

TEST(Rng, NormalHasMeanZeroAndVarianceOne) {
  const Rng rng(5, "normal");
  constexpr int kCount = 200000;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < kCount; ++i) {
    const double x = rng.normal(static_cast<std::uint64_t>(i));
    sum += x;
    squares += x * x;
  }

  EXPECT_NEAR(sum / kCount, 0, 5 / std::sqrt(kCount));
  EXPECT_NEAR(squares / kCount, 1, 5 * std::sqrt(2.0 / kCount));
}

}  // namespace
}  // namespace dsv4
