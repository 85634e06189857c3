// SPDX-License-Identifier: Apache-2.0
// The compressor without overlap (HCA) on a cluster of blocks (sm_90 and later).
//
// Plain: compress<false, …> of compressor.hpp. An entry pools 128 tokens, 512 KB of kv and scores
// at c = 512, and a prompt of 8192 tokens has 64 of them: one block each is half a GPU. Here: a
// cluster takes an entry, each block a slice of its channels, each warp every eighth token. The
// softmaxes of the warps meet in shared memory, the pooled slices in that of the first block, whose
// first warp finishes the entry. Bound by memory: 8 c bytes a token.
#pragma once

#include "cuda/kernels/compressor.hpp"

namespace dsv4::kernels {

inline constexpr int kPoolWarps = 8;

// Blocks that share a row of kC channels: up to eight, each a multiple of 32 channels.
template <int kC>
DSV4_BOTH constexpr int pool_blocks() {
  int blocks = 8;
  while (kC % (32 * blocks) != 0) --blocks;
  return blocks;
}

template <int kC>
struct PoolSlice {
  PartialPool part[kPoolWarps][kC / pool_blocks<kC>()];
};

// Grid: clusters of pool_blocks, one for each entry, then enough for the rows of the state.
// Threads: 32 kPoolWarps.
template <int kC, int kRope>
DSV4_DEVICE void compress_cluster(const CompressorArgs& a) {
  constexpr int kBlocks = pool_blocks<kC>();
  constexpr int kSlice = kC / kBlocks;
  auto& slice = isa::static_shared<PoolSlice<kC>, 210>();
  auto& whole = isa::static_shared<PooledRow<kC>, 211>();  // of the first block
  const int row = isa::block_x() / kBlocks;
  if (row >= completed_entries(a)) {
    const int state = isa::block_x() - completed_entries(a) * kBlocks;
    if (state < state_rows(a, false)) update_state<false, kC>(a, state);
    return;
  }
  const int first = isa::cluster_rank() * kSlice;
  for (int c = isa::lane(); c < kSlice; c += 32) {
    isa::st_shared(&slice.part[isa::warp()][c],
                   pool_group<kC>(a, a.start / a.ratio + row, first + c, isa::warp(), kPoolWarps));
  }
  isa::cluster_sync();  // and the first block has begun, so that its memory may be written
  for (int c = isa::thread(); c < kSlice; c += isa::threads()) {
    float max = -isa::infinity();
    DSV4_UNROLL
    for (int w = 0; w < kPoolWarps; ++w) {
      max = isa::max(max, isa::ld_shared(&slice.part[w][c].max));
    }
    PartialPool p{max, 0.0F, 0.0F, 0.0F};
    DSV4_UNROLL
    for (int w = 0; w < kPoolWarps; ++w) add_part(p, isa::ld_shared(&slice.part[w][c]));
    const float pooled = isa::div(p.weighted, p.sum);
    if (a.pooled != nullptr) isa::st_global(a.pooled + row * kC + first + c, pooled);
    isa::st_cluster(whole.v + first + c, 0, isa::round_bf16(pooled));
  }
  isa::cluster_sync();
  if (isa::cluster_rank() == 0 && isa::warp() == 0) {
    finish_entry<false, kC, kRope>(a, whole, row);
  }
}

}  // namespace dsv4::kernels
