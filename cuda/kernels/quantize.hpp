// SPDX-License-Identifier: Apache-2.0
// Activation quantisers: FP8 1x128, FP8 1x64, FP4 1x32, one E8M0 scale a block, as core/quantize
// has them and bit for bit. Reference: reference/rounding (round.e4m3, round.e2m1).
//
// Naive: a thread per block, 128 loads in a row of each. Here: a warp per block, so that a block is
// one coalesced load, and its maximum five shuffles. Bound by memory: 2 bytes in, 1 (1/2) out.
#pragma once

#include "cuda/kernels/reduce.hpp"

namespace dsv4::kernels {

struct Fp8 {
  static constexpr float largest = 448.0F;
  static constexpr float inverse = 1.0F / 448.0F;
  static constexpr float floor = 1e-4F;
  DSV4_DEVICE static std::uint8_t encode(float x) { return isa::to_e4m3(x); }
  DSV4_DEVICE static float decode(std::uint8_t c) { return isa::from_e4m3(c); }
};
struct Fp4 {
  static constexpr float largest = 6.0F;
  static constexpr float inverse = 1.0F / 6.0F;
  static constexpr float floor = 6.0F * 1.1754943508222875e-38F;
  DSV4_DEVICE static std::uint8_t encode(float x) { return isa::to_e2m1(x); }
  DSV4_DEVICE static float decode(std::uint8_t c) { return isa::from_e2m1(c); }
};

// The exponent of max(amax, floor) / largest, one more if any bit of the mantissa is set.
template <class Format>
DSV4_DEVICE std::uint8_t scale_code(float amax) {
  const std::uint32_t u = isa::to_bits(isa::mul(isa::max(Format::floor, amax), Format::inverse));
  return static_cast<std::uint8_t>((u >> 23 & 255U) + ((u & 0x7FFFFFU) != 0 ? 1U : 0U));
}

// NaN is clamped to -largest, as by the official kernels' instructions.
template <class Format>
DSV4_DEVICE std::uint8_t code_of(float x, std::uint8_t scale) {
  const float y = isa::div(x, isa::from_bits(static_cast<std::uint32_t>(scale) << 23));
  return Format::encode(isa::min(isa::max(-Format::largest, y), Format::largest));
}

struct QuantizeArgs {
  const isa::Bf16* in;   // [rows, columns]
  std::uint8_t* codes;   // [rows, columns], FP4: [rows, columns/2], the low nibble is the even one
  std::uint8_t* scales;  // [rows, columns/block]
  int rows;
  int columns;  // whole blocks
};

template <class Format, int kBlock>
DSV4_DEVICE void quantize(const QuantizeArgs& a) {
  constexpr int kEach = kBlock / 32;
  const int blocks = a.rows * (a.columns / kBlock);
  const int warps = isa::grid_x() * (isa::threads() / 32);
  for (int b = isa::block_x() * (isa::threads() / 32) + isa::warp(); b < blocks; b += warps) {
    // Lane l holds values l, l + 32, …; FP4 has one each.
    float x[kEach];
    float amax = 0;
    DSV4_UNROLL
    for (int i = 0; i < kEach; ++i) {
      x[i] = isa::to_float(isa::ld_stream(a.in + b * kBlock + 32 * i + isa::lane()));
      amax = isa::max(amax, isa::abs(x[i]));
    }
    const std::uint8_t scale = scale_code<Format>(warp_max(amax));
    if (isa::lane() == 0) isa::st_global(a.scales + b, scale);
    DSV4_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const std::uint32_t code = code_of<Format>(x[i], scale);
      if constexpr (kBlock == 32) {
        const std::uint32_t next = isa::shuffle_down(code, 1);
        if (isa::lane() % 2 == 0) {
          isa::st_global(a.codes + b * 16 + isa::lane() / 2,
                         static_cast<std::uint8_t>(code | next << 4));
        }
      } else {
        isa::st_global(a.codes + b * kBlock + 32 * i + isa::lane(),
                       static_cast<std::uint8_t>(code));
      }
    }
  }
}

}  // namespace dsv4::kernels
