// SPDX-License-Identifier: Apache-2.0
#include "core/rounding.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/dtype.hpp"
#include "core/error.hpp"

namespace dsv4 {
namespace {

constexpr std::array<std::string_view, 6> kFormats = {"none",      "fp32",     "bf16",
                                                      "fp8_1x128", "fp8_1x64", "fp4_1x32"};
}  // namespace

std::string_view name(Rounding rounding) {
  return rounding == Rounding::exact ? "exact" : "official";
}

Rounding parse_rounding(std::string_view text, std::string_view where) {
  if (text.empty() || text == "exact") return Rounding::exact;
  if (text == "official") return Rounding::official;
  throw UsageError(fmt::format("{}: rounding \"{}\" is not known", where, text),
                   "expected exact or official");
}

Format parse_format(std::string_view text, std::string_view where) {
  const auto it = std::find(kFormats.begin(), kFormats.end(), text);
  if (it == kFormats.end()) {
    throw UsageError(fmt::format("{}: format \"{}\" is not known", where, text),
                     fmt::format("expected one of {}", fmt::join(kFormats, ", ")));
  }
  return static_cast<Format>(it - kFormats.begin());
}

std::string_view name(Format format) { return kFormats[static_cast<std::size_t>(format)]; }

Real stored(Format format, Real x) {
  if (format == Format::bf16) return round_bf16(x);
  return format == Format::fp32 ? static_cast<Real>(static_cast<float>(x)) : x;
}

}  // namespace dsv4
