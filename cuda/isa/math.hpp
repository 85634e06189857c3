// SPDX-License-Identifier: Apache-2.0
// Elementary functions made of explicit fused multiply-adds, so that a GPU and a CPU return the
// same bits. Not libm, and not the approximate instructions of the GPU: those differ between
// machines.
//
// clang-format off
//   function  domain                   largest error                     found by tests/cuda over
//   exp2_     all; below -150: 0       1 ulp                             every 97th float32
//   exp_      -2^127 < x <= 0          2 ulp, of results from e^-87 on   every 97th float32
//   log2_     positive normal, finite  2 ulp, or 2^-24 absolute near 1   every 97th float32
//   rsqrt_    positive normal, finite  1.5 ulp (two correct roundings)   every 97th float32
//   sigmoid   all                      4 roundings, 1.22 |x| 2^-24 more  every 97th float32
//   sin_cos   |x| <= 2^20              2^-23 absolute                    quarter turns and random
// clang-format on
//
// All errors are measured against float64 libm. Outside of its domain a function returns something,
// the same everywhere: exp_ of minus infinity is NaN.
#pragma once

#include "cuda/isa/scalar.hpp"

namespace dsv4::isa {

// 2^x. The fraction in [-1/2, 1/2] goes through the Taylor polynomial of 2^f, of degree 7; the next
// term is below 2^-26. The scale is applied in two steps so that subnormal results round once.
DSV4_DEVICE float exp2_(float x) {
  if (x != x) return x;
  if (x >= 128.0F) return from_bits(0x7F800000U);
  if (x < -150.0F) return 0.0F;
  const float shifted = add(x, 12582912.0F);  // 1.5 * 2^23: the sum's last bit is worth one
  const float whole = sub(shifted, 12582912.0F);
  const float f = sub(x, whole);  // exact
  float p = 1.525273380405984e-5F;
  p = fma(p, f, 1.540353039338161e-4F);
  p = fma(p, f, 1.333355814642844e-3F);
  p = fma(p, f, 9.618129107628477e-3F);
  p = fma(p, f, 5.550410866482158e-2F);
  p = fma(p, f, 2.402265069591007e-1F);
  p = fma(p, f, 6.931471805599453e-1F);
  p = fma(p, f, 1.0F);
  const int n = static_cast<int>(whole);
  const int half = n / 2;
  return mul(mul(p, power_of_two(half)), power_of_two(n - half));
}

// log2(x) = e + log2(m), m in [sqrt(1/2), sqrt(2)): with s = (m-1)/(m+1),
// ln(m) = 2 (s + s^3/3 + s^5/5 + …), |s| <= 0.1716. Near 1 no digits cancel: e is 0 there.
DSV4_DEVICE float log2_(float x) {
  const std::uint32_t u = to_bits(x);
  const int e = static_cast<int>((u - 0x3F3504F3U) >> 23) - (u < 0x3F3504F3U ? 512 : 0);
  const float m = from_bits(u - (static_cast<std::uint32_t>(e) << 23));
  const float s = div(sub(m, 1.0F), add(m, 1.0F));
  const float z = mul(s, s);
  float p = 0.3205989F;         // 2/9 log2(e)
  p = fma(p, z, 0.412198585F);  // 2/7
  p = fma(p, z, 0.577078016F);  // 2/5
  p = fma(p, z, 0.961796694F);  // 2/3
  p = mul(p, z);
  // 2 log2(e) s in two parts: the second factor's tail matters in the last place.
  const float high = mul(2.88539008F, s);
  const float low = fma(2.88539008F, s, -high);
  const float tail = fma(p, s, fma(s, 3.8519e-8F, low));
  return add(static_cast<float>(e), add(high, tail));
}

// Division and square root round correctly on both sides.
DSV4_DEVICE float rsqrt_(float x) { return div(1.0F, sqrt(x)); }

// 1 / (1 + exp(-x))
DSV4_DEVICE float sigmoid(float x) { return div(1.0F, add(1.0F, exp2_(mul(x, -1.44269504F)))); }

// exp(x) where x <= 0 is a difference to a maximum, or small: log2(e) in two parts keeps the
// product's error below one rounding of the exponent.
DSV4_DEVICE float exp_(float x) {
  const float high = mul(x, 1.44269504F);
  const float low = fma(x, 1.44269504F, -high);
  const float y = exp2_(high);
  return fma(y, mul(fma(x, 1.92596299e-8F, low), 0.693147182F), y);
}

struct SinCos {
  float sin;
  float cos;
};

// x - k pi/2 in three steps (pi/2 = A + B + C). For |x| <= 2^20 the first is exact: both operands
// are multiples of 2^-23 and the difference is below 2.
DSV4_DEVICE SinCos sin_cos(float x) {
  const float shifted = fma(x, 0.636619747F, 12582912.0F);
  const float k = sub(shifted, 12582912.0F);
  float r = fma(k, -1.57079637F, x);
  r = fma(k, 4.37113883e-8F, r);
  r = fma(k, 1.71512451e-15F, r);
  const float z = mul(r, r);
  float s = 2.75573192e-6F;
  s = fma(s, z, -1.98412698e-4F);
  s = fma(s, z, 8.33333377e-3F);
  s = fma(s, z, -0.166666672F);
  s = fma(mul(s, z), r, r);
  float c = -2.75573188e-7F;
  c = fma(c, z, 2.48015876e-5F);
  c = fma(c, z, -1.38888892e-3F);
  c = fma(c, z, 4.16666679e-2F);
  c = fma(c, z, -0.5F);
  c = fma(c, z, 1.0F);
  const std::uint32_t quadrant = to_bits(shifted) & 3U;
  const float a = (quadrant & 1U) != 0 ? c : s;
  const float b = (quadrant & 1U) != 0 ? s : c;
  return {(quadrant & 2U) != 0 ? -a : a, ((quadrant + 1U) & 2U) != 0 ? -b : b};
}

}  // namespace dsv4::isa
