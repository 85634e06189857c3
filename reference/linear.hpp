// SPDX-License-Identifier: Apache-2.0
// y = x W^T with W as stored in the checkpoint ([out, in], FP8, FP4, BF16, F32): dequantised tile
// by tile inside the product. Tiles are fixed, so the bits of the result do not depend on the
// number of threads.
#pragma once

#include "core/tensor.hpp"
#include "core/weights.hpp"

namespace dsv4::reference {

// A range of output rows of a weight.
struct OutRows {
  Index first = 0;
  Index count = -1;  // -1: to the end
};

// x[s, in] -> [s, out]. Official: linear() in model.py, without the activation quantisation.
Mat linear(const ConstMatRef& x, const Weight& w, OutRows rows = {});

// sum_k |x_k| |W_nk|: the size that the rounding error of `linear` is measured in.
Mat linear_magnitude(const ConstMatRef& x, const Weight& w, OutRows rows = {});

}  // namespace dsv4::reference
