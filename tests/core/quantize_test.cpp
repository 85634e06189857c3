// SPDX-License-Identifier: Apache-2.0
// Block-wise quantisation: numbers worked on paper, the edges of the official kernels, and the bulk
// path against the definition, bit for bit.
#include "core/quantize.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <string>
#include <vector>

#include "core/rng.hpp"

namespace dsv4 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kMax = std::numeric_limits<float>::max();

bool is_fp8(const BlockFormat& f) { return f.code == DType::F8_E4M3; }

struct Quantised {
  std::vector<float> values;
  std::vector<std::uint8_t> codes, scales;
};

Quantised quantised(const BlockFormat& format, std::vector<float> x) {
  const std::size_t block = static_cast<std::size_t>(format.block);
  Quantised out{std::move(x), {}, {}};
  out.codes.resize(out.values.size());
  out.scales.resize((out.values.size() + block - 1) / block);
  quantize_dequantize(format, out.values.data(), static_cast<std::int64_t>(out.values.size()),
                      out.codes.data(), out.scales.data());
  return out;
}

// The definition, a value at a time: scale, round, scale back.
Quantised by_definition(const BlockFormat& format, std::vector<float> x) {
  Quantised out;
  for (std::size_t first = 0; first < x.size(); first += static_cast<std::size_t>(format.block)) {
    const std::size_t last = std::min(x.size(), first + static_cast<std::size_t>(format.block));
    float amax = 0;
    for (std::size_t i = first; i < last; ++i) {
      if (std::fabs(x[i]) > amax) amax = std::fabs(x[i]);  // NaN is not greater
    }
    out.scales.push_back(block_scale(format, amax));
    const float s = std::isinf(amax) ? kInfinity : decode_e8m0(out.scales.back());
    for (std::size_t i = first; i < last; ++i) {
      const float y = std::isnan(x[i] / s) ? -format.largest
                                           : std::clamp(x[i] / s, -format.largest, format.largest);
      out.codes.push_back(is_fp8(format) ? encode_e4m3(y) : encode_e2m1(y));
      out.values.push_back(
          (is_fp8(format) ? decode_e4m3(out.codes.back()) : decode_e2m1(out.codes.back())) * s);
    }
  }
  return out;
}

void expect_same_bits(const Quantised& found, const Quantised& expected) {
  ASSERT_EQ(found.values.size(), expected.values.size());
  EXPECT_EQ(found.codes, expected.codes);
  EXPECT_EQ(found.scales, expected.scales);
  for (std::size_t i = 0; i < found.values.size(); ++i) {
    if (std::isnan(expected.values[i]) && std::isnan(found.values[i])) continue;
    ASSERT_EQ(std::bit_cast<std::uint32_t>(found.values[i]),
              std::bit_cast<std::uint32_t>(expected.values[i]))
        << "at " << i << ": " << found.values[i] << " is not " << expected.values[i];
  }
}

TEST(BlockScale, IsTheNextPowerOfTwo) {
  const std::vector<std::pair<float, int>> fp8 = {
      {448.0F, 0}, {449.0F, 1}, {1.0F, -8}, {0.0F, -22}};
  for (const auto& [amax, exponent] : fp8)
    EXPECT_EQ(block_scale(kFp8Block128, amax), 127 + exponent) << amax;
  EXPECT_EQ(block_scale(kFp4Block32, 6.0F), 127);
  EXPECT_EQ(block_scale(kFp4Block32, 0.0F), 1);  // 2^-126
}

// The rounded reciprocal could have pushed a block over its largest code, or its scale too far up.
TEST(BlockScale, HasTheExactQuotientsPowerOfTwoForEveryBinade) {
  for (const BlockFormat& f : {kFp8Block128, kFp4Block32}) {
    for (int e = -140; e < 120; ++e) {
      const float edge = std::ldexp(f.largest, e);
      if (edge <= f.floor) continue;
      EXPECT_EQ(block_scale(f, edge), 127 + e);
      EXPECT_EQ(block_scale(f, std::nextafter(edge, kInfinity)), 127 + e + 1);
      EXPECT_EQ(block_scale(f, std::nextafter(edge, 0.0F)), 127 + e);
      EXPECT_EQ(block_scale(f, edge / 2), 127 + e - (edge / 2 >= f.floor ? 1 : 0));
    }
  }
}

TEST(BlockScale, AgreesWithFrexpOfTheExactQuotient) {
  const Rng rng(1, "block_scale");
  for (const BlockFormat& f : {kFp8Block128, kFp4Block32}) {
    for (std::uint64_t i = 0; i < 1U << 20; ++i) {
      const auto amax = std::bit_cast<float>(static_cast<std::uint32_t>(rng.bits(i)) & 0x7FFFFFFF);
      if (!std::isfinite(amax)) continue;
      int exponent = 0;
      const double m = std::frexp(double{std::max(amax, f.floor)} / double{f.largest}, &exponent);
      ASSERT_EQ(block_scale(f, amax), 127 + (m == 0.5 ? exponent - 1 : exponent)) << amax;
    }
  }
}

TEST(BlockScale, NeverSaturatesAFiniteBlock) {
  const Rng rng(2, "block_scale");
  for (const BlockFormat& f : {kFp8Block128, kFp4Block32}) {
    for (std::uint64_t i = 0; i < 1U << 20; ++i) {
      const auto amax = std::bit_cast<float>(static_cast<std::uint32_t>(rng.bits(i)) & 0x7FFFFFFF);
      if (!std::isfinite(amax)) continue;
      ASSERT_LE(amax / decode_e8m0(block_scale(f, amax)), f.largest);
    }
  }
}

TEST(Quantize, Fp8ByHand) {
  // 449/448 needs scale 2; 17/2 = 8.5 is half way between 8 and 9: even is 8. 19/2 = 9.5 gives 10.
  const Quantised q = quantised(kFp8Block128, {449.0F, 17.0F, 19.0F, -0.0F});

  EXPECT_EQ(q.scales, (std::vector<std::uint8_t>{128}));
  EXPECT_EQ(q.values, (std::vector<float>{448.0F, 16.0F, 20.0F, 0.0F}));
  EXPECT_TRUE(std::signbit(q.values[3]));
  EXPECT_EQ(q.codes, (std::vector<std::uint8_t>{0x76, 0x50, 0x52, 0x80}));
}

TEST(Quantize, Fp4ByHand) {
  // Scale 2: 6, 2.5 -> 2, -3.5 -> -4, 0.2 -> 0.
  const Quantised q = quantised(kFp4Block32, {12.0F, 5.0F, -7.0F, 0.4F});

  EXPECT_EQ(q.scales, (std::vector<std::uint8_t>{128}));
  EXPECT_EQ(q.values, (std::vector<float>{12.0F, 4.0F, -8.0F, 0.0F}));
  EXPECT_EQ(q.codes, (std::vector<std::uint8_t>{7, 4, 14, 0}));
}

TEST(Quantize, ZerosStayZerosAtTheFloorsScale) {
  const Quantised fp8 = quantised(kFp8Block128, std::vector<float>(128, -0.0F));
  const Quantised fp4 = quantised(kFp4Block32, std::vector<float>(32, 0.0F));

  EXPECT_EQ(fp8.scales[0], 127 - 22);  // 1e-4 / 448 = 2^-22.1
  EXPECT_EQ(fp4.scales[0], 1);
  EXPECT_TRUE(std::ranges::all_of(fp8.values, [](float v) { return v == 0 && std::signbit(v); }));
  EXPECT_TRUE(std::ranges::all_of(fp4.values, [](float v) { return v == 0 && !std::signbit(v); }));
}

TEST(Quantize, BelowTheFloorResolutionIsLost) {
  // A block scaled by its own 2^-31 would keep it exactly; the floor's scale 2^-22 leaves a step of
  // 2^-31 below 2^-28, and half of that step is rounded to even.
  EXPECT_EQ(quantised(kFp8Block128, {0x1p-31F}).values[0], 0x1p-31F);
  EXPECT_EQ(quantised(kFp8Block128, {0x1p-32F}).values[0], 0.0F);
  EXPECT_EQ(quantised(kFp4Block32, {0x1p-127F}).values[0], 0x1p-127F);  // half of 2^-126: subnormal
}

TEST(Quantize, BlocksAreScaledApart) {
  std::vector<float> x(64 * 3 + 5, 1.0F);
  x[64] = 448.0F * 1024;
  x[192] = 3.0F;  // in the last, partial block

  const Quantised q = quantised(kFp8Block64, x);

  EXPECT_EQ(q.scales, (std::vector<std::uint8_t>{119, 137, 119, 120}));
  EXPECT_EQ(q.values[0], 1.0F);
  EXPECT_EQ(q.values[65], 0.0F);  // half of its scale's smallest step, 2^-9: to even
  EXPECT_EQ(quantised(kFp8Block128, {}).values.size(), 0U);
}

// What the kernels' instructions do: maxima and clamps pass over NaN, so a NaN is clamped to the
// lowest code and leaves its block's scale alone; an infinity makes the scale infinite, and with it
// every finite value of its block NaN (0 times infinity), every infinity minus infinity.
TEST(Quantize, NanAndInfinityAsTheOfficialKernels) {
  for (const BlockFormat& f : {kFp8Block128, kFp4Block32}) {
    std::vector<float> x(32, 1.0F);
    x[3] = kNan;
    const Quantised nan = quantised(f, x);
    x[5] = kInfinity;
    const Quantised infinite = quantised(f, x);

    EXPECT_EQ(nan.values[0], 1.0F);
    EXPECT_EQ(nan.values[3], -f.largest * decode_e8m0(nan.scales[0]));
    EXPECT_EQ(infinite.scales[0], 255);
    EXPECT_TRUE(std::isnan(infinite.values[0]));
    EXPECT_EQ(infinite.values[3], -kInfinity);
    EXPECT_EQ(infinite.values[5], -kInfinity);
  }
}

TEST(Quantize, TheTopOfFloat32CanRoundToInfinity) {
  EXPECT_EQ(quantised(kFp8Block128, {kMax}).values[0], kInfinity);  // 255.99 -> 256, times 2^120
  EXPECT_EQ(quantised(kFp4Block32, {-kMax}).values[0], -kInfinity);
}

TEST(Quantize, QuantisingTwiceChangesNothing) {
  const Rng rng(4, "twice");
  std::vector<float> x;
  for (std::uint64_t i = 0; i < 4096; ++i) x.push_back(static_cast<float>(rng.normal(i)));
  for (const BlockFormat& f : {kFp8Block128, kFp8Block64, kFp4Block32}) {
    const Quantised once = quantised(f, x);
    EXPECT_EQ(quantised(f, once.values).values, once.values);
  }
}

TEST(Quantize, Bf16InBf16Out) {
  const Rng rng(5, "bf16");
  std::vector<float> x;
  for (std::uint64_t i = 0; i < 1U << 16; ++i) {
    const auto code = static_cast<std::uint16_t>(rng.bits(i));
    x.push_back((code & 0x7F80) == 0x7F80 ? 0.0F : decode_bf16(code));
  }
  for (const BlockFormat& f : {kFp8Block128, kFp8Block64, kFp4Block32}) {
    for (const float v : quantised(f, x).values) ASSERT_EQ(decode_bf16(encode_bf16(v)), v);
  }
}

TEST(QuantizeTraps, AScaleOfTheWrongBlockChangesValues) {
  std::vector<float> x(128, 0.011F);
  x[100] = 448.0F;

  EXPECT_NE(quantised(kFp8Block128, x).values[0], quantised(kFp8Block64, x).values[0]);
}

TEST(QuantizeTraps, AnUnroundedScaleChangesValues) {
  const float amax = 300.0F;
  const float scale = amax / 448;  // what a kernel without power-of-two scales divides by
  const std::vector<float> x = {amax, 100.0F};

  EXPECT_NE(quantised(kFp8Block128, x).values[1], decode_e4m3(encode_e4m3(x[1] / scale)) * scale);
}

class QuantizeBulk : public ::testing::TestWithParam<BlockFormat> {};

// Row lengths of every kind, each with the magnitudes of activations and with random patterns.
TEST_P(QuantizeBulk, EqualsTheDefinitionBitForBit) {
  const Rng rng(6, "bulk");
  std::uint64_t drawn = 0;
  for (const std::size_t n : {0U, 1U, 7U, 8U, 9U, 31U, 32U, 33U, 63U, 64U, 65U, 127U, 128U, 129U,
                              200U, 511U, 4096U, 7168U}) {
    for (int kind = 0; kind < 4; ++kind) {
      std::vector<float> x(n);
      for (float& v : x) {
        const std::uint64_t i = drawn++;
        const auto bits = static_cast<std::uint32_t>(rng.bits(i));
        // Values of a few binades, of many, whole float32 with and without its infinities and NaN.
        v = kind == 0   ? static_cast<float>(rng.normal(i))
            : kind == 1 ? static_cast<float>(std::exp(5 * rng.normal(i)) * (bits % 2 == 0 ? 1 : -1))
            : kind == 2 ? std::bit_cast<float>(bits & 0xBFFFFFFF)
                        : std::bit_cast<float>(bits);
      }
      expect_same_bits(quantised(GetParam(), x), by_definition(GetParam(), x));
    }
  }
}

// Scales from the floor to the top, and at each the points half way between two codes.
TEST_P(QuantizeBulk, EqualsTheDefinitionAtEveryTieOfEveryScale) {
  const BlockFormat& f = GetParam();
  const int codes = is_fp8(f) ? 0x7F : 8;
  for (int e = is_fp8(f) ? -22 : -126; e < 119; ++e) {
    std::vector<float> x;
    for (int c = 0; c + 1 < codes; ++c) {
      const auto decode = is_fp8(f) ? decode_e4m3 : decode_e2m1;
      const float half =
          (decode(static_cast<std::uint8_t>(c)) + decode(static_cast<std::uint8_t>(c + 1))) / 2;
      const float tie = std::ldexp(half, e);
      x.insert(x.end(), {tie, -std::nextafter(tie, 0.0F), std::nextafter(tie, kInfinity)});
    }
    for (std::size_t i = 0; i < x.size(); i += 13) x[i] = std::ldexp(f.largest, e);
    expect_same_bits(quantised(f, x), by_definition(f, x));
  }
}

TEST_P(QuantizeBulk, WorksAtAnyAddressAndWithoutOutputs) {
  const Rng rng(7, "address");
  std::vector<float> x(300);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(rng.normal(i));
  for (std::size_t offset = 0; offset < 9; ++offset) {
    std::vector<float> row(x.begin() + static_cast<std::ptrdiff_t>(offset), x.end());
    std::vector<float> moved = x;

    quantize_dequantize(GetParam(), moved.data() + offset, static_cast<std::int64_t>(row.size()));

    EXPECT_TRUE(
        std::equal(moved.begin(), moved.begin() + static_cast<std::ptrdiff_t>(offset), x.begin()));
    EXPECT_TRUE(std::ranges::equal(
        quantised(GetParam(), row).values,
        std::vector(moved.begin() + static_cast<std::ptrdiff_t>(offset), moved.end())));
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantizeBulk,
                         ::testing::Values(kFp8Block128, kFp8Block64, kFp4Block32),
                         [](const auto& param) {
                           return (is_fp8(param.param) ? "Fp8Block" : "Fp4Block") +
                                  std::to_string(param.param.block);
                         });

// The smallest of all margins of a row.
double margin(const BlockFormat& format, const std::vector<float>& x) {
  std::vector<double> codes(x.size()), scales(x.size());
  std::fill(scales.begin(), scales.end(), INFINITY);
  quantization_margins(format, x.data(), static_cast<std::int64_t>(x.size()), codes.data(),
                       scales.data());
  return std::min(*std::min_element(codes.begin(), codes.end()),
                  *std::min_element(scales.begin(), scales.end()));
}

TEST(QuantizationMargins, IsTheDistanceToTheNearestBoundary) {
  // Scale 1 for magnitudes in (3, 6]; codes 4 and 1 end at 5 and 1.25.
  EXPECT_NEAR(margin(kFp4Block32, {4.8F, 1.1F}), 0.15, 1e-6);
  EXPECT_NEAR(margin(kFp4Block32, {4.9F, 1.0F}), 0.1, 1e-6);
  EXPECT_NEAR(margin(kFp4Block32, {3.02F, 1.0F}), 0.02, 1e-6);  // the scale halves at 3
  EXPECT_EQ(margin(kFp4Block32, {6.0F}), 0);                    // and doubles after 6
  // Far below the floor of FP8 only the codes decide: scale 2^-22, code 0 until 2^-10 of it.
  EXPECT_NEAR(margin(kFp8Block64, {0.0F}), 0x1p-32, 1e-12);
}

// Moving every value by less changes nothing; moving one by a little more changes something.
TEST(QuantizationMargins, IsSharp) {
  for (const BlockFormat& format : {kFp8Block64, kFp4Block32}) {
    const Rng rng(7, "margins");
    for (std::uint64_t trial = 0; trial < 200; ++trial) {
      std::vector<float> x(static_cast<std::size_t>(format.block));
      for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = static_cast<float>(4 * rng.uniform(1000 * trial + i) - 2);
      const double m = margin(format, x);
      const auto unsigned_zeros = [&](const std::vector<float>& y) {
        Quantised q = quantised(format, y);
        for (std::uint8_t& c : q.codes) {
          if (c == (is_fp8(format) ? 0x80 : 0x8)) c = 0;
        }
        return q;
      };
      const Quantised before = unsigned_zeros(x);
      const auto differs = [&](const std::vector<float>& y) {
        const Quantised after = unsigned_zeros(y);
        return after.codes != before.codes || after.scales != before.scales;
      };
      std::vector<float> near = x;
      for (std::size_t i = 0; i < x.size(); ++i)
        near[i] += static_cast<float>(0.99 * m * (2 * rng.uniform(5000 * trial + i) - 1));
      EXPECT_FALSE(differs(near));
      // One value up or down, or all of them cut at a smaller largest magnitude.
      const float step = static_cast<float>(1.01 * m) + 1e-6F;
      float amax = 0;
      for (const float v : x) amax = std::max(amax, std::fabs(v));
      std::vector<float> cut = x;
      for (float& v : cut) v = std::clamp(v, step - amax, amax - step);
      bool changed = differs(cut);
      for (std::size_t i = 0; i < x.size() && !changed; ++i) {
        for (const float to : {x[i] + step, x[i] - step}) {
          std::vector<float> moved = x;
          moved[i] = to;
          changed |= differs(moved);
        }
      }
      EXPECT_TRUE(changed) << trial;
    }
  }
}

}  // namespace
}  // namespace dsv4
