// SPDX-License-Identifier: Apache-2.0
// The compressor after its two projections in one launch: softmax over the slots of each channel,
// norm, RoPE, quantise, insert; and the state that the next call continues from. Prefill and decode
// are the same kernel: tokens before the call come from the state. Reference: reference/compressor.
//
// Naive: a launch per stage and a buffer of 2r rows rewritten for every token. Here: a block per
// entry; threads pool channels, every value read once, eight slots in registers at a time; then one
// warp holds the entry in registers to the end. Bound by memory: 8 w bytes a token.
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

// No branches, so that the loads of several slots can be in flight together.
template <bool kOverlap, int kC>
DSV4_DEVICE SlotValue slot_value(const CompressorArgs& a, int position, int column) {
  constexpr int kW = kOverlap ? 2 * kC : kC;
  const int slot = position % a.ratio;
  const bool fresh = position >= a.start;
  // With overlap the open group stands in the lower half, the one before it in the upper.
  const bool open = kOverlap && position / a.ratio == a.start / a.ratio;
  const int row = fresh ? position - a.start : slot + (open ? a.ratio : 0);
  const float kv = isa::ld_global((fresh ? a.kv : a.kv_state) + row * kW + column);
  const float score = isa::ld_global((fresh ? a.score : a.score_state) + row * kW + column);
  const float biased = isa::add(score, isa::ld_global(a.ape + slot * kW + column));
  return {kv, fresh ? biased : score};
}

DSV4_DEVICE SlotValue no_slot() { return {0.0F, -isa::infinity()}; }

// A softmax over some slots of a channel before its division: the largest score, then the sums of
// exp(score - max) and of exp(score - max) kv.
struct alignas(16) PartialPool {
  float max, sum, weighted, unused;
};

template <int kSlots>
DSV4_DEVICE PartialPool pool_slots(const SlotValue (&v)[kSlots]) {
  PartialPool p{v[0].score, 0.0F, 0.0F, 0.0F};
  DSV4_UNROLL
  for (int i = 1; i < kSlots; ++i) p.max = isa::max(p.max, v[i].score);
  DSV4_UNROLL
  for (int i = 0; i < kSlots; ++i) {
    const bool empty = v[i].score == -isa::infinity();
    const float e = empty ? 0.0F : isa::exp_(isa::sub(v[i].score, p.max));
    p.sum = isa::add(p.sum, e);
    p.weighted = isa::fma(e, v[i].kv, p.weighted);
  }
  return p;
}

// Of other slots, whose largest score is not above p's.
DSV4_DEVICE void add_part(PartialPool& p, const PartialPool& part) {
  const bool empty = part.max == -isa::infinity();
  const float e = empty ? 0.0F : isa::exp_(isa::sub(part.max, p.max));
  p.sum = isa::fma(e, part.sum, p.sum);
  p.weighted = isa::fma(e, part.weighted, p.weighted);
}

// With overlap: the group before, by its own channels, and the entry's group.
template <int kC>
DSV4_DEVICE PartialPool pool_overlapping(const CompressorArgs& a, int entry, int channel) {
  constexpr int kRatio = 4;
  SlotValue v[2 * kRatio];
  DSV4_UNROLL
  for (int i = 0; i < 2 * kRatio; ++i) {
    const int position = (entry - 1) * kRatio + i;
    const int column = i < kRatio ? channel : kC + channel;
    v[i] = slot_value<true, kC>(a, isa::max(position, 0), column);
    if (position < 0) v[i] = no_slot();
  }
  return pool_slots(v);
}

// Without overlap: slots first, first + step, … of the entry's group, eight at a time.
template <int kC>
DSV4_DEVICE PartialPool pool_group(const CompressorArgs& a, int entry, int channel, int first,
                                   int step) {
  constexpr int kAtOnce = 8;
  PartialPool all{-isa::infinity(), 0.0F, 0.0F, 0.0F};
  for (int begin = first; begin < a.ratio; begin += kAtOnce * step) {
    SlotValue v[kAtOnce];
    DSV4_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int slot = begin + i * step;
      v[i] = slot_value<false, kC>(a, entry * a.ratio + isa::min(slot, a.ratio - 1), channel);
      if (slot >= a.ratio) v[i] = no_slot();
    }
    const PartialPool fresh = pool_slots(v);
    PartialPool both{isa::max(all.max, fresh.max), 0.0F, 0.0F, 0.0F};
    add_part(both, all);
    add_part(both, fresh);
    all = both;
  }
  return all;
}

template <int kC>
struct PooledRow {
  float v[kC];
};

// Norm, RoPE, quantise, insert: by one warp, the row in registers from shared memory to the cache.
template <bool kIndexing, int kC, int kRope>
DSV4_DEVICE void finish_entry(const CompressorArgs& a, const PooledRow<kC>& pooled, int row) {
  WarpRow<kC> x;
  DSV4_UNROLL
  for (int i = 0; i < kPairs<kC>; ++i) {
    const bool inside = pair_of(i) < kC / 2;
    for (int e = 0; e < 2; ++e) {
      x.v[i][e] = inside ? isa::ld_shared(pooled.v + 2 * pair_of(i) + e) : 0.0F;
    }
  }
  norm_row<kC>(x, a.norm, a.eps);
  if (a.normed != nullptr) store_row<kC>(a.normed + row * kC, x);
  rotate_row<kC, kRope>(x, a.frequencies, (a.start / a.ratio + row) * a.ratio);
  if (a.roped != nullptr) store_row<kC>(a.roped + row * kC, x);
  if constexpr (kIndexing) {
    rotate_by_hadamard<kC>(x, a.hadamard_scale);
    if (a.rotated != nullptr) store_row<kC>(a.rotated + row * kC, x);
    insert_index_row<kC>(a.entries + row * IndexRow<kC>::bytes, x);
  } else {
    insert_row<kC, kRope>(a.entries + row * KvRow<kC, kRope>::bytes, x);
  }
}

// A row of the state after the call. With overlap the first half of the rows is the last complete
// group, and the rest, as all of it without overlap, the latest token of each slot.
template <bool kOverlap, int kC>
DSV4_DEVICE void update_state(const CompressorArgs& a, int row) {
  constexpr int kW = kOverlap ? 2 * kC : kC;
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

DSV4_BOTH int completed_entries(const CompressorArgs& a) {
  return (a.start + a.tokens) / a.ratio - a.start / a.ratio;
}
DSV4_BOTH int state_rows(const CompressorArgs& a, bool overlap) {
  return overlap ? 2 * a.ratio : a.ratio;
}

// Grid: the entries that the call completes, then the rows of the state.
template <bool kOverlap, bool kIndexing, int kC, int kRope>
DSV4_DEVICE void compress(const CompressorArgs& a) {
  auto& shared = isa::static_shared<PooledRow<kC>, 200>();
  const int row = isa::block_x();
  if (row >= completed_entries(a)) {
    update_state<kOverlap, kC>(a, row - completed_entries(a));
    return;
  }
  const int entry = a.start / a.ratio + row;
  for (int c = isa::thread(); c < kC; c += isa::threads()) {
    PartialPool p;
    if constexpr (kOverlap) {
      p = pool_overlapping<kC>(a, entry, c);
    } else {
      p = pool_group<kC>(a, entry, c, 0, 1);
    }
    const float pooled = isa::div(p.weighted, p.sum);
    if (a.pooled != nullptr) isa::st_global(a.pooled + row * kC + c, pooled);
    isa::st_shared(shared.v + c, isa::round_bf16(pooled));
  }
  isa::sync();
  if (isa::warp() == 0) finish_entry<kIndexing, kC, kRope>(a, shared, row);
}

}  // namespace dsv4::kernels
