// SPDX-License-Identifier: Apache-2.0
// Where the official code rounds, one visible word a site: `round.bf16(…)` is a store in BF16,
// `round.e4m3(…)` and `round.e2m1(…)` quantise to FP8 or FP4 and back. In exact numerics every word
// is the identity, so the same source is both models. docs/rounding.md lists the sites.
#pragma once

#include "core/rounding.hpp"
#include "core/tensor.hpp"
#include "core/trace.hpp"

namespace dsv4::reference {

// What else was rounded inside a stage, between its inputs and the value that it stores.
enum class Inside : std::uint8_t { nothing, roundings };

class Round {
 public:
  Round() = default;  // exact
  explicit Round(Rounding rounding, Perturbation perturbation = {})
      : official_(rounding == Rounding::official), perturbation_(perturbation) {}

  bool official() const { return official_; }

  // A store in BF16: float64 to float32 to BF16, each to nearest even.
  Stored bf16(Mat x, Inside inside = Inside::nothing) const;
  // The same for a value that has no name of its own inside its stage. `error` is its running error
  // (error_bound.hpp): members of an ensemble err by a share of it before they round.
  Mat bf16_inside(Mat x, const ErrorScale& error = {}) const;
  // FP8 with one power-of-two scale per `block` values of a row, and back. The first `columns` of
  // each row are quantised (-1: all). Official: act_quant; spec: 1x128 before a product with a
  // quantised weight, 1x64 for what the attention caches hold.
  Mat e4m3(const ConstMatRef& x, int block, Index columns = -1) const;
  // FP4 with one power-of-two scale per 32 values, and back. Official: fp4_act_quant.
  Mat e2m1(const ConstMatRef& x) const;
  // One float32 operation: rotary frequencies and angles.
  Real fp32(Real x) const { return official_ ? static_cast<Real>(static_cast<float>(x)) : x; }

 private:
  bool official_ = false;
  Perturbation perturbation_;
};

}  // namespace dsv4::reference
