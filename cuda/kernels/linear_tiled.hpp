// SPDX-License-Identifier: Apache-2.0
// The product of linear.hpp for more rows of x. There every block of 8 outputs reads all of x: at m
// = 16 that is four bytes of x for each byte of W, from L2, which then sets the pace. Here a block
// has 32 outputs and its warps share one tile of x, 16 rows by 64 columns, copied while the tile
// before is multiplied; x costs as many bytes as W.
//
// The tile's rows are 128 bytes, swizzled, so that eight lanes that read 16 bytes each touch all
// banks. Sums of one output stay in one warp: no reduction between warps.
#pragma once

#include "cuda/kernels/linear.hpp"

namespace dsv4::kernels {

inline constexpr int kTileOutputs = 8 * kLinearWarps;

struct alignas(128) TileOfX {
  isa::Words4 chunk[2][16][8];  // [buffer][row][column / 8, swizzled]
};

// One chunk of 16 bytes a thread; rows beyond m become zeros.
DSV4_DEVICE void copy_tile(const LinearArgs& a, TileOfX& tile, int buffer, int column) {
  const int row = isa::thread() / 8;
  const int chunk = isa::thread() % 8;
  const bool valid = row < a.m;
  isa::copy_async<16>(&tile.chunk[buffer][row][isa::swizzle128(row, chunk)],
                      a.x + (valid ? row : 0) * a.x_stride + column + chunk * 8, valid);
}

// The 16 columns of a lane in rows g and g + 8 of the tile: words[2 i], words[2 i + 1] of step i.
DSV4_DEVICE void read_row(const TileOfX& tile, int buffer, int row, std::uint32_t (&words)[8]) {
  DSV4_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int chunk = isa::lane() % 4 * 2 + half;
    const isa::Words4 v = isa::ld_shared(&tile.chunk[buffer][row][isa::swizzle128(row, chunk)]);
    DSV4_UNROLL
    for (int i = 0; i < 4; ++i) words[4 * half + i] = v.w[i];
  }
}

// Grid: n / 32. Threads: 32 kLinearWarps, a chunk of the tile each. n is a multiple of 32.
template <class Weight>
DSV4_DEVICE void linear_tiled(const LinearArgs& a) {
  auto& tile = isa::static_shared<TileOfX, 301>();
  const int first = isa::block_x() * kTileOutputs + isa::warp() * 8;
  const int group = isa::lane() / 4;
  float d[4] = {};
  // [docs:pipeline]
  copy_tile(a, tile, 0, 0);
  isa::copy_commit();
  for (int k = 0, buffer = 0; k < a.k; k += 64, buffer ^= 1) {
    if (k + 64 < a.k) copy_tile(a, tile, buffer ^ 1, k + 64);
    isa::copy_commit();   // an empty group at the end, so that there is always one to leave
    isa::copy_wait<1>();  // my part of this tile has landed …
    isa::sync();          // … and everybody else's
    std::uint32_t low[8];
    std::uint32_t high[8];
    prefetch_words<Weight>(a, first + group, k + 4 * 64 + isa::lane() % 4 * 16);
    read_row(tile, buffer, group, low);
    read_row(tile, buffer, group + 8, high);
    multiply_words<Weight>(a, first + group, k + isa::lane() % 4 * 16, low, high, d);
    isa::sync();  // nobody reads this buffer any more: the next turn overwrites it
  }
  // [/docs:pipeline]
  DSV4_UNROLL
  for (int i = 0; i < 4; ++i) {
    const isa::Place p = isa::mma_d(isa::lane(), i);
    if (p.row < a.m) store_output(a, p.row, first + p.column, d[i]);
  }
}

}  // namespace dsv4::kernels
