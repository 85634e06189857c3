// SPDX-License-Identifier: Apache-2.0
// The router: scores sqrt(softplus(logit)), the top k of score + bias (the lower number among
// equals) or the token's hash, weights normalised over the chosen. Reference: reference/gate.
//
// A warp per token, scores in registers; k rounds of a maximum over the warp. Naive: a sort in
// global memory. Latency, not bytes, is what it costs: one launch, k * 5 shuffles.
#pragma once

#include "cuda/kernels/reduce.hpp"

namespace dsv4::kernels {

struct GateArgs {
  const float* logits;          // [s, x]
  const float* bias;            // [x]; scored layers
  const std::int32_t* tid2eid;  // [vocab, k]; hash layers, else null
  const std::int32_t* ids;      // [s]; hash layers
  float* scores;                // [s, x]; null: nobody looks
  std::int32_t* indices;        // [s, k]
  float* weights;               // [s, k]
  int tokens, experts, k;       // experts at most 32 kEach
  float route_scale;
};

// log(1 + t), 0 <= t <= 1: the rounding of 1 + t is taken out again.
DSV4_DEVICE float log1p_(float t) {
  const float u = isa::add(1.0F, t);
  if (u == 1.0F) return t;
  return isa::mul(isa::mul(isa::log2_(u), 0.693147182F), isa::div(t, isa::sub(u, 1.0F)));
}

DSV4_DEVICE float sqrt_softplus(float x) {
  if (x > 20.0F) return isa::sqrt(x);
  const float tail = log1p_(isa::exp_(-isa::abs(x)));
  return isa::sqrt(isa::add(isa::max(x, 0.0F), tail));
}

struct Best {
  float value;
  int index;
};
inline constexpr int kNobody = 0x7FFFFFFF;  // behind every expert

// The larger value; among equals the lower index.
DSV4_DEVICE Best better(Best a, Best b) {
  const bool second = b.value > a.value || (b.value == a.value && b.index < a.index);
  return second ? b : a;
}

DSV4_DEVICE Best warp_best(Best b) {
  DSV4_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    b = better(b, {isa::shuffle_xor(b.value, mask), isa::shuffle_xor(b.index, mask)});
  }
  return b;
}

// Lane l holds experts l, l + 32, … A NaN counts as -infinity: the first untaken expert stands in
// for the lane until a number is above it, so that a token without numbers has experts too.
template <int kEach>
DSV4_DEVICE int choose(const GateArgs& a, const float (&score)[kEach], std::uint32_t& taken) {
  Best best{-isa::infinity(), kNobody};
  DSV4_UNROLL
  for (int i = 0; i < kEach; ++i) {
    const int expert = isa::lane() + 32 * i;
    if (expert >= a.experts || (taken >> i & 1U) != 0) continue;
    if (best.index == kNobody) best.index = expert;
    best = better(best, {isa::add(score[i], isa::ld_global(a.bias + expert)), expert});
  }
  const int chosen = warp_best(best).index;
  if (chosen % 32 == isa::lane()) taken |= 1U << (chosen / 32);
  return chosen;
}

template <int kEach>
DSV4_DEVICE void gate(const GateArgs& a) {
  const int token = isa::block_x() * (isa::threads() / 32) + isa::warp();
  if (token >= a.tokens) return;
  float score[kEach];
  DSV4_UNROLL
  for (int i = 0; i < kEach; ++i) {
    const int expert = isa::lane() + 32 * i;
    score[i] = 0;
    if (expert >= a.experts) continue;
    score[i] = sqrt_softplus(isa::ld_stream(a.logits + token * a.experts + expert));
    if (a.scores != nullptr) isa::st_global(a.scores + token * a.experts + expert, score[i]);
  }
  // Lane j keeps choice j and computes its score again: registers cannot be indexed at run time.
  int mine = 0;
  if (a.tid2eid != nullptr) {
    if (isa::lane() < a.k) {
      mine = isa::ld_global(a.tid2eid + isa::ld_global(a.ids + token) * a.k + isa::lane());
    }
  } else {
    std::uint32_t taken = 0;
    for (int j = 0; j < a.k; ++j) {
      const int chosen = choose<kEach>(a, score, taken);
      if (isa::lane() == j) mine = chosen;
    }
  }
  const float weight = sqrt_softplus(isa::ld_global(a.logits + token * a.experts + mine));
  float sum = 0;
  for (int j = 0; j < a.k; ++j) sum = isa::add(sum, isa::shuffle(weight, j));
  if (isa::lane() < a.k) {
    const int at = token * a.k + isa::lane();
    isa::st_global(a.indices + at, mine);
    isa::st_global(a.weights + at, isa::mul(weight, isa::div(a.route_scale, sum)));
  }
}

}  // namespace dsv4::kernels
