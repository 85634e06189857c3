// SPDX-License-Identifier: Apache-2.0
// RMSNorm of rows in BF16: y = w * x / sqrt(mean(x^2) + eps), float32 inside, one store.
// Reference: reference/rms_norm.
//
// Naive: two passes over global memory. Here: a block per row, each thread keeps its columns in
// registers between the passes (up to kMost pairs). Bound by memory: 2 bytes in, 2 out.
#pragma once

#include "cuda/kernels/reduce.hpp"

namespace dsv4::kernels {

struct RmsNormArgs {
  const isa::Bf16* in;  // [rows, columns]
  const float* weight;  // [columns]
  isa::Bf16* out;       // [rows, columns]
  int columns;          // even, at most 2 kMost threads
  float eps;
};

DSV4_DEVICE void rms_norm(const RmsNormArgs& a) {
  constexpr int kMost = 32;  // pairs a thread: 8192 columns at 128 threads
  const auto* in = reinterpret_cast<const std::uint32_t*>(a.in) + isa::block_x() * (a.columns / 2);
  auto* out = reinterpret_cast<std::uint32_t*>(a.out) + isa::block_x() * (a.columns / 2);
  const int pairs = a.columns / 2;
  std::uint32_t x[kMost];
  float sum[1] = {0};
  DSV4_UNROLL
  for (int i = 0; i < kMost; ++i) {
    const int at = isa::thread() + i * isa::threads();
    x[i] = at < pairs ? isa::ld_stream(in + at) : 0U;
    sum[0] = isa::fma(isa::low_bf16(x[i]), isa::low_bf16(x[i]), sum[0]);
    sum[0] = isa::fma(isa::high_bf16(x[i]), isa::high_bf16(x[i]), sum[0]);
  }
  block_sum<1, 0>(sum);
  const float r = isa::rsqrt_(isa::add(isa::div(sum[0], static_cast<float>(a.columns)), a.eps));
  DSV4_UNROLL
  for (int i = 0; i < kMost; ++i) {
    const int at = isa::thread() + i * isa::threads();
    if (at >= pairs) continue;
    const float low = isa::mul(isa::mul(isa::low_bf16(x[i]), r), isa::ld_global(a.weight + 2 * at));
    const float high =
        isa::mul(isa::mul(isa::high_bf16(x[i]), r), isa::ld_global(a.weight + 2 * at + 1));
    isa::st_global(out + at, isa::pack_bf16(low, high));
  }
}

}  // namespace dsv4::kernels
