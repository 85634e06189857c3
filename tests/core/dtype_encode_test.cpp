// SPDX-License-Identifier: Apache-2.0
// Encoders against two witnesses that share no code with them: a search for the nearest decoded
// value, and CUDA's headers where a toolkit was found. `make formats` does all of float32.
#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <gtest/gtest.h>
#include <limits>
#include <string>
#include <vector>

#include "core/dtype.hpp"
#include "core/rng.hpp"
#include "tests/core/dtype_cuda.hpp"

namespace dsv4 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }

// A format as its decoder tells it: magnitudes[c] is the value of code c, ascending.
struct Table {
  std::string name;
  std::vector<float> magnitudes;
  unsigned sign;      // of the code
  unsigned nan_code;  // what NaN becomes
  std::function<unsigned(float)> encode;
};

template <class Code>
std::vector<float> decoded(float (*decode)(Code), unsigned codes) {
  std::vector<float> out;
  for (unsigned c = 0; c < codes; ++c) out.push_back(decode(static_cast<Code>(c)));
  return out;
}

Table bf16() { return {"bf16", decoded(decode_bf16, 0x7F81), 0x8000, 0x7FC0, encode_bf16}; }
Table e4m3() { return {"e4m3", decoded(decode_e4m3, 0x7F), 0x80, 0x7F, encode_e4m3}; }
Table e2m1() { return {"e2m1", decoded(decode_e2m1, 8), 8, 7, encode_e2m1}; }
Table e8m0() { return {"e8m0", decoded(decode_e8m0, 255), 0, 255, encode_e8m0}; }

// Infinity, where a format has it, is one step beyond the largest value when it comes to rounding.
long double position(float magnitude) {
  return std::isinf(magnitude) ? 0x1p128L : static_cast<long double>(magnitude);
}

// The code whose value is nearest; of two equally near, the even one.
unsigned nearest(const Table& t, float x) {
  if (std::isnan(x)) return t.nan_code;
  const unsigned sign = std::signbit(x) ? t.sign : 0;
  const auto above = std::ranges::lower_bound(t.magnitudes, std::fabs(x));
  const auto high = static_cast<unsigned>(above - t.magnitudes.begin());
  if (above == t.magnitudes.end()) return sign | (high - 1);
  if (*above == std::fabs(x)) return sign | high;
  const long double down = position(std::fabs(x)) - position(t.magnitudes[high - 1]);
  const long double up = position(*above) - position(std::fabs(x));
  const bool take_high = up < down || (up == down && high % 2 == 0);
  return sign | (take_high ? high : high - 1);
}

// The code of the smallest value that is not below the magnitude.
unsigned ceiling(const Table& t, float x) {
  if (std::isnan(x)) return t.nan_code;
  const auto above = std::ranges::lower_bound(t.magnitudes, std::fabs(x));
  return static_cast<unsigned>(std::min(above, t.magnitudes.end() - 1) - t.magnitudes.begin());
}

// A point, its float32 neighbours, and their negatives.
void add_around(float x, std::vector<float>& out) {
  for (const float v : {std::nextafter(x, -kInfinity), x, std::nextafter(x, kInfinity)})
    out.insert(out.end(), {v, -v});
}

// Where a wrong rounding would show: all codes, the points half way between them, float32's edges
// and every power of two, and 2^20 patterns at random.
std::vector<float> inputs(const Table& t) {
  std::vector<float> out = {0.0F, -0.0F, kInfinity, -kInfinity, kNan, -kNan};
  out.insert(out.end(), {from_bits(0x7F800001), from_bits(0xFF800001), from_bits(0x7FFFFFFF)});
  for (std::size_t c = 0; c + 1 < t.magnitudes.size(); ++c) {
    const long double half = (position(t.magnitudes[c]) + position(t.magnitudes[c + 1])) / 2;
    add_around(t.magnitudes[c], out);
    add_around(static_cast<float>(half), out);
  }
  add_around(t.magnitudes.back(), out);
  for (int e = -149; e < 128; ++e) add_around(std::ldexp(1.0F, e), out);
  add_around(std::numeric_limits<float>::max(), out);
  const Rng rng(1, t.name);
  for (std::uint64_t i = 0; i < 1U << 20; ++i)
    out.push_back(from_bits(static_cast<std::uint32_t>(rng.bits(i))));
  return out;
}

void expect_equal(const Table& t, const std::function<unsigned(float)>& witness) {
  for (const float x : inputs(t)) {
    const unsigned expected = witness(x);
    // A NaN may have any payload and sign in BF16, the only format with more than one.
    if (std::isnan(x) && t.name == "bf16") {
      ASSERT_TRUE(std::isnan(decode_bf16(static_cast<std::uint16_t>(t.encode(x)))));
      continue;
    }
    ASSERT_EQ(t.encode(x), expected)
        << t.name << " of " << x << ", bits " << std::hex << std::bit_cast<std::uint32_t>(x);
  }
}

TEST(Encode, Bf16IsTheNearestValue) {
  expect_equal(bf16(), [t = bf16()](float x) { return nearest(t, x); });
}

TEST(Encode, E4M3IsTheNearestValue) {
  expect_equal(e4m3(), [t = e4m3()](float x) { return nearest(t, x); });
}

TEST(Encode, E2M1IsTheNearestValue) {
  expect_equal(e2m1(), [t = e2m1()](float x) { return nearest(t, x); });
}

TEST(Encode, E8M0IsTheNextPowerOfTwo) {
  expect_equal(e8m0(), [t = e8m0()](float x) { return ceiling(t, x); });
}

TEST(Encode, AgreesWithCudaHeaders) {
#ifdef DSV4_CUDA_HEADERS
  expect_equal(bf16(), cuda::bf16);
  expect_equal(e4m3(), cuda::e4m3);
  expect_equal(e2m1(), cuda::e2m1);
  expect_equal(e8m0(), cuda::e8m0);
  EXPECT_EQ(pack_e2m1(encode_e2m1(1.5F), encode_e2m1(-4.0F)), cuda::e2m1_pair(1.5F, -4.0F));
#else
  GTEST_SKIP() << "no CUDA toolkit with cuda_fp4.h was found";
#endif
}

TEST(Encode, EveryCodeComesBack) {
  for (unsigned c = 0; c < 65536; ++c) {
    const float value = decode_bf16(static_cast<std::uint16_t>(c));
    const unsigned quiet = std::isnan(value) ? c | 0x40 : c;
    ASSERT_EQ(encode_bf16(value), quiet);
  }
  for (unsigned c = 0; c < 256; ++c) {
    const unsigned expected = c == 0xFF ? 0x7F : c;  // one NaN
    EXPECT_EQ(encode_e4m3(decode_e4m3(static_cast<std::uint8_t>(c))), expected);
    EXPECT_EQ(encode_e8m0(decode_e8m0(static_cast<std::uint8_t>(c))), c);
    EXPECT_EQ(encode_e2m1(decode_e2m1(static_cast<std::uint8_t>(c))), c & 15);
  }
}

TEST(Encode, E2M1TiesGoToTheEvenCode) {
  const std::vector<std::pair<float, float>> ties = {{0.25F, 0}, {0.75F, 1}, {1.25F, 1}, {1.75F, 2},
                                                     {2.5F, 2},  {3.5F, 4},  {5, 4}};
  for (const auto& [x, expected] : ties) {
    EXPECT_EQ(decode_e2m1(encode_e2m1(x)), expected);
    EXPECT_EQ(decode_e2m1(encode_e2m1(-x)), -expected);
  }
}

TEST(Encode, SpecialValues) {
  EXPECT_EQ(encode_bf16(std::numeric_limits<float>::max()), 0x7F80);  // to infinity
  EXPECT_EQ(encode_e4m3(kInfinity), 0x7E);                            // saturates
  EXPECT_EQ(encode_e4m3(-1e30F), 0xFE);
  EXPECT_EQ(encode_e4m3(464.0F), 0x7E);  // half way to what would be 480
  EXPECT_EQ(encode_e4m3(-kNan), 0x7F);   // without its sign
  EXPECT_EQ(encode_e2m1(-kNan), 0x7);    // +6: there is no NaN to become
  EXPECT_EQ(encode_e2m1(-kInfinity), 0xF);
  EXPECT_EQ(encode_e8m0(0.0F), 0);         // 2^-127: there is no zero either
  EXPECT_EQ(encode_e8m0(kInfinity), 254);  // 255 is NaN
  EXPECT_EQ(encode_e8m0(-3.0F), 127 + 2);  // of the magnitude
  EXPECT_EQ(encode_e8m0(0x1p-149F), 0);    // the smallest float32 lies below 2^-127
  EXPECT_EQ(encode_e8m0(0x1.8p-127F), 1);  // a float32 subnormal above it
  EXPECT_EQ(encode_e8m0(0x1.000002p0F), 128);
}

TEST(EncodeTraps, NegativeZeroKeepsItsSign) {
  EXPECT_EQ(encode_bf16(-0.0F), 0x8000);
  EXPECT_EQ(encode_e4m3(-0.0F), 0x80);
  EXPECT_EQ(encode_e2m1(-0.0F), 8);
  EXPECT_EQ(encode_e4m3(-0x1p-20F), 0x80);  // and what rounds to zero
  EXPECT_EQ(encode_e2m1(-0.2F), 8);
}

TEST(EncodeTraps, RoundingThroughBf16IsAnotherRounding) {
  // Just above the point half way between 1 and 1.125, by less than BF16 resolves.
  const float x = 1.0625F + 0x1p-12F;
  const float through = decode_bf16(encode_bf16(x));

  EXPECT_EQ(decode_e4m3(encode_e4m3(x)), 1.125F);
  EXPECT_EQ(decode_e4m3(encode_e4m3(through)), 1.0F);
}

TEST(EncodeTraps, RoundingThroughFloat16IsAnotherRounding) {
  const float x = 1.0625F + 0x1p-14F;  // float16 has 10 bits: it makes this the half-way point
  const float through = std::nearbyint(x * 0x1p10F) * 0x1p-10F;

  EXPECT_EQ(decode_e4m3(encode_e4m3(x)), 1.125F);
  EXPECT_EQ(decode_e4m3(encode_e4m3(through)), 1.0F);
}

TEST(EncodeTraps, FnuzCodesMeanOtherValues) {
  // Bias 8 and one NaN at 0x80: half of every value, up to 240.
  const auto decode_fnuz = [](unsigned code) {
    return code == 0x80 ? kNan
                        : std::ldexp(code < 8 ? static_cast<float>(code)
                                              : static_cast<float>(8 + (code & 7)),
                                     std::max(static_cast<int>(code >> 3), 1) - 8 - 3);
  };
  for (unsigned code = 1; code < 0x7F; ++code)
    ASSERT_EQ(decode_e4m3(static_cast<std::uint8_t>(code)), 2 * decode_fnuz(code));

  EXPECT_EQ(decode_fnuz(0x7F), 240.0F);
  EXPECT_TRUE(std::isnan(decode_e4m3(0x7F)));
  EXPECT_EQ(encode_e4m3(-0.0F), 0x80);  // our minus zero is fnuz's NaN
}

TEST(EncodeTraps, AScaleByteIsNotANumber) {
  EXPECT_EQ(decode_e8m0(encode_e8m0(0x1p-7F)), 0x1p-7F);
  EXPECT_EQ(encode_e8m0(0x1p-7F), 120);
}

TEST(EncodeTraps, TheEvenIndexIsTheLowNibble) {
  EXPECT_EQ(pack_e2m1(encode_e2m1(0.5F), encode_e2m1(-6.0F)), 0xF1);
  EXPECT_EQ(pack_e2m1(0xF1, 0xF2), 0x21);  // only four bits of each count
}

TEST(RoundBf16, RoundsThroughFloat32) {
  // float32 makes this the point half way between 1 + 2^-7 and 1 + 2^-6, whose even side is up.
  const Real x = 1 + Real{3} / 256 - Real{0x1p-40};

  EXPECT_EQ(round_bf16(x), Real{1 + 0x1p-6});
#ifdef DSV4_CUDA_HEADERS
  EXPECT_EQ(decode_bf16(cuda::bf16_from_double(static_cast<double>(x))), 1 + 0x1p-7F);
#endif
}

TEST(RoundBf16, OneRoundingOfAFloat32) {
  const Rng rng(2, "round_bf16");
  for (std::uint64_t i = 0; i < 1U << 16; ++i) {
    const float x = from_bits(static_cast<std::uint32_t>(rng.bits(i)));
    if (std::isnan(x)) continue;
    ASSERT_EQ(round_bf16(static_cast<Real>(x)), static_cast<Real>(decode_bf16(encode_bf16(x))));
  }
}

TEST(RoundBf16, BulkEqualsScalarBitForBit) {
  const Rng rng(3, "round_bf16");
  std::vector<double> x = {0.0,      -0.0,       1e300, -1e300, 1e-300,    3.4e38,
                           0x1p-133, 0x1.8p-134, kNan,  -kNan,  kInfinity, -kInfinity};
  for (std::uint64_t i = 0; i < 1U << 18; ++i) x.push_back(std::bit_cast<double>(rng.bits(i)));
  for (std::uint64_t i = 0; i < 1U << 18; ++i) x.push_back(rng.normal(i));
  std::vector<Real> bulk(x.begin(), x.end());

  round_bf16(bulk.data(), static_cast<std::int64_t>(bulk.size()));

  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto expected = static_cast<double>(round_bf16(static_cast<Real>(x[i])));
    ASSERT_EQ(std::bit_cast<std::uint64_t>(static_cast<double>(bulk[i])),
              std::bit_cast<std::uint64_t>(expected));
  }
}

}  // namespace
}  // namespace dsv4
