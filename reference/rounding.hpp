// SPDX-License-Identifier: Apache-2.0
// Where the official code rounds, one visible word a site: `round.bf16(…)` is a store in BF16,
// `round.e4m3(…)` and `round.e2m1(…)` quantise to FP8 or FP4 and back. In exact numerics every word
// is the identity, so the same source is both models. core/sites.tsv lists the sites.
#pragma once

#include <string_view>
#include <utility>

#include "core/rounding.hpp"
#include "core/tensor.hpp"
#include "core/trace.hpp"

namespace dsv4::reference {

// What else was rounded inside a stage, between its inputs and the value that it stores.
enum class Inside : std::uint8_t { nothing, roundings };

// Which of several equal scores is chosen. Free; but exact numerics must not depend on how a prompt
// is split into calls, and official ones should fall as the official code did on the CPU that made
// the goldens (torch.topk).
enum class Ties : std::uint8_t { lowest, as_torch };

class Round {
 public:
  Round() = default;  // exact
  explicit Round(Rounding rounding) : Round(Numerics{rounding, {}, {}}) {}
  explicit Round(Numerics numerics) : numerics_(std::move(numerics)) {}

  bool official() const { return numerics_.rounding == Rounding::official; }
  Ties ties() const { return official() ? Ties::as_torch : Ties::lowest; }
  // The same sites, each erring by a share of its own bound.
  Round perturbed(const Perturbation& p) const;

  // `site` is a name of core/sites.tsv: a declared arithmetic may do something else there.

  // A store in BF16: float64 to float32 to BF16, each to nearest even.
  Stored bf16(std::string_view site, Mat x, Inside inside = Inside::nothing) const;
  // The same for a value that has no name of its own inside its stage. `error` is its running error
  // (error_bound.hpp): members of an ensemble err by a share of it before they round.
  Mat bf16_inside(std::string_view site, Mat x, const ErrorScale& error = {}) const;
  // FP8 with one power-of-two scale per `block` values of a row, and back. The first `columns` of
  // each row are quantised (-1: all). Official: act_quant, 1x128 before a product with a quantised
  // weight, 1x64 for what the attention caches hold.
  Stored e4m3(std::string_view site, const ConstMatRef& x, int block, Index columns = -1) const;
  // FP4 with one power-of-two scale per 32 values, and back. Official: fp4_act_quant.
  Stored e2m1(std::string_view site, const ConstMatRef& x) const;
  // One float32 operation.
  Real fp32(std::string_view site, Real x) const;

 private:
  Stored quantised(std::string_view site, Format official, const ConstMatRef& x,
                   Index columns) const;
  // What happens at a site whose official format is this one.
  Format at(std::string_view site, Format official) const;

  Numerics numerics_;
};

}  // namespace dsv4::reference
