// SPDX-License-Identifier: Apache-2.0
#include "core/rounding.hpp"

#include <fmt/format.h>

#include "core/dtype.hpp"
#include "core/error.hpp"

namespace dsv4 {

std::string_view name(Rounding rounding) {
  return rounding == Rounding::exact ? "exact" : "official";
}

Rounding parse_rounding(std::string_view text, std::string_view where) {
  if (text.empty() || text == "exact") return Rounding::exact;
  if (text == "official") return Rounding::official;
  throw UsageError(fmt::format("{}: rounding \"{}\" is not known", where, text),
                   "expected exact or official");
}

Real on_grid(Grid grid, Real x) { return grid == Grid::bf16 ? round_bf16(x) : x; }

}  // namespace dsv4
