// SPDX-License-Identifier: Apache-2.0
// The two numerics, and what a rounded value is.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "core/tensor.hpp"

namespace dsv4 {

struct Arithmetic;  // core/arithmetic.hpp

// exact: float64, nothing is rounded on purpose. official: rounded exactly where the official code
// stores BF16, FP8 or FP4, float64 between those places.
enum class Rounding : std::uint8_t { exact, official };

std::string_view name(Rounding rounding);
// Throws UsageError; `where` says who asks. Empty text means exact.
Rounding parse_rounding(std::string_view text, std::string_view where);

// What a site rounds to. The FP formats carry one power-of-two scale per so many values.
enum class Format : std::uint8_t { none, fp32, bf16, fp8_1x128, fp8_1x64, fp4_1x32 };

// A grid that each value has for itself, not one that its block's largest value decides.
inline bool has_grid(Format format) { return format == Format::bf16 || format == Format::fp32; }

std::string_view name(Format format);  // as in core/sites.tsv: "fp8_1x128"
Format parse_format(std::string_view text, std::string_view where);  // throws UsageError

// The value that a store in fp32 or bf16 leaves; x itself for every other format. Monotonic in x.
Real stored(Format format, Real x);

// A value as it is stored, with what is needed to judge somebody else's: the value before rounding.
struct Stored {
  Mat value;
  Mat before = {};  // as `value`, not rounded; empty: nothing was rounded
  Format grid = Format::none;
  bool composite = false;  // other values were rounded inside the stage, and nobody sees them
  Index columns = 0;       // block formats: so many of each row are quantised
};

// A run in which every rounding errs by a random share of its own bound, for an ensemble.
struct Perturbation {
  std::uint64_t seed = 0;  // 0: none
  double unit = 0;         // unit roundoff of the arithmetic that is imitated
};

// Everything that says how a model is computed.
struct Numerics {
  Rounding rounding = Rounding::exact;
  std::shared_ptr<const Arithmetic> arithmetic = {};  // null: the official one
  Perturbation perturbation = {};                     // of roundings that no tap shows
};

}  // namespace dsv4
