// SPDX-License-Identifier: Apache-2.0
// Number formats in device code: integer arithmetic on the bits, the same on both compilers. Tested
// against core/dtype for every code and over all of float32's exponents.
#pragma once

#include "cuda/isa/scalar.hpp"

namespace dsv4::isa {

DSV4_DEVICE float to_float(Bf16 x) { return from_bits(static_cast<std::uint32_t>(x.bits) << 16); }

// To nearest, ties to even; NaN stays NaN, made quiet.
DSV4_DEVICE Bf16 to_bf16(float x) {
  const std::uint32_t u = to_bits(x);
  if ((u & 0x7FFFFFFFU) > 0x7F800000U) return {static_cast<std::uint16_t>((u >> 16) | 0x40U)};
  return {static_cast<std::uint16_t>((u + 0x7FFFU + ((u >> 16) & 1U)) >> 16)};
}

DSV4_DEVICE float round_bf16(float x) { return to_float(to_bf16(x)); }

// The lower half is the even element, as mma fragments want it.
DSV4_DEVICE std::uint32_t pack_bf16(float low, float high) {
  return to_bf16(low).bits | (static_cast<std::uint32_t>(to_bf16(high).bits) << 16);
}
DSV4_DEVICE float low_bf16(std::uint32_t pair) { return from_bits(pair << 16); }
DSV4_DEVICE float high_bf16(std::uint32_t pair) { return from_bits(pair & 0xFFFF0000U); }

// Round |x| to `mantissa` bits below exponents >= smallest (subnormals share the smallest's
// spacing), to nearest even: adding 2^(e + 23 - mantissa) leaves just those bits.
DSV4_DEVICE std::uint32_t small_code(float x, int mantissa, int smallest, float largest) {
  const std::uint32_t sign = to_bits(x) >> 31;
  const float a = min(abs(x), largest);
  int e = static_cast<int>(to_bits(a) >> 23) - 127;
  if (e < smallest) e = smallest;
  const float offset = power_of_two(e + 23 - mantissa);
  const std::uint32_t steps = to_bits(add(a, offset)) - to_bits(offset);
  const std::uint32_t below = static_cast<std::uint32_t>(e - smallest) << mantissa;
  return (steps + below) | (sign << (mantissa + (mantissa == 3 ? 4 : 2)));
}

// E4M3FN, saturating at 448. Any NaN becomes 0x7f.
DSV4_DEVICE std::uint8_t to_e4m3(float x) {
  if (x != x) return 0x7F;
  return static_cast<std::uint8_t>(small_code(x, 3, -6, 448.0F));
}
// E2M1 in the low four bits, saturating at 6. Any NaN becomes +6.
DSV4_DEVICE std::uint8_t to_e2m1(float x) {
  if (x != x) return 7;
  return static_cast<std::uint8_t>(small_code(x, 1, 0, 6.0F));
}

// Exact: every E4M3 number is a BF16 number.
DSV4_DEVICE float from_e4m3(std::uint8_t code) {
  const std::uint32_t c = code;
  const std::uint32_t sign = (c & 0x80U) << 24;
  if ((c & 0x7FU) == 0x7FU) return from_bits(sign | 0x7FC00000U);
  // Shifted into place the exponent lacks 120; the product repairs it, for subnormals too.
  return mul(from_bits(sign | ((c & 0x7FU) << 20)), power_of_two(120));
}
DSV4_DEVICE float from_e2m1(std::uint8_t code) {
  const std::uint32_t c = code;
  return mul(from_bits(((c & 8U) << 28) | ((c & 7U) << 22)), power_of_two(126));
}
// 2^(code-127); code 0 is 2^-127, 255 is NaN.
DSV4_DEVICE float from_e8m0(std::uint8_t code) {
  if (code == 0xFF) return from_bits(0x7FC00000U);
  return from_bits(code == 0 ? 0x00400000U : static_cast<std::uint32_t>(code) << 23);
}
// The smallest power of two not below |x|; NaN is 255.
DSV4_DEVICE std::uint8_t to_e8m0(float x) {
  const std::uint32_t u = to_bits(x) & 0x7FFFFFFFU;
  if (u > 0x7F800000U) return 255;
  if (u <= 0x00400000U) return 0;
  const std::uint32_t up = (u >> 23) + ((u & 0x7FFFFFU) != 0 ? 1U : 0U);
  return static_cast<std::uint8_t>(up < 254U ? up : 254U);
}

}  // namespace dsv4::isa
