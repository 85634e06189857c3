// SPDX-License-Identifier: Apache-2.0
// Skinny products y[m, n] = x[m, k] W[n, k]^T, m <= 16, W in E4M3 (one scale per 128x128) or E2M1
// (one per row and 32 columns), x in BF16. Codes are widened to BF16 together with their scale:
// both are powers of two times at most four bits, so the widening is exact and so is every product;
// only the sum rounds. Reference: reference/linear.
//
// Bound by memory: W is read once, 16 bytes a lane. A block has 8 outputs; its four warps share k
// in steps of 64 and add up in a fixed order. The k order of a fragment is ours to choose: lane t
// of a group of four takes 16 columns in a row, of x and of W alike. Scales must lie within
// 2^+-100. For more than a few rows of x see linear_tiled.hpp; the plain twin is linear_naive.hpp.
#pragma once

#include "cuda/kernels/reduce.hpp"

namespace dsv4::kernels {

struct LinearArgs {
  const isa::Bf16* x;           // [m, k], quantised and dequantised where the model does so
  const std::uint8_t* w;        // [n, k] E4M3, or [n, k/2] E2M1
  const std::uint8_t* w_scale;  // E8M0: [ceil(n/128), ceil(k/128)] or [n, k/32]
  float* y;                     // [m, n] before rounding; null: nobody looks
  isa::Bf16* y_bf16;            // [m, n]
  int m, n, k;                  // n a multiple of 8, k of 64
  int x_stride, y_stride;       // elements from row to row
};

struct E4m3Weight {
  static constexpr int bytes = 16;  // of 16 columns
  DSV4_DEVICE static float scale(const LinearArgs& a, int row, int column) {
    return isa::from_e8m0(
        isa::ld_global(a.w_scale + row / 128 * ((a.k + 127) / 128) + column / 128));
  }
  DSV4_DEVICE static float value(const std::uint32_t* words, int i) {
    return isa::from_e4m3(static_cast<std::uint8_t>(words[i / 4] >> i % 4 * 8));
  }
};
struct E2m1Weight {
  static constexpr int bytes = 8;
  DSV4_DEVICE static float scale(const LinearArgs& a, int row, int column) {
    return isa::from_e8m0(isa::ld_global(a.w_scale + row * (a.k / 32) + column / 32));
  }
  DSV4_DEVICE static float value(const std::uint32_t* words, int i) {
    return isa::from_e2m1(static_cast<std::uint8_t>(words[i / 8] >> i % 8 * 4 & 15U));
  }
};

// x[row, column … column+1] as a fragment register; rows beyond m are zero.
DSV4_DEVICE std::uint32_t x_pair(const LinearArgs& a, int row, int column) {
  if (row >= a.m) return 0;
  return isa::ld_global(reinterpret_cast<const std::uint32_t*>(a.x + row * a.x_stride + column));
}

// W is on its way into L2 before it is loaded: one load of 16 bytes a thread would not keep memory
// busy.
template <class Weight>
DSV4_DEVICE void prefetch_words(const LinearArgs& a, int row, int column) {
  if (column >= a.k) return;
  isa::prefetch(a.w + row * (a.k * Weight::bytes / 16) + column * Weight::bytes / 16);
}

// d += x W^T over 64 columns, of which this lane has 16, from `column` on: those of W's row `row`,
// which it loads, and those of two rows of x, eight words each.
template <class Weight>
DSV4_DEVICE void multiply_words(const LinearArgs& a, int row, int column,
                                const std::uint32_t (&low)[8], const std::uint32_t (&high)[8],
                                float (&d)[4]) {
  std::uint32_t words[4] = {};
  const std::uint8_t* from = a.w + row * (a.k * Weight::bytes / 16) + column * Weight::bytes / 16;
  if constexpr (Weight::bytes == 16) {
    const auto v = isa::ld_stream(reinterpret_cast<const isa::Words4*>(from));
    DSV4_UNROLL
    for (int i = 0; i < 4; ++i) words[i] = v.w[i];
  } else {
    const auto v = isa::ld_stream(reinterpret_cast<const isa::Words2*>(from));
    words[0] = v.w[0];
    words[1] = v.w[1];
  }
  const float scale = Weight::scale(a, row, column);
  // [docs:fragment]
  DSV4_UNROLL
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t left[4] = {low[2 * i], high[2 * i], low[2 * i + 1], high[2 * i + 1]};
    float w[4];
    DSV4_UNROLL
    for (int e = 0; e < 4; ++e) w[e] = isa::mul(Weight::value(words, 4 * i + e), scale);
    isa::mma_bf16(d, left, isa::pack_bf16(w[0], w[1]), isa::pack_bf16(w[2], w[3]));
  }
  // [/docs:fragment]
}

DSV4_DEVICE void store_output(const LinearArgs& a, int row, int output, float y) {
  const int at = row * a.y_stride + output;
  if (a.y != nullptr) isa::st_global(a.y + at, y);
  isa::st_global(a.y_bf16 + at, isa::to_bf16(y));
}

inline constexpr int kLinearWarps = 4;

struct LinearSums {
  float v[kLinearWarps][32][4];
};

// Grid: n / 8. Threads: 32 kLinearWarps.
template <class Weight>
DSV4_DEVICE void linear(const LinearArgs& a) {
  auto& sums = isa::static_shared<LinearSums, 300>();
  const int row = isa::block_x() * 8 + isa::lane() / 4;
  float d[4] = {};
  for (int k = isa::warp() * 64; k < a.k; k += kLinearWarps * 64) {
    const int column = k + isa::lane() % 4 * 16;
    prefetch_words<Weight>(a, row, column + 4 * kLinearWarps * 64);
    std::uint32_t low[8];
    std::uint32_t high[8];
    DSV4_UNROLL
    for (int i = 0; i < 8; ++i) {
      low[i] = x_pair(a, isa::lane() / 4, column + 2 * i);
      high[i] = x_pair(a, isa::lane() / 4 + 8, column + 2 * i);
    }
    multiply_words<Weight>(a, row, column, low, high, d);
  }
  DSV4_UNROLL
  for (int i = 0; i < 4; ++i) isa::st_shared(&sums.v[isa::warp()][isa::lane()][i], d[i]);
  isa::sync();
  if (isa::warp() != 0) return;
  DSV4_UNROLL
  for (int i = 0; i < 4; ++i) {
    float y = d[i];
    for (int w = 1; w < kLinearWarps; ++w) {
      y = isa::add(y, isa::ld_shared(&sums.v[w][isa::lane()][i]));
    }
    const isa::Place p = isa::mma_d(isa::lane(), i);
    if (p.row < a.m) store_output(a, p.row, isa::block_x() * 8 + p.column, y);
  }
}

}  // namespace dsv4::kernels
