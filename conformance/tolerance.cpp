// SPDX-License-Identifier: Apache-2.0
#include "conformance/tolerance.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "core/error.hpp"

namespace dsv4::conformance {

double unit_roundoff(std::string_view dtype) {
  if (dtype == "fp64") return 0x1p-53;
  if (dtype == "fp32") return 0x1p-24;
  if (dtype == "fp16") return 0x1p-11;
  if (dtype == "bf16") return 0x1p-8;
  if (dtype == "int" || dtype == "uint8") return 0;
  throw TraceError("unknown dtype attribute \"" + std::string(dtype) + "\"",
                   "expected one of fp64, fp32, fp16, bf16, int, uint8");
}

double reference_roundoff() {
  return static_cast<double>(std::numeric_limits<Real>::epsilon()) / 2;
}

Precision precision_of(const golden::DatasetInfo& d, std::string_view official_dtype) {
  const std::string_view stored = d.integer      ? "int"
                                  : d.bits == 64 ? "fp64"
                                  : d.bits == 32 ? "fp32"
                                                 : "fp16";
  const std::string_view known = d.integer || official_dtype.empty() ? stored : official_dtype;
  const std::string_view dtype = d.dtype.empty() ? known : std::string_view(d.dtype);
  Precision p =
      arithmetic_of(unit_roundoff(dtype == "bf16" && official_dtype == "bf16" ? "fp32" : dtype));
  p.exact_ceiling = dtype == "fp64";
  if (unit_roundoff(stored) > unit_roundoff(dtype)) p.store = unit_roundoff(stored);
  return p;
}

Precision arithmetic_of(double unit) {
  Precision p;
  p.unit = unit;
  p.sums = std::min(unit, Precision::kFloat32);
  return p;
}

double running_error(const Precision& p, double scale, double single) {
  if (scale == 0) return 0;
  const double sums = (p.sums + reference_roundoff()) * scale;
  // What is not added up is rounded to the coarse type after every operation, and may underflow in
  // it.
  return p.coarse() ? sums + p.unit * single * scale + spacing(p.unit, 0) / 2 : sums;
}

double stage_bound(const Precision& p, double scale, double value, double magnitude,
                   double single) {
  const double running = running_error(p, scale, single);
  const double held = p.exact_ceiling ? std::min(running, kCeiling * magnitude) : running;
  return held + p.store * std::abs(value);
}

double spacing(Format grid, double x) {
  constexpr int kLeastExponent = -126;  // of both
  const int exponent = x == 0 ? kLeastExponent : std::max(std::ilogb(x), kLeastExponent);
  return std::ldexp(1.0, exponent - (grid == Format::bf16 ? 7 : 23));
}

double spacing(double unit, double x) {
  // Subnormal numbers begin early in float16; in the other types nothing here is as small.
  const int least = unit == unit_roundoff("fp16") ? -14 : -126;
  const int exponent = x == 0 || !std::isfinite(x) ? least : std::max(std::ilogb(x), least);
  return std::ldexp(2 * unit, exponent);
}

double stored_bound(Format grid, double before, double error, double value, double theirs) {
  const double reach = theirs > value ? before + error : before - error;
  const auto left = static_cast<double>(stored(grid, static_cast<Real>(reach)));
  return std::max(0.0, theirs > value ? left - value : value - left);
}

double span_bound(const Precision& p, double value, double magnitude) {
  return kCeiling * magnitude + p.store * std::abs(value);
}

}  // namespace dsv4::conformance
