// SPDX-License-Identifier: Apache-2.0
// The two numerics, and what a rounded value is.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/tensor.hpp"

namespace dsv4 {

// exact: float64, nothing is rounded on purpose. official: rounded exactly where the official code
// stores BF16, FP8 or FP4, float64 between those places.
enum class Rounding : std::uint8_t { exact, official };

std::string_view name(Rounding rounding);
// Throws UsageError; `where` says who asks. Empty text means exact.
Rounding parse_rounding(std::string_view text, std::string_view where);

// The numbers that a stored value can take.
enum class Grid : std::uint8_t { none, bf16 };

// The number of the grid that a store leaves. Monotonic in x.
Real on_grid(Grid grid, Real x);

// A value as it is stored, with what is needed to judge somebody else's: the value before rounding.
struct Stored {
  Mat value;
  Mat before = {};  // as `value`, not rounded; empty: nothing was rounded
  Grid grid = Grid::none;
  bool composite = false;  // other values were rounded inside the stage, and nobody sees them
};

// A run in which every rounding errs by a random share of its own bound, for an ensemble.
struct Perturbation {
  std::uint64_t seed = 0;  // 0: none
  double unit = 0;         // unit roundoff of the arithmetic that is imitated
};

}  // namespace dsv4
