// SPDX-License-Identifier: Apache-2.0
// One case of the conformance suite: a kernel body that uses one operation, its inputs, and how
// much it writes. The same body runs on the emulator and on a GPU; outputs must agree bit for bit.
#pragma once

#include <string_view>

#include "cuda/isa/isa.hpp"

namespace dsv4::isa_check {

// What the input words are.
enum class Fill : std::uint8_t {
  bits,       // any 32 bits: NaN, infinities and subnormals too
  floats,     // normal distribution
  positive,   // floats, 2^-40 … 2^40
  angles,     // floats up to 2^20 in size
  bf16,       // pairs, normal distribution
  bf16_wide,  // pairs over 24 binades
  bf16_tiny,  // pairs whose products are subnormal float32
  bf16_bits,  // pairs over 24 binades, among them subnormals, the largest, infinities and NaN
  e4m3,       // four finite codes
  e4m3_bits,  // the same, among them subnormals, the largest and NaN
  tf32_tiny,  // floats whose products are subnormal
  tf32_bits,  // floats over 24 binades, among them subnormals, the largest, infinities and NaN
};

struct Arguments {
  const std::uint32_t* in;
  std::uint32_t* out;
  const isa::TensorMap* maps;  // 0: input, 1: output; rows of 64 floats, boxes of 32x8, swizzled
};

// The fields that every case declares (all with a default but the first two).
struct Defaults {
  static constexpr Fill fill = Fill::bits;
  static constexpr int in = 1024, out = 1024;  // words
  static constexpr int blocks = 1, threads = 128, shared = 16384, cluster = 1;
  static constexpr int architecture = 80;  // the least that has the operation
  static constexpr bool only_90a = false;  // wgmma: no other architecture has it
};

// Which NaN an operation returns is the machine's business.
DSV4_DEVICE std::uint32_t canonical(float x) { return x != x ? 0x7FFFFFFFU : isa::to_bits(x); }

}  // namespace dsv4::isa_check
