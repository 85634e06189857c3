// SPDX-License-Identifier: Apache-2.0
// How each kernel is launched, on any device: grid, threads, shared memory, clusters. The stages
// and the benchmarks call these, so what is timed is what is checked.
//
// launch<threads, resident>: at most so many threads a block, of which so many shall be resident on
// a multiprocessor of 65,536 registers; the same numbers as in kernels.cu, where the gates look.
#pragma once

#include <algorithm>

#include "cuda/kernels/compressor_cluster.hpp"
#include "cuda/kernels/gate.hpp"
#include "cuda/kernels/hadamard.hpp"
#include "cuda/kernels/linear_tiled.hpp"
#include "cuda/kernels/mhc_cluster.hpp"
#include "cuda/kernels/quantize.hpp"
#include "cuda/kernels/rms_norm.hpp"
#include "cuda/stages/launch.hpp"
#include "cuda/stages/mhc_blocks.hpp"

namespace dsv4::stages {

template <class Format, int kBlock, class Gpu>
void launch_quantize(Gpu& gpu, const kernels::QuantizeArgs& a) {
  gpu.template launch<128, 16>(
      {{blocks(a.rows * (a.columns / kBlock), 4)}, 128},
      DSV4_BODY { kernels::quantize<Format, kBlock>(a); });
}

template <class Gpu>
void launch_rms_norm(Gpu& gpu, const kernels::RmsNormArgs& a, int rows) {
  gpu.template launch<128, 5>(
      {{count(rows)}, 128}, DSV4_BODY { kernels::rms_norm(a); });
}

template <int kN, class Gpu>
void launch_hadamard(Gpu& gpu, const kernels::HadamardArgs& a) {
  gpu.template launch<128, 16>(
      {{blocks(a.rows, 4)}, 128}, DSV4_BODY { kernels::hadamard<kN>(a); });
}

// Experts at most 384.
template <class Gpu>
void launch_gate(Gpu& gpu, const kernels::GateArgs& a) {
  gpu.template launch<128, 8>(
      {{blocks(a.tokens, 4)}, 128}, DSV4_BODY { kernels::gate<12>(a); });
}

static_assert(kMhcWarpColumns == kernels::kMhcColumns);

template <int kN, class Gpu>
void launch_mhc(Gpu& gpu, const kernels::MhcArgs& a) {
  const int blocks = a.fn != nullptr && gpu.clusters() ? mhc_blocks(a.d) : 0;
  if (blocks == 0) {
    gpu.template launch<128, 4>(
        {{count(a.tokens)}, 128, size(kN, a.d, 2)}, DSV4_BODY { kernels::mhc<kN>(a); });
    return;
  }
  const int warps = a.d / (blocks * kernels::kMhcColumns);
  const int groups = (a.tokens + kernels::kMhcTokens - 1) / kernels::kMhcTokens;
  const int clusters = std::min(groups, std::max(1, gpu.processors() / blocks));
  gpu.template launch_cluster<512, 1>(
      {{count(clusters * blocks)},
       count(32 * warps),
       size(warps, kernels::MhcSizes<kN>::warp_bytes),
       count(blocks)},
      DSV4_BODY { kernels::mhc_cluster<kN>(a); });
}

template <int kC, int kRope, class Gpu>
void launch_attention_inputs(Gpu& gpu, const kernels::AttentionInputArgs& a) {
  gpu.template launch<256, 4>(
      {{count(a.tokens), blocks(a.heads + 1, 8)}, 256},
      DSV4_BODY { kernels::attention_inputs<kC, kRope>(a); });
}

template <int kJ, int kRope, class Gpu>
void launch_index_queries(Gpu& gpu, const kernels::IndexQueryArgs& a, int tokens) {
  gpu.template launch<256, 8>(
      {{count(tokens), blocks(a.heads, 8)}, 256},
      DSV4_BODY { kernels::index_queries<kJ, kRope>(a); });
}

template <int kC, int kRope, class Gpu>
void launch_compress_cluster(Gpu& gpu, const kernels::CompressorArgs& a) {
  constexpr int kBlocks = kernels::pool_blocks<kC>();
  const unsigned clusters =
      count(kernels::completed_entries(a)) + blocks(kernels::state_rows(a, false), kBlocks);
  constexpr unsigned kThreads = 32 * kernels::kPoolWarps;
  gpu.template launch_cluster<kThreads, 3>(
      {{clusters * kBlocks}, kThreads, 0, count(kBlocks)},
      DSV4_BODY { kernels::compress_cluster<kC, kRope>(a); });
}

template <bool kOverlap, bool kIndexing, int kC, int kRope, class Gpu>
void launch_compress(Gpu& gpu, const kernels::CompressorArgs& a) {
  if constexpr (!kOverlap) {
    if (gpu.clusters()) return launch_compress_cluster<kC, kRope>(gpu, a);
  }
  const int entries = kernels::completed_entries(a), rows = kernels::state_rows(a, kOverlap);
  gpu.template launch<128, 6>(
      {{count(entries + rows)}, 128},
      DSV4_BODY { kernels::compress<kOverlap, kIndexing, kC, kRope>(a); });
}

// Up to 16 rows of x.
template <class Weight, class Gpu>
void launch_linear(Gpu& gpu, const kernels::LinearArgs& a) {
  constexpr unsigned kBlock = 32 * kernels::kLinearWarps;
  // From 4 rows on x costs more than W where each block reads all of it.
  if (a.m > 4 && a.n % kernels::kTileOutputs == 0) {
    gpu.template launch<kBlock, 8>(
        {{blocks(a.n, kernels::kTileOutputs)}, kBlock},
        DSV4_BODY { kernels::linear_tiled<Weight>(a); });
  } else {
    gpu.template launch<kBlock, 8>(
        {{blocks(a.n, 8)}, kBlock}, DSV4_BODY { kernels::linear<Weight>(a); });
  }
}

}  // namespace dsv4::stages
