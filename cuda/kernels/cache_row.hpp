// SPDX-License-Identifier: Apache-2.0
// How a row of the caches lies in memory.
//
// Attention: c - r_d codes E4M3, r_d numbers BF16, one E8M0 byte per 64 codes, padded to 8 bytes:
//   (c - r_d) + 2 r_d + 8 ceil((c - r_d) / 512)            584 bytes at c = 512, r_d = 64
// Indexer: j codes E2M1, two a byte, one E8M0 byte per 32, padded to 4 bytes:
//   j / 2 + 4 ceil(j / 128)                                 68 bytes at j = 128
#pragma once

#include "cuda/isa/types.hpp"

namespace dsv4::kernels {

template <int kC, int kRope>
struct KvRow {
  static_assert((kC - kRope) % 64 == 0 && kRope % 2 == 0);
  static constexpr int plain = kC - kRope;  // dims that are quantised
  static constexpr int rope_at = plain;     // bytes
  static constexpr int scales_at = plain + 2 * kRope;
  static constexpr int bytes = scales_at + (plain / 64 + 7) / 8 * 8;
};
static_assert(KvRow<512, 64>::bytes == 584);

template <int kJ>
struct IndexRow {
  static_assert(kJ % 32 == 0);
  static constexpr int scales_at = kJ / 2;
  static constexpr int bytes = scales_at + (kJ / 32 + 3) / 4 * 4;
};
static_assert(IndexRow<128>::bytes == 68);

}  // namespace dsv4::kernels
