// SPDX-License-Identifier: Apache-2.0
// The readable, scalar definition of every number format. Speed lives in dequantize.cpp and
// quantize.cpp.
#include "core/dtype.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

namespace dsv4 {
namespace {

struct DTypeInfo {
  DType type;
  std::string_view name;
  std::size_t bytes;
};

constexpr std::array<DTypeInfo, 12> kTypes = {{
    {DType::F64, "F64", 8},
    {DType::F32, "F32", 4},
    {DType::F16, "F16", 2},
    {DType::BF16, "BF16", 2},
    {DType::F8_E4M3, "F8_E4M3", 1},
    {DType::F8_E8M0, "F8_E8M0", 1},
    {DType::I64, "I64", 8},
    {DType::I32, "I32", 4},
    {DType::I16, "I16", 2},
    {DType::I8, "I8", 1},
    {DType::U8, "U8", 1},
    {DType::BOOL, "BOOL", 1},
}};

const DTypeInfo& info(DType t) { return kTypes[static_cast<std::size_t>(t)]; }

// A format with sign, exponent and mantissa, without infinities.
struct SmallFloat {
  int exponent_bits;
  int mantissa_bits;
  float largest;
};

constexpr SmallFloat kE4M3{4, 3, 448.0F};
constexpr SmallFloat kE2M1{2, 1, 6.0F};

// The code of the value nearest to x, which is not NaN. Inside a binade, and below the smallest
// normal, values are `steps` times 2^(exponent - mantissa bits); a magnitude's code counts all
// steps from zero, so rounding up into the next binade needs no case of its own.
std::uint8_t encode(const SmallFloat& format, float x) {
  const int bias = (1 << (format.exponent_bits - 1)) - 1;
  const double magnitude = std::min(std::fabs(x), format.largest);
  const int exponent = std::max(std::ilogb(magnitude), 1 - bias);  // ilogb(0) is very negative
  const double steps = std::nearbyint(std::ldexp(magnitude, format.mantissa_bits - exponent));
  const int code = ((exponent + bias - 1) << format.mantissa_bits) + static_cast<int>(steps);
  const int sign = std::signbit(x) ? 1 << (format.exponent_bits + format.mantissa_bits) : 0;
  return static_cast<std::uint8_t>(sign | code);
}

}  // namespace

std::string_view name(DType t) { return info(t).name; }

std::size_t size_of(DType t) { return info(t).bytes; }

bool parse_dtype(std::string_view text, DType& out) {
  for (const DTypeInfo& i : kTypes) {
    if (i.name == text) {
      out = i.type;
      return true;
    }
  }
  return false;
}

float decode_bf16(std::uint16_t code) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(code) << 16);
}

float decode_e4m3(std::uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  const float sign = (code & 0x80) != 0 ? -1.0F : 1.0F;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -9);
  return sign * std::ldexp(static_cast<float>(8 + mantissa), exponent - 7 - 3);
}

float decode_e8m0(std::uint8_t code) {
  if (code == 255) return std::numeric_limits<float>::quiet_NaN();
  return std::ldexp(1.0F, code - 127);  // code 0 is a float32 subnormal, still exact
}

float decode_e2m1(std::uint8_t code) {
  constexpr std::array<float, 8> magnitude = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
  const float m = magnitude[code & 7U];
  return (code & 8) != 0 ? -m : m;
}

std::uint16_t encode_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  // Rounding must not carry a NaN into infinity, nor leave a signalling one.
  if (std::isnan(x)) return static_cast<std::uint16_t>((bits >> 16) | 0x40);
  const std::uint32_t odd = (bits >> 16) & 1;  // half way goes up from odd codes only
  return static_cast<std::uint16_t>((bits + 0x7FFF + odd) >> 16);
}

std::uint8_t encode_e4m3(float x) { return std::isnan(x) ? 0x7F : encode(kE4M3, x); }

std::uint8_t encode_e2m1(float x) { return std::isnan(x) ? 0x7 : encode(kE2M1, x); }

std::uint8_t encode_e8m0(float x) {
  if (std::isnan(x)) return 255;
  int exponent = 0;  // |x| = m 2^exponent, m in [1/2, 1)
  const float m = std::frexp(std::min(std::fabs(x), 0x1p127F), &exponent);
  if (m == 0) return 0;
  return static_cast<std::uint8_t>(std::max((m == 0.5F ? exponent - 1 : exponent) + 127, 0));
}

std::uint8_t pack_e2m1(std::uint8_t even, std::uint8_t odd) {
  return static_cast<std::uint8_t>((even & 15) | (odd & 15) << 4);
}

Real round_bf16(Real x) {
  return static_cast<Real>(decode_bf16(encode_bf16(static_cast<float>(x))));
}

void round_bf16(Real* values, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) values[i] = round_bf16(values[i]);
}

}  // namespace dsv4
