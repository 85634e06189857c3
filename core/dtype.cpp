// SPDX-License-Identifier: Apache-2.0
// The readable, scalar definition of every number format. Speed lives in dequantize.cpp.
#include "core/dtype.hpp"

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

}  // namespace dsv4
