// SPDX-License-Identifier: Apache-2.0
// Memory, barriers, warps, cp.async, ldmatrix and mma.sync.
#pragma once

#include "cuda/isa_check/case.hpp"

namespace dsv4::isa_check {

using isa::Words2;
using isa::Words4;

// in -> shared (one width) -> out reversed (another width).
template <class T>
DSV4_DEVICE void through_shared(const Arguments& a) {
  constexpr int kCount = 4096 / sizeof(T);
  auto* shared = isa::dynamic_shared<T>();
  const auto* in = reinterpret_cast<const T*>(a.in);
  auto* out = reinterpret_cast<T*>(a.out);
  for (int i = isa::thread(); i < kCount; i += isa::threads()) {
    isa::st_shared(shared + i, i % 2 == 0 ? isa::ld_global(in + i) : isa::ld_stream(in + i));
  }
  isa::sync();
  for (int i = isa::thread(); i < kCount; i += isa::threads()) {
    const T v = isa::ld_shared(shared + kCount - 1 - i);
    if (i % 2 == 0) {
      isa::st_global(out + i, v);
    } else {
      isa::st_stream(out + i, v);
    }
  }
}

#define DSV4_CASE(NAME, FIELDS)                              \
  struct NAME : Defaults {                                   \
    static constexpr std::string_view name = #NAME;          \
    FIELDS DSV4_DEVICE static void body(const Arguments& a); \
  };                                                         \
  DSV4_DEVICE void NAME::body(const Arguments& a)

DSV4_CASE(memory_1_byte, ) { through_shared<std::uint8_t>(a); }
DSV4_CASE(memory_2_bytes, ) { through_shared<std::uint16_t>(a); }
DSV4_CASE(memory_4_bytes, ) { through_shared<std::uint32_t>(a); }
DSV4_CASE(memory_8_bytes, ) { through_shared<Words2>(a); }
DSV4_CASE(memory_16_bytes, ) { through_shared<Words4>(a); }

// What it does shows in time alone; the loads after it are the same.
DSV4_CASE(memory_prefetched, static constexpr int out = 128;) {
  const int t = isa::thread();
  isa::prefetch(a.in + 8 * t);
  isa::st_global(a.out + t, isa::ld_global(a.in + 8 * t));
}

struct Row {
  std::uint32_t w[128];
};
DSV4_CASE(memory_static, static constexpr int out = 128;) {
  Row& one = isa::static_shared<Row, 0>();
  Row& two = isa::static_shared<Row, 1>();
  const int t = isa::thread();
  isa::st_shared(&one.w[t], isa::ld_global(a.in + t));
  isa::st_shared(&two.w[t], isa::ld_global(a.in + 128 + t));
  isa::sync();
  isa::st_global(a.out + t, isa::ld_shared(&one.w[127 - t]) ^ isa::ld_shared(&two.w[t ^ 64]));
}

DSV4_CASE(indices, static constexpr int out = 768; static constexpr int blocks = 3;
          static constexpr int threads = 256;) {
  const int at = isa::block_x() * isa::threads() + isa::thread();
  const int v = isa::warp() * 100000 + isa::lane() * 1000 + isa::block_x() * 100 +
                isa::block_y() * 10 + isa::grid_x();
  isa::st_global(a.out + at, static_cast<std::uint32_t>(v));
}

// Sums and maxima of integers do not depend on the order.
DSV4_CASE(atomics, static constexpr int out = 48;) {
  auto* shared = isa::dynamic_shared<std::uint32_t>();
  const int t = isa::thread();
  if (t < 48) isa::st_global(a.out + t, 0U);
  if (t < 16) isa::st_shared(shared + t, 0U);
  isa::sync();
  const std::uint32_t v = isa::ld_global(a.in + t);
  isa::atomic_add(a.out + v % 16, v);
  isa::atomic_max(a.out + 16 + v % 16, v);
  isa::atomic_add_shared(shared + v % 16, v);
  isa::sync();
  if (t < 16) isa::st_global(a.out + 32 + t, isa::ld_shared(shared + t));
}

// Warp 0 waits for the three others by a named barrier; they do not wait for it.
DSV4_CASE(barriers_named, static constexpr int out = 32;) {
  auto* shared = isa::dynamic_shared<std::uint32_t>();
  if (isa::warp() > 0) {
    isa::st_shared(shared + isa::thread(), isa::ld_global(a.in + isa::thread()));
    isa::barrier_arrive<3>(128);
  } else {
    isa::barrier_sync<3>(128);
    std::uint32_t sum = 0;
    for (int w = 1; w < 4; ++w) sum += isa::ld_shared(shared + 32 * w + isa::lane());
    isa::st_global(a.out + isa::lane(), sum);
  }
}

DSV4_CASE(shuffles, static constexpr int out = 640;) {
  const int t = isa::thread();
  const std::uint32_t v = isa::ld_global(a.in + t);
  isa::st_global(a.out + t, isa::shuffle(v, t * 7 + 3));
  isa::st_global(a.out + 128 + t, isa::shuffle_xor(v, 9));
  isa::st_global(a.out + 256 + t, isa::shuffle_down(v, 5));
  isa::st_global(a.out + 384 + t, isa::ballot((v & 1U) != 0));
  const bool odd = isa::any(v == isa::ld_global(a.in)), every = isa::all(v > 1000U);
  isa::st_global(a.out + 512 + t, (odd ? 1U : 0U) + (every ? 2U : 0U));
}

DSV4_CASE(sync_warp, static constexpr int out = 128;) {
  auto* shared = isa::dynamic_shared<std::uint32_t>();
  const int t = isa::thread();
  isa::st_shared(shared + t, isa::ld_global(a.in + t));
  isa::sync_warp();
  isa::st_global(a.out + t, isa::ld_shared(shared + (t ^ 21)));
}

template <int kBytes>
DSV4_DEVICE void copy_and_show(const Arguments& a) {
  auto* shared = isa::dynamic_shared<std::uint8_t>();
  const auto* in = reinterpret_cast<const std::uint8_t*>(a.in);
  const int t = isa::thread();
  isa::copy_async<kBytes>(shared + kBytes * t, in + kBytes * t, t % 5 != 0);
  isa::copy_commit();
  isa::copy_async<kBytes>(shared + 2048 + kBytes * t, in + 2048 + kBytes * (127 - t));
  isa::copy_commit();
  isa::copy_wait<1>();
  isa::sync();
  const auto* words = isa::dynamic_shared<std::uint32_t>();
  constexpr int kWords = kBytes * 128 / 4;
  for (int i = t; i < kWords; i += 128) isa::st_global(a.out + i, isa::ld_shared(words + i));
  isa::copy_wait<0>();
  isa::sync();
  for (int i = t; i < kWords; i += 128) {
    isa::st_global(a.out + kWords + i, isa::ld_shared(words + 512 + i));
  }
}
DSV4_CASE(copy_async_4, static constexpr int out = 256;) { copy_and_show<4>(a); }
DSV4_CASE(copy_async_8, static constexpr int out = 512;) { copy_and_show<8>(a); }
DSV4_CASE(copy_async_16, ) { copy_and_show<16>(a); }

DSV4_CASE(ldmatrix, static constexpr int out = 1280;) {
  auto* shared = isa::dynamic_shared<std::uint32_t>();
  const int t = isa::thread();
  for (int i = t; i < 1024; i += 128) isa::st_shared(shared + i, isa::ld_global(a.in + i));
  isa::sync();
  const std::uint32_t* row = shared + isa::warp() * 256 + (isa::lane() * 5 % 32) * 4;
  std::uint32_t x4[4], x4t[4], x2[2];
  isa::ldmatrix(x4, row);
  isa::ldmatrix_trans(x4t, row);
  isa::ldmatrix(x2, row);
  for (int i = 0; i < 4; ++i) isa::st_global(a.out + t * 10 + i, x4[i]);
  for (int i = 0; i < 4; ++i) isa::st_global(a.out + t * 10 + 4 + i, x4t[i]);
  for (int i = 0; i < 2; ++i) isa::st_global(a.out + t * 10 + 8 + i, x2[i]);
}

// Four warps, each three products in a chain: accumulators of every size meet products.
template <class Multiply>
DSV4_DEVICE void chain(const Arguments& a, Multiply&& multiply) {
  const int t = isa::thread();
  float d[4] = {};
  for (int step = 0; step < 3; ++step) {
    std::uint32_t left[4], right[2];
    for (int i = 0; i < 4; ++i) left[i] = isa::ld_global(a.in + (t * 6 + step * 331 + i) % 1024);
    for (int i = 0; i < 2; ++i) {
      right[i] = isa::ld_global(a.in + (t * 6 + step * 331 + 4 + i) % 1024);
    }
    multiply(d, left, right[0], right[1]);
    for (int i = 0; i < 4; ++i) {
      isa::st_global(a.out + (step * 128 + t) * 4 + i, canonical(d[i]));
    }
  }
}

#define DSV4_MMA_CASE(NAME, FILL, ARCHITECTURE, OPERATION)                                      \
  DSV4_CASE(NAME, static constexpr Fill fill = Fill::FILL; static constexpr int out = 1536;     \
            static constexpr int architecture = ARCHITECTURE;) {                                \
    chain(a, [](float(&d)[4], const std::uint32_t(&l)[4], std::uint32_t r0, std::uint32_t r1) { \
      isa::OPERATION(d, l, r0, r1);                                                             \
    });                                                                                         \
  }

DSV4_MMA_CASE(mma_bf16, bf16, 80, mma_bf16)
DSV4_MMA_CASE(mma_bf16_wide, bf16_wide, 80, mma_bf16)
DSV4_MMA_CASE(mma_bf16_bits, bf16_bits, 80, mma_bf16)
DSV4_MMA_CASE(mma_e4m3, e4m3, 89, mma_e4m3)
DSV4_MMA_CASE(mma_e4m3_bits, e4m3_bits, 89, mma_e4m3)
DSV4_MMA_CASE(mma_tf32, floats, 80, mma_tf32)
DSV4_MMA_CASE(mma_bf16_tiny, bf16_tiny, 80, mma_bf16)
DSV4_MMA_CASE(mma_tf32_tiny, tf32_tiny, 80, mma_tf32)
DSV4_MMA_CASE(mma_tf32_bits, tf32_bits, 80, mma_tf32)
#undef DSV4_MMA_CASE

}  // namespace dsv4::isa_check
