// SPDX-License-Identifier: Apache-2.0
// How far two correct implementations may differ. Nothing here is tuned: a bound is the running
// error of the stage (reference/error_bound.hpp) times the unit roundoffs of both sides.
#pragma once

#include <string_view>

#include "core/rounding.hpp"
#include "core/tensor.hpp"
#include "golden/trace_file.hpp"

namespace dsv4::conformance {

// Distance of 1 to the next number, halved: fp64 2^-53, fp32 2^-24, fp16 2^-11, bf16 2^-8; 0 for
// int and uint8.
double unit_roundoff(std::string_view dtype);
// Of the reference itself: 2^-53, or 2^-64 in the long double build.
double reference_roundoff();

// The arithmetic and the storage of one dataset.
struct Precision {
  double unit = 0;             // of single operations, and of the value that a stage leaves
  double sums = 0;             // of the additions of a sum: nothing adds up in less than float32
  double store = 0;            // of the stored type, where that is coarser
  bool exact_ceiling = false;  // fp64: errors are also held below 1e-12 of the largest magnitude
  bool coarse() const { return unit > kFloat32; }  // BF16 or float16

  static constexpr double kFloat32 = 0x1p-24;
};

// Of stages in arithmetic of this roundoff.
Precision arithmetic_of(double unit);

// Attribute dtype if the file has it; else the stored type. `official_dtype`: what the official
// code stores at this tap, for traces in official numerics (else empty): it stands in where the
// attribute is missing, and a BF16 store there follows arithmetic in float32.
Precision precision_of(const golden::DatasetInfo& dataset, std::string_view official_dtype = {});

constexpr double kCeiling = 1e-12;

// Running error of a stage whose E is `scale`. single: the share of E that is no sum.
double running_error(const Precision& p, double scale, double single);
// Bound of one element in a span of one stage. scale: the stage's E; value: the reference's;
// magnitude: the largest finite one of the dataset; single: the share of E that is no sum.
double stage_bound(const Precision& p, double scale, double value, double magnitude,
                   double single = 1);
// Distance of neighbours on the grid of BF16 or float32 at x.
double spacing(Format grid, double x);
// The same on the grid of the type with this unit roundoff.
double spacing(double unit, double x);
// How far from `value`, on the side of `theirs`, a store on this grid can leave an element whose
// value before rounding errs by `error`.
double stored_bound(Format grid, double before, double error, double value, double theirs);
// Bound of one element in a span of several stages in fp64: the ceiling alone.
double span_bound(const Precision& p, double value, double magnitude);

}  // namespace dsv4::conformance
