// SPDX-License-Identifier: Apache-2.0
#include "cuda/emulator/tensor_core.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace dsv4::emulator {
namespace {

struct Layout {
  int mantissa, bias, exponent_bits;
};

constexpr Layout layout(Operand format) {
  switch (format) {
    case Operand::bf16:
      return {7, 127, 8};
    case Operand::e4m3:
      return {3, 7, 4};
    case Operand::tf32:
      return {10, 127, 8};
  }
  return {};
}

// How one block of products is summed.
struct Sum {
  int block;     // products of one step
  int fraction;  // bits kept below the largest exponent
  int output;    // fractional bits of the result
};

Sum sum_of(TensorCore core, Unit unit, Operand format) {
  const int k = format == Operand::bf16 ? 16 : format == Operand::e4m3 ? 32 : 8;
  if (core == TensorCore::ampere) {
    return format == Operand::e4m3 ? Sum{k / 2, 13, 13} : Sum{k / 2, 24, 23};
  }
  if (unit == Unit::wgmma && format == Operand::e4m3) return {k, 13, 13};
  return {k, 25, 23};
}

// Towards zero to a multiple of 2^-by.
std::int64_t cut(std::int64_t m, int by) {
  if (by <= 0) return by > -40 ? m * (std::int64_t{1} << -by) : 0;
  if (by > 62) return 0;
  return m >= 0 ? m >> by : -(-m >> by);
}

// s 2^scale as a float with so many fractional bits, towards zero.
float put_together(std::int64_t s, int scale, int output) {
  if (s == 0) return 0;
  const std::uint64_t a = static_cast<std::uint64_t>(s < 0 ? -s : s);
  const int top = 63 - std::countl_zero(a);
  const int exponent = std::max(top + scale, -126);
  const int drop = exponent - output - scale;  // bits of `a` below the last that is kept
  const std::uint64_t kept = drop > 0 ? a >> std::min(drop, 63) << std::min(drop, 63) : a;
  const double value = std::ldexp(static_cast<double>(kept), scale);
  if (value > static_cast<double>(std::numeric_limits<float>::max())) {
    return s < 0 ? -std::numeric_limits<float>::infinity() : std::numeric_limits<float>::infinity();
  }
  return static_cast<float>(s < 0 ? -value : value);
}

float step(const Sum& sum, int fraction_of_product, const Part* a, const Part* b, int n, float c) {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(c);
  int ec = static_cast<int>(u >> 23 & 255U) - 127;
  std::int64_t mc = u & 0x7FFFFFU;
  if (ec == -127) {
    ec = -126;
  } else {
    mc |= 0x800000;
  }
  if ((u >> 31) != 0) mc = -mc;
  int largest = mc == 0 ? -126 : ec;
  for (int i = 0; i < n; ++i) {
    if (a[i].m != 0 && b[i].m != 0) largest = std::max(largest, a[i].e + b[i].e);
  }
  std::int64_t total = cut(mc, 23 - sum.fraction + largest - ec);
  for (int i = 0; i < n; ++i) {
    const std::int64_t product = std::int64_t{a[i].m} * b[i].m;
    if (product == 0) continue;
    total += cut(product, fraction_of_product - sum.fraction + largest - a[i].e - b[i].e);
  }
  return put_together(total, largest - sum.fraction, sum.output);
}

double as_double(const Part& p, int mantissa) { return std::ldexp(p.m, p.e - mantissa); }

// Where something is not finite, the sum is that of IEEE 754, and any NaN is 0x7fffffff.
float special(std::span<const Part> a, std::span<const Part> b, int mantissa, float c) {
  const auto value = [&](const Part& p) {
    if (p.finite) return as_double(p, mantissa);
    if (p.m == 0) return std::numeric_limits<double>::quiet_NaN();
    return p.m * std::numeric_limits<double>::infinity();
  };
  double s = static_cast<double>(c);
  for (std::size_t i = 0; i < a.size(); ++i) s += value(a[i]) * value(b[i]);
  return std::isnan(s) ? std::bit_cast<float>(0x7FFFFFFFU) : static_cast<float>(s);
}

}  // namespace

Part take_apart(Operand format, std::uint32_t bits) {
  const Layout l = layout(format);
  if (format == Operand::tf32) bits >>= 13;  // the lower 13 bits of a float32 are not looked at
  const std::uint32_t fraction = bits & ((1U << l.mantissa) - 1);
  const std::uint32_t e = bits >> l.mantissa & ((1U << l.exponent_bits) - 1);
  const bool negative = (bits >> (l.mantissa + l.exponent_bits) & 1U) != 0;
  const std::uint32_t all = (1U << l.exponent_bits) - 1;
  if (e == all && (format != Operand::e4m3 || fraction == 7)) {
    const int infinite = format != Operand::e4m3 && fraction == 0 ? 1 : 0;  // NaN: 0
    return {negative ? -infinite : infinite, 0, false};
  }
  std::int32_t m = static_cast<std::int32_t>(fraction);
  if (e != 0) m |= 1 << l.mantissa;
  const int exponent = static_cast<int>(std::max(e, 1U)) - l.bias;
  return {negative ? -m : m, static_cast<std::int16_t>(exponent), true};
}

float value_of(Operand format, std::uint32_t bits) {
  const Part p = take_apart(format, bits);
  if (!p.finite) return special({&p, 1}, {&p, 1}, 0, 0);
  return static_cast<float>(as_double(p, layout(format).mantissa));
}

float dot(TensorCore core, Unit unit, Operand format, std::span<const Part> a,
          std::span<const Part> b, float c) {
  const int mantissa = layout(format).mantissa;
  bool finite = std::isfinite(c);
  for (std::size_t i = 0; i < a.size(); ++i) finite &= a[i].finite && b[i].finite;
  if (!finite) return special(a, b, mantissa, c);
  if (core == TensorCore::exact) {
    double s = static_cast<double>(c);
    for (std::size_t i = 0; i < a.size(); ++i) {
      s += as_double(a[i], mantissa) * as_double(b[i], mantissa);
    }
    return static_cast<float>(s);
  }
  const Sum sum = sum_of(core, unit, format);
  const auto n = static_cast<int>(a.size());
  for (int i = 0; i < n; i += sum.block) {
    c = step(sum, 2 * mantissa, a.data() + i, b.data() + i, std::min(sum.block, n - i), c);
  }
  return c;
}

}  // namespace dsv4::emulator
