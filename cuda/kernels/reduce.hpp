// SPDX-License-Identifier: Apache-2.0
// Sums and maxima over a warp and a block, in an order that depends on nothing but the shape.
#pragma once

#include "cuda/isa/isa.hpp"

namespace dsv4::kernels {

// Every lane gets the result: lane l adds what lane l ^ 16, 8, 4, 2, 1 has.
DSV4_DEVICE float warp_sum(float v) {
  DSV4_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) v = isa::add(v, isa::shuffle_xor(v, mask));
  return v;
}
template <int kLanes = 32>
DSV4_DEVICE float warp_max(float v) {
  DSV4_UNROLL
  for (int mask = kLanes / 2; mask > 0; mask /= 2) v = isa::max(v, isa::shuffle_xor(v, mask));
  return v;
}

inline constexpr int kMostWarps = 32;

template <int kCount>
struct WarpSums {
  float v[kMostWarps][kCount];
};

// v[i] summed over the block, for every thread. All threads call it; kId tells calls apart that
// stand close together, so that one's scratch is not overwritten while another is still read.
template <int kCount, int kId>
DSV4_DEVICE void block_sum(float (&v)[kCount]) {
  WarpSums<kCount>& scratch = isa::static_shared<WarpSums<kCount>, kId>();
  DSV4_UNROLL
  for (int i = 0; i < kCount; ++i) v[i] = warp_sum(v[i]);
  if (isa::lane() == 0) {
    for (int i = 0; i < kCount; ++i) isa::st_shared(&scratch.v[isa::warp()][i], v[i]);
  }
  isa::sync();
  const int warps = isa::threads() / 32;
  DSV4_UNROLL
  for (int i = 0; i < kCount; ++i) {
    float sum = isa::ld_shared(&scratch.v[0][i]);
    for (int w = 1; w < warps; ++w) sum = isa::add(sum, isa::ld_shared(&scratch.v[w][i]));
    v[i] = sum;
  }
}

}  // namespace dsv4::kernels
