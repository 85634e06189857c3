// SPDX-License-Identifier: Apache-2.0
// Block-wise quantisation: numbers worked on paper, and the bulk path against the definition.
#include "core/quantize.hpp"

#include <array>
#include <cmath>
#include <gtest/gtest.h>
#include <vector>

namespace dsv4 {
namespace {

TEST(Quantize, Fp8ByHand) {
  // amax 449 / 448 needs scale 2; 17 / 2 = 8.5 is half way between 8 and 9: even is 8.
  std::array<float, 4> x = {449.0F, 17.0F, 19.0F, -0.0F};
  std::array<std::uint8_t, 4> codes = {};
  std::uint8_t scale = 0;

  quantize_dequantize(kFp8Block128, x.data(), 4, codes.data(), &scale);

  EXPECT_EQ(scale, 128);
  EXPECT_EQ(x, (std::array<float, 4>{448.0F, 16.0F, 20.0F, 0.0F}));
  EXPECT_TRUE(std::signbit(x[3]));
  EXPECT_EQ(codes, (std::array<std::uint8_t, 4>{0x76, 0x50, 0x52, 0x80}));
}

TEST(Quantize, Fp4ByHand) {
  // Scale 2: 6, 2.5 -> 2, -3.5 -> -4, 0.2 -> 0.
  std::array<float, 4> x = {12.0F, 5.0F, -7.0F, 0.4F};
  std::array<std::uint8_t, 4> codes = {};
  std::uint8_t scale = 0;

  quantize_dequantize(kFp4Block32, x.data(), 4, codes.data(), &scale);

  EXPECT_EQ(scale, 128);
  EXPECT_EQ(x, (std::array<float, 4>{12.0F, 4.0F, -8.0F, 0.0F}));
  EXPECT_EQ(codes, (std::array<std::uint8_t, 4>{7, 4, 14, 0}));
}

}  // namespace
}  // namespace dsv4
