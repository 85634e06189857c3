// SPDX-License-Identifier: Apache-2.0
// The plain twin of linear.hpp: a thread per output, one chain of fused multiply-adds. It is what
// the faster kernels are tested against and where docs/cuda.md begins; nothing else runs it.
#pragma once

#include "cuda/kernels/linear.hpp"

namespace dsv4::kernels {

// [docs:naive]
// Grid: n / 32 x m. Threads: 32.
DSV4_DEVICE void linear_naive(const LinearArgs& a) {
  const int row = isa::block_y();
  const int output = isa::block_x() * 32 + isa::lane();
  float sum = 0;
  for (int k = 0; k < a.k; ++k) {
    const float x = isa::to_float(isa::ld_global(a.x + row * a.x_stride + k));
    const float w = isa::from_e4m3(isa::ld_global(a.w + output * a.k + k));
    sum = isa::fma(x, isa::mul(w, E4m3Weight::scale(a, output, k)), sum);
  }
  store_output(a, row, output, sum);
}
// [/docs:naive]

}  // namespace dsv4::kernels
