// SPDX-License-Identifier: Apache-2.0
// The bit models of tensor cores: what the papers say of them, worked by hand, and their error
// against float64 compared with what formulas (not the model) predict.
#include "cuda/emulator/tensor_core.hpp"

#include <array>
#include <cmath>
#include <gtest/gtest.h>
#include <vector>

#include "core/dtype.hpp"
#include "core/rng.hpp"

namespace dsv4::emulator {
namespace {

std::vector<Part> parts(Operand format, const std::vector<float>& values) {
  std::vector<Part> out;
  for (const float v : values) {
    out.push_back(take_apart(format, format == Operand::bf16 ? encode_bf16(v) : encode_e4m3(v)));
  }
  return out;
}

float sum16(TensorCore core, std::vector<float> a, float c) {
  a.resize(16, 0.0F);
  return dot(core, Unit::mma, Operand::bf16, parts(Operand::bf16, a),
             parts(Operand::bf16, std::vector<float>(16, 1.0F)), c);
}

TEST(TensorCoreModel, CutsOffBelowItsFractionalBits) {
  // Beside 1 a product of 2^-25 is kept by 25 fractional bits and lost by 24.
  const float small = 0x1p-25F;
  EXPECT_EQ(sum16(TensorCore::hopper, {1, small, small}, -1), 0x1p-24F);
  EXPECT_EQ(sum16(TensorCore::ampere, {1, small, small}, -1), 0.0F);
  EXPECT_EQ(sum16(TensorCore::exact, {1, small, small}, -1), 0x1p-24F);
}

TEST(TensorCoreModel, RoundsTheResultTowardsZero) {
  EXPECT_EQ(sum16(TensorCore::hopper, {1, 0x1p-24F, 0x1p-25F}, 0), 1.0F);
  EXPECT_EQ(sum16(TensorCore::hopper, {-1, -0x1p-24F, -0x1p-25F}, 0), -1.0F);
  EXPECT_EQ(sum16(TensorCore::exact, {1, 0x1p-24F, 0x1p-25F}, 0), std::nextafter(1.0F, 2.0F));
}

TEST(TensorCoreModel, AmpereAddsHalvesOneAfterTheOther) {
  // 2^24 in the second half does not cut what the first half added up.
  std::vector<float> a(16, 0.0F);
  a[0] = a[1] = 0.5F;
  a[8] = 0x1p24F;
  EXPECT_EQ(sum16(TensorCore::ampere, a, 0), 0x1p24F);  // 2^24 + 1 is no float32: towards zero
  a[9] = 1.0F;
  EXPECT_EQ(sum16(TensorCore::ampere, a, 0), 0x1p24F + 2);
}

TEST(TensorCoreModel, Fp8WgmmaKeepsThirteenBits) {
  std::vector<float> a(32, 0.0F);
  a[0] = 256.0F;
  a[1] = 0x1p-6F;  // 2^-14 of the largest
  const auto ones = parts(Operand::e4m3, std::vector<float>(32, 1.0F));
  const auto left = parts(Operand::e4m3, a);
  EXPECT_EQ(dot(TensorCore::hopper, Unit::wgmma, Operand::e4m3, left, ones, 0), 256.0F);
  EXPECT_EQ(dot(TensorCore::hopper, Unit::mma, Operand::e4m3, left, ones, 0), 256.0F + 0x1p-6F);
}

TEST(TensorCoreModel, SmallIntegersAreExact) {
  std::vector<float> a, b;
  float sum = 5;
  for (int i = 0; i < 16; ++i) {
    a.push_back(static_cast<float>(i * 7 % 11 - 5));
    b.push_back(static_cast<float>(i * 5 % 13 - 6));
    sum += a.back() * b.back();
  }
  for (const TensorCore core : {TensorCore::hopper, TensorCore::ampere, TensorCore::exact}) {
    EXPECT_EQ(
        dot(core, Unit::mma, Operand::bf16, parts(Operand::bf16, a), parts(Operand::bf16, b), 5),
        sum);
  }
}

struct Measured {
  double rms, bias;  // relative to sum |a||b|, and to the sum
};

// Dot products of length k in the model against float64; promote: sums in float32 every so many.
Measured measure(Operand format, Unit unit, int k, bool positive, int promote) {
  const Rng rng(3, "tensor core");
  const int step = format == Operand::bf16 ? 16 : 32;
  constexpr int kRows = 200;
  double squares = 0, bias = 0;
  std::uint64_t at = 0;
  for (int row = 0; row < kRows; ++row) {
    float total = 0, part = 0;
    double exact = 0, size = 0;
    for (int i = 0; i < k; i += step) {
      std::array<Part, 32> a{}, b{};
      for (int j = 0; j < step; ++j) {
        float v[2];
        for (float& x : v) {
          x = static_cast<float>(rng.normal(at++));
          if (positive) x = std::abs(x);
          x = format == Operand::bf16 ? decode_bf16(encode_bf16(x)) : decode_e4m3(encode_e4m3(x));
        }
        const auto code = [&](float x) {
          return format == Operand::bf16 ? std::uint32_t{encode_bf16(x)} : encode_e4m3(x);
        };
        a[static_cast<std::size_t>(j)] = take_apart(format, code(v[0]));
        b[static_cast<std::size_t>(j)] = take_apart(format, code(v[1]));
        exact += static_cast<double>(v[0]) * v[1];
        size += std::abs(static_cast<double>(v[0]) * v[1]);
      }
      const auto n = static_cast<std::size_t>(step);
      part = dot(TensorCore::hopper, unit, format, {a.data(), n}, {b.data(), n}, part);
      if (promote > 0 && (i + step) % promote == 0) {
        total += part;
        part = 0;
      }
    }
    const double got = static_cast<double>(total) + part;
    squares += (got - exact) * (got - exact) / (size * size);
    bias += (got - exact) / exact;
  }
  return {std::sqrt(squares / kRows), bias / kRows};
}

// What cutting off must cost on positive data, from the formats alone. After i steps the sum is
// 16 i E|ab|, with an exponent e. A step loses half a unit of the float32 result, 2^(e-23), and of
// each product half of what lies between its own last bit and the unit's, 2^(e-25). Relative to the
// sum.
double predicted_loss(int k) {
  constexpr double kMean = 0.6366;                    // E|ab| of two normal numbers: 2/pi
  constexpr double kExponent = -2.83;                 // twice E floor(log2 |normal|) = -0.916 - 0.5
  const double last_bit = std::exp2(kExponent - 14);  // of a product of 8-bit significands
  double loss = 0;
  for (int i = 1; i <= k / 16; ++i) {
    const double top = std::exp2(std::floor(std::log2(16 * i * kMean)));
    loss += 0.5 * top * 0x1p-23 + 16 * 0.5 * std::max(0.0, top * 0x1p-25 - last_bit);
  }
  return loss / (k * kMean);
}

TEST(TensorCoreModel, Bf16ErrorOnPositiveDataIsWhatTruncationPredicts) {
  for (const int k : {512, 1024, 4096}) {
    const Measured m = measure(Operand::bf16, Unit::wgmma, k, true, 0);
    EXPECT_LT(m.rms, 2 * predicted_loss(k)) << k;
    EXPECT_GT(m.rms, predicted_loss(k) / 2) << k;
    EXPECT_LT(m.bias, 0) << "towards zero";
  }
}

// Thirteen bits: every product and the running sum lose half of 2^-13 of the largest on average.
TEST(TensorCoreModel, UnpromotedFp8IsUselessAndPromotedIsNot) {
  const Measured never = measure(Operand::e4m3, Unit::wgmma, 4096, true, 0);
  const Measured promoted = measure(Operand::e4m3, Unit::wgmma, 4096, true, 128);

  EXPECT_GT(never.rms, 1e-2);
  EXPECT_LT(promoted.rms, 2e-3);
  EXPECT_LT(never.bias, -1e-2);
}

}  // namespace
}  // namespace dsv4::emulator
