// SPDX-License-Identifier: Apache-2.0
// Hyper-connections on clusters of blocks (sm_90 and later), for one token as for thousands.
//
// Plain: mhc of mhc.hpp, a block per token; each reads all of fn, 1.6 MB, from L2. Here a cluster
// takes 16 tokens at a time, and each of its blocks a slice of the columns. The slice of fn stays
// in shared memory for all tokens. The new rows stay in registers, in the order in which the tensor
// cores want them. Sums of warps and blocks meet at the block that owns the token, whose weights go
// back to all. Products are exact: a BF16 is a TF32, and an fp32 of fn is the sum of three. Bound
// by memory: 20 d bytes a token (n = 4).
#pragma once

#include "cuda/kernels/mhc.hpp"

namespace dsv4::kernels {

inline constexpr int kMhcTokens = 16;   // rows of a fragment
inline constexpr int kMhcColumns = 32;  // of each stream, that a warp takes

template <int kN>
struct MhcSizes {
  static constexpr int mixes = (2 + kN) * kN;
  static constexpr int tiles = (mixes + 7) / 8;
  static constexpr int sums = mixes + 1;  // the last one: squares
  // Dynamic shared memory: fn, 16 bytes a lane for every warp, stream, tile and half; then the sums
  // of every warp and token.
  static constexpr int fn_bytes = kN * tiles * 2 * 32 * 16;
  static constexpr int warp_bytes = fn_bytes + kMhcTokens * sums * 4;
};

template <int kN>
struct MhcShared16 {
  float inbox[kMhcTokens][MhcSizes<kN>::sums];   // of every block, for the tokens that are ours
  float mixes[kMhcTokens][MhcSizes<kN>::mixes];  // of the tokens that are ours
  float pre[kMhcTokens][kN];                     // of all tokens
};

// What a lane holds of 16 tokens: rows lane / 4 and lane / 4 + 8, eight columns, two a word.
template <int kN>
struct MhcRows {
  isa::Words4 y[2];
  isa::Words4 x[2][kN];
};

DSV4_DEVICE int mhc_token(int group, int half) {
  return group * kMhcTokens + isa::lane() / 4 + 8 * half;
}
DSV4_DEVICE const isa::Words4* words(const isa::Bf16* p) {
  return reinterpret_cast<const isa::Words4*>(p);
}
DSV4_DEVICE isa::Words4* words(isa::Bf16* p) { return reinterpret_cast<isa::Words4*>(p); }

// Rows behind the last token are those of the last token, and never stored.
template <int kN>
DSV4_DEVICE MhcRows<kN> load_rows(const MhcArgs& a, int group, int column) {
  MhcRows<kN> rows;
  DSV4_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int token = isa::min(mhc_token(group, h), a.tokens - 1);
    if (a.y != nullptr) rows.y[h] = isa::ld_stream(words(a.y + token * a.d + column));
    DSV4_UNROLL
    for (int k = 0; k < kN; ++k) {
      rows.x[h][k] = isa::ld_stream(words(a.streams + (token * kN + k) * a.d + column));
    }
  }
  return rows;
}

// Memory is read while the cluster works on the rows before.
template <int kN>
DSV4_DEVICE void prefetch_rows(const MhcArgs& a, int group, int column) {
  DSV4_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int token = mhc_token(group, h);
    if (token >= a.tokens) continue;
    if (a.y != nullptr) isa::prefetch(a.y + token * a.d + column);
    for (int k = 0; k < kN; ++k) isa::prefetch(a.streams + (token * kN + k) * a.d + column);
  }
}

// X'[k] = post_k y + sum_i comb[i,k] X[i], stored and kept.
template <int kN>
DSV4_DEVICE void post_rows(const MhcArgs& a, int group, int column, MhcRows<kN>& rows) {
  DSV4_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int token = isa::min(mhc_token(group, h), a.tokens - 1);
    float post[kN];
    float comb[kN][kN];
    DSV4_UNROLL
    for (int k = 0; k < kN; ++k) {
      post[k] = isa::ld_global(a.post + token * kN + k);
      DSV4_UNROLL
      for (int i = 0; i < kN; ++i) comb[k][i] = isa::ld_global(a.comb + (token * kN + k) * kN + i);
    }
    DSV4_UNROLL
    for (int s = 0; s < 4; ++s) {
      std::uint32_t next[kN];
      DSV4_UNROLL
      for (int k = 0; k < kN; ++k) {
        float low = isa::mul(post[k], isa::low_bf16(rows.y[h].w[s]));
        float high = isa::mul(post[k], isa::high_bf16(rows.y[h].w[s]));
        DSV4_UNROLL
        for (int i = 0; i < kN; ++i) {
          low = isa::fma(comb[i][k], isa::low_bf16(rows.x[h][i].w[s]), low);
          high = isa::fma(comb[i][k], isa::high_bf16(rows.x[h][i].w[s]), high);
        }
        next[k] = isa::pack_bf16(low, high);
      }
      DSV4_UNROLL
      for (int k = 0; k < kN; ++k) rows.x[h][k].w[s] = next[k];
    }
    if (mhc_token(group, h) >= a.tokens) continue;
    DSV4_UNROLL
    for (int k = 0; k < kN; ++k) {
      isa::st_stream(words(a.out + (token * kN + k) * a.d + column), rows.x[h][k]);
    }
  }
}

// ---- products -------------------------------------------------------------------------------

// A lane's part of fn, in the order in which multiply_rows reads it: nobody else touches it.
template <int kN>
DSV4_DEVICE isa::Words4* fn_words(isa::Words4* fn, int k, int tile, int half) {
  constexpr int kTiles = MhcSizes<kN>::tiles;
  return fn + (((isa::warp() * kN + k) * kTiles + tile) * 2 + half) * 32 + isa::lane();
}

template <int kN>
DSV4_DEVICE void keep_fn(const MhcArgs& a, int column, isa::Words4* fn) {
  DSV4_UNROLL
  for (int k = 0; k < kN; ++k) {
    for (int tile = 0; tile < MhcSizes<kN>::tiles; ++tile) {
      const int mix = 8 * tile + isa::lane() / 4;
      for (int half = 0; half < 2; ++half) {
        isa::Words4 v{};
        if (mix < MhcSizes<kN>::mixes) {
          const float* from = a.fn + (mix * kN + k) * a.d + column + 4 * half;
          v = isa::ld_global(reinterpret_cast<const isa::Words4*>(from));
        }
        isa::st_shared(fn_words<kN>(fn, k, tile, half), v);
      }
    }
  }
}

// An fp32 as the sum of three TF32, of 11 significant bits each.
struct Tf32Parts {
  std::uint32_t part[3];
};
DSV4_DEVICE Tf32Parts split_tf32(std::uint32_t bits) {
  Tf32Parts p;
  DSV4_UNROLL
  for (int i = 0; i < 3; ++i) {
    p.part[i] = bits & 0xFFFFE000U;
    bits = isa::to_bits(isa::sub(isa::from_bits(bits), isa::from_bits(p.part[i])));
  }
  return p;
}

// d[token, mix] += X' fn^T over the warp's columns. Columns t and t + 4 of a fragment are columns
// 2s and 2s + 1 of lane t's eight.
template <int kN>
DSV4_DEVICE void multiply_rows(const MhcRows<kN>& rows, isa::Words4* fn,
                               float (&d)[MhcSizes<kN>::tiles][4]) {
  DSV4_UNROLL
  for (int k = 0; k < kN; ++k) {
    DSV4_UNROLL
    for (int tile = 0; tile < MhcSizes<kN>::tiles; ++tile) {
      DSV4_UNROLL
      for (int half = 0; half < 2; ++half) {
        const isa::Words4 f = isa::ld_shared(fn_words<kN>(fn, k, tile, half));
        DSV4_UNROLL
        for (int s = 0; s < 2; ++s) {
          const std::uint32_t top = rows.x[0][k].w[2 * half + s];
          const std::uint32_t bottom = rows.x[1][k].w[2 * half + s];
          const std::uint32_t left[4] = {top << 16, bottom << 16, top & 0xFFFF0000U,
                                         bottom & 0xFFFF0000U};
          const Tf32Parts even = split_tf32(f.w[2 * s]);
          const Tf32Parts odd = split_tf32(f.w[2 * s + 1]);
          DSV4_UNROLL
          for (int i = 0; i < 3; ++i) isa::mma_tf32(d[tile], left, even.part[i], odd.part[i]);
        }
      }
    }
  }
}

template <int kN>
DSV4_DEVICE float square_rows(const isa::Words4 (&x)[kN]) {
  float sum = 0;
  DSV4_UNROLL
  for (int k = 0; k < kN; ++k) {
    DSV4_UNROLL
    for (int s = 0; s < 4; ++s) {
      const std::uint32_t pair = x[k].w[s];
      const float low = isa::low_bf16(pair);
      const float high = isa::high_bf16(pair);
      sum = isa::fma(high, high, isa::fma(low, low, sum));
    }
  }
  sum = isa::add(sum, isa::shuffle_xor(sum, 1));
  return isa::add(sum, isa::shuffle_xor(sum, 2));
}

// A warp's sums over its columns to shared memory, [token][sum].
template <int kN>
DSV4_DEVICE void store_sums(const float (&d)[MhcSizes<kN>::tiles][4], const MhcRows<kN>& rows,
                            float* part) {
  constexpr int kSums = MhcSizes<kN>::sums;
  float* mine = part + isa::warp() * kMhcTokens * kSums;
  DSV4_UNROLL
  for (int tile = 0; tile < MhcSizes<kN>::tiles; ++tile) {
    DSV4_UNROLL
    for (int r = 0; r < 4; ++r) {
      const isa::Place at = isa::mma_d(isa::lane(), r);
      const int mix = 8 * tile + at.column;
      if (mix < kSums - 1) isa::st_shared(mine + at.row * kSums + mix, d[tile][r]);
    }
  }
  DSV4_UNROLL
  for (int h = 0; h < 2; ++h) {
    const float squares = square_rows<kN>(rows.x[h]);
    if (isa::lane() % 4 == 0) {
      isa::st_shared(mine + (isa::lane() / 4 + 8 * h) * kSums + kSums - 1, squares);
    }
  }
}

// Sums over the warps go to the block that owns the token: token % blocks.
template <int kN>
DSV4_DEVICE void send_sums(const float* part, MhcShared16<kN>& shared) {
  constexpr int kSums = MhcSizes<kN>::sums;
  const int blocks = isa::cluster_size();
  for (int v = isa::thread(); v < kMhcTokens * kSums; v += isa::threads()) {
    float sum = isa::ld_shared(part + v);
    for (int w = 1; w < isa::threads() / 32; ++w) {
      sum = isa::add(sum, isa::ld_shared(part + w * kMhcTokens * kSums + v));
    }
    const int row = v / kSums;
    const int place = isa::cluster_rank() * (kMhcTokens / blocks) + row / blocks;
    isa::st_cluster(&shared.inbox[place][v % kSums], row % blocks, sum);
  }
}

// From the blocks' sums of one token to its weights, by one warp of its owner.
template <int kN>
DSV4_DEVICE void weigh_token(const MhcArgs& a, int token, int row, MhcShared16<kN>& shared) {
  constexpr int kSums = MhcSizes<kN>::sums;
  const int blocks = isa::cluster_size();
  const int each = kMhcTokens / blocks;
  const auto sum_of = [&](int i) {
    float sum = isa::ld_shared(&shared.inbox[row / blocks][i]);
    for (int b = 1; b < blocks; ++b) {
      sum = isa::add(sum, isa::ld_shared(&shared.inbox[b * each + row / blocks][i]));
    }
    return sum;
  };
  const float mean = isa::div(sum_of(kSums - 1), static_cast<float>(kN * a.d));
  const float r = isa::rsqrt_(isa::add(mean, a.norm_eps));
  for (int m = isa::lane(); m < kSums - 1; m += 32) {
    const float mix = isa::mul(sum_of(m), r);
    isa::st_shared(&shared.mixes[row][m], mix);
    isa::st_global(a.mixes + token * (kSums - 1) + m, mix);
  }
  isa::sync_warp();
  mhc_weights<kN>(a, token, shared.mixes[row], shared.pre[row]);
  isa::sync_warp();
  for (int v = isa::lane(); v < blocks * kN; v += 32) {
    const int block = v / kN;
    if (block == isa::cluster_rank()) continue;
    isa::st_cluster(&shared.pre[row][v % kN], block, isa::ld_shared(&shared.pre[row][v % kN]));
  }
}

// x = sum_k pre_k X'[k]
template <int kN>
DSV4_DEVICE void collapse_rows(const MhcArgs& a, int group, int column, const MhcRows<kN>& rows,
                               const MhcShared16<kN>& shared) {
  DSV4_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int token = mhc_token(group, h);
    if (token >= a.tokens) continue;
    float pre[kN];
    DSV4_UNROLL
    for (int k = 0; k < kN; ++k) pre[k] = isa::ld_shared(&shared.pre[isa::lane() / 4 + 8 * h][k]);
    isa::Words4 out;
    DSV4_UNROLL
    for (int s = 0; s < 4; ++s) {
      float low = 0;
      float high = 0;
      DSV4_UNROLL
      for (int k = 0; k < kN; ++k) {
        const std::uint32_t pair = isa::opaque(rows.x[h][k].w[s]);
        low = isa::fma(pre[k], isa::low_bf16(pair), low);
        high = isa::fma(pre[k], isa::high_bf16(pair), high);
      }
      out.w[s] = isa::pack_bf16(low, high);
    }
    isa::st_stream(words(a.x + token * a.d + column), out);
  }
}

// Clusters of 1, 2, 4, 8 or 16 blocks; columns: blocks x warps x 32 = d. Any number of clusters.
template <int kN>
DSV4_DEVICE void mhc_cluster(const MhcArgs& a) {
  auto* fn = isa::dynamic_shared<isa::Words4>();
  auto* part = isa::dynamic_shared<float>() + isa::threads() / 32 * (MhcSizes<kN>::fn_bytes / 4);
  auto& shared = isa::static_shared<MhcShared16<kN>, 110>();
  const int blocks = isa::cluster_size();
  const int clusters = isa::grid_x() / blocks;
  const int groups = (a.tokens + kMhcTokens - 1) / kMhcTokens;
  const int warp = isa::cluster_rank() * (isa::threads() / 32) + isa::warp();
  const int column = warp * kMhcColumns + isa::lane() % 4 * 8;
  int group = isa::block_x() / blocks;
  keep_fn<kN>(a, column, fn);
  isa::cluster_sync();  // all blocks have begun: their memory may be written
  for (; group < groups; group += clusters) {
    MhcRows<kN> rows = load_rows<kN>(a, group, column);
    prefetch_rows<kN>(a, group + clusters, column);
    if (a.y != nullptr) post_rows<kN>(a, group, column, rows);
    float d[MhcSizes<kN>::tiles][4] = {};
    multiply_rows<kN>(rows, fn, d);
    store_sums<kN>(d, rows, part);
    isa::sync();
    send_sums<kN>(part, shared);
    isa::cluster_sync();
    for (int row = isa::cluster_rank() + isa::warp() * blocks; row < kMhcTokens;
         row += isa::threads() / 32 * blocks) {
      const int token = group * kMhcTokens + row;
      if (token < a.tokens) weigh_token<kN>(a, token, row, shared);
    }
    isa::cluster_sync();
    collapse_rows<kN>(a, group, column, rows, shared);
  }
}

}  // namespace dsv4::kernels
