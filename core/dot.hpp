// SPDX-License-Identifier: Apache-2.0
// x W^T for a few tokens, straight from the stored codes: they are widened to float64 in registers
// and never written to memory. FP8 and FP4 with scales, in float64 builds for x86-64-v3 only;
// `dequantize` is the plain twin.
#pragma once

#include <vector>

#include "core/tensor.hpp"
#include "core/weights.hpp"

namespace dsv4 {

constexpr Index kDotTokens = 4;  // with more, a product of dequantised tiles is faster

// Whether `dot` can multiply by this weight.
bool has_dot(const Weight& w);

// x[s, in], 1 <= s <= 4, in the order in which `dot` meets the codes of w, zeros after the last.
std::vector<double> dot_order(const ConstMatRef& x, const Weight& w);

// y[s, count] = x W^T for the rows first … first+count-1 of W, x from `dot_order`. The bits of an
// element depend on its own token and row alone.
void dot(const std::vector<double>& x, const Weight& w, Index first, Eigen::Ref<Mat> y);

}  // namespace dsv4
