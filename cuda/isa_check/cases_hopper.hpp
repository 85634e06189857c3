// SPDX-License-Identifier: Apache-2.0
// sm_90a: mbarriers, TMA, wgmma, setmaxnreg, clusters. Compiled for nothing older.
#pragma once

#include "cuda/isa_check/cases_core.hpp"

namespace dsv4::isa_check {

struct Bars {
  std::uint64_t full, empty;
};

DSV4_DEVICE Bars& bars(std::uint32_t full, std::uint32_t empty) {
  Bars& b = isa::static_shared<Bars>();
  if (isa::thread() == 0) {
    isa::mbarrier_init(&b.full, full);
    isa::mbarrier_init(&b.empty, empty);
    isa::fence_barrier_init();
  }
  isa::sync();
  return b;
}

#define DSV4_HOPPER(NAME, FIELDS) DSV4_CASE(NAME, static constexpr int architecture = 90; FIELDS)

// Warp 0 writes, the others read, twice, ordered by two mbarriers alone.
DSV4_HOPPER(mbarrier, static constexpr int out = 192;) {
  auto* shared = isa::dynamic_shared<std::uint32_t>();
  Bars& b = bars(32, 96);
  for (int round = 0; round < 2; ++round) {
    if (isa::warp() == 0) {
      if (round > 0) isa::mbarrier_wait(&b.empty, round - 1);
      isa::st_shared(shared + isa::lane(), isa::ld_global(a.in + 32 * round + isa::lane()));
      isa::mbarrier_arrive(&b.full);
    } else {
      isa::mbarrier_wait(&b.full, round);
      const std::uint32_t v = isa::ld_shared(shared + (isa::thread() * 11 & 31));
      isa::mbarrier_arrive(&b.empty);
      isa::st_global(a.out + round * 96 + isa::thread() - 32, v);
    }
  }
}

// A swizzled box that hangs over the tensor's edge, as it lies in shared memory.
DSV4_HOPPER(tma_load, static constexpr int out = 256;) {
  auto* tile = isa::dynamic_shared<std::uint32_t>();
  Bars& b = bars(1, 1);
  if (isa::thread() == 0) {
    isa::mbarrier_expect(&b.full, 1024);
    isa::tma_load(tile, a.maps, 48, 11, &b.full);
  }
  isa::mbarrier_wait(&b.full, 0);
  for (int i = isa::thread(); i < 256; i += 128) {
    isa::st_global(a.out + i, isa::ld_shared(tile + i));
  }
}

DSV4_HOPPER(tma_store, ) {
  auto* tile = isa::dynamic_shared<std::uint32_t>();
  for (int i = isa::thread(); i < 1024; i += 128) isa::st_global(a.out + i, 0U);
  for (int i = isa::thread(); i < 256; i += 128) {
    isa::st_shared(tile + i, isa::ld_global(a.in + i));
  }
  isa::fence_async_proxy_global();  // the zeros
  isa::fence_async_proxy();         // the tile
  isa::sync();
  if (isa::thread() == 0) {
    isa::tma_store(a.maps + 1, 16, 5, tile);
    isa::tma_store_commit();
    isa::tma_store_wait<0>();
  }
}

DSV4_HOPPER(tma_multicast, static constexpr int out = 1024; static constexpr int blocks = 2;
            static constexpr int cluster = 2;) {
  auto* tile = isa::dynamic_shared<std::uint32_t>();
  Bars& b = bars(1, 1);
  if (isa::thread() == 0) isa::mbarrier_expect(&b.full, 2048);
  isa::cluster_sync();
  const int rank = isa::cluster_rank();
  if (isa::thread() == 0) {
    isa::tma_load_multicast(tile + 256 * rank, a.maps, 0, 8 * rank, &b.full, 3);
  }
  isa::mbarrier_wait(&b.full, 0);
  for (int i = isa::thread(); i < 512; i += 128) {
    isa::st_global(a.out + 512 * rank + i, isa::ld_shared(tile + i));
  }
  isa::cluster_sync();
}

DSV4_HOPPER(cluster_memory, static constexpr int out = 512; static constexpr int blocks = 2;
            static constexpr int cluster = 2;) {
  auto* mine = isa::dynamic_shared<std::uint32_t>();
  Bars& b = bars(128, 1);
  const int t = isa::thread(), rank = isa::cluster_rank();
  const std::uint32_t v = isa::ld_global(a.in + rank * 128 + t);
  isa::st_shared(mine + t, v);
  isa::cluster_sync();
  isa::st_global(a.out + rank * 128 + t, isa::ld_cluster(mine + (t ^ 3), rank ^ 1));
  isa::st_cluster(mine + 128 + t, rank ^ 1, v);
  isa::mbarrier_arrive_cluster(&b.full, rank ^ 1);
  isa::cluster_sync();
  isa::mbarrier_wait(&b.full, 0);
  isa::st_global(a.out + 256 + rank * 128 + t,
                 isa::ld_shared(mine + 128 + t) + static_cast<std::uint32_t>(isa::cluster_size()));
}

DSV4_HOPPER(setmaxnreg, static constexpr int threads = 256; static constexpr int out = 256;) {
  const int t = isa::thread();
  if (t < 128) {
    isa::set_max_registers_dec<40>();
    isa::st_global(a.out + t, isa::ld_global(a.in + t));
  } else {
    isa::set_max_registers_inc<152>();
    isa::st_global(a.out + t, isa::ld_global(a.in + t) * 3U);
  }
}

// Rows of 128 bytes: A 64 of them, B kN of them; the four parts of k one after the other.
template <int kN, bool kSwizzled, class Multiply>
DSV4_DEVICE void wgmma_chain(const Arguments& a, Multiply&& multiply) {
  auto* words = isa::dynamic_shared<std::uint32_t>();
  const int t = isa::thread();
  for (int i = t; i < (64 + kN) * 32; i += 128) {
    const int row = i / 32, chunk = i / 4 % 8, in_chunk = i % 4;
    // Swizzled rows; or 8 rows x 16 bytes contiguous, chunk after chunk.
    const int at = kSwizzled ? row * 32 + isa::swizzle128(row, chunk) * 4 + in_chunk
                             : row / 8 * 256 + chunk * 32 + row % 8 * 4 + in_chunk;
    isa::st_shared(words + at, isa::ld_global(a.in + i * 7 % 1024));
  }
  isa::fence_async_proxy();
  isa::sync();
  float d[kN / 2] = {};
  constexpr auto kKind = kSwizzled ? isa::Swizzle::bytes128 : isa::Swizzle::none;
  isa::wgmma_fence(d);
  DSV4_UNROLL
  for (int k = 0; k < 4; ++k) {
    const int step = kSwizzled ? 8 * k : 64 * k;  // words
    multiply(d, isa::wgmma_descriptor(words + step, 128, 1024, kKind),
             isa::wgmma_descriptor(words + 2048 + step, 128, 1024, kKind), k > 0);
  }
  isa::wgmma_commit();
  isa::wgmma_wait<0>(d);
  DSV4_UNROLL
  for (int i = 0; i < kN / 2; ++i) isa::st_global(a.out + t * (kN / 2) + i, canonical(d[i]));
}

#define DSV4_WGMMA_CASE(NAME, FILL, N, SWIZZLED, OPERATION)                                       \
  DSV4_HOPPER(NAME, static constexpr Fill fill = Fill::FILL; static constexpr int out = 64 * (N); \
              static constexpr int shared = 24576; static constexpr bool only_90a = true;) {      \
    wgmma_chain<N, SWIZZLED>(a, [](float(&d)[(N) / 2], isa::Descriptor l, isa::Descriptor r,      \
                                   bool more) { isa::OPERATION<N>(d, l, r, more); });             \
  }

DSV4_WGMMA_CASE(wgmma_bf16_n8, bf16, 8, true, wgmma_bf16)
DSV4_WGMMA_CASE(wgmma_bf16_n64, bf16_wide, 64, true, wgmma_bf16)
DSV4_WGMMA_CASE(wgmma_bf16_n128, bf16, 128, true, wgmma_bf16)
DSV4_WGMMA_CASE(wgmma_bf16_plain, bf16, 8, false, wgmma_bf16)
DSV4_WGMMA_CASE(wgmma_bf16_tiny, bf16_tiny, 8, true, wgmma_bf16)
DSV4_WGMMA_CASE(wgmma_bf16_bits, bf16_bits, 8, true, wgmma_bf16)
DSV4_WGMMA_CASE(wgmma_e4m3_n8, e4m3, 8, true, wgmma_e4m3)
DSV4_WGMMA_CASE(wgmma_e4m3_n64, e4m3, 64, true, wgmma_e4m3)
DSV4_WGMMA_CASE(wgmma_e4m3_n128, e4m3, 128, true, wgmma_e4m3)
DSV4_WGMMA_CASE(wgmma_e4m3_plain, e4m3, 8, false, wgmma_e4m3)
DSV4_WGMMA_CASE(wgmma_e4m3_bits, e4m3_bits, 8, true, wgmma_e4m3)
#undef DSV4_WGMMA_CASE

}  // namespace dsv4::isa_check
