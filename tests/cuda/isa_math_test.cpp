// SPDX-License-Identifier: Apache-2.0
// The accuracy that cuda/isa/math.hpp states, and number formats against core/dtype.
#include <bit>
#include <cmath>
#include <gtest/gtest.h>

#include "core/dtype.hpp"
#include "core/rng.hpp"
#include "cuda/isa/convert.hpp"
#include "cuda/isa/math.hpp"

namespace dsv4 {
namespace {

float bits(std::uint32_t u) { return std::bit_cast<float>(u); }

// Distance in units of the last place that float32 has at y.
double ulps(float got, double y) {
  int e = 0;
  std::frexp(y, &e);
  return std::abs(static_cast<double>(got) - y) / std::ldexp(1.0, std::max(e - 24, -149));
}

// Every 97th float32 of [from, to), as bit patterns.
template <class F>
void sweep(std::uint32_t from, std::uint32_t to, F&& f) {
  for (std::uint64_t u = from; u < to; u += 97) f(bits(static_cast<std::uint32_t>(u)));
}

TEST(IsaMath, Exp2IsWithinOneUlp) {
  double worst = 0;
  const auto look = [&](float x) {
    if (std::abs(x) > 160) return;
    const double y = std::exp2(static_cast<double>(x));
    if (y < 0x1p128) worst = std::max(worst, ulps(isa::exp2_(x), y));
  };
  sweep(0x30000000, 0x43200000, look);
  sweep(0xB0000000, 0xC3200000, look);

  EXPECT_LE(worst, 1.0);
  EXPECT_EQ(isa::exp2_(0), 1);
  EXPECT_EQ(isa::exp2_(-151), 0);
  EXPECT_EQ(isa::exp2_(128), INFINITY);
  EXPECT_EQ(isa::exp2_(-INFINITY), 0);
  EXPECT_TRUE(std::isnan(isa::exp2_(NAN)));
}

TEST(IsaMath, ExpIsWithinTwoUlps) {
  double worst = 0;
  sweep(0xA0000000, 0xC2AE0000, [&](float x) {  // 0 … -87
    worst = std::max(worst, ulps(isa::exp_(x), std::exp(static_cast<double>(x))));
  });

  EXPECT_LE(worst, 2.0);
  EXPECT_EQ(isa::exp_(0), 1);
  EXPECT_EQ(isa::exp_(-0x1.fffffep126F), 0);
  EXPECT_TRUE(std::isnan(isa::exp_(-INFINITY))) << "outside of its domain, as math.hpp says";
}

TEST(IsaMath, Log2IsWithinTwoUlps) {
  double worst = 0;
  sweep(0x00800000, 0x7F800000, [&](float x) {
    const double y = std::log2(static_cast<double>(x));
    worst = std::max(worst, std::min(ulps(isa::log2_(x), y), std::abs(isa::log2_(x) - y) * 0x1p25));
  });

  EXPECT_LE(worst, 2.0);
  EXPECT_EQ(isa::log2_(1), 0);
  EXPECT_EQ(isa::log2_(8), 3);
}

TEST(IsaMath, RsqrtIsWithinOneAndAHalfUlps) {
  double worst = 0;
  sweep(0x00800000, 0x7F800000, [&](float x) {
    worst = std::max(worst, ulps(isa::rsqrt_(x), 1 / std::sqrt(static_cast<double>(x))));
  });

  EXPECT_LE(worst, 1.5);
}

TEST(IsaMath, SinCosHoldTheirAbsoluteErrorUpToTwoToThe20) {
  const Rng rng(1, "angles");
  double worst = 0;
  const auto look = [&](float x) {
    const isa::SinCos r = isa::sin_cos(x);
    worst = std::max(worst, std::abs(r.sin - std::sin(static_cast<double>(x))));
    worst = std::max(worst, std::abs(r.cos - std::cos(static_cast<double>(x))));
  };
  for (std::uint64_t i = 0; i < 1000000; ++i) {
    look(static_cast<float>(std::ldexp(2 * rng.uniform(i) - 1, static_cast<int>(i % 21))));
  }
  for (int k = 0; k < 667000; ++k) look(static_cast<float>(k * 1.5707963267948966));

  EXPECT_LE(worst, 0x1p-23);
}

TEST(IsaMath, SigmoidIsWithinFourRoundings) {
  double worst = 0;
  sweep(0x30000000, 0x42A00000, [&](float x) {
    for (const float s : {x, -x}) {
      const double y = 1 / (1 + std::exp(-static_cast<double>(s)));
      // Two units each of exp2, add and divide at most. The factor log2(e) and the product with it
      // err by 1.22 2^-24 of the exponent, and the slope in log y is (1 - y).
      const double bound = 4 + 1.22 * std::abs(static_cast<double>(s)) * (1 - y);
      if (y > 0x1p-126) worst = std::max(worst, ulps(isa::sigmoid(s), y) / bound);
    }
  });

  EXPECT_LE(worst, 1.0);
}

TEST(IsaConvert, EveryCodeDecodesAsInCore) {
  for (int c = 0; c < 256; ++c) {
    const auto code = static_cast<std::uint8_t>(c);
    const auto same = [](float a, float b) {
      return (std::isnan(a) && std::isnan(b)) ||
             std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
    };
    EXPECT_TRUE(same(isa::from_e4m3(code), decode_e4m3(code))) << c;
    EXPECT_TRUE(same(isa::from_e8m0(code), decode_e8m0(code))) << c;
    EXPECT_TRUE(same(isa::from_e2m1(code & 15), decode_e2m1(code & 15))) << c;
  }
}

TEST(IsaConvert, EncodersAreThoseOfCore) {
  const auto look = [](float x) {
    const bool same = isa::to_bf16(x).bits == encode_bf16(x) && isa::to_e4m3(x) == encode_e4m3(x) &&
                      isa::to_e2m1(x) == encode_e2m1(x) && isa::to_e8m0(x) == encode_e8m0(x);
    if (!same) ADD_FAILURE() << std::hex << std::bit_cast<std::uint32_t>(x);
    return same;
  };
  for (std::uint64_t u = 0; u < 0x100000000U; u += 9973) {
    if (!look(bits(static_cast<std::uint32_t>(u)))) return;
  }
  for (std::uint32_t high = 0; high < 0x10000; ++high) {  // ties and their neighbours
    for (const std::uint32_t low : {0x0000U, 0x0001U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU}) {
      if (!look(bits(high << 16 | low))) return;
    }
  }
}

}  // namespace
}  // namespace dsv4
