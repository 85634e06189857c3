// SPDX-License-Identifier: Apache-2.0
// Scalar float operations with one rounding each, on both compilers: nvcc may contract a product
// and a sum unless it is told (-fmad=false), and these say it once more.
#pragma once

#include "cuda/isa/types.hpp"

#ifndef __CUDACC__
#include <bit>
#include <cmath>
#endif

namespace dsv4::isa {
inline namespace DSV4_ISA {

#ifdef __CUDACC__
DSV4_DEVICE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DSV4_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
DSV4_DEVICE float sub(float a, float b) { return __fsub_rn(a, b); }
DSV4_DEVICE float mul(float a, float b) { return __fmul_rn(a, b); }
DSV4_DEVICE float div(float a, float b) { return __fdiv_rn(a, b); }
DSV4_DEVICE float sqrt(float a) { return __fsqrt_rn(a); }
DSV4_DEVICE std::uint32_t to_bits(float x) { return __float_as_uint(x); }
DSV4_DEVICE float from_bits(std::uint32_t u) { return __uint_as_float(u); }
#else
DSV4_DEVICE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
DSV4_DEVICE float add(float a, float b) { return a + b; }
DSV4_DEVICE float sub(float a, float b) { return a - b; }
DSV4_DEVICE float mul(float a, float b) { return a * b; }
DSV4_DEVICE float div(float a, float b) { return a / b; }
DSV4_DEVICE float sqrt(float a) { return std::sqrt(a); }
DSV4_DEVICE std::uint32_t to_bits(float x) { return std::bit_cast<std::uint32_t>(x); }
DSV4_DEVICE float from_bits(std::uint32_t u) { return std::bit_cast<float>(u); }
#endif

DSV4_DEVICE float abs(float x) { return from_bits(to_bits(x) & 0x7FFFFFFFU); }
// The first operand unless the second is greater; so a NaN in b is ignored.
DSV4_DEVICE float max(float a, float b) { return b > a ? b : a; }
DSV4_DEVICE float min(float a, float b) { return b < a ? b : a; }
DSV4_DEVICE int max(int a, int b) { return b > a ? b : a; }
DSV4_DEVICE int min(int a, int b) { return b < a ? b : a; }
DSV4_DEVICE float infinity() { return from_bits(0x7F800000U); }

// 2^n, -126 <= n <= 127.
DSV4_DEVICE float power_of_two(int n) {
  return from_bits(static_cast<std::uint32_t>(n + 127) << 23);
}

}  // namespace DSV4_ISA
}  // namespace dsv4::isa
