// SPDX-License-Identifier: Apache-2.0
// Rotary embedding and the insertion of key/values into a cache: pieces that other kernels fuse,
// and the fused kernel of the attention's inputs. Reference: reference/rope, reference/attention.
//
// A warp per (token, slot): slot 0 is the key/value row (norm, RoPE, FP8 1x64, insert), slots 1…h
// are query heads (norm without a weight, RoPE). Lane l holds the pairs of elements 2(l + 32 i), so
// that a rotation needs nobody else. Naive: norm, RoPE, quantiser and copy as four launches.
#pragma once

#include "cuda/kernels/cache_row.hpp"
#include "cuda/kernels/quantize.hpp"

namespace dsv4::kernels {

// Pairs a lane holds of a row of kC.
template <int kC>
inline constexpr int kPairs = (kC / 2 + 31) / 32;

template <int kC>
struct WarpRow {
  float v[kPairs<kC>][2];
};

DSV4_DEVICE int pair_of(int i) { return isa::lane() + 32 * i; }

template <int kC>
DSV4_DEVICE WarpRow<kC> load_row(const isa::Bf16* row) {
  WarpRow<kC> x;
  const auto* words = reinterpret_cast<const std::uint32_t*>(row);
  DSV4_UNROLL
  for (int i = 0; i < kPairs<kC>; ++i) {
    const std::uint32_t u = pair_of(i) < kC / 2 ? isa::ld_stream(words + pair_of(i)) : 0U;
    x.v[i][0] = isa::low_bf16(u);
    x.v[i][1] = isa::high_bf16(u);
  }
  return x;
}

template <int kC>
DSV4_DEVICE void store_row(isa::Bf16* row, const WarpRow<kC>& x) {
  auto* words = reinterpret_cast<std::uint32_t*>(row);
  DSV4_UNROLL
  for (int i = 0; i < kPairs<kC>; ++i) {
    if (pair_of(i) < kC / 2)
      isa::st_global(words + pair_of(i), isa::pack_bf16(x.v[i][0], x.v[i][1]));
  }
}

// x * (1 / sqrt(mean(x^2) + eps)) * weight, stored in BF16.
template <int kC>
DSV4_DEVICE void norm_row(WarpRow<kC>& x, const float* weight, float eps) {
  float sum = 0;
  DSV4_UNROLL
  for (int i = 0; i < kPairs<kC>; ++i) {
    sum = isa::fma(x.v[i][0], x.v[i][0], sum);
    sum = isa::fma(x.v[i][1], x.v[i][1], sum);
  }
  const float r = isa::rsqrt_(isa::add(isa::div(warp_sum(sum), static_cast<float>(kC)), eps));
  DSV4_UNROLL
  for (int i = 0; i < kPairs<kC>; ++i) {
    if (pair_of(i) >= kC / 2) continue;
    for (int e = 0; e < 2; ++e) {
      const float w = isa::ld_global(weight + 2 * pair_of(i) + e);
      x.v[i][e] = isa::round_bf16(isa::mul(isa::mul(x.v[i][e], r), w));
    }
  }
}

// The query's norm: the official code stores BF16 after every operation.
template <int kC>
DSV4_DEVICE void norm_head(WarpRow<kC>& x, float eps) {
  float sum = 0;
  DSV4_UNROLL
  for (int i = 0; i < kPairs<kC>; ++i) {
    for (int e = 0; e < 2; ++e)
      sum = isa::add(sum, isa::round_bf16(isa::mul(x.v[i][e], x.v[i][e])));
  }
  const float mean = isa::round_bf16(isa::div(warp_sum(sum), static_cast<float>(kC)));
  const float r = isa::round_bf16(isa::rsqrt_(isa::round_bf16(isa::add(mean, eps))));
  DSV4_UNROLL
  for (int i = 0; i < kPairs<kC>; ++i) {
    for (int e = 0; e < 2; ++e) x.v[i][e] = isa::round_bf16(isa::mul(x.v[i][e], r));
  }
}

// Turns the last kRope elements by position * frequency, the angle rounded to float32 as the
// official tables are; stored in BF16.
template <int kC, int kRope>
DSV4_DEVICE void rotate_row(WarpRow<kC>& x, const float* frequencies, int position) {
  DSV4_UNROLL
  for (int i = 0; i < kPairs<kC>; ++i) {
    const int pair = pair_of(i) - (kC - kRope) / 2;
    if (pair < 0 || pair >= kRope / 2) continue;
    const isa::SinCos t =
        isa::sin_cos(isa::mul(static_cast<float>(position), isa::ld_global(frequencies + pair)));
    const float re = x.v[i][0];
    const float im = x.v[i][1];
    x.v[i][0] = isa::round_bf16(isa::fma(re, t.cos, -isa::mul(im, t.sin)));
    x.v[i][1] = isa::round_bf16(isa::fma(re, t.sin, isa::mul(im, t.cos)));
  }
}

// Quantises the first c - r_d elements and writes the row of the cache. A block of 64 elements is
// one row of 32 pairs: i counts the blocks.
template <int kC, int kRope>
DSV4_DEVICE void insert_row(std::uint8_t* to, const WarpRow<kC>& x) {
  using Row = KvRow<kC, kRope>;
  DSV4_UNROLL
  for (int i = 0; i < kPairs<kC>; ++i) {
    if (i < Row::plain / 64) {
      const float amax = warp_max(isa::max(isa::abs(x.v[i][0]), isa::abs(x.v[i][1])));
      const std::uint8_t scale = scale_code<Fp8>(amax);
      for (int e = 0; e < 2; ++e) {
        isa::st_global(to + 2 * pair_of(i) + e, code_of<Fp8>(x.v[i][e], scale));
      }
      if (isa::lane() == 0) isa::st_global(to + Row::scales_at + i, scale);
    } else if (pair_of(i) < kC / 2) {
      auto* rope = reinterpret_cast<std::uint32_t*>(to + Row::rope_at);
      isa::st_global(rope + pair_of(i) - Row::plain / 2, isa::pack_bf16(x.v[i][0], x.v[i][1]));
    }
  }
}

struct AttentionInputArgs {
  const isa::Bf16* q;        // [s, h, c]
  const isa::Bf16* kv;       // [s, c]
  const float* kv_weight;    // [c]
  const float* frequencies;  // [r_d/2]
  isa::Bf16* q_out;          // [s, h, c]
  std::uint8_t* cache;       // rows of KvRow bytes; token t goes to row (start + t) % window
  int heads;
  int tokens;
  int start;  // position of token 0
  int window;
  float eps;
  // What is fused away, for whoever checks; null otherwise.
  isa::Bf16* q_normed;   // [s, h, c]
  isa::Bf16* kv_normed;  // [s, c]
  isa::Bf16* kv_roped;   // [s, c]
};

// Grid: tokens x blocks of warps over 1 + h slots.
template <int kC, int kRope>
DSV4_DEVICE void attention_inputs(const AttentionInputArgs& a) {
  const int token = isa::block_x();
  const int slot = isa::block_y() * (isa::threads() / 32) + isa::warp();
  if (slot > a.heads) return;
  if (slot == 0) {
    WarpRow<kC> x = load_row<kC>(a.kv + token * kC);
    norm_row<kC>(x, a.kv_weight, a.eps);
    if (a.kv_normed != nullptr) store_row<kC>(a.kv_normed + token * kC, x);
    rotate_row<kC, kRope>(x, a.frequencies, a.start + token);
    if (a.kv_roped != nullptr) store_row<kC>(a.kv_roped + token * kC, x);
    if (token + a.window < a.tokens) return;  // a later token of this call takes its place
    insert_row<kC, kRope>(a.cache + (a.start + token) % a.window * KvRow<kC, kRope>::bytes, x);
    return;
  }
  const int at = (token * a.heads + slot - 1) * kC;
  WarpRow<kC> x = load_row<kC>(a.q + at);
  norm_head<kC>(x, a.eps);
  if (a.q_normed != nullptr) store_row<kC>(a.q_normed + at, x);
  rotate_row<kC, kRope>(x, a.frequencies, a.start + token);
  store_row<kC>(a.q_out + at, x);
}

}  // namespace dsv4::kernels
