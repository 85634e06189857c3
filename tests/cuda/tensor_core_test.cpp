// SPDX-License-Identifier: Apache-2.0
// The bit models of tensor cores: what the papers say of them, worked by hand. Their errors against
// float64 are in tensor_core_statistics_test.cpp.
#include "cuda/emulator/tensor_core.hpp"

#include <array>
#include <cmath>
#include <gtest/gtest.h>
#include <vector>

#include "core/dtype.hpp"

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

}  // namespace
}  // namespace dsv4::emulator
