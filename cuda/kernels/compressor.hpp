// SPDX-License-Identifier: Apache-2.0
// The compressor after its two projections: softmax over the slots of each channel, norm, RoPE,
// quantise, insert; and the state that the next call continues from. Prefill and decode are the
// same kernel: tokens before the call come from the state. Reference: reference/compressor.
//
// Naive: a launch per stage and a buffer of 2r rows rewritten for every token. Here: a block per
// entry; threads pool channels (two passes over at most 2r values that stay in L1), then one warp
// holds the entry in registers to the end. Bound by memory: 8 w bytes a token.
#pragma once

#include "cuda/kernels/index_row.hpp"

namespace dsv4::kernels {

struct CompressorArgs {
  const float* kv;           // [s, w], w = 2c with overlap, else c
  const float* score;        // [s, w]
  const float* ape;          // [ratio, w]
  const float* kv_state;     // [b, w] before the call, b = 2 ratio with overlap, else ratio
  const float* score_state;  // [b, w], ape included
  float* kv_state_out;       // [b, w] after it, elsewhere
  float* score_state_out;    // [b, w]
  const float* norm;         // [c]
  const float* frequencies;  // [r_d/2]
  std::uint8_t* entries;     // rows of the cache: KvRow or IndexRow; row 0 is entry start / ratio
  int ratio;
  int start, tokens;
  float eps;
  float hadamard_scale;  // c^-1/2
  // What is fused away, for whoever checks; null otherwise. [e, c]
  float* pooled;
  isa::Bf16* normed;
  isa::Bf16* roped;
  isa::Bf16* rotated;
};

// Channel `column` of the token at `position`, its score with the position's bias.
struct SlotValue {
  float kv;
  float score;
};

template <bool kOverlap, int kC>
DSV4_DEVICE SlotValue slot_value(const CompressorArgs& a, int position, int column) {
  constexpr int kW = kOverlap ? 2 * kC : kC;
  const int slot = position % a.ratio;
  if (position >= a.start) {
    const int at = (position - a.start) * kW + column;
    return {isa::ld_global(a.kv + at),
            isa::add(isa::ld_global(a.score + at), isa::ld_global(a.ape + slot * kW + column))};
  }
  // With overlap the open group stands in the lower half, the one before it in the upper.
  const bool open = kOverlap && position / a.ratio == a.start / a.ratio;
  const int at = (slot + (open ? a.ratio : 0)) * kW + column;
  return {isa::ld_global(a.kv_state + at), isa::ld_global(a.score_state + at)};
}

// sum_i softmax(score)_i kv_i of one channel of entry `entry`.
template <bool kOverlap, int kC>
DSV4_DEVICE float pool(const CompressorArgs& a, int entry, int channel) {
  const int slots = kOverlap ? 2 * a.ratio : a.ratio;
  // With overlap the first half are the group before, by its own channels.
  const auto value = [&](int i) {
    if constexpr (kOverlap) {
      const int position = (entry - 1) * a.ratio + i;
      if (position < 0) return SlotValue{0.0F, -isa::infinity()};
      return slot_value<kOverlap, kC>(a, position, i < a.ratio ? channel : kC + channel);
    } else {
      return slot_value<kOverlap, kC>(a, entry * a.ratio + i, channel);
    }
  };
  float m = -isa::infinity();
  for (int i = 0; i < slots; ++i) m = isa::max(m, value(i).score);
  float sum = 0;
  float weighted = 0;
  for (int i = 0; i < slots; ++i) {
    const SlotValue v = value(i);
    if (v.score == -isa::infinity()) continue;
    const float p = isa::exp_(isa::sub(v.score, m));
    sum = isa::add(sum, p);
    weighted = isa::fma(p, v.kv, weighted);
  }
  return isa::div(weighted, sum);
}

template <int kC>
struct PooledRow {
  float v[kC];
};

// Grid: the entries that the call completes.
template <bool kOverlap, bool kIndexing, int kC, int kRope>
DSV4_DEVICE void compress(const CompressorArgs& a) {
  auto& shared = isa::static_shared<PooledRow<kC>, 200>();
  const int row = isa::block_x();
  const int entry = a.start / a.ratio + row;
  for (int c = isa::thread(); c < kC; c += isa::threads()) {
    const float p = pool<kOverlap, kC>(a, entry, c);
    if (a.pooled != nullptr) isa::st_global(a.pooled + row * kC + c, p);
    isa::st_shared(shared.v + c, isa::round_bf16(p));
  }
  isa::sync();
  if (isa::warp() != 0) return;
  WarpRow<kC> x;
  DSV4_UNROLL
  for (int i = 0; i < kPairs<kC>; ++i) {
    const bool inside = pair_of(i) < kC / 2;
    for (int e = 0; e < 2; ++e) {
      x.v[i][e] = inside ? isa::ld_shared(shared.v + 2 * pair_of(i) + e) : 0.0F;
    }
  }
  norm_row<kC>(x, a.norm, a.eps);
  if (a.normed != nullptr) store_row<kC>(a.normed + row * kC, x);
  rotate_row<kC, kRope>(x, a.frequencies, entry * a.ratio);
  if (a.roped != nullptr) store_row<kC>(a.roped + row * kC, x);
  if constexpr (kIndexing) {
    rotate_by_hadamard<kC>(x, a.hadamard_scale);
    if (a.rotated != nullptr) store_row<kC>(a.rotated + row * kC, x);
    insert_index_row<kC>(a.entries + row * IndexRow<kC>::bytes, x);
  } else {
    insert_row<kC, kRope>(a.entries + row * KvRow<kC, kRope>::bytes, x);
  }
}

// Grid: rows of the state. Lower half (all of it without overlap): the latest token of each slot.
// Upper half: the last complete group.
template <bool kOverlap, int kC>
DSV4_DEVICE void compressor_state(const CompressorArgs& a) {
  constexpr int kW = kOverlap ? 2 * kC : kC;
  const int row = isa::block_x();
  const int end = a.start + a.tokens;
  const int slot = row % a.ratio;
  int position = (end - 1 - slot) / a.ratio * a.ratio + slot;  // the latest of this slot
  if (end - 1 < slot) position = -1;
  bool fresh = position >= a.start;
  int from = row;
  if (kOverlap && row < a.ratio) {
    const bool completed = end / a.ratio > a.start / a.ratio;
    position = (end / a.ratio - 1) * a.ratio + slot;
    fresh = completed && position >= a.start;
    if (completed && !fresh) from = row + a.ratio;  // began before this call
  }
  for (int c = isa::thread(); c < kW; c += isa::threads()) {
    SlotValue v;
    if (fresh) {
      v = slot_value<kOverlap, kC>(a, position, c);
    } else {
      v = {isa::ld_global(a.kv_state + from * kW + c),
           isa::ld_global(a.score_state + from * kW + c)};
    }
    isa::st_global(a.kv_state_out + row * kW + c, v.kv);
    isa::st_global(a.score_state_out + row * kW + c, v.score);
  }
}

}  // namespace dsv4::kernels
