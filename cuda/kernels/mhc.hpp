// SPDX-License-Identifier: Apache-2.0
// Hyper-connections: the end of one sublayer and the start of the next in one pass over the
// streams. post: X'[k] = post_k y + sum_j comb[j,k] X[j], stored in BF16; pre: mixes, Sinkhorn, x =
// sum A_k X'[k]. Reference: reference/mhc (hc_post, hc_pre).
//
// Naive: six launches, each reading or writing the n*d row. Here: a block per token; the new row
// stays in shared memory, the (2+n)n dot products and the sum of squares are made while it is
// written, and the n x n matrix of Sinkhorn lives in registers, a row a lane. Bound by memory: 20 d
// bytes a token (n = 4); but every block reads fn from L2: mhc_cluster.hpp does not.
#pragma once

#include "cuda/kernels/reduce.hpp"

namespace dsv4::kernels {

struct MhcArgs {
  // post: null `y` means that there is none and the streams are read as they are.
  const isa::Bf16* y;        // [s, d]
  const isa::Bf16* streams;  // [s, n, d]
  const float* post;         // [s, n]
  const float* comb;         // [s, n, n], [from, to]
  isa::Bf16* out;            // [s, n, d]
  // pre: null `fn` means that there is none.
  const float* fn;     // [(2+n)n, n*d]
  const float* base;   // [(2+n)n]
  const float* scale;  // [3]
  float* mixes;        // [s, (2+n)n]
  float* pre;          // [s, n]
  float* next_post;    // [s, n]
  float* next_comb;    // [s, n, n]
  isa::Bf16* x;        // [s, d]
  int d, tokens;
  int iterations;
  float norm_eps, hc_eps;
};

// c = softmax(row) + eps, columns, then (iterations - 1) x (rows, columns). Lane k of the warp
// holds row k in registers; what the lanes behind the last row hold is not used.
template <int kN>
DSV4_DEVICE void sinkhorn(float (&row)[kN], int iterations, float eps) {
  float m = row[0];
  DSV4_UNROLL
  for (int k = 1; k < kN; ++k) m = isa::max(m, row[k]);
  float sum = 0;
  DSV4_UNROLL
  for (int k = 0; k < kN; ++k) {
    row[k] = isa::exp_(isa::sub(row[k], m));
    sum = isa::add(sum, row[k]);
  }
  DSV4_UNROLL
  for (int k = 0; k < kN; ++k) row[k] = isa::add(isa::div(row[k], sum), eps);
  for (int t = 0; t < iterations; ++t) {
    if (t > 0) {
      float whole = 0;
      DSV4_UNROLL
      for (int k = 0; k < kN; ++k) whole = isa::add(whole, row[k]);
      whole = isa::add(whole, eps);
      DSV4_UNROLL
      for (int k = 0; k < kN; ++k) row[k] = isa::div(row[k], whole);
    }
    DSV4_UNROLL
    for (int k = 0; k < kN; ++k) {
      float column = 0;
      DSV4_UNROLL
      for (int i = 0; i < kN; ++i) column = isa::add(column, isa::shuffle(row[k], i));
      row[k] = isa::div(row[k], isa::add(column, eps));
    }
  }
}

// One column of all streams after the sublayer, stored and kept in shared memory.
template <int kN>
DSV4_DEVICE void mhc_column(const MhcArgs& a, int token, int j, isa::Bf16* row, float (&x)[kN]) {
  DSV4_UNROLL
  for (int k = 0; k < kN; ++k) {
    x[k] = isa::to_float(isa::ld_stream(a.streams + (token * kN + k) * a.d + j));
  }
  if (a.y != nullptr) {
    const float y = isa::to_float(isa::ld_stream(a.y + token * a.d + j));
    float next[kN];
    DSV4_UNROLL
    for (int k = 0; k < kN; ++k) {
      next[k] = isa::mul(isa::ld_global(a.post + token * kN + k), y);
      DSV4_UNROLL
      for (int i = 0; i < kN; ++i) {
        next[k] = isa::fma(isa::ld_global(a.comb + (token * kN + i) * kN + k), x[i], next[k]);
      }
    }
    DSV4_UNROLL
    for (int k = 0; k < kN; ++k) {
      const isa::Bf16 stored = isa::to_bf16(next[k]);
      isa::st_stream(a.out + (token * kN + k) * a.d + j, stored);
      x[k] = isa::to_float(stored);  // the next sublayer reads what was stored
    }
  }
  DSV4_UNROLL
  for (int k = 0; k < kN; ++k) isa::st_shared(row + k * a.d + j, isa::to_bf16(x[k]));
}

// From the mixes to pre, post and comb: one warp, lane k for stream k.
template <int kN>
DSV4_DEVICE void mhc_weights(const MhcArgs& a, int token, const float* mixes, float* pre) {
  const int k = isa::min(isa::lane(), kN - 1);
  const auto logit = [&](int i, int part) {
    return isa::fma(isa::ld_shared(mixes + i), isa::ld_global(a.scale + part),
                    isa::ld_global(a.base + i));
  };
  const float p = isa::add(isa::sigmoid(logit(k, 0)), a.hc_eps);
  const float post = isa::mul(2.0F, isa::sigmoid(logit(kN + k, 1)));
  float row[kN];
  DSV4_UNROLL
  for (int j = 0; j < kN; ++j) row[j] = logit(2 * kN + k * kN + j, 2);
  sinkhorn<kN>(row, a.iterations, a.hc_eps);
  if (isa::lane() >= kN) return;
  isa::st_shared(pre + k, p);
  isa::st_global(a.pre + token * kN + k, p);
  isa::st_global(a.next_post + token * kN + k, post);
  DSV4_UNROLL
  for (int j = 0; j < kN; ++j) isa::st_global(a.next_comb + (token * kN + k) * kN + j, row[j]);
}

template <int kN>
struct MhcShared {
  float mixes[(2 + kN) * kN];
  float pre[kN];
};

// Dynamic shared memory: n * d BF16.
template <int kN>
DSV4_DEVICE void mhc(const MhcArgs& a) {
  constexpr int kMixes = (2 + kN) * kN;
  auto* row = isa::dynamic_shared<isa::Bf16>();
  auto& shared = isa::static_shared<MhcShared<kN>, 100>();
  const int token = isa::block_x();
  float sums[kMixes + 1] = {};  // the last one: squares
  for (int j = isa::thread(); j < a.d; j += isa::threads()) {
    float x[kN];
    mhc_column<kN>(a, token, j, row, x);
    if (a.fn == nullptr) continue;
    DSV4_UNROLL
    for (int k = 0; k < kN; ++k) {
      DSV4_UNROLL
      for (int m = 0; m < kMixes; ++m) {
        sums[m] = isa::fma(isa::ld_global(a.fn + (m * kN + k) * a.d + j), x[k], sums[m]);
      }
      sums[kMixes] = isa::fma(x[k], x[k], sums[kMixes]);
    }
  }
  if (a.fn == nullptr) return;
  block_sum<kMixes + 1, 101>(sums);
  if (isa::warp() == 0) {
    const float mean = isa::div(sums[kMixes], static_cast<float>(kN * a.d));
    const float r = isa::rsqrt_(isa::add(mean, a.norm_eps));
    DSV4_UNROLL
    for (int m = 0; m < kMixes; ++m) {
      if (m % 32 != isa::lane()) continue;
      const float mix = isa::mul(sums[m], r);
      isa::st_shared(shared.mixes + m, mix);
      isa::st_global(a.mixes + token * kMixes + m, mix);
    }
    isa::sync_warp();
    mhc_weights<kN>(a, token, shared.mixes, shared.pre);
  }
  isa::sync();
  for (int j = isa::thread(); j < a.d; j += isa::threads()) {
    float x = 0;
    DSV4_UNROLL
    for (int k = 0; k < kN; ++k) {
      x = isa::fma(isa::ld_shared(shared.pre + k), isa::to_float(isa::ld_shared(row + k * a.d + j)),
                   x);
    }
    isa::st_global(a.x + token * a.d + j, isa::to_bf16(x));
  }
}

}  // namespace dsv4::kernels
