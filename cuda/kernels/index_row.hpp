// SPDX-License-Identifier: Apache-2.0
// What the indexer does to its queries and entries after RoPE: Hadamard, then FP4 1x32. And the
// fused kernel of its queries: RoPE, Hadamard, quantise. Reference: reference/indexer.
//
// A warp per (token, head), the row in registers from load to store. Naive: three launches.
#pragma once

#include "cuda/kernels/hadamard.hpp"
#include "cuda/kernels/rope.hpp"

namespace dsv4::kernels {

// A lane holds elements 64 i + 2 l + e: the butterfly between e = 0 and 1 is the first step, those
// between lanes the next five, those between i the rest.
template <int kC>
DSV4_DEVICE void rotate_by_hadamard(WarpRow<kC>& x, float scale) {
  constexpr int kPair = kPairs<kC>;
  static_assert(kC == 64 * kPair, "pairs fill the warp");
  DSV4_UNROLL
  for (int i = 0; i < kPair; ++i) {
    const float u = x.v[i][0];
    const float v = x.v[i][1];
    x.v[i][0] = isa::add(u, v);
    x.v[i][1] = isa::sub(u, v);
  }
  for (int e = 0; e < 2; ++e) {
    float column[kPair];
    DSV4_UNROLL
    for (int i = 0; i < kPair; ++i) column[i] = x.v[i][e];
    hadamard_in_warp<kPair>(column, scale);
    DSV4_UNROLL
    for (int i = 0; i < kPair; ++i) x.v[i][e] = isa::round_bf16(column[i]);
  }
}

// 32 elements share a scale: those of 16 lanes.
template <int kC>
DSV4_DEVICE void insert_index_row(std::uint8_t* to, const WarpRow<kC>& x) {
  DSV4_UNROLL
  for (int i = 0; i < kPairs<kC>; ++i) {
    const float amax = warp_max<16>(isa::max(isa::abs(x.v[i][0]), isa::abs(x.v[i][1])));
    const std::uint8_t scale = scale_code<Fp4>(amax);
    const std::uint32_t low = code_of<Fp4>(x.v[i][0], scale);
    const std::uint32_t high = code_of<Fp4>(x.v[i][1], scale);
    isa::st_global(to + pair_of(i), static_cast<std::uint8_t>(low | high << 4));
    if (isa::lane() % 16 == 0) {
      isa::st_global(to + IndexRow<kC>::scales_at + 2 * i + isa::lane() / 16, scale);
    }
  }
}

struct IndexQueryArgs {
  const isa::Bf16* q;        // [s, i, j]
  const float* frequencies;  // [r_d/2]
  std::uint8_t* out;         // [s, i] rows of IndexRow bytes
  int heads, start;
  float hadamard_scale;  // j^-1/2
  isa::Bf16* roped;      // [s, i, j], for whoever checks; null otherwise
  isa::Bf16* rotated;
};

// Grid: tokens x blocks of warps over heads.
template <int kJ, int kRope>
DSV4_DEVICE void index_queries(const IndexQueryArgs& a) {
  const int token = isa::block_x();
  const int head = isa::block_y() * (isa::threads() / 32) + isa::warp();
  if (head >= a.heads) return;
  const int row = token * a.heads + head;
  WarpRow<kJ> x = load_row<kJ>(a.q + row * kJ);
  rotate_row<kJ, kRope>(x, a.frequencies, a.start + token);
  if (a.roped != nullptr) store_row<kJ>(a.roped + row * kJ, x);
  rotate_by_hadamard<kJ>(x, a.hadamard_scale);
  if (a.rotated != nullptr) store_row<kJ>(a.rotated + row * kJ, x);
  insert_index_row<kJ>(a.out + row * IndexRow<kJ>::bytes, x);
}

}  // namespace dsv4::kernels
