// SPDX-License-Identifier: Apache-2.0
// The Walsh-Hadamard transform of rows of kN numbers in BF16, scaled by kN^-1/2. Out of place: in
// place, a row that others still read makes the result depend on the schedule.
// Reference: reference/hadamard.
//
// Naive: log2(n) passes over shared memory with a barrier each. Here: a warp per row, values in
// registers; steps below 32 are shuffles, the others stay in a lane.
#pragma once

#include "cuda/kernels/reduce.hpp"

namespace dsv4::kernels {

// x[i] of lane l is element 32 i + l; kEach is a power of two.
template <int kEach>
DSV4_DEVICE void hadamard_in_warp(float (&x)[kEach], float scale) {
  DSV4_UNROLL
  for (int mask = 1; mask < 32; mask *= 2) {
    DSV4_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const float other = isa::shuffle_xor(x[i], mask);
      x[i] = (isa::lane() & mask) != 0 ? isa::sub(other, x[i]) : isa::add(x[i], other);
    }
  }
  DSV4_UNROLL
  for (int half = 1; half < kEach; half *= 2) {
    DSV4_UNROLL
    for (int i = 0; i < kEach; ++i) {
      if ((i & half) != 0) continue;
      const float a = x[i];
      const float b = x[i + half];
      x[i] = isa::add(a, b);
      x[i + half] = isa::sub(a, b);
    }
  }
  DSV4_UNROLL
  for (int i = 0; i < kEach; ++i) x[i] = isa::mul(x[i], scale);
}

struct HadamardArgs {
  const isa::Bf16* in;  // [rows, kN]
  isa::Bf16* out;       // [rows, kN], elsewhere
  int rows;
  float scale;  // kN^-1/2
};

template <int kN>
DSV4_DEVICE void hadamard(const HadamardArgs& a) {
  constexpr int kEach = kN / 32;
  const int warps = isa::grid_x() * (isa::threads() / 32);
  for (int r = isa::block_x() * (isa::threads() / 32) + isa::warp(); r < a.rows; r += warps) {
    float x[kEach];
    DSV4_UNROLL
    for (int i = 0; i < kEach; ++i) {
      x[i] = isa::to_float(isa::ld_stream(a.in + r * kN + 32 * i + isa::lane()));
    }
    hadamard_in_warp<kEach>(x, a.scale);
    DSV4_UNROLL
    for (int i = 0; i < kEach; ++i) {
      isa::st_global(a.out + r * kN + 32 * i + isa::lane(), isa::to_bf16(x[i]));
    }
  }
}

}  // namespace dsv4::kernels
